"""Starting the agent: fork, then the row, then exec, so that a row exists or nothing ever started."""

from __future__ import annotations

import errno
import os
import sys

from supervisor.process.stamp import stamp_of, start_ticks
from supervisor.store.recording import NewRun
from supervisor.wrap.record import RETRY_EVERY, Record
from supervisor.wrap.signals import Inherited, end_as, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.models import Ending

TOKEN_VARIABLE = "AGENT_YES_RUN"  # noqa: S105  a name
"""The environment variable that carries a run's token to its agent and all that the agent starts."""

WRAP_FAILED = 125
"""The exit code of every failure of our own before the exec: 1, 2 and 3 belong to the agent."""

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def say(message: str) -> None:
    """Write a line of our own to stderr, which is the agent's too; that it cannot be written is nothing."""
    line = f"agent-yes-supervise: {message}\n".encode(errors="backslashreplace")
    try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
        os.write(2, line)
    except OSError:
        pass


def launch(command: list[str], *, directory: str, prompt: str | None, default: bool) -> None:
    """Run a command under a record in the store of ``directory``, and end as it ends. Does not return.

    Args:
        command: the agent's name or path and its arguments.
        directory: the project's physical directory.
        prompt: what to store as the project's prompt, None for no change.
        default: whether the command becomes the project's own.
    """
    inherited = Inherited()
    token = os.urandom(16).hex()
    child = _Child(command, {**os.environ, TOKEN_VARIABLE: token}, inherited)
    own = os.getpid()
    run = NewRun(
        token=token,
        directory=directory,
        cli=command[0],
        args=command[1:],
        cwd=_working_directory(),
        prompt=prompt,
        set_default=default or prompt is not None,
        stamp=stamp_of(child.pid),
        owner=(own, start_ticks(own)),
    )
    record = Record(run, say)
    record.begin()
    refused = child.release()
    _announce(directory, record)
    status = wait_for(child.pid, every=RETRY_EVERY, due=lambda: record.begin_later if record.pending else None)
    record.finish(_ending(command[0], status, refused))
    end_as(status)


class _Child:
    """The agent-to-be: forked at once, waiting for its row."""

    def __init__(self, command: list[str], environment: dict[str, str], inherited: Inherited) -> None:
        self._errors, errors = os.pipe()
        gate, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _exec_behind(gate, errors, command, environment, inherited.restore)
        os.close(gate)
        os.close(errors)

    def release(self) -> int | None:
        """Let it exec; return the errno with which that failed, None where it did not."""
        try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
            os.write(self._gate, b"x")
        except BrokenPipeError:  # a signal has ended it already: waitpid will tell
            pass
        os.close(self._gate)
        answer = os.read(self._errors, 16)  # ends with the exec, which closes the other end
        os.close(self._errors)
        return int(answer) if answer else None


def _exec_behind(
    gate: int, errors: int, command: list[str], environment: dict[str, str], restore: Callable[[], None]
) -> None:
    """Wait until the row is written, then become the agent. Never returns into the wrapper's code."""
    code = WRAP_FAILED
    try:
        if os.read(gate, 1):  # nothing: the wrapper has died, so nothing is to start
            restore()
            _exec(command, environment)
    except OSError as error:
        number = error.errno or errno.ENOENT
        os.write(errors, str(number).encode())
        code = _refusal_code(number)
    finally:
        os._exit(code)


def _exec(command: list[str], environment: dict[str, str]) -> None:
    """Exec as execvp(3) does: a script without an interpreter line goes to the shell."""
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC or not isinstance(error.filename, str | bytes):
            raise
        os.execve("/bin/sh", ["/bin/sh", os.fsdecode(error.filename), *command[1:]], environment)


def _refusal_code(number: int) -> int:
    return _NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE


def _announce(directory: str, record: Record) -> None:
    """Make the store known to the daemon. The agent runs by now: here imports may cost something."""
    from supervisor import registry  # noqa: PLC0415  see above

    if record.begun:
        registry.announce(directory, record.created)


def _ending(cli: str, status: int, refused: int | None) -> Ending:
    import time  # noqa: PLC0415  loaded already

    from supervisor import ending  # noqa: PLC0415  with dataclasses: 10 ms that the agent need not wait for
    from supervisor.models import Rank  # noqa: PLC0415  the same

    now = time.time()
    if refused is not None:
        code = _refusal_code(refused)
        say(f"{cli}: {'command not found' if code == _NOT_FOUND else os.strerror(refused)}")
        return ending.not_started(code, at=now, error=errno.errorcode.get(refused, str(refused)))
    return ending.ending_of(
        status, rank=Rank.OWNER, ended_at=now, detected_at=now, settled_by="wrap", evidence={"source": "waitpid"}
    )


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def directory_of(project: str | None) -> str:
    """Return the physical directory whose store records the run: the given one, else the current, never an ancestor.

    Raises:
        NotADirectoryError: the given one is none.
        FileNotFoundError: the current one has been deleted.
    """
    if project is None:
        return os.getcwd()
    if not os.path.isdir(project):
        raise NotADirectoryError(project)
    return os.path.realpath(project)


if sys.platform not in ("linux", "darwin"):
    raise ImportError("agent-yes-supervise runs on Linux and macOS")
