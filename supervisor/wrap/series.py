"""A series: an agent that is started again when it ends badly, each try a run of its own.

Loaded only under ``--restart``; what is needed when a try has ended is loaded while it runs.
"""

from __future__ import annotations

import os
import signal
import time

from supervisor.process.token import VARIABLE
from supervisor.wrap.readiness import write_at_once
from supervisor.wrap.screen import SHOW_WITHIN
from supervisor.wrap.sessions import session_of
from supervisor.wrap.signals import INTERRUPTED, TOLD_TO_END, end_as, hear_pending, stop_like, take_next

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from supervisor.wrap.launch import Launcher, Outcome
    from supervisor.wrap.options import Request
    from supervisor.wrap.restarts import Pace
    from supervisor.wrap.sessions import Session

_STOPPING = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Series:
    """An agent's tries: when, and with which arguments, it is started again.

    Args:
        command: its name or path and its arguments, as typed.
        request: which ends are to be followed by a restart, and how many restarts without a healthy run between.
        launcher: runs it once.
        say: takes a line for the person.
    """

    def __init__(self, command: list[str], request: Request, launcher: Launcher, say: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._request = request
        self._say = say
        self._name = os.path.basename(command[0])
        self._pace: Pace | None = None
        self._environment = dict(launcher.environment)
        self._session = None if request.fresh else _session_of(command, self._environment)
        self._command, self._added = command, list[str]()
        if self._session is not None:
            self._take(self._session.first())
        self._due: float | None = None

    def run(self) -> NoReturn:
        """Run the agent, again and again as it was asked for, and end as its last try does."""
        outcome = self._try(None)
        first = outcome.token
        while True:
            status = self._wait(outcome)
            if status is not None:
                end_as(status)
            try:
                outcome = self._try(first)
            except (OSError, ImportError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                self._say(f"it is not started again: no process or descriptor is to be had ({reason})")
                end_as(outcome.status)

    def _try(self, first: str | None) -> Outcome:
        return self._launcher.run(self._command, self._added, first, self._attend, self._decide)

    def _attend(self) -> None:
        """Load what the end of a try needs, while it runs: then, this program may have been replaced by another."""
        try:
            self._get_ready()
        except Exception:  # noqa: BLE001  `_decide` will say it
            return

    def _get_ready(self) -> Pace:
        if self._pace is None:
            import supervisor.ending  # noqa: F401, PLC0415  the first try need not wait for it
            from supervisor.wrap.restarts import Pace  # noqa: PLC0415  the same

            if self._session is not None:
                self._session.get_ready()
            settings, most = self._launcher.settings.wrap, self._request.max_restarts
            self._pace = Pace(
                most=settings.max_restarts if most is None else most,
                delay=settings.restart_delay,
                longest=settings.longest_delay,
                healthy_after=settings.healthy_after,
            )
        return self._pace

    def _decide(self, outcome: Outcome) -> None:
        """Decide, when a try has ended, whether and when there is to be another; a line says what and why.

        That is recorded at once, so that `stop` can call it off while we still look what the try has left behind.
        """
        self._due = None
        try:
            self._decide_by(self._get_ready(), outcome)
        except Exception as error:  # noqa: BLE001  no trouble of ours may change how the agent's end is seen
            self._say(f"it is not started again: {type(error).__name__}: {error}")

    def _decide_by(self, pace: Pace, outcome: Outcome) -> None:
        from supervisor.ending import ending_by_owner  # noqa: PLC0415  see `_attend`
        from supervisor.wrap.restarts import how_it_ended, is_restarted  # noqa: PLC0415  the same

        ending = outcome.ending or ending_by_owner(outcome.status, time.time(), outcome.refused)
        if self._was_told(outcome) or not is_restarted(self._request.restart, ending):
            return
        delay = pace.next(outcome.ended_at - outcome.began_at)
        how = how_it_ended(ending)
        if ending.term_signal is not None:
            _begin_line()
        if delay is None:
            import shlex  # noqa: PLC0415  rarely needed

            times = "once" if pace.most == 1 else f"{pace.most} times"
            again = "is not started again" if not pace.most else f"has been started again {times} in a row"
            where = "." if self._request.project is None else f"{shlex.quote(self._request.project)}#."
            self._say(f"{self._name} {how}, and {again}; that is all. See: agent-yes-supervise why {where}")
            return
        number = f"restart {pace.restarts} of {pace.most}"
        self._say(f"{self._name} {how}; it is started again in {delay:.1f} s ({number}); Ctrl-C: not again")
        self._due = time.monotonic() + delay
        if outcome.record is not None:
            outcome.record.add({"restarts_at": round(time.time() + delay, 3)}, "that it is started again")

    def _wait(self, outcome: Outcome) -> int | None:
        """Wait until the next try is due; return the status to end with where there is to be none."""
        if self._due is None:
            return outcome.status
        if self._session is not None:
            self._environment[VARIABLE] = outcome.token
            self._take(self._session.again(outcome.agent))
        while True:
            left = self._due - time.monotonic()
            received = take_next(max(0.0, left))
            if received is None:
                if left <= 0:
                    break
            elif received.number in self._ignored:
                continue
            elif received.number in TOLD_TO_END | INTERRUPTED:
                return self._call_off(outcome, received.number)
            elif received.number in _STOPPING:
                stop_like(received.number)
        if outcome.record is not None:
            outcome.record.bring_kept()
        _forget_typed()
        return None

    @property
    def _ignored(self) -> frozenset[int]:
        inherited = self._launcher.inherited
        return frozenset() if inherited is None else inherited.ignored

    def _was_told(self, outcome: Outcome) -> bool:
        from supervisor.wrap.restarts import was_told  # noqa: PLC0415  see `_attend`

        hear_pending(outcome.heard, outcome.agent)
        heard = {number: at for number, at in outcome.heard.items() if number not in self._ignored}
        return outcome.is_over or was_told(heard, outcome.ended_at)

    def _take(self, arguments: tuple[list[str], list[str]]) -> None:
        self._command, self._added = [self._command[0], *arguments[0]], arguments[1]

    def _call_off(self, outcome: Outcome, status: int) -> int:
        if outcome.record is not None:
            outcome.record.add({"called_off": True}, "that it is not started again")
        return status


def _session_of(command: list[str], environment: Mapping[str, str]) -> Session | None:
    try:
        return session_of(command[0], command[1:], cwd=os.getcwd(), environment=environment, started_at=time.time())
    except OSError:  # the current directory has been deleted
        return None


def _begin_line() -> None:
    """Begin a line of our own on a terminal, below what an agent that could not tidy up has left of its screen."""
    if os.isatty(2):
        below = b"\r\n" if os.environ.get("TERM", "dumb") == "dumb" else b"\r\n\x1b[J"
        write_at_once(2, below, within=SHOW_WITHIN)


def _forget_typed() -> None:
    """Drop what was typed at the last try and not read: a terminal's late answers would be the next one's prompt."""
    import termios  # noqa: PLC0415  few agents are started again

    try:
        if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
            termios.tcflush(0, termios.TCIFLUSH)
    except (OSError, termios.error):  # it has been closed
        return
