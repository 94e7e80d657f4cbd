"""The service under systemd's user manager."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime

from supervisor.errors import ServiceError
from supervisor.service import manager, unit
from supervisor.service.manager import NAME, Plan, Runner, ServiceState, must
from supervisor.service.unit import UNIT

_SYSTEMCTL = ("systemctl", "--user")

_NO_MANAGER = (
    "log in on the machine itself or by ssh, not by su or sudo, or run it yourself: agent-yes-supervise daemon"
)
_LOGS = "see: agent-yes-supervise service logs; to undo: agent-yes-supervise service uninstall"


class Systemd:
    """systemd's manager of the user who asks; ``environ`` is that user's environment."""

    def __init__(self, *, runner: Runner = manager.run, environ: Mapping[str, str] = os.environ) -> None:
        self._run = runner
        self._environ = environ

    def plan(self) -> Plan:
        """Return what an installation would do."""
        text = unit.render(
            unit.shipped(),
            command=manager.daemon_command(),
            environment=manager.daemon_environment(self._environ),
            version=self._version(),
        )
        commands = ((*_SYSTEMCTL, "daemon-reload"), (*_SYSTEMCTL, "enable", UNIT), (*_SYSTEMCTL, "restart", UNIT))
        return Plan(os.path.join(self._folder(), UNIT), text, commands)

    def install(self) -> Plan:
        """Install or update the unit, and start it anew. systemd waits until the daemon says that it supervises.

        Raises:
            ServiceError: it does not come up, or no manager answers.
        """
        plan = self.plan()
        manager.write(plan.path, plan.text)
        for command in plan.commands:
            if self._run(command).returncode != 0:
                raise self._failure(command)
        return plan

    def uninstall(self) -> list[str]:
        """Stop the daemon and remove unit and link; return what was done, nothing where there was none."""
        folder = self._folder()
        there = [path for path in self._left_in(folder) if os.path.lexists(path)]
        if not there and not self._shown().get("MainPID"):
            return []
        done = []
        for command in (("stop", UNIT), ("disable", UNIT)):
            if self._run((*_SYSTEMCTL, *command)).returncode == 0:
                done.append(" ".join((*_SYSTEMCTL, *command)))
        for path in there:  # disable removes the link, but only while there is a unit
            if os.path.lexists(path):
                os.unlink(path)
                done.append(f"rm {path}")
        must(self._run, (*_SYSTEMCTL, "daemon-reload"), _NO_MANAGER)
        self._run((*_SYSTEMCTL, "reset-failed", UNIT))  # fails where there is nothing to forget
        return [*done, " ".join((*_SYSTEMCTL, "daemon-reload"))]

    def state(self) -> ServiceState:
        """Return how the service is."""
        plan = self.plan()
        shown = self._shown()
        installed = manager.read(plan.path)
        running = shown.get("ActiveState") in ("active", "reloading")
        return ServiceState(
            manager="systemd",
            file=None if installed is None else plan.path,
            up_to_date=installed is not None and _but_environment(installed) == _but_environment(plan.text),
            enabled=shown.get("UnitFileState") == "enabled",
            running=running,
            pid=int(shown["MainPID"]) if running and shown.get("MainPID") else None,
            since=_unix(shown.get("ActiveEnterTimestamp", "")) if running else None,
            text=shown.get("StatusText", "") if running else _condition(shown),
            lingers=self._lingers(),
        )

    def logs_command(self, *, lines: int, follow: bool) -> list[str]:
        """Return the command that shows the journal of the unit."""
        return ["journalctl", "--user", f"--unit={UNIT}", f"--lines={lines}", *(["--follow"] if follow else [])]

    def _folder(self) -> str:
        """Return where the manager, not our own shell, looks for this user's units."""
        environment = dict(
            line.split("=", 1)
            for line in must(self._run, (*_SYSTEMCTL, "show-environment"), _NO_MANAGER).splitlines()
            if "=" in line
        )
        config = environment.get("XDG_CONFIG_HOME")
        if not config:
            config = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".config")
        return os.path.join(config, "systemd", "user")

    def _version(self) -> int:
        """Return systemd's version; the oldest where it does not say."""
        match = re.match(r"systemd (\d+)", self._run(("systemctl", "--version")).stdout)
        return int(match[1]) if match else 0

    def _shown(self) -> dict[str, str]:
        """Return the unit's properties, times in UTC; those that are 0 or empty are left out."""
        properties = "ActiveState,Result,MainPID,StatusText,UnitFileState,ActiveEnterTimestamp,NRestarts"
        command = ("env", "TZ=UTC", *_SYSTEMCTL, "show", f"--property={properties}", UNIT)
        pairs = (line.partition("=") for line in must(self._run, command, _NO_MANAGER).splitlines())
        return {name: value for name, _, value in pairs if value not in ("", "0")}

    def _lingers(self) -> bool | None:
        done = self._run(("loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"))
        return {"yes": True, "no": False}.get(done.stdout.strip())

    def _failure(self, command: tuple[str, ...]) -> ServiceError:
        """Say why a step failed: the daemon's own last words, where it was started."""
        journal = ("journalctl", "--user", f"--unit={UNIT}", f"--identifier={NAME}", "--lines=1", "--output=cat")
        said = self._run(journal).stdout.strip() if "restart" in command else ""
        said = said.removeprefix(f"{NAME}: ") or f"{' '.join(command)} failed"
        return ServiceError(f"the service is installed, but does not come up: {said}", _LOGS)

    @staticmethod
    def _left_in(folder: str) -> tuple[str, str]:
        return os.path.join(folder, UNIT), os.path.join(folder, "default.target.wants", UNIT)


def _but_environment(text: str) -> list[str]:
    """Return the lines of a unit, but for the environment: that is another in every shell."""
    return [line for line in text.splitlines() if not line.startswith("Environment=")]


def _unix(shown: str) -> float | None:
    """Return the time that systemctl shows as "Mon 2026-11-23 17:16:09 UTC" (systemd.time(7)), in Unix seconds.

    Only from 251 on can it be asked for as a number; the monotonic one does not count a suspend.
    """
    try:
        _, date, clock, _ = shown.split()
        return datetime.fromisoformat(f"{date} {clock}+00:00").timestamp()
    except ValueError:
        return None


def _condition(shown: Mapping[str, str]) -> str:
    """Return how a service is that does not run."""
    words = [shown.get("ActiveState", "unknown")]
    if shown.get("Result", "success") != "success":
        words.append(shown["Result"])
    if "NRestarts" in shown:
        words.append(f"restarted {shown['NRestarts']} times")
    return ", ".join(words)
