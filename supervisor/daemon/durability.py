"""Making endings outlast a power cut: stores that have changed are synced, together and off the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from supervisor.store import connection as connections

log = logging.getLogger(__name__)

SYNC_WITHIN = 0.5
"""Seconds after a change in which its sync begins; a second is promised."""


class Syncer:
    """Syncs the stores that have changed, each at most once per `SYNC_WITHIN`."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Future[None] | None = None
        self._failed: set[str] = set()

    def note(self, directory: str) -> None:
        """Note that something has been committed to a store, by whomever."""
        self._changed.add(directory)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SYNC_WITHIN, self._begin)

    async def close(self) -> None:
        """Sync what has not been."""
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            await self._running
        self._sync(self._take())

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._running is not None and not self._running.done():  # a slow disk: wait, and sync once for both
            self._timer = loop.call_later(SYNC_WITHIN, self._begin)
            return
        self._timer = None
        self._running = loop.run_in_executor(None, self._sync, self._take())

    def _take(self) -> set[str]:
        changed, self._changed = self._changed, set()
        return changed

    def _sync(self, directories: Iterable[str]) -> None:
        for directory in directories:
            try:
                connections.sync(directory)
                self._failed.discard(directory)
            except OSError as error:
                if directory not in self._failed:
                    self._failed.add(directory)
                    log.warning("%s cannot be synced: a power cut may take its last endings: %s", directory, error)
