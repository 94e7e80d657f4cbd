"""Whether and when an agent that has ended is started again: by how it ended, who has spoken, and how often. Pure.

Loaded when the first try of a series runs.
"""

from __future__ import annotations

import random
import signal

from supervisor.nouns import Cause, RunStatus
from supervisor.wrap.signals import INTERRUPTED, TOLD_TO_END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.nouns import Ending

ON_CRASH, ON_FAILURE = "on-crash", "on-failure"

HEEDED_FOR = 10.0
"""Seconds before an end within which Ctrl-C is taken for its reason: a person interrupts many an agent just so."""

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
    interrupted = any(at - heard[number] <= HEEDED_FOR for number in heard.keys() & INTERRUPTED)
    return interrupted or bool(heard.keys() & TOLD_TO_END)


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
        self.most = most
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
        if self.restarts >= self.most:
            return None
        wait = min(self._longest, self._delay * 2.0 ** min(self.restarts, 60))
        self.restarts += 1
        return wait * (1 - self._chance() / 2)


def how_it_ended(ending: Ending) -> str:
    """Return what is told of an end that is followed by a restart."""
    if ending.term_signal is not None:
        try:
            name = signal.Signals(ending.term_signal).name
        except ValueError:
            name = f"signal {ending.term_signal}"
        return f"was ended by {name}" + (" (out of memory)" if ending.cause is Cause.OOM_KILLED else "")
    return f"failed with exit code {ending.exit_code}"
