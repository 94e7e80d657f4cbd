"""Writers of rows, each a process with one connection that it keeps: the original module, and users of `supervisor.db`.

As a program (``python -m chaos.writers api|foreign DIRECTORY``) it takes an order a line on stdin, as JSON, and answers
each on stdout. A `Writer` gives orders and takes answers without ever waiting, so that it can be stopped or killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import Original

from chaos.world import FAR, Kind, Spans, Store, World, environment, now
from supervisor import db
from supervisor.errors import SuperviseError
from supervisor.store.files import identity


@dataclass(slots=True)
class Pending:
    """An order that has not been answered."""

    answer: Callable[[Any, float], None]
    refuse: Callable[[str], None]


class Writer:
    """A writer of one store. Answers come at `listen`.

    Args:
        world: where its errors go.
        kind: who it is.
        store: what it writes to.
    """

    def __init__(self, world: World, kind: Kind, store: Store) -> None:
        self.kind, self.store = kind, store
        self.stopped = Spans()
        self.owns: set[int] = set()
        """The numbers of the runs that it has recorded."""
        self._world = world
        self._pending: dict[int, Pending] = {}
        self._orders = 0
        self._heard = b""
        self.errors = world.scratch / "logs" / f"{kind}-{store.directory.name}.err"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.errors, "ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "chaos.writers", self.kind, str(self.store.directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(self._world.scratch),
                cwd=self._world.scratch,
                pipesize=1 << 20,  # orders to one that is stopped must not stop us
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    @property
    def busy(self) -> bool:
        """Whether an order has not been answered yet."""
        return bool(self._pending)

    def order(
        self,
        what: str,
        *values: object,
        answer: Callable[[Any, float], None] = lambda _answer, _connected: None,
        refuse: Callable[[str], None] = lambda _error: None,
    ) -> None:
        """Give an order; ``answer`` takes the result and when the connection was opened, ``refuse`` an error."""
        self._orders += 1
        self._pending[self._orders] = Pending(answer, refuse)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps([self._orders, what, *values]).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: `listen` says so

    def listen(self) -> None:
        """Take the answers that have come."""
        self._take_answers()
        if self.process.poll() is not None:
            self._world.wrong.append(f"the {self.kind} writer of {self.store.name} has ended by itself")
            self.replace()

    def _take_answers(self) -> None:
        assert self.process.stdout is not None
        heard = self.process.stdout.read() or b""
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            number, result, connected, error = json.loads(line)
            pending = self._pending.pop(number)
            if error is None:
                pending.answer(result, connected)
            else:
                pending.refuse(error)

    def kill(self) -> None:
        """Kill it, whatever it is doing, and start another."""
        self.process.kill()
        self.process.wait()
        if self.stopped.open:
            self.stopped.end()
        self._take_answers()  # what it has not answered may be done or not
        self.replace()

    def replace(self) -> None:
        """Start another in its place."""
        for run in self.owns:
            self._world.runs[run].owner_gone = min(self._world.runs[run].owner_gone, now())
        self.owns.clear()
        self._pending.clear()
        self._heard = b""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process = self._start()

    def hold(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGSTOP)
        self.stopped.begin()

    def go_on(self) -> None:
        """Let it go on."""
        if self.stopped.open:
            self.process.send_signal(signal.SIGCONT)
            self.stopped.end()

    def leave(self) -> None:
        """Let it end as a program does; its runs have no owner then."""
        self.go_on()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self._take_answers()
        for run in self.owns:
            self._world.runs[run].owner_gone = min(self._world.runs[run].owner_gone, now())


class _Steady(Original):
    """The original, except that it opens a store anew that is replaced in that very moment.

    SQLite would mix the two, and no one can mend that (docs/reliability.md).
    """

    def connect(self, file: Path) -> sqlite3.Connection:
        """Open the database and the WAL of one and the same store."""
        while True:
            with contextlib.suppress(FileExistsError):
                os.mknod(file, 0o644)
            known = identity(str(self.directory))
            connection = super().connect(file)
            connection.execute("PRAGMA schema_version").fetchone()
            if identity(str(self.directory)) == known:
                return connection
            connection.close()


class _Foreign:
    """The original module: its statements, one connection until it is told to close it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: Original | None = None
        self.connected = FAR

    @property
    def store(self) -> Original:
        """The store, opened once."""
        if self._store is None:
            self.connected = now()
            self._store = _Steady(self._directory)
        return self._store

    def create(self, rows: list[tuple[object, str]]) -> list[int]:
        """Do as createRun does for each row: pid and arguments."""
        touch = 'update "projects" set "last_run_at" = ? where "id" = 1'
        if len(rows) > 1:  # a burst has to be there at once
            self.store.connection.execute("begin immediate")
        try:
            ids = [self.store.create_run(pid, args=_storable(args)) for pid, args in rows]
            self.store.connection.execute(touch, (time.time_ns() // 1_000_000,))
        except sqlite3.Error:
            if self.store.connection.in_transaction:
                self.store.connection.execute("rollback")
            raise
        if self.store.connection.in_transaction:
            self.store.connection.execute("commit")
        return ids

    def update(self, run_id: int, key: str, status: str, code: int | None) -> bool:
        """Do as updateRunStatus does; only in a store that has this very run, for ids start anew."""
        found = self.store.connection.execute("select args from runs where id = ?", (run_id,)).fetchone()
        if found is None or not _bears(key, str(found[0])):
            return False
        sql = 'update "runs" set "status" = ?, "exit_code" = ?, "ended_at" = ? where "id" = ?'
        self.store.connection.execute(sql, (status, code, time.time_ns() // 1_000_000, run_id))
        return True

    def close(self) -> None:
        """Do as closeDb does."""
        if self._store is not None:
            store, self._store = self._store, None
            store.close()


def _bears(key: str, args: str) -> bool:
    """Tell whether arguments are those of the run of a key, and not of another whose number begins alike."""
    return re.search(rf"{key}(?!\d)", args) is not None


def _storable(args: str) -> Any:
    """Return what to bind: a text that is not UTF-8 only goes in as bytes."""
    try:
        args.encode()
    except UnicodeEncodeError:
        return args.encode("utf-8", "surrogateescape")
    return args


class _Api:
    """A program that uses `supervisor.db`."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._project: int | None = None
        self.connected = FAR

    def _open(self) -> int:
        if self._project is None:
            self.connected = now()
            db.get_db(self._directory)
            self._project = db.upsert_project(dir=self._directory, cmd="claude").id
        return self._project

    def create(self, rows: list[tuple[int, str]]) -> list[int]:
        """Record a run for each row: pid and arguments."""
        project = self._open()
        return [db.create_run(pid=pid, project_id=project, args=json.loads(args)).id for pid, args in rows]

    def update(self, run_id: int, key: str, status: str, code: int | None) -> bool:
        """Record how a run has ended; only in a store that has this very run, for ids start anew."""
        self._open()
        found = db.get_run_by_id(run_id)
        if found is None or not any(_bears(key, arg) for arg in found.args):
            return False
        return db.update_run_status(run_id, status, code) is not None

    def close(self) -> None:
        """Close the store."""
        self._project = None
        db.close_db()


def _serve(kind: str, directory: Path) -> None:
    writer: _Api | _Foreign = _Api(directory) if kind == Kind.API else _Foreign(directory)
    for line in sys.stdin:
        number, what, *values = json.loads(line)
        result, error = None, None
        try:
            result = getattr(writer, what)(*values)
        except (sqlite3.Error, SuperviseError, OSError) as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
        print(json.dumps([number, result, writer.connected, error]), flush=True)
    writer.close()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
