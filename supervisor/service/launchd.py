"""The service under launchd.

Written from launchd.plist(5) and launchctl(1); **it has not been run**: we have no macOS. The property list is compared
with a golden file, and the commands with what those pages say.
"""

from __future__ import annotations

import os
import plistlib
import re
from collections.abc import Mapping, Sequence

from supervisor import paths
from supervisor.errors import ServiceError
from supervisor.service import manager
from supervisor.service.manager import NAME, Plan, Runner, ServiceState, must

_LOGS = "see: agent-yes-supervise service logs; to undo: agent-yes-supervise service uninstall"


def render(*, command: Sequence[str], environment: Mapping[str, str], stderr: str) -> str:
    """Return the property list of the launchd agent.

    Args:
        command: what runs the daemon; its first word is an absolute path.
        environment: what the daemon is to have of the user's.
        stderr: the file for what Python itself may say; the daemon has a log of its own.
    """
    agent = {
        "Label": NAME,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 10,
        "AbandonProcessGroup": True,
        "ProcessType": "Background",
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 8192, "Core": 0},
        "StandardOutPath": stderr,
        "StandardErrorPath": stderr,
    }
    return plistlib.dumps(agent, sort_keys=False).decode()


class Launchd:
    """launchd's domain of the user who asks; ``environ`` is that user's environment."""

    def __init__(self, *, runner: Runner = manager.run, environ: Mapping[str, str] = os.environ) -> None:
        self._run = runner
        self._environ = environ
        self._domain = f"gui/{os.getuid()}"
        self._path = os.path.join(os.path.expanduser("~"), "Library", "LaunchAgents", f"{NAME}.plist")

    def plan(self) -> Plan:
        """Return what an installation would do."""
        text = render(
            command=manager.daemon_command("--log-file", paths.daemon_log()),
            environment=manager.daemon_environment(self._environ),
            stderr=os.path.join(paths.log_dir(), "daemon.stderr"),
        )
        target = f"{self._domain}/{NAME}"
        commands: tuple[tuple[str, ...], ...] = (
            ("launchctl", "bootstrap", self._domain, self._path),
            ("launchctl", "enable", target),
            ("launchctl", "kickstart", target),
        )
        if manager.read(self._path) is not None:
            commands = (("launchctl", "bootout", target), *commands)
        return Plan(self._path, text, commands)

    def install(self) -> Plan:
        """Install or update the agent, and start it anew.

        Raises:
            ServiceError: a step failed.
        """
        plan = self.plan()
        manager.write(plan.path, plan.text)
        for command in plan.commands:
            if command[1] == "bootout":
                self._run(command)  # fails where it is not loaded
            else:
                must(self._run, command, _LOGS)
        if not self.state().running:
            raise ServiceError("the service is installed, but does not come up", _LOGS)
        return plan

    def uninstall(self) -> list[str]:
        """Stop the daemon and remove the agent; return what was done, nothing where there was none."""
        if manager.read(self._path) is None:
            return []
        command = ("launchctl", "bootout", f"{self._domain}/{NAME}")
        done = [" ".join(command)] if self._run(command).returncode == 0 else []
        os.unlink(self._path)
        return [*done, f"rm {self._path}"]

    def state(self) -> ServiceState:
        """Return how the service is. launchd runs it while the user is logged in, and no longer."""
        printed = self._run(("launchctl", "print", f"{self._domain}/{NAME}"))
        pid = re.search(r"^\s*pid = (\d+)$", printed.stdout, re.MULTILINE)
        condition = re.search(r"^\s*state = (.+)$", printed.stdout, re.MULTILINE)
        installed = manager.read(self._path)
        return ServiceState(
            manager="launchd",
            file=None if installed is None else self._path,
            up_to_date=installed is not None and _but_environment(installed) == _but_environment(self.plan().text),
            enabled=printed.returncode == 0,
            running=pid is not None,
            pid=int(pid[1]) if pid else None,
            text=condition[1] if condition else "not loaded",
        )

    def logs_command(self, *, lines: int, follow: bool) -> list[str]:
        """Return the command that shows the log file; ``-F`` stays with it when it is turned over."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), paths.daemon_log()]


def _but_environment(text: str) -> object:
    """Return what a property list says, but for the environment: that is another in every shell."""
    try:
        agent = plistlib.loads(text.encode())
    except (ValueError, plistlib.InvalidFileException):
        return text
    return {name: value for name, value in agent.items() if name != "EnvironmentVariables"}
