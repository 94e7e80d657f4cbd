"""Tools for tests of the store: the checked-in stores, runs and endings to write, and programs that race."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import DATA, Processes

from supervisor.models import Cause, Ending, Rank, RunStatus
from supervisor.store.files import store_file
from supervisor.store.recording import NewRun

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns

FIXTURES = ("bun-866ebbb", "node-866ebbb", "bun-cbaec88", "bun-866ebbb-wal", "bun-866ebbb-odd")
"""The checked-in stores, as the original module wrote them."""

SEED_OBJECTS = ("projects", "runs", "sqlite_sequence")

NEWER = (
    "INSERT INTO schema_migrations VALUES (999, 1)",
    "DROP TABLE run_process",
    "DROP TABLE run_ending",
    "CREATE TABLE run_process (run INTEGER REFERENCES runs (id) ON DELETE CASCADE, whatever TEXT NOT NULL)",
    "INSERT INTO run_process SELECT id, 'theirs' FROM runs",
)
"""What a newer version might make of a store."""


def place(name: str, project: Path) -> Path:
    """Make a copy of a checked-in store the store of ``project``; return its file."""
    file = Path(store_file(str(project)))
    source = DATA / "stores" / name
    if source.is_dir():
        shutil.copytree(source, file.parent)
    else:
        file.parent.mkdir()
        shutil.copyfile(source.with_name(f"{name}.sqlite"), file)
    return file


def seed_schema(file: Path) -> list[tuple[Any, ...]]:
    """Return what ``sqlite_master`` holds of the original's tables and own indexes, pages and text included."""
    connection = sqlite3.connect(file)
    try:
        found = connection.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY rowid")
        return [row for row in found if row[2] in SEED_OBJECTS and not row[1].startswith("ays_")]
    finally:
        connection.close()


def execute(project: Path, *statements: str) -> None:
    """Change the store of ``project`` with a connection of one's own, as its maker may."""
    connection = sqlite3.connect(store_file(str(project)), isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def stamp(pid: int, **columns: Any) -> StampColumns:
    """Return the stamp of a process that need not exist."""
    made: StampColumns = {
        "host": "here",
        "boot_id": "this boot",
        "pid_ns": 4026531836,
        "pid_ns_ticks": 1,
        "time_ns": 4026531834,
        "pid": pid,
        "start_ticks": 4711,
        "pidfd_inode": 99,
        "started_at": int(time.time()) + 0.5,
    }
    made.update(columns)  # type: ignore[typeddict-item]  # the columns of the test's choice
    return made


def new_run(project: Path, token: str = "t1", pid: int = 4999001, **fields: Any) -> NewRun:  # noqa: S107  no password
    """Return a run as a wrapper would begin it."""
    known: dict[str, Any] = {
        "directory": str(project),
        "cli": "claude",
        "args": ["--continue"],
        "cwd": str(project),
        "prompt": None,
        "set_default": False,
        "stamp": stamp(pid),
        "owner": (4999000, 4242),
    }
    return NewRun(token=token, **{**known, **fields})


def ending(rank: Rank = Rank.INFERENCE, **fields: Any) -> Ending:
    """Return an ending; by default, that of a run that is lost."""
    known: dict[str, Any] = {
        "status": RunStatus.CRASHED,
        "exit_code": None,
        "cause": Cause.LOST,
        "ended_at": 1_795_500_000.25,
        "detected_at": 1_795_500_000.5,
        "settled_by": "test",
    }
    return Ending(rank=rank, **{**known, **fields})


def with_tools() -> dict[str, str]:
    """Return an environment in which a program finds the tests' tools."""
    paths = [str(DATA.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def race(processes: Processes, *programs: tuple[str, ...]) -> list[Any]:
    """Run Python programs, each with its arguments, all from the same moment on; return what each prints, as JSON.

    A program prints a line to say that it is up, and starts when its standard input ends.
    """
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    racers = [processes.python(*program, env=with_tools(), **pipes) for program in programs]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    outcomes = []
    for racer in racers:
        printed, complaints = racer.communicate(timeout=60)
        assert (racer.returncode, complaints) == (0, "")
        outcomes.append(json.loads(printed))
    return outcomes
