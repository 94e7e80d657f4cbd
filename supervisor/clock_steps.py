"""What is known of steps of the wall clock, kept in a file so that a new daemon knows what an old one saw.

A step moves CLOCK_REALTIME against CLOCK_BOOTTIME; slewing by NTP moves both. A process that seems to be much younger
than its row may only have been born before a step, so that none may be called reused across one.
"""

from __future__ import annotations

import json
import logging
import os
import time

from supervisor import paths
from supervisor.process import procfs
from supervisor.process.surroundings import clocks

log = logging.getLogger(__name__)

WORTH_NOTING = 0.5
"""Seconds by which the clocks must part to count as a step."""

_KEPT = 100


class ClockSteps:
    """The steps of this boot that somebody has seen. Reads the file at the first question."""

    def __init__(self) -> None:
        self._steps: list[float] | None = None
        self._offset: float | None = None
        self._boot_id = procfs.boot_id()

    def stepped_since(self, moment: float) -> bool:
        """Tell whether the clock is known to have been set after a Unix time, as either clock counted it."""
        return any(moment <= at for at in self._known())

    def observe(self) -> float:
        """Look at the clocks; note and keep a step since the last look, and return its size in seconds, else 0."""
        steps, offset = self._known(), clocks().offset
        before, step = self._offset, 0.0
        if before is None or abs(offset - before) >= WORTH_NOTING:
            if before is not None:
                step = offset - before
                # A row from before the step may bear a time of either side.
                steps.append(max(time.time(), time.time() - step))
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
                    self._steps, self._offset = [float(at) for at in kept["steps"]], float(kept["offset"])
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("what was known of the clock's steps cannot be read: %s", error)
        return self._steps

    def _keep(self) -> None:
        content = {"boot_id": self._boot_id, "offset": self._offset, "steps": self._steps}
        try:
            draft = f"{_file()}.{os.getpid()}"
            with open(draft, "w", encoding="ascii") as file:
                json.dump(content, file)
            os.replace(draft, _file())
        except OSError as error:
            log.warning("the clock's steps cannot be kept: %s", error)


def _file() -> str:
    return os.path.join(paths.state_dir(), "clock.json")
