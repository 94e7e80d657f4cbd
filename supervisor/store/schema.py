"""The tables of a store: the original's, byte for byte, and the supervision tables beside them.

The text of ``SEED_SCHEMA`` is what the original module leaves in ``sqlite_master``; a store made here is
indistinguishable from one made there until the supervision tables join it.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

SEED_SCHEMA = (
    'CREATE TABLE "projects" ("id" integer primary key autoincrement, "dir" text not null unique, "cmd" text not null,'
    ' "prompt" text, "created_at" integer default (unixepoch()) not null,'
    ' "updated_at" integer default (unixepoch()) not null, "last_run_at" integer)',
    'CREATE TABLE "runs" ("id" integer primary key autoincrement, "pid" integer not null,'
    ' "project_id" integer not null references "projects" ("id") on delete cascade, "status" text not null,'
    ' "exit_code" integer, "started_at" integer default (unixepoch()) not null, "ended_at" integer,'
    " \"args\" text default '[]' not null)",
    'CREATE INDEX "idx_runs_project_id" on "runs" ("project_id")',
    'CREATE INDEX "idx_runs_status" on "runs" ("status")',
    'CREATE INDEX "idx_runs_pid" on "runs" ("pid")',
)

SUPERVISION_TABLES = ("run_process", "run_ending")

_CREATE_MIGRATIONS = "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL)"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run_process (
            run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
            token TEXT UNIQUE,
            cli TEXT,
            cwd TEXT,
            args_added TEXT,
            host TEXT,
            boot_id TEXT,
            pid_ns INTEGER,
            pid_ns_ticks INTEGER,
            time_ns INTEGER,
            pid INTEGER NOT NULL,
            start_ticks INTEGER,
            pidfd_inode INTEGER,
            started_at INTEGER,
            stamped_by TEXT NOT NULL,
            owner_pid INTEGER,
            owner_start_ticks INTEGER,
            resumed_from INTEGER,
            asked_by TEXT,
            asked_for TEXT,
            asked_at INTEGER
        )""",
        """CREATE TABLE run_ending (
            run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
            status TEXT NOT NULL,
            exit_code INTEGER,
            ended_at INTEGER NOT NULL,
            term_signal INTEGER,
            core_dumped INTEGER,
            cause TEXT NOT NULL,
            rank INTEGER NOT NULL,
            evidence TEXT NOT NULL DEFAULT '{}',
            settled_by TEXT NOT NULL,
            detected_at INTEGER NOT NULL
        )""",
        "CREATE INDEX ays_run_ending_inferred ON run_ending (run_id) WHERE rank = 1",
    ),
    ("ALTER TABLE run_process ADD COLUMN environment TEXT",),
    (
        "CREATE INDEX ays_runs_newest ON runs"
        " (CASE WHEN started_at > 100000000000 THEN started_at ELSE started_at * 1000 END)",
        "CREATE INDEX ays_runs_ended ON runs"
        " (CASE WHEN ended_at > 100000000000 THEN ended_at ELSE ended_at * 1000 END) WHERE ended_at IS NOT NULL",
    ),
)
"""Numbered from 1. A step is never edited once it has been released; times are Unix milliseconds."""

NEWEST = len(MIGRATIONS)

_QUICK, _LARGE = 2, 20_000
"""Migrations up to this one are quick; later ones take longer than an agent's start may in a store of more runs."""

READABLE = range(_QUICK, NEWEST + 1)
"""The versions whose tables are as we know them: what comes behind the quick migrations only makes queries faster."""

_VIRTUAL = re.compile(r"create\s+virtual\b", re.IGNORECASE)
_FROZEN_DEFAULT = re.compile(r'"started_at" integer default (\d+) ')


class Schema:
    """What a store's ``sqlite_master`` says, read in one query.

    ``version`` is that of the supervision tables, 0 where there are none. ``frozen_started_at`` is the constant that
    stores of the older original give every run as its start (None elsewhere): such a value says nothing.
    """

    __slots__ = ("frozen_started_at", "intruders", "seeded", "version")

    def __init__(self, connection: sqlite3.Connection) -> None:
        objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = {name.lower(): sql for kind, name, _, sql in objects if kind == "table"}
        self.intruders = [f"{kind} {name}" for kind, name, table, sql in objects if _intrudes(kind, table, sql)]
        self.seeded = "projects" in tables and "runs" in tables
        self.frozen_started_at = frozen_default(tables.get("runs") or "")
        self.version = 0
        if "schema_migrations" in tables:
            newest = "SELECT coalesce(max(CAST(version AS INTEGER)), 0) FROM schema_migrations"
            self.version = connection.execute(newest).fetchone()[0]


def frozen_default(sql: str) -> int | None:
    """Return the constant that a ``CREATE TABLE "runs"`` gives every run as its start, None for one that does not."""
    found = _FROZEN_DEFAULT.search(sql)
    return int(found.group(1)) if found else None


def _intrudes(kind: str, table: str, sql: object) -> bool:
    """Tell whether an object of a store would run code of the store's maker with our rights."""
    is_code = kind in ("trigger", "view") or (isinstance(sql, str) and bool(_VIRTUAL.match(sql)))
    return is_code and table.lower() in ("projects", "runs", "schema_migrations", *SUPERVISION_TABLES)


def create_or_migrate(connection: sqlite3.Connection, schema: Schema, now_ms: int, *, hurried: bool = False) -> Schema:
    """Bring a store to the newest schema and return that; a newer one is left as it is.

    Each migration and its record are one transaction, looked at again under the lock: several processes may open a
    fresh store at once. The original makes its tables one by one, so that any of them may be missing.

    Args:
        connection: the store's.
        schema: what it is now.
        now_ms: the time in Unix milliseconds.
        hurried: leave to others what only makes a large store faster, and takes long.
    """
    while not schema.seeded or schema.version < NEWEST:
        if hurried and schema.seeded and schema.version >= _QUICK and _is_large(connection):
            return schema
        connection.execute("BEGIN IMMEDIATE")
        try:
            schema = Schema(connection)
            _execute_all(connection, (_unless_there(sql) for sql in SEED_SCHEMA))
            if schema.version < NEWEST:
                _execute_all(connection, (_unless_there(_CREATE_MIGRATIONS), *MIGRATIONS[schema.version]))
                connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", (schema.version + 1, now_ms))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself ends one on a full disk or an I/O error
                connection.execute("ROLLBACK")
            raise
        schema = Schema(connection)
    return schema


def _is_large(connection: sqlite3.Connection) -> bool:
    newest: int | None = connection.execute("SELECT max(id) FROM runs").fetchone()[0]
    return (newest or 0) > _LARGE


def shadow(connection: sqlite3.Connection) -> None:
    """Lay empty temporary tables over the supervision tables, so that every query works where they must not be used.

    That is the case in a store opened for reading only that has none, and in one whose schema is newer than ours.
    """
    connection.execute("PRAGMA temp_store = MEMORY")
    for step in MIGRATIONS[:_QUICK]:
        _execute_all(connection, (_as_temporary(sql) for sql in step))


def _unless_there(sql: str) -> str:
    """Return a CREATE that passes over what is there; SQLite keeps its text without these words."""
    return sql.replace("TABLE", "TABLE IF NOT EXISTS", 1).replace("INDEX", "INDEX IF NOT EXISTS", 1)


def _as_temporary(sql: str) -> str:
    """Return a CREATE TABLE for a temporary table, where no key can refer to another database."""
    return sql.replace("CREATE TABLE", "CREATE TEMP TABLE").replace(" REFERENCES runs (id) ON DELETE CASCADE", "")


def _execute_all(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)
