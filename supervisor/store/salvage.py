"""Bringing the rows that can still be read in a damaged store into a new one.

Rows come from the trees of their tables; then from pages of tables that no tree leads to any more, as far as the
indexes do not deny them; at last from the indexes and the supervision tables together, which know a run's id, pid,
project and status even where its own row is gone.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from supervisor.store.pages import INDEX_INTERIOR, INDEX_LEAF, TABLE_INTERIOR, TABLE_LEAF, Pages, Row, Value
from supervisor.store.recording import as_stored_text
from supervisor.store.schema import SEED_SCHEMA, SUPERVISION_TABLES, frozen_default
from supervisor.store.values import seconds

LOST = "[lost]"
"""What stands for the arguments, or the start, of a run whose own row is gone."""

_STATUSES = ("running", "completed", "failed", "crashed")
_TABLE, _INDEX = (TABLE_LEAF, TABLE_INTERIOR), (INDEX_LEAF, INDEX_INTERIOR)

_INDEXES = {"idx_runs_pid": "pid", "idx_runs_project_id": "project_id", "idx_runs_status": "status"}
_TYPES = {"integer", "text", "real", "blob", "numeric"}

_KNOWN: dict[str, tuple[str, ...]] = {
    "projects": ("id", "dir", "cmd", "prompt", "created_at", "updated_at", "last_run_at"),
    "runs": ("id", "pid", "project_id", "status", "exit_code", "started_at", "ended_at", "args"),
    "run_process": (
        *("run_id", "token", "cli", "cwd", "args_added", "host", "boot_id", "pid_ns", "pid_ns_ticks", "time_ns"),
        *("pid", "start_ticks", "pidfd_inode", "started_at", "stamped_by", "owner_pid", "owner_start_ticks"),
        *("resumed_from", "asked_by", "asked_for", "asked_at"),
    ),
    "run_ending": (
        *("run_id", "status", "exit_code", "ended_at", "term_signal", "core_dumped", "cause", "rank", "evidence"),
        *("settled_by", "detected_at"),
    ),
}
"""The columns of each table as they were first made; later ones stand behind them."""


def _texts(*places: int) -> Callable[[Sequence[Value]], bool]:
    return lambda values: all(isinstance(values[place], str) for place in places)


_LOOKS_LIKE: dict[str, Callable[[Sequence[Value]], bool]] = {
    "run_process": lambda values: _texts(14)(values) and type(values[10]) is int,
    "run_ending": lambda values: values[1] in _STATUSES and _texts(6, 8, 9)(values) and type(values[3]) is int,
    "runs": lambda values: values[3] in _STATUSES and type(values[2]) is int and _texts(7)(values),
    "projects": lambda values: _texts(1, 2)(values) and str(values[1]).startswith("/"),
}
"""Whether a row that no tree leads to is one of that table; those with the most columns come first."""


@dataclass(slots=True)
class Salvaged:
    """What could be read, and what could not.

    ``partial`` of the ``runs`` are known by indexes and supervision tables alone: their arguments are `LOST`, and their
    start too if nothing tells it. ``lost`` counts runs of which only the id is known still. ``others`` are tables that
    are not ours, and are left in the damaged file.
    """

    projects: int = 0
    runs: int = 0
    partial: int = 0
    lost: int = 0
    others: list[str] = field(default_factory=list)


class Salvage:
    """The rows of a damaged store.

    Args:
        pages: the damaged file.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._visited: set[int] = set()
        self._sound = True
        """Whether all that the last walk came by made sense."""
        self._tables: dict[str, tuple[int, str]] = {}
        self._indexes: dict[str, int] = {}
        self._others: list[str] = []
        for values in [row.values for row in self._walk(1, _TABLE)]:
            self._note(values)

    @property
    def version(self) -> int:
        """The version of the supervision tables, as far as it can be read."""
        found = [row.rowid for row in self._walk(self._root("schema_migrations"), _TABLE)]
        return max(found, default=0)

    def seed_schema(self) -> tuple[str, ...]:
        """Return the statements that make the original's tables as this store has them: one default may differ."""
        frozen = frozen_default(self._tables.get("runs", (0, ""))[1])
        usual = '"started_at" integer default (unixepoch())'
        now = usual if frozen is None else f'"started_at" integer default {frozen}'
        return tuple(sql.replace(usual, now) for sql in SEED_SCHEMA)

    def bring_into(self, connection: sqlite3.Connection, directory: str) -> Salvaged:
        """Write all that can be read into a new store, which has the tables and no rows, in one transaction.

        Args:
            connection: that of the new store.
            directory: the store's project, for runs of which nothing else tells it.
        """
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("BEGIN IMMEDIATE")
        columns = {table: self._columns(connection, table) for table in _KNOWN}
        whole = dict.fromkeys(_KNOWN, False)
        for table in _KNOWN:
            for row in self._walk(self._root(table), _TABLE):
                _insert(connection, table, columns[table], row)
            whole[table] = self._sound and bool(self._root(table))
        in_trees: set[int] = {row[0] for row in connection.execute("SELECT id FROM runs")}
        known, complete = self._from_indexes()
        for table, row in self._strays():
            if table != "runs" or not complete or row.rowid in known["pid"]:
                _insert(connection, table, columns[table], row)
        _heed_status(connection, known["status"], in_trees)
        for project, place in self._directories().items():
            _insert(connection, "projects", ["id", "dir", "cmd"], Row(project, (None, place, "")))
        salvaged = _rebuild(connection, known)
        if not whole["projects"]:  # else they had none before
            _name_project(connection, directory)
        salvaged.projects = connection.execute("SELECT count(*) FROM projects").fetchone()[0]
        salvaged.others = sorted(self._others)
        newest = max((run_id for ids in known.values() for run_id in ids), default=0)
        _keep_sequence(connection, [*self._sequence(), ("runs", newest)])
        connection.execute("COMMIT")
        return salvaged

    def _note(self, values: tuple[Value, ...]) -> None:
        """Note where the schema's table says that a table or an index is."""
        if len(values) != 5 or type(values[3]) is not int:
            return
        kind, name, root, sql = str(values[0]), str(values[1]).lower(), values[3], values[4]
        if kind == "table" and root:
            self._tables[name] = root, str(sql)
            if name not in (*_KNOWN, "schema_migrations") and not name.startswith("sqlite_"):
                self._others.append(str(values[1]))
        elif kind == "index":
            self._indexes[name] = root

    def _root(self, table: str) -> int:
        return self._tables.get(table, (0, ""))[0]

    def _walk(self, root: int, kinds: tuple[int, int]) -> Iterator[Row]:
        """Yield the rows of a table, or the entries of an index, from its root down."""
        self._sound = True
        for number in self._pages.tree(root, self._visited):
            if self._pages.kind(number) not in kinds:
                self._sound = False
                continue
            for row in self._pages.rows(number):
                if row is not None:
                    yield row
                self._sound = self._sound and row is not None

    def _strays(self) -> Iterator[tuple[str, Row]]:
        """Yield the rows of pages that no tree leads to, each with the table that it looks like one of."""
        free = self._pages.free()
        for number in range(2, self._pages.count + 1):
            if number in self._visited or number in free or self._pages.kind(number) != TABLE_LEAF:
                continue
            for row in self._pages.rows(number):
                table = _looks_like(row) if row is not None else None
                if row is not None and table is not None:
                    yield table, row

    def _from_indexes(self) -> tuple[dict[str, dict[int, Value]], bool]:
        """Return pid, project and status of runs by id, and whether the indexes know of every run there is."""
        known: dict[str, dict[int, Value]] = {column: {} for column in _INDEXES.values()}
        complete = True
        for name, column in _INDEXES.items():
            root = self._indexes.get(name, 0)
            found = {row.rowid: row.values[0] for row in self._walk(root, _INDEX) if len(row.values) == 2}
            known[column] = found
            complete = complete and bool(root) and self._sound
        return known, complete and len({frozenset(ids) for ids in known.values()}) == 1

    def _directories(self) -> dict[int, str]:
        root = self._indexes.get("sqlite_autoindex_projects_1", 0)
        entries = self._walk(root, _INDEX)
        return {row.rowid: row.values[0] for row in entries if isinstance(row.values[0], str)}

    def _sequence(self) -> Iterator[tuple[str, int]]:
        for row in self._walk(self._root("sqlite_sequence"), _TABLE):
            if len(row.values) == 2 and row.values[0] in ("projects", "runs") and type(row.values[1]) is int:
                yield str(row.values[0]), row.values[1]

    def _columns(self, connection: sqlite3.Connection, table: str) -> list[str]:
        """Return the columns of a table in their order, and add to the new one those that others have added."""
        known = _KNOWN[table]
        found = _columns_of(self._tables.get(table, (0, ""))[1])
        if tuple(name for name, _ in found[: len(known)]) != known:
            return list(known)
        there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name, kind in found[len(known) :]:
            if name in there:
                continue
            quoted = name.replace('"', '""')
            affinity = kind.lower() if kind.lower() in _TYPES else ""
            connection.execute(f'ALTER TABLE {table} ADD COLUMN "{quoted}" {affinity}')
        return [name for name, _ in found]


def _columns_of(sql: str) -> list[tuple[str, str]]:
    """Return names and types of the columns that a CREATE TABLE of the store's maker makes; it is allowed no more."""
    scratch = sqlite3.connect(":memory:", isolation_level=None)
    try:
        scratch.set_authorizer(_only_create_a_table)
        scratch.execute(sql)
        scratch.set_authorizer(None)
        (name,) = scratch.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchone()
        return scratch.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall()
    except (sqlite3.Error, sqlite3.Warning, TypeError):
        return []
    finally:
        scratch.close()


def _only_create_a_table(action: int, name: str | None, _arg: object, _database: object, _source: object) -> int:
    is_schema = (
        action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_READ) and name == "sqlite_master"
    )
    allowed = action in (sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_FUNCTION) or is_schema
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _looks_like(row: Row) -> str | None:
    """Return the table that a row is one of, None for what is none of ours."""
    for table, is_one in _LOOKS_LIKE.items():
        if len(row.values) >= len(_KNOWN[table]) and row.values[0] is None and is_one(row.values):
            return table
    return None


def _insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], row: Row) -> None:
    """Insert a row as it is, unless its id or what else is unique is there already, or it cannot be one."""
    if row.values[:1] != (None,):  # an INTEGER PRIMARY KEY is the row's own number (fileformat2, 2.3)
        return
    values = [row.rowid, *row.values[1 : len(columns)]]
    bound = [as_stored_text(value) if isinstance(value, str) else value for value in values]
    is_odd = tuple(now is not value for now, value in zip(bound, values, strict=True))
    connection.execute(_insertion(table, tuple(columns[: len(values)]), is_odd if any(is_odd) else ()), bound)


@functools.lru_cache
def _insertion(table: str, columns: tuple[str, ...], is_odd: tuple[bool, ...]) -> str:
    """Return an INSERT; ``is_odd`` tells which values are texts that are bound as their bytes, () for none."""
    holes = ("CAST(? AS TEXT)" if odd else "?" for odd in is_odd or (False,) * len(columns))
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    return f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join(holes)})"


def _heed_status(connection: sqlite3.Connection, statuses: dict[int, Value], in_trees: set[int]) -> None:
    """Correct the rows of stray pages, which may be old, by what the index says."""
    for run_id, found in connection.execute("SELECT id, status FROM runs").fetchall():
        known = statuses.get(run_id)
        if run_id not in in_trees and known in _STATUSES and known != found:
            connection.execute(
                "UPDATE runs SET status = ?, exit_code = NULL, ended_at = NULL WHERE id = ?", (known, run_id)
            )


def _rebuild(connection: sqlite3.Connection, known: dict[str, dict[int, Value]]) -> Salvaged:
    """Make anew what rows are missing and known enough of, and drop what belongs to the others; count all."""
    there = {row[0] for row in connection.execute("SELECT id FROM runs")}
    projects = [row[0] for row in connection.execute("SELECT id FROM projects")]
    processes = {row[0]: row[1:] for row in connection.execute("SELECT run_id, pid, started_at FROM run_process")}
    endings = {
        row[0]: row[1:] for row in connection.execute("SELECT run_id, status, exit_code, ended_at FROM run_ending")
    }
    named = processes.keys() | endings.keys()
    for ids in known.values():
        named |= ids.keys()
    salvaged = Salvaged(runs=len(there))
    for run_id in sorted(named - there):
        own_pid, started_at = processes.get(run_id, (None, None))
        status, exit_code, ended_at = endings.get(run_id, (None, None, None))
        pid, said = known["pid"].get(run_id, own_pid), known["status"].get(run_id, status)
        project = known["project_id"].get(run_id, projects[0] if len(projects) == 1 else None)
        if pid is None or project is None or said not in _STATUSES:
            salvaged.lost += 1
            continue
        if said != status:
            exit_code = ended_at = None
        moment = seconds(started_at)
        connection.execute(
            f"INSERT INTO runs ({', '.join(_KNOWN['runs'])}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run_id, pid, project, said, exit_code, LOST if moment is None else int(moment), ended_at),
                json.dumps([LOST]),
            ),
        )
        salvaged.runs += 1
        salvaged.partial += 1
    for table in SUPERVISION_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE run_id NOT IN (SELECT id FROM runs)")
    return salvaged


def _name_project(connection: sqlite3.Connection, directory: str) -> None:
    """Give the project of runs that have lost theirs the store's own directory, if no other project has that."""
    lost = "SELECT max(project_id) FROM runs WHERE project_id NOT IN (SELECT id FROM projects)"
    for (project,) in connection.execute(lost).fetchall():
        if type(project) is int:
            _insert(connection, "projects", ["id", "dir", "cmd"], Row(project, (None, directory, "")))


def _keep_sequence(connection: sqlite3.Connection, sequence: Iterable[tuple[str, int]]) -> None:
    """See to it that no id is given out a second time."""
    for table, last in sequence:
        done = connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (last, table))
        if done.rowcount == 0:
            connection.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))
