"""Deleting each night what is old: in a thread of its own, so that no death is noticed late because of it."""

from __future__ import annotations

import logging
import os
import threading
import time

from supervisor import paths, registry
from supervisor.daemon.jobs import CATCHES_UP_AFTER
from supervisor.daemon.settings import Settings
from supervisor.retention import Limits, prune

log = logging.getLogger(__name__)

_A_DAY = 86400.0


class Nightly:
    """The nightly pruning, as the settings have it at that time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopped = threading.Event()

    def catches_up_in(self) -> float | None:
        """Return after how many seconds to prune because the last night was missed, None where it was not.

        A laptop is off at night; then no day would ever bring it.
        """
        try:
            missed = time.time() - os.stat(paths.last_prune()).st_mtime > _A_DAY
        except OSError:
            missed = True
        return CATCHES_UP_AFTER if missed else None

    def prune(self) -> None:
        """Delete what is old in all known stores, and say what was."""
        config = self._settings.retention
        if not config.nightly:
            return
        try:
            directories = [entry.dir for entry in registry.entries()]
            done = prune(directories, Limits.of(config, time.time()), rest=self._stopped.wait)
            if not done.cut_short:
                with open(paths.last_prune(), "w", encoding="ascii"):
                    pass  # its time is what counts
        except OSError as error:
            log.warning("old records have not been deleted: %s", error)
            return
        for pruned in done.pruned.values():
            if not pruned.nothing:
                log.info(
                    "pruned %s: %s old runs, %s logs, %s rows of runs that are gone",
                    pruned.directory,
                    pruned.runs,
                    pruned.logs,
                    pruned.orphans,
                )
        for trouble in done.troubles:
            log.warning("nothing is pruned there: %s", trouble)

    def stop(self) -> None:
        """End a pruning that is under way after its present transaction."""
        self._stopped.set()
