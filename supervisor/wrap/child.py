"""The agent-to-be: forked, held until its row is written, then become the agent by exec."""

from __future__ import annotations

import errno
import os

from supervisor.wrap.signals import Inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

WRAP_FAILED = 125
"""The exit code of every failure of our own before the exec: 1, 2 and 3 belong to the agent."""

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class Child:
    """The agent-to-be: forked at once, waiting for its row.

    Args:
        command: its name or path and its arguments.
        environment: all of its environment.
        fork: forks as os.fork does.
        inherited: the signals that it gets, None for those that we have: from the fork on they are blocked for us.

    Raises:
        OSError: there is no process or descriptor to be had; our signals are as they were.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        fork: Callable[[], int],
        inherited: Inherited | None = None,
    ) -> None:
        self._errors, errors = os.pipe()
        gate, self._gate = os.pipe()
        # Last before the fork: what the terminal sends to the group in between would reach the wrapper only.
        self.inherited = inherited or Inherited()
        try:
            self.pid = fork()
        except OSError:
            for descriptor in (self._errors, errors, gate, self._gate):
                os.close(descriptor)
            if inherited is None:
                self.inherited.restore()
            raise
        if self.pid == 0:
            os.close(self._gate)
            _exec_behind(gate, errors, command, environment, self.inherited.restore)
        os.close(gate)
        os.close(errors)

    def release(self) -> None:
        """Let it exec."""
        try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
            os.write(self._gate, b"x")
        except BrokenPipeError:  # SIGKILL has ended it already: waitpid will tell
            pass
        os.close(self._gate)

    def refusal(self) -> int | None:
        """Return the errno with which the exec failed, None where it did not; to be asked when it has ended.

        Nobody reads this while it may still run: it can be stopped just before its exec, by a Ctrl-Z that the wrapper
        must then follow.
        """
        answer = os.read(self._errors, 16)
        os.close(self._errors)
        return int(answer) if answer else None


def _exec_behind(
    gate: int, errors: int, command: list[str], environment: dict[str, str], restore: Callable[[], None]
) -> NoReturn:
    """Wait until the row is written, then become the agent. Never returns into the wrapper's code."""
    code = WRAP_FAILED
    try:
        if os.read(gate, 1):  # nothing: the wrapper has died, so nothing is to start
            restore()
            _exec(command, environment)
    except OSError as error:
        number = error.errno or errno.ENOENT
        os.write(errors, str(number).encode())
        code = refusal_code(number)
    finally:
        os._exit(code)


def become(command: list[str], environment: dict[str, str]) -> int:
    """Become the agent, with nobody to record it: better than not to start it. Returns the errno if that fails."""
    try:
        _exec(command, environment)
    except OSError as error:
        return error.errno or errno.ENOENT


def _exec(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Exec as execvp(3) does: a script without an interpreter line goes to the shell.

    `os.execvpe` looks further along PATH instead, and takes an empty name for each folder's own.
    """
    name = command[0]
    refusal = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    folders = [""] if "/" in name else environment.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders if name else ():
        path = name if "/" in name else os.path.join(folder or os.curdir, name)
        try:
            os.execve(path, command, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve("/bin/sh", ["/bin/sh", path, *command[1:]], environment)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            if error.errno == errno.EACCES or "/" in name:
                refusal = error
    raise refusal


def refusal_code(number: int) -> int:
    """Return the exit code of a command that could not be started, from its errno: 127 or 126, as of a shell."""
    return _NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE
