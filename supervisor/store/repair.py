"""Repairing a damaged store: what can be read goes into a new one, which takes its place; the old one is kept aside.

Nobody writes meanwhile: the lock by which SQLite knows that nobody else has a database open (the whole range of its
lock bytes, sqlite.org/src/file/src/os_unix.c) is ours until nobody has the old file open any more. Whoever had it open
in WAL mode would go on with the old file beside the new one's WAL (sqlite.org/howtocorrupt.html, 4.2).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from supervisor.errors import StoreBusy, StoreDamaged, StoreError
from supervisor.process.holders import holders
from supervisor.store import connection as connections
from supervisor.store.files import FILE, FOLDER, store_file, vetted
from supervisor.store.health import damage_of, size_of
from supervisor.store.pages import Pages
from supervisor.store.salvage import Salvage, Salvaged
from supervisor.store.schema import NEWEST

PATIENCE = 10.0
"""Seconds to wait until nobody has the store open."""

TELL_AFTER = 2.0
"""Seconds of waiting for those who have the old file open after which it is said who they are."""

_SIDES = ("-wal", "-shm", "-journal")
_WORK = f"{FILE}.new-"
"""How the folder in which a new store is made begins."""

_LOCK_BYTES, _LOCK_LENGTH = 0x40000000, 512
_LOOK_EVERY, _MARK_WITHIN = 0.02, 0.2


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was wrong with a store, what was saved of it, and where the damaged file is: None if nothing was done."""

    damage: str
    salvaged: Salvaged
    aside: str | None


def marker(directory: str) -> str:
    """Return the file whose lock says that a store is being repaired."""
    return f"{store_file(directory)}.repair"


def is_under_repair(directory: str) -> bool:
    """Tell whether somebody repairs a store now, so that whoever has it open should close it."""
    try:
        descriptor = os.open(marker(directory), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def repair(
    directory: str,
    *,
    dry: bool,
    patience: float | None = None,
    tell: Callable[[str], object],
    on_done: Callable[[Repaired], object] = lambda _: None,
) -> Repaired:
    """Put a new store with what can be read in the place of a damaged one, which keeps all its bytes under a new name.

    Killed at any moment, this leaves the damaged store in its place or the new one, and all of the damaged one's bytes.

    Args:
        directory: the project's physical directory.
        dry: only look what could be read; the store stays as it is.
        patience: seconds to wait until nobody has it open; by default `PATIENCE`.
        tell: takes the line that says who is waited for.
        on_done: takes what is returned, as soon as the new store is in place: the wait for others may be cut short.

    Raises:
        StoreBusy: it is open elsewhere, or being repaired.
        StoreMissing, StoreRefused: see there.
        StoreError: it is not damaged, of a newer version, or cannot be read or written.
        OSError: a file cannot be made, moved or removed.
    """
    damage = _damage(directory)
    with _marked(directory), _nobody_else(directory, PATIENCE if patience is None else patience) as descriptor:
        wal = _open_wal(directory)
        try:
            salvage = Salvage(Pages(descriptor, wal))
            if salvage.version > NEWEST:
                raise StoreError(f"{store_file(directory)} was made by a newer version", "let that version repair it")
            _clear(os.path.join(directory, FOLDER))
            work = tempfile.mkdtemp(prefix=_WORK, dir=os.path.join(directory, FOLDER))
            try:
                salvaged = _make_new(work, salvage, directory)
                repaired = Repaired(damage, salvaged, None)
                if not dry:
                    _dress(store_file(work), os.fstat(descriptor))
                    repaired = replace(repaired, aside=_put_in_place(descriptor, directory, store_file(work)))
            finally:
                shutil.rmtree(work, ignore_errors=True)
            try:
                on_done(repaired)
            finally:
                if not dry:
                    _wait_for_stragglers(descriptor, tell)
            return repaired
        finally:
            if wal is not None:
                os.close(wal)


def _damage(directory: str) -> str:
    """Return what is wrong with a store; raise for one with which nothing is, and for one that must not be touched."""
    if not vetted(directory):
        raise connections.missing(directory)
    file = store_file(directory)
    if not os.path.getsize(file):
        if not size_of(f"{file}-wal"):
            raise StoreError(f"{file} is empty, not damaged", "there is nothing to repair: record a run there")
        return "the file is empty, but its WAL is not"  # SQLite would delete that WAL
    try:
        connection, schema = connections.open_for_reading(directory, seeded=False)
        try:
            damage = damage_of(connection, math.inf)
            if not damage and not schema.seeded and _is_hollow(connection):
                damage = "it has lost its tables"
        finally:
            connection.close()
    except (StoreDamaged, sqlite3.Error) as error:
        found = error if isinstance(error, StoreError) else connections.translate(directory, error)
        if not isinstance(found, StoreDamaged):
            raise found from error
        damage = str(error.__cause__ or error)
    if not damage:
        raise StoreError(f"{file} is not damaged", "there is nothing to repair")
    return damage


def _is_hollow(connection: sqlite3.Connection) -> bool:
    """Tell whether a database has pages of tables, but no table."""
    tables, pages = "SELECT count(*) FROM sqlite_master", "PRAGMA page_count"
    return bool(connection.execute(tables).fetchone()[0] == 0 and connection.execute(pages).fetchone()[0] > 1)


@contextlib.contextmanager
def _marked(directory: str) -> Iterator[None]:
    """Say that the store is being repaired, so that the daemon lets go of it; nobody else may do so meanwhile."""
    path, deadline = marker(directory), time.monotonic() + _MARK_WITHIN
    while (descriptor := _mark(path)) is None:
        if time.monotonic() > deadline:
            raise StoreBusy(f"{store_file(directory)} is being repaired already", "wait for that")
        time.sleep(_LOOK_EVERY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _mark(path: str) -> int | None:
    """Return the marker, locked as long as it is open; None where another holds it, or has just removed it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _nobody_else(directory: str, patience: float) -> Iterator[int]:
    """Give the store's file, open and locked, once nobody else has it open.

    Closing any other descriptor of it in this process would drop the lock (fcntl(2)), so nothing here opens it again.
    """
    path, deadline = store_file(directory), time.monotonic() + patience
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.utime(descriptor)  # the daemon, which asks only for that, sees a change, and then the marker
        os.truncate(marker(directory), 0)  # inotify tells it of this at once
        locked = False
        while True:
            locked = locked or _lock(descriptor)
            found = holders(os.fstat(descriptor), FILE)
            if locked and not found:
                break
            if time.monotonic() > deadline:
                who = _named(found) or "a process that cannot be seen from here"
                raise StoreBusy(
                    f"{path} is open in {who}", "end that first: what it writes later would go to the file set aside"
                )
            time.sleep(_LOOK_EVERY)
        if os.fstat(descriptor).st_ino != os.stat(path).st_ino:
            raise StoreBusy(f"{path} has been replaced meanwhile", "try again")
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_LENGTH, _LOCK_BYTES)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _open_wal(directory: str) -> int | None:
    try:
        return os.open(f"{store_file(directory)}-wal", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _clear(folder: str) -> None:
    """Remove what repairs that were killed have left; the marker says that none is at work."""
    for name in os.listdir(folder):
        if name.startswith(_WORK):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _make_new(work: str, salvage: Salvage, directory: str) -> Salvaged:
    """Make the new store below a folder of ours, whole and on the disk."""
    file = store_file(work)
    os.mkdir(os.path.dirname(file), 0o700)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        seed = sqlite3.connect(file, isolation_level=None)
        try:
            for sql in salvage.seed_schema():
                seed.execute(sql)
        finally:
            seed.close()
        connection, _ = connections.open_for_writing(work)
        try:
            salvaged = salvage.bring_into(connection, directory)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            damage = damage_of(connection, math.inf)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise connections.translate(directory, error) from error
    if damage or size_of(f"{file}-wal"):
        raise StoreError(f"the new store for {directory} is not whole ({damage})", "nothing has been changed")
    return salvaged


def _dress(path: str, old: os.stat_result) -> None:
    """Give a new store rights and owner, and bring it to the disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        if old.st_uid != os.geteuid():  # root, in another user's project
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(descriptor: int, directory: str, new: str) -> str:
    """Set the damaged store aside and put the new one in its place; return where the damaged one is.

    The old WAL must go before the new store comes, or would be taken for its own.
    """
    path = store_file(directory)
    aside = _free_name(f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        os.link(path, aside)  # the old file has both names until the new one takes one of them
    except OSError:  # a file system that has no links
        _copy(descriptor, aside)
    _sync(os.path.dirname(path))
    moved = []
    try:
        for suffix in _SIDES:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
                moved.append(suffix)
        os.rename(new, path)
    except OSError:
        for suffix in moved:
            os.rename(f"{aside}{suffix}", f"{path}{suffix}")
        os.unlink(aside)
        raise
    _sync(os.path.dirname(path))
    return aside


def _copy(descriptor: int, target: str) -> None:
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while content := os.pread(descriptor, 1 << 20, offset):
            offset += os.write(copy, content)
        os.fsync(copy)
    finally:
        os.close(copy)


def _free_name(path: str) -> str:
    name, number = path, 1
    while any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *_SIDES)):
        number += 1
        name = f"{path}-{number}"
    return name


def _wait_for_stragglers(descriptor: int, tell: Callable[[str], object]) -> None:
    """Wait until nobody has the old file open: who opened it just before it went waits for its lock, which is ours."""
    told, began = False, time.monotonic()
    while found := holders(os.fstat(descriptor), FILE):
        if not told and time.monotonic() - began > TELL_AFTER:
            told = True
            tell(f"the new store is in place; waiting for {_named(found)} to close the old one: end that")
        time.sleep(_LOOK_EVERY)


def _named(found: dict[int, str]) -> str:
    return ", ".join(f"{name} (pid {pid})" for pid, name in sorted(found.items()))


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
