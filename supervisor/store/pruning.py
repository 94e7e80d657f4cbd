"""Deleting from a store what is old or belongs to nothing, a little at a time: no writer waits for long.

A run counts as ended at the time that its row gives; one that gives none is never old, for nobody knows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from supervisor.store.connection import is_lock
from supervisor.store.recording import Transaction
from supervisor.store.rows import by_newest
from supervisor.store.schema import SUPERVISION_TABLES
from supervisor.store.values import in_ms

BATCH = 200
"""Rows that are deleted in one transaction: some milliseconds."""

_SENSIBLE_MS = 1_000_000_000_000
"""An end before 2001 was written by a clock that had not been set."""

_IN_MS = in_ms("ended_at")
_IS_OLD = (
    "status IN ('completed', 'failed', 'crashed') AND typeof(ended_at) IN ('integer', 'real')"
    f" AND {_IN_MS} >= {_SENSIBLE_MS} AND {_IN_MS} < :before AND project_id IS :project AND id <> :newest"
)
_BELONGS_TO_NOTHING = "NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = run_id)"


def count_old_runs(connection: sqlite3.Connection, before: float) -> int:
    """Return how many runs `delete_old_runs` would delete."""
    sql = f"SELECT count(*) FROM runs WHERE {_IS_OLD}"
    return sum(connection.execute(sql, known).fetchone()[0] for known in _projects(connection, before))


def delete_old_runs(connection: sqlite3.Connection, before: float) -> Iterator[int]:
    """Delete the runs that ended before a Unix time, but never the newest of a project nor one that may run.

    Yields how many each transaction has deleted; between them the store is nobody's.
    """
    for known in _projects(connection, before):
        last = 0
        while ids := _ids(connection, "id", f"runs WHERE {_IS_OLD}", {**known, "last": last}):
            last = ids[-1]
            with Transaction(connection):  # a row may have been changed, and the newest run deleted, meanwhile
                deleted = connection.execute(
                    f"DELETE FROM runs WHERE id IN ({', '.join(map(str, ids))}) AND {_IS_OLD}"
                    " AND EXISTS (SELECT 1 FROM runs WHERE id = :newest)",
                    known,
                ).rowcount
            yield deleted


def count_orphans(connection: sqlite3.Connection) -> int:
    """Return how many rows `delete_orphans` would delete."""
    counts = (f"SELECT count(*) FROM {table} WHERE {_BELONGS_TO_NOTHING}" for table in SUPERVISION_TABLES)
    return sum(connection.execute(sql).fetchone()[0] for sql in counts)


def delete_orphans(connection: sqlite3.Connection) -> Iterator[int]:
    """Delete what the supervision tables hold of runs that are gone: the original under Bun does not cascade.

    Yields as `delete_old_runs`.
    """
    for table in SUPERVISION_TABLES:
        last = 0
        while ids := _ids(connection, "run_id", f"{table} WHERE {_BELONGS_TO_NOTHING}", {"last": last}):
            last = ids[-1]
            with Transaction(connection):
                deleted = connection.execute(
                    f"DELETE FROM {table} WHERE run_id IN ({', '.join(map(str, ids))}) AND {_BELONGS_TO_NOTHING}"
                ).rowcount
            yield deleted


def running(connection: sqlite3.Connection) -> set[str]:
    """Return the tokens of the runs whose row says that they run."""
    sql = "SELECT token FROM runs JOIN run_process ON run_id = runs.id WHERE status = 'running' AND token IS NOT NULL"
    return {str(token) for (token,) in connection.execute(sql)}


def tidy(connection: sqlite3.Connection) -> None:
    """Forget statistics, and bring the WAL into the database, as far as nobody is in the way.

    Without statistics SQLite supposes that tables are large and goes by indexes, as is right here; those of a store
    that was small once, or whose runs have few different statuses, lead it through whole tables.

    A checkpoint that truncates the WAL locks writers out while it waits for readers, so it does not wait.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    _forget_statistics(connection)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _forget_statistics(connection: sqlite3.Connection) -> None:
    tables = ", ".join(f"'{table}'" for table in ("projects", "runs", *SUPERVISION_TABLES))
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name GLOB 'sqlite_stat[0-9]'").fetchall():
        of_ours = f"FROM {name} WHERE tbl IN ({tables})"
        if connection.execute(f"SELECT 1 {of_ours}").fetchone() is not None:
            try:
                connection.execute(f"DELETE {of_ours}")
            except sqlite3.OperationalError as error:
                if not is_lock(error):
                    raise


def _projects(connection: sqlite3.Connection, before: float) -> list[dict[str, object]]:
    """Return what to bind for each project: its id, its newest run, and the time before which a run is old."""
    projects = [row[0] for row in connection.execute("SELECT DISTINCT project_id FROM runs")]
    newest = f"SELECT id FROM runs WHERE project_id IS ? ORDER BY {by_newest('runs.started_at')} LIMIT 1"
    found = []
    for project in projects:
        if project is None or type(project) is int:  # of junk nobody knows what it belongs to
            row = connection.execute(newest, (project,)).fetchone()
            if row is not None:
                found.append({"project": project, "newest": row[0], "before": before * 1000})
    return found


def _ids(connection: sqlite3.Connection, column: str, rest: str, known: dict[str, object]) -> list[int]:
    sql = f"SELECT {column} FROM {rest} AND {column} > :last ORDER BY {column} LIMIT {BATCH}"
    return [row[0] for row in connection.execute(sql, known)]
