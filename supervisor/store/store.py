"""The store of one project: the original module's functions, as methods.

A public method is one short transaction. Methods raise `sqlite3.Error` where SQLite does; opening raises `StoreError`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from supervisor.models import CrashedRun, Project, ProjectInfo, Run, RunStatus
from supervisor.process.stamp import stamp_of, start_ticks
from supervisor.store import connection as connections, recording
from supervisor.store.files import store_file
from supervisor.store.rows import (
    PROJECT_COLUMNS,
    RUN_COLUMNS,
    by_newest,
    project_from,
    run_from,
)
from supervisor.store.schema import NEWEST, Schema
from supervisor.store.values import seconds

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns


log = logging.getLogger(__name__)


class Unset:
    """The kind of `UNSET`, the default of parameters whose absence differs from None."""


UNSET: Final = Unset()

_NEWEST_RUN = by_newest("runs.started_at")
_NEWEST_PROJECT = by_newest("projects.last_run_at")

_all: weakref.WeakSet[Store] = weakref.WeakSet()


def _close_inherited() -> None:
    """Close what a fork has brought into a child.

    Its locks stayed with the parent, but SQLite believes that this process has them and would let new connections
    share them; the next process to leave the store would then delete the WAL that the child writes to.
    """
    for store in _all:
        store.close()


os.register_at_fork(after_in_child=_close_inherited)


class Store:
    """The runs and projects of one directory.

    Opening happens at the first use, once per thread and process: a connection crosses neither. A new store gets its
    folder, tables and rights then.

    Args:
        directory: the project's directory.
        create: whether a missing store is made by the first use.
        read_only: open without changing anything, not even the schema.
        timeout: seconds to wait for another process's lock.
        on_write: called once with the directory and whether the store is new, to make it known: when it has been made,
            else before the first write.
        stamp: gives the stamp of a process, for `create_run`.
    """

    def __init__(
        self,
        directory: str,
        *,
        create: bool = True,
        read_only: bool = False,
        timeout: float = connections.BUSY_TIMEOUT,
        on_write: Callable[[str, bool], None] | None = None,
        stamp: Callable[[int], StampColumns] = stamp_of,
    ) -> None:
        self.directory = os.path.realpath(directory)
        self.created = False
        self._create = create
        self._read_only = read_only
        self._timeout = timeout
        self._on_write = on_write
        self._stamp = stamp
        self._opened = threading.local()
        self._warned = False
        _all.add(self)

    @property
    def path(self) -> str:
        """The database file."""
        return store_file(self.directory)

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode, for queries of one's own.

        What comes with a name of its own, a view or a ``WITH`` expression, is denied: it may be the store's maker's
        code. Write subqueries instead.

        Raises:
            StoreError: the store cannot be opened.
        """
        if not self.is_open:
            self._open()
        connection: sqlite3.Connection = self._opened.connection
        return connection

    @property
    def schema(self) -> Schema:
        """What the store's tables were when it was opened."""
        _ = self.connection
        schema: Schema = self._opened.schema
        return schema

    @property
    def is_open(self) -> bool:
        """Whether this thread has a connection now."""
        return hasattr(self._opened, "connection")

    def close(self) -> None:
        """Close this thread's connection; the next use opens another."""
        if self.is_open:
            connection = self._opened.connection
            del self._opened.connection
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self) -> recording.Transaction:
        """Return a context manager for one write: BEGIN IMMEDIATE, then COMMIT, or ROLLBACK if the block raises."""
        connection = self.connection
        if self._on_write is not None:
            self._announce()
        return recording.Transaction(connection)

    def upsert_project(self, dir: str, cmd: str, prompt: str | None | Unset = UNSET) -> Project:  # noqa: A002  the seed's
        """Create a project, or update the one of that directory; an omitted prompt keeps the stored one.

        Args:
            dir: the project's directory, its unique name.
            cmd: the command it runs, such as ``claude``.
            prompt: its default prompt; None removes it.
        """
        keeps = isinstance(prompt, Unset)
        text = None if isinstance(prompt, Unset) or prompt is None else recording.as_stored_text(prompt)
        with self.transaction() as connection:
            row = connection.execute(
                "INSERT INTO projects (dir, cmd, prompt) VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT))"
                " ON CONFLICT (dir) DO UPDATE SET cmd = excluded.cmd,"
                " prompt = CASE WHEN ? THEN prompt ELSE excluded.prompt END, updated_at = ?"
                f" RETURNING {PROJECT_COLUMNS.removeprefix('projects.')}",
                (recording.as_stored_text(dir), recording.as_stored_text(cmd), text, keeps, recording.now_ms()),
            ).fetchone()
        return project_from(row)

    def get_project_by_dir(self, dir: str) -> Project | None:  # noqa: A002  the seed's name
        """Return the project of a directory."""
        return self._project("dir = CAST(? AS TEXT)", recording.as_stored_text(dir))

    def get_project_by_id(self, id: int) -> Project | None:  # noqa: A002  the seed's name
        """Return the project with that id."""
        return self._project("projects.id = ?", id)

    def get_all_projects(self) -> list[Project]:
        """Return all projects, the most recently run first, those that never ran last."""
        return [
            project_from(row)
            for row in self._rows(f"SELECT {PROJECT_COLUMNS} FROM projects ORDER BY {_NEWEST_PROJECT}")
        ]

    def update_project_last_run(self, project_id: int) -> Project | None:
        """Set when a project last ran to now, and return it."""
        with self.transaction() as connection:
            connection.execute("UPDATE projects SET last_run_at = ? WHERE id = ?", (recording.now_ms(), project_id))
        return self.get_project_by_id(project_id)

    def delete_project(self, project_id: int) -> bool:
        """Delete a project with all its runs; tell whether there was one."""
        return self._delete("DELETE FROM projects WHERE id = ?", project_id) > 0

    def create_run(self, pid: int, project_id: int, args: Sequence[str] = ()) -> Run:
        """Record that a run has begun, and that its project has run now.

        The process is stamped, so that its pid can be given to another without harm. The caller becomes the run's
        owner, the one who records its end, unless the pid is its own.

        Args:
            pid: the agent's process id.
            project_id: its project.
            args: the arguments that the agent was started with.

        Raises:
            sqlite3.IntegrityError: there is no such project.
        """
        own = os.getpid()
        stamp = self._stamp(pid)
        owner = None if pid == own else (own, start_ticks(own))
        with self.transaction() as connection:
            run_id = recording.insert_run(connection, pid, project_id, args)
            recording.insert_process(connection, run_id, stamp, by="api", owner=owner)
            row = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
        return run_from(row)

    def get_run_by_id(self, id: int) -> Run | None:  # noqa: A002  the seed's name
        """Return the run with that id."""
        return self._run("runs.id = ?", id)

    def get_run_by_pid(self, pid: int) -> Run | None:
        """Return the newest run with that process id: pids are given out again."""
        return self._run(f"runs.pid = ? ORDER BY {_NEWEST_RUN} LIMIT 1", pid)

    def get_project_runs(self, project_id: int) -> list[Run]:
        """Return a project's runs, newest first."""
        return self._runs(f"WHERE project_id = ? ORDER BY {_NEWEST_RUN}", project_id)

    def get_running_runs(self) -> list[Run]:
        """Return the runs whose row says that they run, newest first."""
        return self._runs(f"WHERE status = 'running' ORDER BY +{_NEWEST_RUN}")  # few, and to be found by their status

    def get_all_runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return self._runs(f"ORDER BY {_NEWEST_RUN}")

    def update_run_status(
        self, run_id: int, status: RunStatus | str, exit_code: int | None | Unset = UNSET
    ) -> Run | None:
        """Set a run's status, unconditionally, and return the run: for its owner.

        Any status but running also sets when it ended; running clears that and the exit code.

        Args:
            run_id: the run.
            status: one of the four.
            exit_code: the exit code; omitted, the stored one stays.

        Raises:
            ValueError: ``status`` is none of the four.
        """
        status = RunStatus(status)
        ended = None if status is RunStatus.RUNNING else recording.now_ms()
        keeps = isinstance(exit_code, Unset)
        code = None if isinstance(exit_code, Unset) else exit_code
        with self.transaction() as connection:
            row = connection.execute(
                "UPDATE runs SET status = :status, ended_at = :ended, exit_code ="
                " CASE WHEN NOT :keeps THEN :code WHEN :ended IS NULL THEN NULL ELSE exit_code END WHERE id = :id"
                f" RETURNING {RUN_COLUMNS.replace('runs.', '')}",
                {"status": status, "ended": ended, "keeps": keeps, "code": code, "id": run_id},
            ).fetchone()
        return run_from(row) if row else None

    def mark_run_as_crashed(self, run_id: int) -> Run | None:
        """Set a run's status to crashed and return the run."""
        return self.update_run_status(run_id, RunStatus.CRASHED)

    def delete_run(self, run_id: int) -> bool:
        """Delete a run; tell whether there was one."""
        return self._delete("DELETE FROM runs WHERE id = ?", run_id) > 0

    def delete_project_runs(self, project_id: int) -> int:
        """Delete all runs of a project and return how many there were."""
        return self._delete("DELETE FROM runs WHERE project_id = ?", project_id)

    def get_project_with_latest_run(self, dir: str) -> ProjectInfo | None:  # noqa: A002  the seed's name
        """Return the project of a directory with its newest run and the number of its runs."""
        project = self.get_project_by_dir(dir)
        if project is None:
            return None
        total = self._rows("SELECT count(*) FROM runs WHERE project_id = ?", project.id)[0][0]
        # Not by the index of projects: the newest run of a store is most often this project's.
        latest = self._run(f"+project_id = ? ORDER BY {_NEWEST_RUN} LIMIT 1", project.id) if total else None
        return ProjectInfo(project, latest, total)

    def get_crashed_runs(self) -> list[CrashedRun]:
        """Return all crashed runs with their projects, newest first."""
        rows = self._rows(
            f"SELECT {RUN_COLUMNS}, projects.id, dir, cmd FROM runs JOIN projects ON projects.id = project_id"
            f" WHERE runs.status = 'crashed' ORDER BY +{_NEWEST_RUN}"
        )
        return [
            CrashedRun(run.id, run.pid, run.started_at, run.ended_at, project, str(directory), str(cmd))
            for run, (project, directory, cmd) in ((run_from(row[:8]), row[8:]) for row in rows)
        ]

    def start_says_nothing(self, started_at: object) -> bool:
        """Tell whether a stored start is none: unusable, or the constant that older originals gave every run."""
        return seconds(started_at) is None or started_at == self.schema.frozen_started_at

    def _open(self) -> None:
        if self._read_only:
            connection, schema = connections.open_for_reading(self.directory, timeout=self._timeout)
        else:
            fresh = not os.path.lexists(self.path)
            connection, schema = connections.open_for_writing(
                self.directory, create=self._create, timeout=self._timeout
            )
            self.created = self.created or fresh
        self._opened.connection = connection
        self._opened.schema = schema
        if schema.version > NEWEST and not self._warned:
            self._warned = True
            log.warning(
                "%s was made by a newer version: what it knows of processes and endings is not used here", self.path
            )
        if self.created:
            self._announce()

    def _announce(self) -> None:
        announce, self._on_write = self._on_write, None
        if announce is not None:
            announce(self.directory, self.created)

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(sql, parameters).fetchall()
        except OverflowError:  # an id or a pid of more than 64 bits: no row has it
            return []

    def _project(self, where: str, *parameters: object) -> Project | None:
        rows = self._rows(f"SELECT {PROJECT_COLUMNS} FROM projects WHERE {where}", *parameters)
        return project_from(rows[0]) if rows else None

    def _run(self, where: str, *parameters: object) -> Run | None:
        rows = self._rows(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where}", *parameters)
        return run_from(rows[0]) if rows else None

    def _runs(self, rest: str, *parameters: object) -> list[Run]:
        return [run_from(row) for row in self._rows(f"SELECT {RUN_COLUMNS} FROM runs {rest}", *parameters)]

    def _delete(self, sql: str, number: int) -> int:
        with self.transaction() as connection:
            return connection.execute(sql, (number,)).rowcount
