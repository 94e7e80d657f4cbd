"""Opening a store: its folder and rights, the pragmas, and what makes a store refused.

A connection belongs to the thread and the process that opened it. Nothing here opens or closes the database file by
other means than SQLite: closing any descriptor of it would drop the process's locks (fcntl(2), "Record locking").
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time

from supervisor.errors import StoreBusy, StoreDamaged, StoreError, StoreMissing, StoreRefused
from supervisor.store import schema as schemas
from supervisor.store.files import FOLDER, identity, make_files, share_rights, store_file, vetted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.store.schema import Schema

BUSY_TIMEOUT = 30.0
"""Seconds that a statement waits for another process's lock."""

_UNHURRIED = 2.0
"""Who can wait for a lock so many seconds can also wait for an index of a large store to be made."""

_TRIES = 5
"""How often a store is opened anew that is replaced meanwhile."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Replaced(Exception):
    """Another file has come to stand where the store was, while it was opened."""


def open_for_writing(
    directory: str, *, create: bool = True, timeout: float = BUSY_TIMEOUT, durable: bool = False
) -> tuple[sqlite3.Connection, Schema]:
    """Open the store of ``directory``, making the folder, the file and the tables where they are missing.

    Args:
        directory: the project's physical directory.
        create: whether a missing store is made; otherwise it is an error.
        timeout: seconds to wait for locks, now and in every later statement.
        durable: whether each commit is to outlive a power cut.

    Raises:
        StoreMissing: there is no store and ``create`` is false, or no such directory.
        StoreBusy: another process holds the lock for longer than ``timeout``.
        StoreRefused: see `StoreRefused`.
        StoreError: the store is read-only, corrupt or not a database.
    """
    return _unmixed(directory, lambda: _open_for_writing(directory, create, timeout, durable))


def _open_for_writing(directory: str, create: bool, timeout: float, durable: bool) -> tuple[sqlite3.Connection, Schema]:
    path = store_file(directory)
    try:
        if not vetted(directory):
            if not create:
                raise missing(directory)
            make_files(directory)
        share_rights(directory)
        known = _identity_found(directory)
        connection = _connect(path, timeout)
    except OSError as error:
        raise _unusable(directory, error) from error
    except sqlite3.Error as error:
        raise translate(directory, error) from error
    try:
        schema = schemas.Schema(connection)
        _refuse_intruders(directory, schema)
        _switch_to_wal(connection, time.monotonic() + timeout)
        _refuse_a_mixture(connection, directory, known)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        hurried = timeout < _UNHURRIED
        schema = schemas.create_or_migrate(connection, schema, time.time_ns() // 1_000_000, hurried=hurried)
        if schema.version > schemas.NEWEST:
            schemas.shadow(connection)
    except sqlite3.Error as error:
        connection.close()
        if identity(directory) != known:
            raise _Replaced from error
        raise translate(directory, error) from error
    except BaseException:
        connection.close()
        raise
    return connection, schema


def open_for_reading(
    directory: str, *, timeout: float = BUSY_TIMEOUT, seeded: bool = True
) -> tuple[sqlite3.Connection, Schema]:
    """Open an existing store without changing anything in it, not even its schema.

    Args:
        directory: the project's physical directory.
        timeout: seconds to wait for locks, now and in every later statement.
        seeded: whether it is an error that the original's tables are not there.

    Raises:
        StoreMissing, StoreBusy, StoreRefused, StoreError: as `open_for_writing`.
    """
    return _unmixed(directory, lambda: _open_for_reading(directory, timeout, seeded))


def _open_for_reading(directory: str, timeout: float, seeded: bool) -> tuple[sqlite3.Connection, Schema]:
    path = store_file(directory)
    try:
        if not vetted(directory):
            raise missing(directory)
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        known = _identity_found(directory)
        connection = _connect(f"file://{quoted}?mode=ro", timeout, uri=True)
    except OSError as error:
        raise _unusable(directory, error) from error
    except sqlite3.Error as error:
        raise translate(directory, error) from error
    try:
        schema = schemas.Schema(connection)
        _refuse_a_mixture(connection, directory, known)
        _refuse_intruders(directory, schema)
        if seeded and not schema.seeded:
            raise StoreError(f"{path} holds no runs yet", "it is an empty database: record a run there first")
        if schema.version not in schemas.READABLE:
            schemas.shadow(connection)
    except sqlite3.Error as error:
        connection.close()
        if identity(directory) != known:
            raise _Replaced from error
        raise translate(directory, error) from error
    except BaseException:
        connection.close()
        raise
    return connection, schema


def sync(directory: str) -> None:
    """Bring to the disk what has been committed to a store, so that a power cut cannot take it back.

    At ``synchronous=NORMAL`` SQLite itself does so at checkpoints only, when the WAL has grown or the last connection
    closes (sqlite.org/pragma.html#pragma_synchronous). Safe beside open connections: closing a descriptor drops the
    locks of this process on that file, and SQLite locks the database and its -shm, never the WAL.

    Raises:
        OSError: it cannot be synced. A WAL that is missing has been checkpointed, and is none.
    """
    wal = f"{store_file(directory)}-wal"
    for path in (wal, os.path.dirname(wal)):  # the folder too: the WAL may be new there
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def translate(directory: str, error: sqlite3.Error) -> StoreError:
    """Turn what SQLite says of a store into one line with its remedy."""
    path, text = store_file(directory), str(error)
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"{path} is locked by another process", "try again, or end the process that holds it")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or text == "unsupported file format":
        import shlex  # noqa: PLC0415  a wrapped agent need not wait for it

        remedy = f"save what can be read: agent-yes-supervise stores repair {shlex.quote(directory)}"
        return StoreDamaged(f"{path} is damaged ({text})", remedy)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{path} cannot be opened ({text})", "check the rights of the folder and of its files")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreError(f"{path} cannot be written ({text})", "check the rights of the folder and of its files")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(directory)):
        return StoreError(f"{path} cannot be written ({text})", "free some space on its disk")
    return StoreError(f"{path} cannot be used ({text})", "check the file and its folder")


def _is_full(directory: str) -> bool:
    """Tell whether a store's disk is full: where SQLite cannot make a file for that, it speaks of I/O only."""
    try:
        return os.statvfs(os.path.join(directory, FOLDER)).f_bavail == 0
    except OSError:
        return False


def is_lock(error: sqlite3.Error) -> bool:
    """Tell whether an error only says that another process holds the lock."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _connect(path: str, timeout: float, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, uri=uri)
    connection.text_factory = _text
    connection.set_authorizer(_only_our_own_statements)
    return connection


def _text(raw: bytes) -> str:
    """Decode any stored text: one row that is not UTF-8 must not spoil a list."""
    return raw.decode("utf-8", "surrogateescape")


def _only_our_own_statements(
    _action: int, _arg1: str | None, _arg2: str | None, _database: str | None, source: str | None
) -> int:
    """Deny what a trigger or a view of the store would do; ``source`` names it (sqlite3_set_authorizer).

    Cascades of foreign keys carry no source and pass. ``trusted_schema=OFF`` alone does not stop triggers. The name of
    a common table expression is a source too, and nothing tells it from a trigger's.
    """
    return sqlite3.SQLITE_OK if source is None else sqlite3.SQLITE_DENY


def _switch_to_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Turn the store to WAL. On a fresh file this can report a lock in spite of the timeout: try until ``deadline``."""
    pause = 0.001
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_lock(error) or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        else:
            return


def _unmixed(
    directory: str, open_it: Callable[[], tuple[sqlite3.Connection, Schema]]
) -> tuple[sqlite3.Connection, Schema]:
    for _ in range(_TRIES):
        try:
            return open_it()
        except _Replaced:
            continue
    raise StoreBusy(f"{store_file(directory)} is being replaced again and again", "try again when that is done")


def _identity_found(directory: str) -> tuple[int, int]:
    known = identity(directory)
    if known is None:
        raise _Replaced  # SQLite would make another, with rights of its own
    return known


def _refuse_a_mixture(connection: sqlite3.Connection, directory: str, known: tuple[int, int]) -> None:
    """Make sure that the database and the WAL of a connection belong together, before anything is written.

    SQLite opens the database when it connects, and the WAL, by its name, when it reads first. If another store is put
    in place between the two, such a connection would write the pages of the one into the WAL of the other
    (sqlite.org/howtocorrupt.html, 2.4). Closing it does no harm: SQLite leaves alone what has moved.
    """
    connection.execute("PRAGMA schema_version").fetchone()
    if identity(directory) != known:
        raise _Replaced


def _refuse_intruders(directory: str, schema: Schema) -> None:
    if schema.intruders:
        found = ", ".join(sorted(schema.intruders))
        raise StoreRefused(f"{store_file(directory)} brings code of its own ({found})", "do not trust this store")


def missing(directory: str) -> StoreMissing:
    """Return the error that says that there is no store."""
    return StoreMissing(f"there is no store in {directory}", "start an agent there: agent-yes-supervise wrap CLI")


def _unusable(directory: str, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError):
        if os.path.isdir(directory):  # it has gone in this moment
            return missing(directory)
        return StoreMissing(f"there is no directory {directory}", "check the path")
    remedy = "free some space on its disk" if error.errno in _FULL else "check the rights of the folder"
    return StoreError(f"{store_file(directory)} cannot be used ({error.strerror or error})", remedy)
