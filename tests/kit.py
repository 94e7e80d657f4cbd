"""Tools for tests: waiting without luck, real processes, and rows as the original module writes them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

DATA = Path(__file__).parent / "data"
COMMAND = (sys.executable, "-m", "supervisor")
"""The command under test, whatever is on PATH."""

LIVES = "import sys; print(flush=True); sys.stdin.read()"
"""A program that says it is up by a line and lives until its standard input ends."""


def wait_until(predicate: Callable[[], T], timeout: float = 20.0, message: str = "") -> T:
    """Call until the answer is true and return it; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(message or f"not within {timeout} s: {predicate}")
        time.sleep(0.002)
    return answer


class Processes:
    """Starts processes and ends those that are left."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self._adopted: list[int] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for pidfd in self._adopted:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a program; options are those of `subprocess.Popen`."""
        process = subprocess.Popen(argv, text=True, **options)
        self._started.append(process)
        return process

    def python(self, code: str, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start a Python program."""
        return self.start(sys.executable, "-c", code, *args, **options)

    def living(self, **options: Any) -> subprocess.Popen[str]:
        """Start a process that lives until it is killed or its standard input is closed, and wait until it is up."""
        process = self.python(LIVES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def ours(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start agent-yes-supervise."""
        return self.start(*COMMAND, *args, **options)

    def adopt(self, pid: int) -> int:
        """End that process too, which something we started has started; return its pid."""
        self._adopted.append(os.pidfd_open(pid))
        return pid


def run_ours(*args: str, timeout: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run agent-yes-supervise to its end with its output captured."""
    options = {"stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=timeout, check=False, **options)


class Answer(NamedTuple):
    """What a command has answered."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of data."""
        return self.out.splitlines()

    @property
    def names(self) -> list[str]:
        """The first word of each row of a table."""
        return [line.split()[0] for line in self.lines[1:]]

    @property
    def json(self) -> Any:
        """The data, where it is JSON."""
        return json.loads(self.out)


Ask = Callable[..., Answer]


def dead_pid() -> int:
    """Return the pid of a process that has just ended and been reaped."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class Original:
    """Writes a store as the original module does under Node: its SQL, its pragmas, one connection, 5 s for locks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        folder = directory / ".agent-yes"
        folder.mkdir(exist_ok=True)
        self.connection = self.connect(folder / "store.sqlite")
        self.connection.executescript(
            'create table if not exists "projects" ("id" integer primary key autoincrement, "dir" text not null unique,'
            ' "cmd" text not null, "prompt" text, "created_at" integer default (unixepoch()) not null,'
            ' "updated_at" integer default (unixepoch()) not null, "last_run_at" integer);'
            'create table if not exists "runs" ("id" integer primary key autoincrement, "pid" integer not null,'
            ' "project_id" integer not null references "projects" ("id") on delete cascade, "status" text not null,'
            ' "exit_code" integer, "started_at" integer default (unixepoch()) not null, "ended_at" integer,'
            " \"args\" text default '[]' not null);"
            'create index if not exists "idx_runs_project_id" on "runs" ("project_id");'
            'create index if not exists "idx_runs_status" on "runs" ("status");'
            'create index if not exists "idx_runs_pid" on "runs" ("pid");'
        )
        self.connection.execute("insert or ignore into projects (dir, cmd) values (?, 'claude')", (str(directory),))

    def connect(self, file: Path) -> sqlite3.Connection:
        """Open the store's database, and with it its WAL."""
        connection = sqlite3.connect(file, isolation_level=None, timeout=5)
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def __enter__(self) -> Original:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection as `closeDb` does."""
        self.connection.close()

    def create_run(self, pid: object, *, started_at: object = None, args: str = "[]") -> int:
        """Insert a running row; ``started_at`` is the column's default unless given."""
        columns, values = ["pid", "project_id", "status", "args"], [pid, 1, "running", args]
        if started_at is not None:
            columns.append("started_at")
            values.append(started_at)
        holes = ", ".join("?" * len(values))
        row = self.connection.execute(f"insert into runs ({', '.join(columns)}) values ({holes})", values)
        return row.lastrowid or 0

    def row(self, run_id: int) -> tuple[str, int | None, int | None]:
        """Return a run's status, exit code and end."""
        found = self.connection.execute("select status, exit_code, ended_at from runs where id = ?", (run_id,))
        return found.fetchone()  # type: ignore[no-any-return]  # the columns are what they are


def rows(directory: Path, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Read a store with a connection of its own."""
    connection = sqlite3.connect(directory / ".agent-yes" / "store.sqlite")
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()
