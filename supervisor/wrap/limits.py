"""The limits of an agent's time: when it has run, or been idle, for too long, it is ended.

Loaded only under ``--timeout`` and ``--idle-timeout``. All spans are of the monotonic clock, which stands still while
the machine sleeps and does not step.
"""

from __future__ import annotations

import os
import signal
import time

from supervisor.process.activity import Activity
from supervisor.wrap.signals import send_to_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.wrap.options import Request

TIMEOUT, IDLE_TIMEOUT = "timeout", "idle-timeout"
"""The orders of the requests, as `supervisor.ending` knows them."""

_LOOKS = 10
"""How often within the idle time we look whether the agent does anything."""

_LONGEST_WAIT = 3600.0
"""Seconds until we look again though nothing is due: a system call that waits takes no years."""

_TOLD, _KILLED, _ANOTHERS = "told to end", "killed", "but it is another user's by now, and may not be ended"
_FAILED = "failed"

_LEAST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
"""Seconds between two looks."""


class Limits:
    """Watches over one agent's time.

    Args:
        agent: its pid.
        token: its run's.
        request: how long it may run and be idle.
        grace: seconds between SIGTERM and SIGKILL.
        ask: records the request that it end, before that is done: by whom, and the order.
        last_output: tells when it last wrote something that the wrapper saw, on the monotonic clock.
        besides: what else is to be attended to; returns the seconds to its next time, None when it is done.
    """

    def __init__(
        self,
        agent: int,
        token: str,
        request: Request,
        *,
        grace: float,
        ask: Callable[[str, str], None],
        last_output: Callable[[], float],
        besides: Callable[[], float | None],
    ) -> None:
        self._agent = agent
        self._timeout = request.timeout
        self._idle_timeout = request.idle_timeout
        self._grace = grace
        self._ask = ask
        self._last_output = last_output
        self._besides = besides
        self._began = self._looked_at = time.monotonic()
        self._besides_at: float | None = self._began
        self._activity = None if self._idle_timeout is None else Activity(agent, token)
        self._pause = min(max((self._idle_timeout or 0) / _LOOKS, _LEAST_PAUSE), _LONGEST_PAUSE)
        self._quiet = 0.0
        self._kill_at: float | None = None
        self._request = ("", "")
        self._over = self._done = ""

    @property
    def is_over(self) -> bool:
        """Whether its time was over, and it was told to end, or killed."""
        return self._done in (_TOLD, _KILLED)

    def attend(self) -> float | None:
        """Do what is due; return the seconds until something is again, None if nothing will be."""
        pauses = [self._attend_besides()]
        if self._done != _FAILED:
            try:
                pauses.append(self._keep())
            except Exception as error:  # noqa: BLE001  no trouble of ours may end the wrapper of a running agent
                self._over, self._done = f"{type(error).__name__}: {error}", _FAILED
        return min((pause for pause in pauses if pause is not None), default=None)

    def _attend_besides(self) -> float | None:
        """See to what else is due, at its own pace: we come more often."""
        now = time.monotonic()
        if self._besides_at is not None and now >= self._besides_at:
            pause = self._besides()
            self._besides_at = None if pause is None else now + pause
        return None if self._besides_at is None else max(self._besides_at - now, 0.001)

    def tell(self, say: Callable[[str], None]) -> None:
        """Say, when the agent has ended, that it was ended by us, if it was."""
        if self._done == _FAILED:
            say(f"the limits of its time were not kept: {self._over}")
        elif self._over:
            say(f"its time was over ({self._over}): {self._done}")

    def _keep(self) -> float | None:
        now = time.monotonic()
        if self._kill_at is None:
            if self._timeout is not None and now - self._began >= self._timeout:
                return self._end(TIMEOUT, self._timeout, now)
            if self._idle_timeout is not None and self._idle_for(now) >= self._idle_timeout:
                return self._end(IDLE_TIMEOUT, self._idle_timeout, now)
            return self._until_due(now)
        if self._done != _TOLD:
            return None
        if now < self._kill_at:
            return min(self._kill_at - now, _LONGEST_WAIT)
        self._done = _KILLED if self._send(signal.SIGKILL) else _ANOTHERS
        return None

    def _idle_for(self, now: float) -> float:
        """Return for how many seconds the agent has been idle, looking anew where that is due.

        Only what lies between two looks counts, and no more than they should be apart: while we were stopped, and the
        agent with us, it did not idle.
        """
        assert self._activity is not None  # noqa: S101  there is an idle timeout
        since = now - self._looked_at
        if since >= self._pause:
            has_written = self._last_output() > self._looked_at
            self._quiet = 0.0 if self._activity.look() or has_written else self._quiet + min(since, 1.5 * self._pause)
            self._looked_at = now
        return self._quiet

    def _until_due(self, now: float) -> float:
        due = [_LONGEST_WAIT]
        if self._timeout is not None:
            due.append(self._began + self._timeout - now)
        if self._idle_timeout is not None:
            due.append(self._looked_at + self._pause - now)
        return max(min(due), 0.001)

    def _end(self, order: str, limit: float, now: float) -> float | None:
        self._over = f"--{order} {limit:g}s"
        self._request = (f"wrap {self._over}", order)
        self._kill_at = now + self._grace
        if not self._send(signal.SIGTERM):
            self._done = _ANOTHERS
            return None
        self._done = _TOLD
        send_to_all(self._agent, signal.SIGCONT)  # what is stopped could not end by it
        return min(self._grace, _LONGEST_WAIT)

    def _send(self, number: int) -> bool:
        """Record the request and send a signal; where that is not permitted do nothing, and return so.

        A request without effect would explain an end that it has not brought about. It counts for some minutes only, so
        each signal has one.
        """
        try:
            os.kill(self._agent, 0)
        except PermissionError:
            return False
        self._ask(*self._request)
        return send_to_all(self._agent, number)
