"""How a store fares: what SQLite says of its file, and rows that make no sense."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from dataclasses import dataclass

from supervisor.store.files import FOLDER, store_file
from supervisor.store.store import Store

_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a store's file.

    ``damage`` is what quick_check says, empty for nothing, None where it took too long. ``size`` and ``wal_size`` are
    in bytes. ``junk`` counts the runs with a value that is not of its column's kind.
    """

    readable_by_others: tuple[str, ...]
    is_wal: bool
    damage: str | None
    size: int
    wal_size: int
    runs: int
    junk: int
    version: int


def health_of(store: Store, *, patience: float) -> Health:
    """Look at a store, without changing it.

    Args:
        store: opened for reading.
        patience: seconds that the check of the file may take.

    Raises:
        StoreError: it cannot be opened.
        sqlite3.Error: it cannot be read.
    """
    connection, file = store.connection, store.path
    damage = damage_of(connection, patience)
    runs, junk = connection.execute(
        "SELECT count(*), coalesce(sum(status NOT IN ('running', 'completed', 'failed', 'crashed')"
        " OR typeof(status) <> 'text' OR typeof(pid) <> 'integer' OR typeof(project_id) <> 'integer'"
        " OR typeof(exit_code) NOT IN ('integer', 'null') OR typeof(started_at) NOT IN ('integer', 'real')"
        " OR typeof(ended_at) NOT IN ('integer', 'real', 'null') OR NOT json_valid(args)), 0) FROM runs"
    ).fetchone()
    return Health(
        readable_by_others=_readable_by_others(store.directory),
        is_wal=connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal",
        damage=damage,
        size=os.stat(file).st_size,
        wal_size=size_of(f"{file}-wal"),
        runs=runs,
        junk=junk,
        version=store.schema.version,
    )


def damage_of(connection: sqlite3.Connection, patience: float) -> str | None:
    """Return what quick_check says, empty for nothing, None where that takes more than so many seconds.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    end = time.monotonic() + patience
    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return None
        raise
    finally:
        connection.set_progress_handler(None, 0)
    said = " ".join(", ".join(str(row[0]).removeprefix("*** in database main ***") for row in rows).split())
    return "" if said == "ok" else said


def _readable_by_others(directory: str) -> tuple[str, ...]:
    found = []
    for path in (os.path.join(directory, FOLDER), store_file(directory)):
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            found.append(path)
    return tuple(found)


def size_of(path: str) -> int:
    """Return a file's size in bytes, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
