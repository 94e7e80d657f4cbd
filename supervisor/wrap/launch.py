"""Starting the agent: fork, then the row, then exec, so that a row exists or nothing ever started."""

from __future__ import annotations

import errno
import os
import sys
import time

from supervisor.process.stamp import stamp_of, start_ticks
from supervisor.process.token import VARIABLE
from supervisor.store.recording import NewRun
from supervisor.wrap import environment
from supervisor.wrap.child import Child, become, refusal_code
from supervisor.wrap.direct import Direct
from supervisor.wrap.messages import say
from supervisor.wrap.record import Record
from supervisor.wrap.settings import Settings
from supervisor.wrap.signals import Inherited, end_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from supervisor.nouns import Ending
    from supervisor.wrap.capture import Capture
    from supervisor.wrap.limits import Limits
    from supervisor.wrap.options import Request

CALM_AFTER = 0.05
"""Seconds that the agent has the machine to itself before the wrapper goes on with work of its own."""


def launch(command: list[str], request: Request, *, directory: str | None) -> NoReturn:
    """Run a command under a record in the store of ``directory``, as often as is asked for, and end as it ends.

    Args:
        command: the agent's name or path and its arguments.
        request: what was asked of ``wrap`` beside that.
        directory: the project's physical directory, None where there is none to record the run in.
    """
    series = None
    try:
        _keep_standard_descriptors_free()
        launcher = Launcher(command, request, directory)
        if request.restart != "never":
            from supervisor.wrap.series import Series  # noqa: PLC0415  few runs are restarted

            series = Series(command, request, launcher, say)
    except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from starting
        _go_unrecorded(command, environment.inherited(), str(error) or type(error).__name__)
    if series is not None:
        series.run()
    end_as(launcher.run(command).status)


class Outcome:
    """How one run has ended.

    ``agent`` is its pid, reaped by now; ``refused`` the errno with which it could not be started, None where it was;
    ``ending`` is None where there is no record, and ``is_over`` tells that its time was over. ``began_at`` and
    ``ended_at`` are on the monotonic clock, and so is ``heard``: when each signal came to the wrapper last.
    """

    __slots__ = ("agent", "began_at", "ended_at", "ending", "heard", "is_over", "record", "refused", "status", "token")

    def __init__(self, agent: int, token: str, record: Record | None) -> None:
        self.agent = agent
        self.token = token
        self.record = record
        self.began_at = self.ended_at = time.monotonic()
        self.status = 0
        self.refused: int | None = None
        self.ending: Ending | None = None
        self.is_over = False
        self.heard: dict[int, float] = {}


class Launcher:
    """Runs an agent, each time under a record of its own.

    Args:
        typed: its name or path and its arguments, as the person has typed them.
        request: what was asked of ``wrap`` beside that.
        directory: the project's physical directory, None where there is none to record the run in.
    """

    def __init__(self, typed: list[str], request: Request, directory: str | None) -> None:
        self.environment = environment.inherited()
        self._cli, self._typed = typed[0], typed[1:]
        self._request = request
        self._directory = directory
        self.settings = Settings(say)
        if request.restart != "never" or request.timeout is not None or request.idle_timeout is not None:
            self.settings.read_any()  # what is wrong with them is said before the agent has the screen
        self._logs = directory is not None and (request.log or self.settings.wants_log(self._cli))
        self.inherited: Inherited | None = None
        """The signals that agents get, when the first has got them."""

    def run(
        self,
        command: list[str],
        added: Sequence[str] = (),
        resumed_from: str | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        when_ended: Callable[[Outcome], object] = lambda _: None,
    ) -> Outcome:
        """Run it and return how it has ended.

        Args:
            command: its name or path and its arguments.
            added: those of them that the person has not typed.
            resumed_from: the token of the first run of the series that this one belongs to.
            meanwhile: is called while it runs, if it does for a moment.
            when_ended: is called when its end has been recorded, and before it is looked what it has left behind.

        Raises:
            OSError, ImportError: there is no process or descriptor to be had, and this is not the first time.
        """
        token, request = os.urandom(16).hex(), self._request
        given = {**self.environment, VARIABLE: token}
        try:
            way = (_capture() if self._logs else None) or Direct()
            child = Child(command, given, way.fork, self.inherited)
        except (OSError, ImportError) as error:  # no descriptor is left to load anything
            if self.inherited is not None:
                raise
            reason = error.strerror if isinstance(error, OSError) else error
            _go_unrecorded(command, given, f"no process or descriptor is to be had ({reason})")
        self.inherited = child.inherited
        record = self._begin(child.pid, token, added, resumed_from)
        outcome = Outcome(child.pid, token, record)
        if self._directory is not None:
            way.open(self._directory, token)
        child.release()

        def attend() -> float | None:
            meanwhile()
            return record.attend() if record else None

        limits = self._limits(outcome, way, attend)
        outcome.status = way.wait_for(child.pid, after=CALM_AFTER, attend=limits.attend if limits else attend)
        ended_at, outcome.ended_at, outcome.heard = time.time(), time.monotonic(), way.heard
        way.drain()
        outcome.refused = refused = child.refusal()
        if refused is not None:
            _say_refused(self._cli, refused)
        if record is not None:
            outcome.ending = record.finish(outcome.status, ended_at=ended_at, refused=refused)
        way.finish()
        if limits is not None:
            limits.tell(say)
            outcome.is_over = limits.is_over
        when_ended(outcome)
        if refused is None:
            grace = self.settings.wrap.grace if outcome.is_over else None
            reap = request.reap or outcome.is_over
            _look_behind((child.pid, *way.leaders), token, record, reap=reap, grace=grace)
        way.close(patiently=request.restart != "never")
        return outcome

    def _begin(self, agent: int, token: str, added: Sequence[str], resumed_from: str | None) -> Record | None:
        """Begin the run's record; None, and a line, where there can be none."""
        request = self._request
        try:
            if self._directory is None:
                raise FileNotFoundError("the current directory has been deleted")
            own = os.getpid()
            run = NewRun(
                token=token,
                directory=self._directory,
                cli=self._cli,
                args=_storable(self._typed, self.environment),
                cwd=_working_directory(),
                prompt=None if request.prompt is None else _storable([request.prompt], self.environment)[0],
                set_default=resumed_from is None and (request.default or request.prompt is not None),
                stamp=stamp_of(agent),
                owner=(own, start_ticks(own)),
                environment=environment.to_record(self.environment),
                args_added=added,
                resumed_from=resumed_from,
            )
            record = Record(run, say)
            record.begin()
        except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from starting
            say(f"this run is not recorded: {str(error) or type(error).__name__}")
            return None
        return record

    def _limits(self, outcome: Outcome, way: Capture, attend: Callable[[], float | None]) -> Limits | None:
        """Return what watches over the agent's time, None where nobody has asked for that."""
        request, record = self._request, outcome.record
        if request.timeout is None and request.idle_timeout is None:
            return None
        try:
            from supervisor.wrap.limits import Limits  # noqa: PLC0415  few runs have any, and the agent runs by now

            return Limits(
                outcome.agent,
                outcome.token,
                request,
                grace=self.settings.wrap.grace,
                ask=record.ask if record else lambda *_: None,
                last_output=lambda: way.last_output,
                besides=attend,
            )
        except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from running
            say(f"the limits of its time are not kept: {type(error).__name__}: {error}")
            return None


def _capture() -> Capture | None:
    from supervisor.wrap.capture import capture_for  # noqa: PLC0415  a run without a log does not pay for it

    return capture_for(say)


def _look_behind(
    leaders: tuple[int, ...], token: str, record: Record | None, *, reap: bool, grace: float | None
) -> None:
    """Deal with what the agent has left behind; whatever goes wrong with that, its end comes through.

    Args:
        leaders: pids of the agent and of others of ours that may have led a session or group.
        token: the run's.
        record: the run's record, for what is to be added.
        reap: whether to end what is left.
        grace: seconds that it has for that, None for the usual.
    """
    try:
        from supervisor.process.leftovers import Run  # noqa: PLC0415  loaded by `Record.attend`
        from supervisor.wrap.leftovers import tidy  # noqa: PLC0415  the same

        left = tidy(Run(token, leaders, record.start_ticks if record else None), reap=reap, grace=grace, say=say)
        if record is not None and left:
            record.add(left, "what it has left behind")
    except Exception as error:  # noqa: BLE001  as above
        say(f"what the agent has left behind is not known: {type(error).__name__}: {error}")


def _go_unrecorded(command: list[str], given: dict[str, str], reason: str) -> NoReturn:
    """Say that there will be no record, and become the agent, with the signals that we were started with."""
    say(f"this run is not recorded: {reason}")
    Inherited().restore()
    number = become(command, given)
    _say_refused(command[0], number)
    os._exit(refusal_code(number))


def _say_refused(name: str, number: int) -> None:
    say(f"{name}: {'command not found' if number == errno.ENOENT and '/' not in name else os.strerror(number)}")


def _keep_standard_descriptors_free() -> None:
    """Where stdin, stdout or stderr is closed, keep its number from the files and pipes that we are about to open.

    What stands there instead is closed by the exec, so that the agent finds what we were given.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _storable(args: list[str], given: dict[str, str]) -> list[str]:
    """Return arguments without their secrets."""
    if not args:
        return args
    from supervisor.masking import masked  # noqa: PLC0415  nothing to mask, nothing to wait for

    return masked(args, given)


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
