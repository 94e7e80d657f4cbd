"""One store as the daemon follows it: whether it has changed, what runs in it, and writes that give way to others."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from supervisor.errors import StoreBusy, StoreError, StoreMissing
from supervisor.models import Claim, Ending
from supervisor.store.connection import is_lock, translate
from supervisor.store.files import identity, store_file
from supervisor.store.repair import is_under_repair
from supervisor.store.supervision import SupervisedStore

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns

log = logging.getLogger(__name__)

T = TypeVar("T")

LOCK_WAIT = 0.1
"""Seconds to wait for a store's lock: the other stores must not wait for one that is held. What fails is retried."""

_CACHE = 256
"""KiB of pages that each store's connection may keep: SQLite's 2,000 would add up, and the daemon reads few twice."""

RESTS_AFTER = 60.0
"""Seconds without a change after which a store may be at rest: a commit shows only when its writer has synced it."""

_SETTLES_WITHIN_NS = 50_000_000


class Changes:
    """Tells whether files have changed since it was last asked, by stat(2) alone.

    It goes by the ctime: that of a file put back by ``cp -p``, or made writable, is new where the mtime is not. A file
    that changed within the clock's coarseness before the last look counts as changed again: a later write may bear the
    same time (as in git's index, "racy").

    Args:
        paths: the files, or folders.
        wal: one that goes by its mtime: as root, SQLite gives each WAL that it opens to the owner of the store again
            (os_unix.c, robustFchown), so that to look would be to change.
    """

    def __init__(self, *paths: str, wal: str | None = None) -> None:
        self._paths = paths if wal is None else (*paths, wal)
        self._wal = wal
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
            changed_at = status.st_mtime_ns if path == self._wal else status.st_ctime_ns
            rights = (status.st_mode, status.st_uid, status.st_gid)
            seen.append((status.st_dev, status.st_ino, status.st_size, changed_at, *rights))
            racy = racy or abs(now - changed_at) < _SETTLES_WITHIN_NS
        changed = self._racy or self._last != tuple(seen)
        self._last, self._racy = tuple(seen), racy
        return changed

    @property
    def is_unsettled(self) -> bool:
        """Whether the next look may find something though nothing happens until then."""
        return self._racy or self._last is None

    def forget(self) -> None:
        """Count whatever is there at the next look as changed."""
        self._last = None


class StoreWatch:
    """The daemon's view of one store. Trouble with it is logged when it changes, and never raised."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.store = SupervisedStore(directory, create=False, timeout=LOCK_WAIT)
        self.is_locked = False
        """Whether a lock has kept us from reading what has changed."""
        self._file = store_file(directory)
        self._changes = Changes(self._file, wal=f"{self._file}-wal")
        self._inode: tuple[int, int] | None = None
        self._version: int | None = None
        self._changed_at = -math.inf
        self._is_to_be_read = True
        self._troubles: dict[str, str] = {}

    @property
    def wants_a_look(self) -> bool:
        """Whether the store is to be looked at again though nothing tells of it.

        A commit may show later than its write(2), of which the kernel has told: the writer syncs in between.
        """
        return self.is_locked or self._changes.is_unsettled

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is to be expected of the store as it is.

        It has not changed for long, could be read, and holds no ending that might have to be taken back.
        """
        changed_lately = time.monotonic() - self._changed_at < RESTS_AFTER
        return not (self.store.is_open or self._is_to_be_read or changed_lately)

    def changed(self) -> bool:
        """Tell whether the store may have new rows since it was last read.

        As long as its files are the same, nobody has committed anything: in WAL mode a commit is a write(2) to the WAL.
        Where they are not, an open store is asked itself (``PRAGMA data_version``): our own writes are no news. A store
        that another file stands in place of is always news.
        """
        changed = self._has_changed()
        if changed:
            self._changed_at, self._is_to_be_read = time.monotonic(), True
        return changed

    def _has_changed(self) -> bool:
        if self.is_locked:
            return True
        if not self._changes():
            return False
        if not self.store.is_open or self._inode != identity(self.directory) or is_under_repair(self.directory):
            return True
        try:
            return self.store.data_version() != self._version
        except sqlite3.Error as error:
            self._changes.forget()
            return not is_lock(error)  # a lock is no news yet; what else it is, reading will tell

    def rows(self) -> dict[int, tuple[object, object]] | None:
        """Return pid and start of the running rows by id, None where the store cannot be read now."""

        def read() -> dict[int, tuple[object, object]]:
            self._version = self.store.data_version()  # before the rows: a commit in between is seen the next time
            return self.store.running_rows()

        return self._try("read", read)

    def claims(self, run_ids: Sequence[int]) -> list[Claim] | None:
        """Return what some of the running rows claim, None where the store cannot be read now."""
        return self._try("read", lambda: self.store.running_claims(run_ids)) if run_ids else []

    def inferred(self, boot_id: str, exists: Callable[[int], bool | None]) -> list[Claim]:
        """Return the claims of runs that were settled by inference in this boot, if there is a process of that pid."""
        asked = []

        def may_be(pid: int) -> bool | None:
            asked.append(pid)
            return exists(pid)

        self.doubt()
        claims = self._try("read", lambda: self.store.inferred_claims(boot_id, exists=may_be))
        self._is_to_be_read = claims is None or bool(asked)
        return claims or []

    def retract(self, claim: Claim) -> bool:
        """Set a run that was settled by inference back to running; tell whether that was done."""
        return self._try("written", lambda: self.store.retract(claim)) or False

    def settle(self, endings: Sequence[tuple[Claim, Ending]]) -> list[bool] | None:
        """Write endings by compare-and-set; None where the store cannot be written now, or is just being replaced."""
        self.doubt()
        written = self._try("written", lambda: self.store.settle(endings))
        return written if self._inode == identity(self.directory) else None

    def keep_stamps(self, stamps: Sequence[tuple[int, StampColumns]], *, by: str) -> bool:
        """Keep stamps; tell whether the store could be written."""

        def keep() -> bool:
            self.store.keep_stamps(stamps, by=by)
            return True

        return self._try("written", keep) is not None

    def doubt(self) -> None:
        """Have the store read by the next sweep, even if it is at rest."""
        self._is_to_be_read = True

    def rest(self) -> None:
        """Close the connection: an idle store keeps none."""
        self.store.close()
        self._inode = self._version = None  # another connection counts versions anew

    def _try(self, done: str, action: Callable[[], T]) -> T | None:
        """Act on the store that stands there now; log what keeps it from being read or written, and when that ends."""
        try:
            self._follow_the_file()
            result = action()
        except (StoreError, sqlite3.Error) as error:
            self._complain(done, error)
            return None
        if done == "read":
            self.is_locked = False
        if self._troubles.pop(done, None):
            log.info("%s can be %s again", self._file, done)
        return result

    def _follow_the_file(self) -> None:
        """Open anew if another file stands where the store was: an open connection would go on with the old one."""
        if is_under_repair(self.directory):
            self.rest()
            self.doubt()
            raise StoreBusy(f"{self._file} is being repaired", "wait for that")
        inode = identity(self.directory)
        if inode is None or inode != self._inode:
            self.rest()
        self._inode = inode
        if not self.store.is_open:
            self.store.connection.executescript(f"PRAGMA cache_size = -{_CACHE}; PRAGMA cache_spill = FALSE")

    def _complain(self, done: str, error: StoreError | sqlite3.Error) -> None:
        if isinstance(error, sqlite3.Error):
            error = translate(self.directory, error)
        self.doubt()  # what is wrong may end without a change of the files
        if isinstance(error, StoreBusy):  # soon over, and tried again until it is
            self.is_locked = self.is_locked or done == "read"
            log.debug("%s", error)
            return
        self.rest()
        if done == "read":
            self.is_locked = False
        known, self._troubles[done] = str(error) in self._troubles.values(), str(error)
        if not known:
            log.log(logging.INFO if isinstance(error, StoreMissing) else logging.WARNING, "%s", error)
