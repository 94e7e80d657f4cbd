"""A series: an agent that is started again when it ends badly, each try a run of its own.

Loaded only under ``--restart``.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import time

from supervisor.ending import ending_by_owner
from supervisor.nouns import Cause, RunStatus
from supervisor.process.token import VARIABLE
from supervisor.wrap.sessions import session_of
from supervisor.wrap.signals import end_as, hear_pending, stop_like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from supervisor.nouns import Ending
    from supervisor.wrap.launch import Launcher, Outcome
    from supervisor.wrap.options import Request
    from supervisor.wrap.sessions import Session

ON_CRASH, ON_FAILURE = "on-crash", "on-failure"

HEEDED_FOR = 10.0
"""Seconds before an end within which Ctrl-C is taken for its reason: a person interrupts many an agent just so."""

_TOLD_TO_END = frozenset({signal.SIGTERM, signal.SIGHUP})
_INTERRUPTED = frozenset({signal.SIGINT, signal.SIGQUIT})
_STOPPING = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})

_AS_STOPPED = frozenset(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
"""Exit codes by which a program says that it was told to end: many catch the signal and end so."""

_FINAL = frozenset({Cause.STOPPED, Cause.TIMED_OUT, Cause.STALLED, Cause.NOT_STARTED})


def is_restarted(when: str, ending: Ending) -> bool:
    """Tell whether an agent that ended so is started again, as far as that depends on its end.

    Never one that was told to end or could not be started. A plain exit code is a failure and no crash.
    """
    if ending.cause in _FINAL:
        return False
    if ending.status is RunStatus.CRASHED:
        return True
    return when == ON_FAILURE and ending.status is RunStatus.FAILED and ending.exit_code not in _AS_STOPPED


def was_told(heard: Mapping[int, float], at: float) -> bool:
    """Tell whether somebody has told the wrapper to end its agent.

    Args:
        heard: when each signal came to the wrapper last, on the monotonic clock.
        at: when the agent ended, on the same.
    """
    interrupted = any(at - heard[number] <= HEEDED_FOR for number in heard.keys() & _INTERRUPTED)
    return interrupted or bool(heard.keys() & _TOLD_TO_END)


class Pace:
    """How long to wait before each restart, and when to give up.

    The wait doubles with each restart up to a limit, less a random part of up to a half, so that agents which fell
    together do not rise together. A run that has lasted long enough to be healthy makes all begin anew.

    Args:
        most: how often to restart without a healthy run between.
        delay: seconds before the first restart.
        longest: seconds that a wait comes to at most.
        healthy_after: seconds that a healthy run lasts.
        chance: a number from 0 to 1, another one each time.
    """

    def __init__(
        self,
        *,
        most: int,
        delay: float,
        longest: float,
        healthy_after: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._most = most
        self._delay = delay
        self._longest = longest
        self._healthy_after = healthy_after
        self._chance = chance
        self.restarts = 0
        """Restarts since the last healthy run."""

    def next(self, lasted: float) -> float | None:
        """Return the seconds to wait before the next restart; None to give up.

        Args:
            lasted: seconds that the run which has just ended took.
        """
        if lasted >= self._healthy_after:
            self.restarts = 0
        if self.restarts >= self._most:
            return None
        wait = min(self._longest, self._delay * 2.0 ** min(self.restarts, 60))
        self.restarts += 1
        return wait * (1 - self._chance() / 2)


def run_series(launcher: Launcher, command: list[str], request: Request, say: Callable[[str], None]) -> NoReturn:
    """Run an agent, again and again as it was asked for, and end as its last try does.

    Args:
        launcher: runs it once.
        command: the agent's name or path and its arguments, as typed.
        request: what was asked of ``wrap``.
        say: takes a line for the person.
    """
    series = Series(command, request, launcher, say)
    outcome = launcher.run(series.command, series.added, None, series.decide)
    first = outcome.token
    while True:
        number = series.wait(outcome)
        if number is not None:
            end_as(number)
        try:
            outcome = launcher.run(series.command, series.added, first, series.decide)
        except OSError as error:
            say(f"it is not started again: no process or descriptor is to be had ({error.strerror})")
            end_as(outcome.status)


class Series:
    """When and with which arguments one agent is started again.

    Args:
        command: its name or path and its arguments, as typed.
        request: which ends are to be followed by a restart, and how many restarts without a healthy run between.
        launcher: runs it.
        say: takes a line for the person.
    """

    def __init__(self, command: list[str], request: Request, launcher: Launcher, say: Callable[[str], None]) -> None:
        settings = launcher.settings.wrap
        self._launcher = launcher
        self._request = request
        self._say = say
        self._name = os.path.basename(command[0])
        self._most = settings.max_restarts if request.max_restarts is None else request.max_restarts
        self._pace = Pace(
            most=self._most,
            delay=settings.restart_delay,
            longest=settings.longest_delay,
            healthy_after=settings.healthy_after,
        )
        self._environment = dict(launcher.environment)
        self._session = None if request.fresh else _session_of(command, self._environment)
        self.command, self.added = command, list[str]()
        if self._session is not None:
            self._take(self._session.first())
        self._due: float | None = None

    def decide(self, outcome: Outcome) -> None:
        """Decide, when a try has ended, whether and when there is to be another; a line says what and why.

        That is recorded at once, so that `stop` can call it off while we still look what the try has left behind.
        """
        ending = outcome.ending or ending_by_owner(outcome.status, time.time(), outcome.refused)
        self._due = None
        if self._was_told(outcome) or not is_restarted(self._request.restart, ending):
            return
        delay = self._pace.next(outcome.ended_at - outcome.began_at)
        how = _how(ending)
        if ending.term_signal is not None:
            _begin_line()
        if delay is None:
            times = "once" if self._most == 1 else f"{self._most} times"
            again = "is not started again" if not self._most else f"has been started again {times} in a row"
            where = "." if self._request.project is None else f"{shlex.quote(self._request.project)}#."
            self._say(f"{self._name} {how}, and {again}; that is all. See: agent-yes-supervise why {where}")
            return
        number = f"restart {self._pace.restarts} of {self._most}"
        self._say(f"{self._name} {how}; it is started again in {delay:.1f} s ({number}); Ctrl-C: not again")
        self._due = time.monotonic() + delay
        if outcome.record is not None:
            outcome.record.add({"restarts_at": round(time.time() + delay, 3)}, "that it is started again")

    def wait(self, outcome: Outcome) -> int | None:
        """Wait until the next try is due; return the status to end with where there is to be none."""
        if self._due is None:
            return outcome.status
        if self._session is not None:
            self._environment[VARIABLE] = outcome.token
            self._take(self._session.again(outcome.agent))
        while True:
            left = self._due - time.monotonic()
            number = _next_signal(max(0.0, left))
            if not number and left <= 0:
                break
            if number in self._ignored:
                continue
            if number in _TOLD_TO_END or number in _INTERRUPTED:
                return self._call_off(outcome, number)
            if number in _STOPPING:
                stop_like(number)
        if outcome.record is not None:
            outcome.record.bring_kept()
        _forget_typed()
        return None

    @property
    def _ignored(self) -> frozenset[int]:
        inherited = self._launcher.inherited
        return frozenset() if inherited is None else inherited.ignored

    def _was_told(self, outcome: Outcome) -> bool:
        hear_pending(outcome.heard, outcome.agent)
        heard = {number: at for number, at in outcome.heard.items() if number not in self._ignored}
        return outcome.is_over or was_told(heard, outcome.ended_at)

    def _take(self, arguments: tuple[list[str], list[str]]) -> None:
        self.command, self.added = [self.command[0], *arguments[0]], arguments[1]

    def _call_off(self, outcome: Outcome, status: int) -> int:
        if outcome.record is not None:
            outcome.record.add({"called_off": True}, "that it is not started again")
        return status


def _session_of(command: list[str], environment: Mapping[str, str]) -> Session | None:
    try:
        return session_of(command[0], command[1:], cwd=os.getcwd(), environment=environment, started_at=time.time())
    except OSError:  # the current directory has been deleted
        return None


def _how(ending: Ending) -> str:
    if ending.term_signal is not None:
        try:
            name = signal.Signals(ending.term_signal).name
        except ValueError:
            name = f"signal {ending.term_signal}"
        return f"was ended by {name}" + (" (out of memory)" if ending.cause is Cause.OOM_KILLED else "")
    return f"failed with exit code {ending.exit_code}"


def _begin_line() -> None:
    """Begin a line of our own on a terminal, below what an agent that could not tidy up has left of its screen."""
    if os.isatty(2):
        try:
            os.write(2, b"\r\n" if os.environ.get("TERM", "dumb") == "dumb" else b"\r\n\x1b[J")
        except OSError:  # hung up
            return


def _next_signal(timeout: float) -> int:
    """Return the number of the next signal, 0 if none comes; all are blocked."""
    if not hasattr(signal, "sigtimedwait"):  # macOS; it has not been run
        signal.setitimer(signal.ITIMER_REAL, max(timeout, 0.001))
        number = signal.sigwait(signal.valid_signals())
        return 0 if number == signal.SIGALRM else number
    info = signal.sigtimedwait(signal.valid_signals(), timeout)
    return 0 if info is None else info.si_signo


def _forget_typed() -> None:
    """Drop what was typed at the last try and not read: a terminal's late answers would be the next one's prompt."""
    import termios  # noqa: PLC0415  few agents are started again

    try:
        if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
            termios.tcflush(0, termios.TCIFLUSH)
    except (OSError, termios.error):  # it has been closed
        return
