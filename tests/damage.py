"""Stores for tests of their repair: filled ones, and ways to damage them as disks and programs do."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stores import ending, new_run

from supervisor.models import Cause, Rank, RunStatus
from supervisor.store import recording
from supervisor.store.connection import open_for_writing
from supervisor.store.files import store_file
from supervisor.store.store import Store

TABLES = ("projects", "runs", "run_process", "run_ending")
PAGE = 4096
FIRST_PID = 4_999_000

Rows = dict[str, dict[int, tuple[Any, ...]]]


def filled(project: Path, runs: int = 300) -> Path:
    """Make a store with runs of `wrap`, every third still running, every tenth with long arguments."""
    with Store(str(project)) as store:
        for number in range(runs):
            words = ["x" * 20_000, "grüße"] if number % 10 == 9 else [f"--number={number}"]
            run = new_run(project, token=f"{number:032x}", pid=FIRST_PID + number, args=words)
            recording.begin_run(store.connection, run)
            if number % 3:
                done = ending(Rank.OWNER, status=RunStatus.FAILED, exit_code=number % 256, cause=Cause.EXITED)
                recording.finish_run(store.connection, run, done)
        store.upsert_project("/elsewhere", "codex", "a prompt")
    return Path(store_file(str(project)))


def all_rows(file: Path) -> Rows:
    """Return every row of our tables by id, as SQLite reads them."""
    connection = sqlite3.connect(file)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return {
            table: {row[0]: row for row in connection.execute(f"SELECT * FROM {table} NOT INDEXED")} for table in TABLES
        }
    finally:
        connection.close()


def root_of(file: Path, name: str) -> int:
    """Return the page at which a table or an index begins."""
    connection = sqlite3.connect(file)
    try:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        return int(page)
    finally:
        connection.close()


def leaf_of(file: Path, table: str, number: int) -> int:
    """Return the page of a table's leaf, counted from the first, of a tree of two levels."""
    content, root = file.read_bytes(), root_of(file, table)
    page = content[(root - 1) * PAGE : root * PAGE]
    assert page[0] == 5, "a tree of two levels"
    place = int.from_bytes(page[12 + 2 * number : 14 + 2 * number], "big")
    return int.from_bytes(page[place : place + 4], "big")


def overwrite(file: Path, offset: int, length: int) -> None:
    """Write junk over a part of a file."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(random.Random(offset).randbytes(length))  # noqa: S311  no secret


def junk_page(file: Path, page: int) -> None:
    """Write junk over a page."""
    overwrite(file, (page - 1) * PAGE, PAGE)


def junk_pages(file: Path, *pages: int) -> None:
    """Write junk over pages."""
    for page in pages:
        junk_page(file, page)


def half_checkpointed(file: Path) -> None:
    """Leave what a checkpoint leaves that was killed half-way, once somebody has deleted the WAL."""
    wal = file.with_name("store.sqlite-wal")
    content = wal.read_bytes()
    with file.open("r+b") as opened:
        for offset in range(32, len(content) - PAGE, 24 + PAGE):
            page = int.from_bytes(content[offset : offset + 4], "big")
            if page % 2:
                opened.seek((page - 1) * PAGE)
                opened.write(content[offset + 24 : offset + 24 + PAGE])
    wal.unlink()


def with_wal(project: Path, target: Path, runs: int = 60) -> Path:
    """Give a project a copy of a store that is in use: half of its rows are in the WAL only; return its file."""
    file = filled(project, runs // 2)
    connection, _ = open_for_writing(str(project))
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(runs // 2, runs):
            run = new_run(project, token=f"{number:032x}", pid=FIRST_PID + number, args=[f"--number={number}"])
            recording.begin_run(connection, run)
        shutil.copytree(file.parent, target / ".agent-yes")
    finally:
        connection.close()
    copy = target / ".agent-yes" / file.name
    copy.with_name("store.sqlite-shm").unlink()
    return copy


Damage = Callable[[Path], None]

DAMAGES: dict[str, Damage] = {
    "a leaf of runs": lambda file: junk_page(file, leaf_of(file, "runs", 1)),
    "the first leaf of runs": lambda file: junk_page(file, leaf_of(file, "runs", 0)),
    "the root of runs": lambda file: junk_page(file, root_of(file, "runs")),
    "a leaf of processes": lambda file: junk_page(file, leaf_of(file, "run_process", 1)),
    "the root of endings": lambda file: junk_page(file, root_of(file, "run_ending")),
    "the projects": lambda file: junk_page(file, root_of(file, "projects")),
    "an index": lambda file: junk_page(file, root_of(file, "idx_runs_status")),
    "two indexes": lambda file: junk_pages(file, root_of(file, "idx_runs_status"), root_of(file, "idx_runs_pid")),
    "the sequence": lambda file: junk_page(file, root_of(file, "sqlite_sequence")),
    "the header": lambda file: overwrite(file, 0, 100),
    "the magic": lambda file: overwrite(file, 0, 16),
    "the first page": lambda file: junk_page(file, 1),
    "the end": lambda file: shorten(file, 0.6),
    "nearly all": lambda file: shorten(file, 0.2),
    "the middle": lambda file: overwrite(file, 12 * PAGE + 1000, 8 * PAGE),
}
"""Ways to damage a store that has no WAL."""


def shorten(file: Path, share: float) -> None:
    """Cut a file off, not at the end of a page."""
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share) + 7)
