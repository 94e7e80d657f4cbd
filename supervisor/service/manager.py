"""What a service manager can do for us, whichever it is, and the one way that commands are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor import atomic
from supervisor.errors import ServiceError

NAME = "agent-yes-supervise"

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

_CARRIED = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")
"""Where a daemon without them would find another registry, and another lock, than the commands that a person types."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an installation does: the one file it writes, and the commands it runs, in this order."""

    path: str
    text: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How the service is.

    ``file`` is where it is installed, None where it is not; ``up_to_date`` says whether an installation now would write
    the same, but for the environment. ``since`` is in Unix seconds. ``lingers`` says whether it outlives the user's
    last session; None where that is not known, or no question.
    """

    manager: str
    file: str | None
    up_to_date: bool
    enabled: bool
    running: bool
    pid: int | None = None
    since: float | None = None
    text: str = ""
    lingers: bool | None = None


class Manager(Protocol):
    """A service manager."""

    def plan(self) -> Plan:
        """Return what an installation would do."""

    def install(self) -> Plan:
        """Install or update the service, and start it anew; return what was done.

        Raises:
            ServiceError: it does not come up, or the manager does not answer.
        """

    def uninstall(self) -> list[str]:
        """Stop and remove the service; return what was done, nothing where there was none."""

    def state(self) -> ServiceState:
        """Return how the service is."""

    def logs_command(self, *, lines: int, follow: bool) -> list[str]:
        """Return the command that shows its log."""


def run(command: Sequence[str], *, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; one that is missing, or takes more seconds than given, is answered as a shell would."""
    try:
        return subprocess.run(
            command,
            check=False,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:.0f} seconds")


def this_manager(*, runner: Runner = run) -> Manager:
    """Return the service manager of this system.

    Raises:
        ServiceError: there is none that we know.
    """
    if sys.platform == "darwin":
        from supervisor.service.launchd import Launchd  # noqa: PLC0415  each system needs one

        return Launchd(runner=runner)
    if shutil.which("systemctl") is None:
        remedy = "start the daemon as this system starts its services; it is: agent-yes-supervise daemon"
        raise ServiceError("no service manager is known here: there is no systemctl", remedy)
    from supervisor.service.systemd import Systemd  # noqa: PLC0415  the same

    return Systemd(runner=runner)


def must(runner: Runner, command: Sequence[str], remedy: str) -> str:
    """Run a command that has to succeed, and return its output.

    Raises:
        ServiceError: it failed, with what it said.
    """
    done = runner(command)
    if done.returncode != 0:
        said = done.stderr.strip().partition("\n")[0] or f"it ended with {done.returncode}"
        raise ServiceError(f"{' '.join(command)}: {said}", remedy)
    return done.stdout


def daemon_command(*options: str) -> list[str]:
    """Return the command that runs the daemon: this interpreter, by its absolute path, and this package.

    ``-P`` keeps a folder called "supervisor" in the working directory from being taken for the package.

    Raises:
        ServiceError: Python does not know where it is.
    """
    if not sys.executable:
        raise ServiceError("Python does not know its own path", "run agent-yes-supervise by its absolute path")
    return [os.path.abspath(sys.executable), "-P", "-m", "supervisor", "daemon", *options]


def daemon_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what the daemon needs of a shell's environment: the PATH that agents are found on, and where files are.

    Of PATH stays what means the same everywhere: each absolute folder once.
    """
    folders = [folder for folder in environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(folder)]
    kept = {"PATH": os.pathsep.join(dict.fromkeys(filter(_is_text, folders)))}
    return kept | {name: environ[name] for name in _CARRIED if _is_text(environ.get(name, ""))}


def write(path: str, text: str) -> None:
    """Write a file, for everybody to read, and the folder for it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    atomic.write(path, text, mode=0o644)


def read(path: str) -> str | None:
    """Return a file's text, None where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _is_text(value: str) -> bool:
    """Tell whether a value fits into a file of ours: a path may hold anything but a zero byte."""
    return bool(value) and value.isprintable()
