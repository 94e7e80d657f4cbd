"""What is known of steps of the wall clock, kept in a file so that a new daemon knows what an old one saw.

A step moves CLOCK_REALTIME against CLOCK_BOOTTIME; slewing by NTP moves both. A process that seems to be much younger
than its row may only have been born before a step, so that none may be called reused across one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable

from supervisor import paths
from supervisor.process import procfs
from supervisor.process.surroundings import Clocks, clocks

log = logging.getLogger(__name__)

WORTH_NOTING = 0.5
"""Seconds by which the clocks must part to count as a step."""

_KEPT = 100


class ClockSteps:
    """The steps of this boot that somebody has seen. Reads the file at the first question.

    Args:
        read: reads the clocks.
        now: the wall clock, Unix seconds.
    """

    def __init__(self, read: Callable[[], Clocks] = clocks, *, now: Callable[[], float] = time.time) -> None:
        self._read = read
        self._now = now
        self._steps: list[float] | None = None
        self._offset: float | None = None
        self._boot_id = procfs.boot_id()

    def known(self) -> tuple[float, ...]:
        """Return when the clock is known to have been set since this machine started, Unix seconds."""
        return tuple(self._known())

    def stepped_since(self, moment: float) -> bool:
        """Tell whether the clock is known to have been set after a Unix time, as either clock counted it."""
        return any(moment <= at for at in self._known())

    def observe(self) -> float:
        """Look at the clocks; note and keep a step since the last look, and return its size in seconds, else 0."""
        steps, offset = self._known(), self._read().offset
        before, step = self._offset, 0.0
        if before is None or abs(offset - before) >= WORTH_NOTING:
            if before is not None:
                step = offset - before
                # A row from before the step may bear a time of either side.
                steps.append(self._now() - min(step, 0))
                del steps[:-_KEPT]
            self._offset = offset
            self._keep()
        return step

    def _known(self) -> list[float]:
        if self._steps is None:
            self._steps = []
            try:
                with open(_file(), encoding="ascii") as file:
                    kept = json.load(file)
                if kept["boot_id"] == self._boot_id:
                    self._steps, self._offset = [_finite(at) for at in kept["steps"]], _finite(kept["offset"])
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                log.warning("what was known of the clock's steps cannot be read: %s", error)
        return self._steps

    def _keep(self) -> None:
        content = {"boot_id": self._boot_id, "offset": self._offset, "steps": self._steps}
        draft = None
        try:
            draft = f"{_file()}.{os.getpid()}"
            with open(draft, "w", encoding="ascii") as file:
                json.dump(content, file)
            os.replace(draft, _file())
        except OSError as error:
            log.warning("the clock's steps cannot be kept: %s", error)
            if draft is not None:
                with contextlib.suppress(OSError):
                    os.unlink(draft)


def _file() -> str:
    return os.path.join(paths.state_dir(), "clock.json")


def _finite(value: object) -> float:
    """Return a number as kept; with a NaN no later step would ever be seen."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)
