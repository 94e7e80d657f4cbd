"""One store as the daemon follows it: whether it has changed, what runs in it, and writes that give way to others."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervisor.errors import StoreBusy, StoreError, StoreMissing
from supervisor.models import Claim, Ending
from supervisor.store.connection import is_lock, store_file, translate
from supervisor.store.supervision import SupervisedStore

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns

log = logging.getLogger(__name__)

LOCK_WAIT = 0.1
"""Seconds to wait for a store's lock: the other stores must not wait for one that is held. What fails is retried."""

_SETTLES_WITHIN_NS = 50_000_000


class Changes:
    """Tells whether files have changed since it was last asked, by stat(2) alone.

    A file that changed within the clock's coarseness before the last look counts as changed again: a later write may
    bear the same time (as in git's index, "racy").
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._last: tuple[object, ...] | None = None
        self._racy = False

    def __call__(self) -> bool:
        """Look, and tell whether anything is different from the last look."""
        now, racy = time.time_ns(), False
        seen: list[tuple[int, ...] | None] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                seen.append(None)
                continue
            seen.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
            racy = racy or abs(now - status.st_mtime_ns) < _SETTLES_WITHIN_NS
        changed = self._racy or self._last != tuple(seen)
        self._last, self._racy = tuple(seen), racy
        return changed


class StoreWatch:
    """The daemon's view of one store. Trouble with it is logged when it changes, and never raised."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.store = SupervisedStore(directory, create=False, timeout=LOCK_WAIT)
        self._file = store_file(directory)
        self._changes = Changes(self._file, f"{self._file}-wal")
        self._inode: tuple[int, int] | None = None
        self._trouble = ""
        self._unread = False
        """Whether a lock has kept us from reading what has changed."""

    def changed(self) -> bool:
        """Tell whether the store may have new rows since this was last asked."""
        return self._changes() or self._unread

    def claims(self) -> list[Claim] | None:
        """Return what the running rows claim, None where the store cannot be read now."""
        try:
            self._follow_the_file()
            claims = self.store.running_claims()
            self._unread = False
        except (StoreError, sqlite3.Error) as error:
            self._complain(error)
            return None
        if self._trouble:
            log.info("%s can be used again", self._file)
            self._trouble = ""
        return claims

    def settle(self, endings: Sequence[tuple[Claim, Ending]]) -> list[bool] | None:
        """Write endings by compare-and-set; None where the store cannot be written now."""
        try:
            return self.store.settle(endings)
        except (StoreError, sqlite3.Error) as error:
            self._complain(error)
            return None

    def keep_stamps(self, stamps: Sequence[tuple[int, StampColumns]]) -> None:
        """Keep stamps, if the store can be written; the next sight of the row tries again otherwise."""
        try:
            self.store.keep_stamps(stamps, by="daemon")
        except (StoreError, sqlite3.Error) as error:
            self._complain(error)

    def rest(self) -> None:
        """Close the connection: an idle store keeps none."""
        self.store.close()
        self._inode = None

    def _follow_the_file(self) -> None:
        """Open anew if another file stands where the store was: an open connection would go on with the old one."""
        try:
            status = os.stat(self._file)
        except OSError:
            self.rest()
            return
        inode = (status.st_dev, status.st_ino)
        if inode != self._inode:
            self.rest()
        self._inode = inode

    def _complain(self, error: StoreError | sqlite3.Error) -> None:
        busy = isinstance(error, StoreBusy) or (isinstance(error, sqlite3.Error) and is_lock(error))
        if isinstance(error, sqlite3.Error):
            error = translate(self.directory, error)
        self._unread = busy
        if not busy:
            self.rest()
        if str(error) == self._trouble:
            return
        self._trouble = str(error)
        level = logging.DEBUG if busy else logging.INFO if isinstance(error, StoreMissing) else logging.WARNING
        log.log(level, "%s", error)
