"""Starting the agent: fork, then the row, then exec, so that a row exists or nothing ever started."""

from __future__ import annotations

import errno
import os
import sys
import time

from supervisor.process.stamp import stamp_of, start_ticks
from supervisor.process.token import VARIABLE
from supervisor.store.recording import NewRun
from supervisor.wrap.record import Record
from supervisor.wrap.screen import Screen
from supervisor.wrap.signals import Inherited, end_as, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from supervisor.wrap.capture import Capture
    from supervisor.wrap.options import Request

WRAP_FAILED = 125
"""The exit code of every failure of our own before the exec: 1, 2 and 3 belong to the agent."""

CALM_AFTER = 0.05
"""Seconds that the agent has the machine to itself before the wrapper goes on with work of its own."""

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126

_MARKS = dict.fromkeys(
    (*range(32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    "\N{REPLACEMENT CHARACTER}",
)
"""For what a terminal would obey, what breaks a line and what turns its direction."""


def say(message: str) -> None:
    """Write a line of our own to stderr, which is the agent's too; that it cannot be written is nothing.

    Names and stored text may hold what breaks a line or what a terminal would obey: it is taken out.
    """
    line = f"agent-yes-supervise: {message.translate(_MARKS)}\n".encode(errors="backslashreplace")
    try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
        os.write(2, line)
    except OSError:
        pass


def launch(command: list[str], request: Request, *, directory: str | None) -> NoReturn:
    """Run a command under a record in the store of ``directory``, and end as it ends.

    Args:
        command: the agent's name or path and its arguments.
        request: what was asked of ``wrap`` beside that.
        directory: the project's physical directory, None where there is none to record the run in.
    """
    token = os.urandom(16).hex()
    environment = {**_inherited_environment(), VARIABLE: token}
    try:
        _keep_standard_descriptors_free()
        way = (_capture() if request.log and directory is not None else None) or _Direct()
        child = _Child(command, environment, way.fork)
    except OSError as error:
        say(f"this run is not recorded: no process or descriptor is to be had ({error.strerror})")
        _become(command, environment)
    record = _begin(command, request, directory, environment, child.pid)
    if directory is not None:
        way.open(directory, token)
    child.release()
    status = way.wait_for(child.pid, after=CALM_AFTER, attend=record.attend if record else lambda: None)
    ended_at = time.time()
    way.drain()
    refused = child.refusal()
    if refused is not None:
        _say_refused(command[0], refused)
    if record is not None:
        record.finish(status, ended_at=ended_at, refused=refused)
    if refused is None:
        _look_behind((child.pid, *way.leaders), token, record, reap=request.reap)
    way.close()
    end_as(status)


def _capture() -> Capture | None:
    from supervisor.wrap.capture import capture_for  # noqa: PLC0415  a run without a log does not pay for it

    return capture_for(say)


class _Direct:
    """The way without a log: the agent has the person's own terminal and streams. A `Capture` of nothing."""

    leaders = ()

    def __init__(self) -> None:
        self._screen = Screen()
        self._status = 0

    def fork(self) -> int:
        return os.fork()

    def open(self, directory: str, token: str) -> None:
        pass

    def wait_for(self, agent: int, /, *, after: float, attend: Callable[[], float | None]) -> int:
        self._status = wait_for(agent, after=after, attend=attend)
        return self._status

    def drain(self) -> None:
        self._screen.put_right(self._status)

    def close(self) -> None:
        pass


def _begin(
    command: list[str], request: Request, directory: str | None, environment: dict[str, str], agent: int
) -> Record | None:
    """Begin the run's record; None, and a line, where there can be none."""
    try:
        if directory is None:
            raise FileNotFoundError("the current directory has been deleted")
        own = os.getpid()
        run = NewRun(
            token=environment[VARIABLE],
            directory=directory,
            cli=command[0],
            args=_storable(command[1:], environment),
            cwd=_working_directory(),
            prompt=None if request.prompt is None else _storable([request.prompt], environment)[0],
            set_default=request.default or request.prompt is not None,
            stamp=stamp_of(agent),
            owner=(own, start_ticks(own)),
        )
        record = Record(run, say)
        record.begin()
    except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from starting
        say(f"this run is not recorded: {str(error) or type(error).__name__}")
        return None
    return record


def _look_behind(leaders: tuple[int, ...], token: str, record: Record | None, *, reap: bool) -> None:
    """Deal with what the agent has left behind; whatever goes wrong with that, its end comes through.

    Args:
        leaders: pids of the agent and of others of ours that may have led a session or group.
        token: the run's.
        record: the run's record, for what is to be added.
        reap: whether to end what is left.
    """
    try:
        from supervisor.process.leftovers import Run  # noqa: PLC0415  loaded by `Record.attend`
        from supervisor.wrap.leftovers import tidy  # noqa: PLC0415  the same

        left = tidy(Run(token, leaders, record.start_ticks if record else None), reap=reap, say=say)
        if record is not None and left:
            record.add(left)
    except Exception as error:  # noqa: BLE001  as above
        say(f"what the agent has left behind is not known: {type(error).__name__}: {error}")


class _Child:
    """The agent-to-be: forked at once, waiting for its row."""

    def __init__(self, command: list[str], environment: dict[str, str], fork: Callable[[], int]) -> None:
        self._errors, errors = os.pipe()
        gate, self._gate = os.pipe()
        # Last before the fork: what the terminal sends to the group in between would reach the wrapper only.
        inherited = Inherited()
        try:
            self.pid = fork()
        except OSError:
            inherited.restore()
            raise
        if self.pid == 0:
            os.close(self._gate)
            _exec_behind(gate, errors, command, environment, inherited.restore)
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
        code = _refusal_code(number)
    finally:
        os._exit(code)


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the agent, with nobody to record it: better than not to start it."""
    try:
        _exec(command, environment)
    except OSError as error:
        number = error.errno or errno.ENOENT
        _say_refused(command[0], number)
        os._exit(_refusal_code(number))


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


def _refusal_code(number: int) -> int:
    return _NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE


def _say_refused(name: str, number: int) -> None:
    say(f"{name}: {'command not found' if number == errno.ENOENT and '/' not in name else os.strerror(number)}")


def _keep_standard_descriptors_free() -> None:
    """Where stdin, stdout or stderr is closed, keep its number from the files and pipes that we are about to open.

    What stands there instead is closed by the exec, so that the agent finds what we were given.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _inherited_environment() -> dict[str, str]:
    """Return the environment that we were started with: in the C locale Python sets LC_CTYPE (PEP 538)."""
    environment = dict(os.environ)
    if environment.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return environment
    try:
        with open("/proc/self/environ", "rb") as file:
            started_with = file.read().split(b"\0")
    except OSError:  # macOS
        return environment
    del environment["LC_CTYPE"]
    for entry in started_with:
        name, _, value = entry.partition(b"=")
        if name == b"LC_CTYPE":
            environment["LC_CTYPE"] = os.fsdecode(value)
    return environment


def _storable(args: list[str], environment: dict[str, str]) -> list[str]:
    """Return arguments without their secrets."""
    if not args:
        return args
    from supervisor.masking import masked  # noqa: PLC0415  nothing to mask, nothing to wait for

    return masked(args, environment)


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
