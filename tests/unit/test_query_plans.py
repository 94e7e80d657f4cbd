"""The queries that are asked all the time, or wait for a person: none of them reads more rows than it returns."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit import Original, rows
from stores import execute, new_run, stamp

from supervisor.models import RunStatus
from supervisor.store import recording
from supervisor.store.connection import open_for_writing
from supervisor.store.schema import _LARGE, NEWEST, READABLE
from supervisor.store.supervision import SupervisedStore

Query = Callable[[SupervisedStore, int], object]

HOT: dict[str, Query] = {
    "the daemon's look at running rows": lambda store, _: store.running_rows(),
    "claims of running rows": lambda store, _: store.running_claims(),
    "claims of some rows": lambda store, _: store.running_claims([1, 2, 3]),
    "the sweep's look at inferred endings": lambda store, _: store.inferred_claims("this boot"),
    "ls: what runs": lambda store, _: store.details(statuses=[RunStatus.RUNNING]),
    "ls: what ended badly lately": lambda store, _: store.details(
        statuses=[RunStatus.FAILED, RunStatus.CRASHED], ended_since=time.time() - 60
    ),
    "runs list": lambda store, _: store.details(limit=51),
    "runs list --since": lambda store, _: store.details(since=time.time() - 60, limit=51),
    "runs list --status of many": lambda store, _: store.details(statuses=[RunStatus.COMPLETED], limit=51),
    "runs list --status of few": lambda store, _: store.details(statuses=[RunStatus.CRASHED], limit=51),
    "a run by id": lambda store, _: store.details(run_id=7),
    "a run by pid": lambda store, _: store.details(pid=7),
    "the newest run": lambda store, _: store.details(limit=1),
    "completion": lambda store, _: store.latest_runs(limit=50),
    "completion of running runs": lambda store, _: store.latest_runs(limit=50, only_running=True),
    "projects show": lambda store, _: store.project_summaries(),
    "getRunById": lambda store, _: store.get_run_by_id(7),
    "getRunByPid": lambda store, _: store.get_run_by_pid(7),
    "getRunningRuns": lambda store, _: store.get_running_runs(),
    "getProjectByDir": lambda store, _: store.get_project_by_dir(store.directory),
    "getProjectWithLatestRun": lambda store, _: store.get_project_with_latest_run(store.directory),
    "createRun": lambda store, project: store.create_run(4242, project),
    "updateRunStatus": lambda store, _: store.update_run_status(7, "failed", 1),
}
"""What must cost the same in a large store."""

WHOLE_TABLE = re.compile(r"\bSCAN (runs|run_process|run_ending)\b(?! USING (?:COVERING )?INDEX)")
"""A step of a plan that reads a whole table."""


@pytest.fixture(scope="module", params=[(False, False), (False, True), (True, False), (True, True)])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store with 30,000 ended runs, a few crashed and a running one, made once.

    Of all the ended runs processes and endings may be known, or of none; and SQLite may know how many rows there are.
    """
    are_known, analyzed = request.param
    project = tmp_path_factory.mktemp("large")
    connection, _ = open_for_writing(str(project))
    now = int(time.time())
    statuses = ["completed"] * 2000 + ["crashed"]
    connection.execute("INSERT INTO projects (dir, cmd) VALUES (?, 'claude')", (str(project.resolve()),))
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO runs (pid, project_id, status, started_at, ended_at) VALUES (?, 1, ?, ?, ?)",
        ((n, statuses[n % 2001], now - 60 * (30_000 - n), 1000 * (now - 60 * (30_000 - n))) for n in range(30_000)),
    )
    if are_known:
        connection.execute(
            "INSERT INTO run_process (run_id, token, pid, boot_id, stamped_by, owner_pid, owner_start_ticks)"
            " SELECT id, 'token ' || id, pid, 'this boot', 'wrap', id, id FROM runs"
        )
        connection.execute(
            "INSERT INTO run_ending (run_id, status, ended_at, cause, rank, settled_by, detected_at)"
            " SELECT id, status, ended_at, 'exited', 3, 'wrap', ended_at FROM runs"
        )
    connection.execute("COMMIT")
    if analyzed:
        connection.execute("ANALYZE")
    recording.begin_run(connection, new_run(project))
    connection.close()
    return project


def asked(store: SupervisedStore, query: Query) -> list[str]:
    """Return the statements that a query makes, with their values."""
    statements: list[str] = []
    store.connection.set_trace_callback(statements.append)
    query(store, 1)
    store.connection.set_trace_callback(None)
    return [sql for sql in statements if sql.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]


def reads_much(store: SupervisedStore, step: str) -> bool:
    """Tell whether a step of a plan reads a whole table that is large."""
    scanned = WHOLE_TABLE.search(step)
    return scanned is not None and store.connection.execute(f"SELECT count(*) FROM {scanned[1]}").fetchone()[0] > 1


@pytest.mark.parametrize("name", HOT)
def test_plans_use_indexes(large: Path, name: str) -> None:
    """No step of a hot query reads a whole table, nor sorts one."""
    with SupervisedStore(str(large)) as store:
        for sql in asked(store, HOT[name]):
            plan = [row[3] for row in store.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
            is_cut = re.search(r"ORDER BY runs\.id DESC LIMIT \d+$", sql)  # the table itself is in that order
            assert is_cut or not [step for step in plan if reads_much(store, step)], (sql, plan)


@pytest.mark.parametrize("name", [name for name in HOT if name not in ("projects show",)])
def test_work_does_not_grow(large: Path, name: str) -> None:
    """A hot query takes few steps of SQLite's virtual machine, however many runs there are; only counts count."""
    steps = [0]

    def count() -> None:
        steps[0] += 1

    with SupervisedStore(str(large)) as store:
        store.get_run_by_id(1)
        store.connection.set_progress_handler(count, 1000)
        HOT[name](store, 1)
        store.connection.set_progress_handler(None, 0)
        total = 30_000 if name == "getProjectWithLatestRun" else 0
        assert steps[0] * 1000 <= 40_000 + 6 * total


def test_newest_first_by_either_unit(project: Path) -> None:
    """The index orders seconds and milliseconds alike, and ids break ties."""
    with SupervisedStore(str(project)) as store, Original(project) as original:
        store.get_all_runs()
        starts = (1_795_500_000, 1_795_500_001_500, 1_795_500_001, 1_795_500_000_000, 1_795_500_000)
        ids = [original.create_run(1, started_at=start) for start in starts]
        expected = [ids[1], ids[2], ids[4], ids[3], ids[0]]
        assert [detail.run.id for detail in store.details()] == expected
        assert [detail.run.id for detail in store.details(limit=3)] == expected[:3]
        since = store.details(since=1_795_500_001)
        assert [detail.run.id for detail in since] == expected[:2]


def test_many_of_a_status_are_walked_and_few_are_sorted(large: Path) -> None:
    """Whichever way is taken, the same runs come in the same order."""
    with SupervisedStore(str(large)) as store:
        for status in (RunStatus.COMPLETED, RunStatus.CRASHED):
            every = [detail.run.id for detail in store.details(statuses=[status])]
            assert [detail.run.id for detail in store.details(statuses=[status], limit=12)] == every[:12]


def test_who_is_hurried_leaves_the_indexes_of_a_large_store_to_others(project: Path) -> None:
    """A wrapped agent does not wait until a large store has its indexes; its run is recorded without."""
    with Original(project) as original:
        original.create_run(1)
        original.connection.execute("UPDATE runs SET id = ?", (_LARGE + 1,))
    connection, schema = open_for_writing(str(project), timeout=0.25)
    assert schema.version == READABLE[0] < NEWEST
    recording.begin_run(connection, new_run(project, stamp=stamp(4242)))
    connection.close()
    with SupervisedStore(str(project), read_only=True) as store:
        newest = store.details(limit=1)[0]
        assert newest.process is not None
        assert newest.process.token == "t1"
    connection, schema = open_for_writing(str(project))
    connection.close()
    assert schema.version == NEWEST
    indexes = "SELECT name FROM sqlite_master WHERE name LIKE 'ays_runs_%' ORDER BY name"
    assert rows(project, indexes) == [("ays_runs_ended",), ("ays_runs_newest",)]


def test_the_original_writes_beside_the_indexes(project: Path) -> None:
    """Rows of the original, and its changes, are in the indexes as everybody's."""
    with SupervisedStore(str(project)) as store, Original(project) as original:
        store.get_all_runs()
        first = original.create_run(1)
        original.connection.execute("UPDATE runs SET status = 'failed', ended_at = unixepoch() * 1000")
        assert [one.run.id for one in store.details(statuses=[RunStatus.FAILED], ended_since=time.time() - 60)] == [
            first
        ]
    connection = sqlite3.connect(project / ".agent-yes" / "store.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    execute(project, "DELETE FROM runs")
