"""The daemon's part in the spool: it brings what is kept there into the stores as soon as they take it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisor import paths
from supervisor.daemon.bindings import RETRY
from supervisor.daemon.watch import Changes
from supervisor.spool.applying import Applied, apply_spooled

log = logging.getLogger(__name__)


LOCK_WAIT = 0.01
"""Seconds to wait for a store's lock: the loop, with all exits, waits as long."""

LONGEST_RETRY = 8.0
"""Seconds until another try at most: a lock that is given up, or space that is there again, changes no file of ours."""


class SpoolWatch:
    """The spool as the daemon follows it. Trouble with it is logged once, and never raised.

    Args:
        clock: seconds, to tell when to try again what is kept still.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._changed = Changes(paths.spool_dir())
        self._clock = clock
        self.due: float | None = None
        """When, on the clock, to try again; None when nothing waits."""
        self._tried = 0.0
        self._waiting: set[str] = set()
        self._pause = RETRY
        self._told: set[str] = set()

    def hurry(self, directory: str) -> None:
        """Try again soon if something waits for that store, which has changed: it may take it now."""
        if directory in self._waiting and self.due is not None:
            self.due = min(self.due, self._tried + RETRY)

    def take(self) -> None:
        """Bring what is spooled into its stores, if something is new there or it is time to try again."""
        if self._changed():
            self._pause = RETRY
        elif self.due is None or self._clock() < self.due:
            return
        self._tried = self._clock()
        try:
            applied = apply_spooled(timeout=LOCK_WAIT)
        except Exception as error:
            applied = Applied()
            if repr(error) not in self._told:
                log.exception("what is spooled cannot be looked after")
            told = {repr(error)}
        else:
            told = {str(trouble) for trouble in applied.troubles}
            for trouble in sorted(told - self._told):
                log.warning("%s", trouble)
        self._told = told
        self._waiting = applied.waiting
        self.due = self._clock() + self._pause if told else None
        self._pause = min(2 * self._pause, LONGEST_RETRY)
        if applied.files:
            log.info("recorded what had been kept in the spool: %s", applied.files)
