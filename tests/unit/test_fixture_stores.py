"""Stores that the original module wrote: each opens, and holds what its makers' notes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from kit import rows
from stores import FIXTURES, ending, execute, place

from supervisor.models import Run, RunStatus
from supervisor.store.supervision import SupervisedStore

GOOD = ("bun-866ebbb", "node-866ebbb", "bun-cbaec88", "bun-866ebbb-wal")
PROMPT = 'Añade pruebas 🧪 y\nactualiza el «README»; don\'t break "main"\tplease \\o/'


class Times(NamedTuple):
    """A store's first start in seconds; in milliseconds, the ends of its runs and what its projects say."""

    first: float
    ended: tuple[int | None, ...]
    updated: int
    last_run: tuple[int, int]


TIMES = {
    "bun-866ebbb": Times(
        1795404686,
        (
            *(1795404686061, 1795404687084, 1795404688053, None, None, 1795404691053),
            *(1795404692053, None, 1795404694053, 1795404694057, 1795404695053),
        ),
        1795404694058,
        (1795404694056, 1795404695052),
    ),
    "node-866ebbb": Times(
        1795404696,
        (
            *(1795404696057, 1795404697051, 1795404698052, None, None, 1795404701052),
            *(1795404702051, None, 1795404704056, 1795404704057, 1795404705051),
        ),
        1795404704057,
        (1795404704056, 1795404705051),
    ),
    "bun-cbaec88": Times(
        1795404705.154,
        (
            *(1795404706077, 1795404707053, 1795404708056, None, None, 1795404711057),
            *(1795404712054, None, 1795404714054, 1795404714058, 1795404715059),
        ),
        1795404714059,
        (1795404714057, 1795404715052),
    ),
    "bun-866ebbb-wal": Times(
        1795404716,
        (
            *(1795404716063, 1795404717053, 1795404718054, None, None, 1795404721055),
            *(1795404722054, None, 1795404724054, 1795404724057, 1795404725054),
        ),
        1795404724059,
        (1795404724056, 1795404725053),
    ),
}

RUNS: tuple[tuple[int, int, str, int | None, int, list[str]], ...] = (
    (4999001, 1, "completed", 0, 0, ["--exit-on-idle=60s"]),
    (4999002, 1, "failed", 1, 1, []),
    (4999003, 1, "crashed", None, 2, ["--prompt", "日本語のプロンプト", "", 'a "quoted" \\ back', "line\nbreak", "😀"]),
    (1, 1, "running", None, 3, ["--", "solve all TODOs"]),
    (4999005, 2, "running", None, 4, []),
    (4999001, 2, "completed", None, 5, ["--resume"]),
    (4999007, 2, "failed", 137, 6, ["-c", "x=1;y=\u2028z"]),
    (4999008, 2, "running", None, 7, ["--continue"]),
    (4999009, 1, "completed", 0, 8, ["tie", "first"]),
    (4999009, 1, "crashed", None, 8, ["tie", "second"]),
    (4999011, 2, "crashed", -9, 9, ["--exit-on-idle", "5m"]),
)
"""Pid, project, status, exit code, seconds after the first start, and arguments of the runs 1 to 11."""

ODD_PIDS: tuple[object, ...] = (0, -1, -5, 1 << 31, (1 << 53) - 1, 1.5, "x", *[4999050] * 8, *range(4999060, 4999064))
ODD_ARGS = ("[not json", "", "null", "{}", "5", '"s"', '[1,{"a":2},null]')


class Opened(NamedTuple):
    """A copy of a checked-in store, in its project, as the test opens it."""

    project: Path
    store: SupervisedStore


@pytest.fixture(params=[False, True], ids=["to write", "to read"])
def opened(request: pytest.FixtureRequest, project: Path, name: str) -> Iterator[Opened]:
    """Open a copy of the store called ``name`` for writing, and for reading only."""
    place(name, project)
    with SupervisedStore(str(project), read_only=request.param) as store:
        yield Opened(project, store)


def expected(name: str) -> list[Run]:
    """Return the runs that a good store holds, oldest first."""
    times = TIMES[name]
    step = 0 if name == "bun-cbaec88" else 1
    return [
        Run(
            number,
            pid,
            project,
            RunStatus(status),
            code,
            times.first + step * after,
            None if ended is None else ended / 1000,
            args,
        )
        for number, ((pid, project, status, code, after, args), ended) in enumerate(
            zip(RUNS, times.ended, strict=True), 1
        )
    ]


def newest_first(runs: list[Run]) -> list[Run]:
    """Sort runs as the store does."""
    return sorted(runs, key=lambda run: (run.started_at or 0, run.id), reverse=True)


@pytest.mark.parametrize("name", GOOD)
def test_runs(opened: Opened, name: str) -> None:
    """All eleven runs come whole, with times in seconds, by each of the queries for runs."""
    store, runs = opened.store, expected(name)
    assert store.get_all_runs() == newest_first(runs)
    assert store.get_running_runs() == newest_first([runs[3], runs[4], runs[7]])
    assert store.get_project_runs(1) == newest_first([run for run in runs if run.project_id == 1])
    assert [store.get_run_by_id(run.id) for run in runs] == runs
    assert [run.run_id for run in store.get_crashed_runs()] == [11, 10, 3]


@pytest.mark.parametrize("name", GOOD)
def test_reused_pids(opened: Opened, name: str) -> None:
    """Of two runs with one pid the later is found, by its id where both started in one second."""
    runs = expected(name)
    assert opened.store.get_run_by_pid(4999001) == runs[5]
    assert opened.store.get_run_by_pid(4999009) == runs[9]


@pytest.mark.parametrize("name", GOOD)
def test_projects(opened: Opened, name: str) -> None:
    """The three projects come whole, the most recently run first, and with their latest run."""
    store, times = opened.store, TIMES[name]
    projects = store.get_all_projects()
    assert [(known.id, known.dir, known.cmd, known.prompt) for known in projects] == [
        (2, "/home/dev/проект-b", "gemini", PROMPT),
        (1, "/home/dev/project-a", "claude", "run all tests and commit changes"),
        (3, "/home/dev/project c", "codex", None),
    ]
    made = 1795404705.146 if name == "bun-cbaec88" else times.first
    assert [known.created_at for known in projects] == [made] * 3
    assert [known.updated_at for known in projects] == [made, times.updated / 1000, made]
    assert [known.last_run_at for known in projects] == [times.last_run[1] / 1000, times.last_run[0] / 1000, None]
    assert [known.junk for known in projects] == [{}] * 3
    info = store.get_project_with_latest_run("/home/dev/project-a")
    assert info is not None
    assert (info.project, info.latest_run, info.total_runs) == (projects[1], expected(name)[9], 6)
    info = store.get_project_with_latest_run("/home/dev/project c")
    assert info is not None
    assert (info.latest_run, info.total_runs) == (None, 0)


@pytest.mark.parametrize("name", GOOD)
def test_what_supervision_sees(opened: Opened, name: str) -> None:
    """Supervision sees the same rows: what runs, what ended, counts by status, and nothing of its own yet."""
    store = opened.store
    claims = store.running_claims()
    assert [(claim.run_id, claim.pid, claim.cli) for claim in claims] == [
        (4, 1, "claude"),
        (5, 4999005, "gemini"),
        (8, 4999008, "gemini"),
    ]
    details = store.details()
    assert [detail.run for detail in details] == newest_first(expected(name))
    assert all((detail.process, detail.ending, detail.overwritten) == (None, None, False) for detail in details)
    assert [(summary.project.id, summary.counts) for summary in store.project_summaries()] == [
        (2, {"completed": 1, "crashed": 1, "failed": 1, "running": 2}),
        (1, {"completed": 2, "crashed": 2, "failed": 1, "running": 1}),
        (3, {}),
    ]


@pytest.mark.parametrize("name", FIXTURES)
def test_a_frozen_start_says_nothing(opened: Opened, name: str) -> None:
    """The one start that an older original gave to all its runs is known for that, and any other start is one."""
    stored = {start for (start,) in rows(opened.project, "SELECT started_at FROM runs")}
    frozen = {start for start in stored if opened.store.start_says_nothing(start)}
    assert frozen == ({1795404705154} if name == "bun-cbaec88" else set())
    assert not opened.store.start_says_nothing(1795404705)
    assert all(opened.store.start_says_nothing(nothing) for nothing in (None, "x", b"", 1e300, -1e300, float("inf")))


@pytest.mark.parametrize("name", GOOD)
def test_settling(project: Path, name: str) -> None:
    """What runs in a store of the original can be settled, and the rest of the row stays as it was."""
    place(name, project)
    with SupervisedStore(str(project)) as store:
        assert store.settle([(claim, ending()) for claim in store.running_claims()]) == [True] * 3
        assert store.get_running_runs() == []
    columns = "SELECT pid, project_id, args FROM runs ORDER BY id"
    assert [(pid, number, json.loads(args)) for pid, number, args in rows(project, columns)] == [
        (pid, number, args) for pid, number, *_, args in RUNS
    ]


def test_a_frozen_store_stays_one(project: Path) -> None:
    """A store keeps the defaults of the version that made it: a run recorded in it gets the frozen start too."""
    place("bun-cbaec88", project)
    with SupervisedStore(str(project)) as store:
        assert store.create_run(pid=1, project_id=1).started_at == TIMES["bun-cbaec88"].first


@pytest.mark.parametrize("name", ["bun-866ebbb-odd"])
def test_odd_runs(opened: Opened, name: str) -> None:
    """What is not of its column's kind shows as junk of that one row; all nineteen are listed, future first."""
    runs = {run.id: run for run in opened.store.get_all_runs()}
    assert list(runs) == [17, 19, 18, *range(16, 0, -1)]
    pids = [run.junk["pid"] if run.pid is None else run.pid for _, run in sorted(runs.items())]
    assert pids == list(ODD_PIDS)
    assert {run.id: dict(run.junk) for run in runs.values() if run.junk} == {
        6: {"pid": 1.5},
        7: {"pid": "x"},
        **{number: {"args": args} for number, args in enumerate(ODD_ARGS, 8)},
        16: {"status": "paused"},
    }
    assert {run.id: run.args for run in runs.values() if run.args and run.id > 7} == {15: ["\ud800"]}
    assert (runs[16].status, runs[16].ended_at) == (None, 1795404715.228)
    assert runs[17].started_at == 4102444800
    assert [(runs[number].project_id, runs[number].status) for number in (18, 19)] == [(2, "crashed"), (2, "running")]
    assert all(opened.store.get_run_by_id(number) == run for number, run in runs.items())


@pytest.mark.parametrize("name", ["bun-866ebbb-odd"])
def test_odd_rows_spoil_no_list(opened: Opened, name: str) -> None:
    """Every query answers in the presence of odd rows, those whose project is gone included."""
    store = opened.store
    assert len(store.get_running_runs()) == 17
    assert [run.id for run in store.get_project_runs(2)] == [19, 18]
    assert store.get_crashed_runs() == []
    info = store.get_project_with_latest_run("/home/dev/odd")
    assert info is not None
    assert info.latest_run is not None
    assert (info.project.prompt, info.total_runs, info.latest_run.id) == ("", 17, 17)
    assert [store.get_run_by_pid(pid) is not None for pid in ODD_PIDS if isinstance(pid, int)] == [True] * 17
    claims = store.running_claims()
    assert [claim.pid for claim in claims] == [*ODD_PIDS[:15], 4999061, 4999063]
    assert (claims[-1].dir, claims[-1].cli) == (None, None)
    assert len(store.details()) == 19
    assert [summary.counts for summary in store.project_summaries()] == [{"paused": 1, "running": 16}]


@pytest.mark.parametrize("name", ["bun-866ebbb-odd"])
def test_odd_rows_settle(project: Path, name: str) -> None:
    """Rows with any pid, arguments or project can be settled, each by exactly its own claim."""
    place(name, project)
    with SupervisedStore(str(project)) as store:
        claims = store.running_claims()
        assert store.settle([(claim, ending()) for claim in claims]) == [True] * 17
        assert store.settle([(claim, ending()) for claim in claims]) == [False] * 17
        assert {detail.run.id for detail in store.details() if detail.ending} == {claim.run_id for claim in claims}
    assert rows(project, "SELECT status, count(*) FROM runs GROUP BY 1") == [("crashed", 18), ("paused", 1)]


@pytest.mark.parametrize("name", FIXTURES)
def test_row_counts(opened: Opened, name: str) -> None:
    """Each store has as many rows as its makers' notes list."""
    odd = name == "bun-866ebbb-odd"
    assert len(opened.store.get_all_runs()) == (19 if odd else 11)
    assert len(opened.store.get_all_projects()) == (1 if odd else 3)


def test_junk_of_every_kind(project: Path) -> None:
    """Any value in any column shows as junk there, is None or empty in its field, and leaves the other rows alone."""
    place("bun-866ebbb", project)
    execute(
        project,
        "UPDATE runs SET pid = x'00ff', exit_code = 'x', started_at = 'then', ended_at = 1e300 WHERE id = 1",
        "UPDATE runs SET args = x'5b5d', status = CAST(x'ff' AS TEXT), project_id = 'x' WHERE id = 2",
        "UPDATE runs SET started_at = -9223372036854775808, ended_at = 9e999 WHERE id = 3",
        "UPDATE projects SET cmd = x'00', prompt = x'01', created_at = 'x', last_run_at = 'x' WHERE id = 1",
    )
    with SupervisedStore(str(project)) as store:
        runs = {run.id: run for run in store.get_all_runs()}
        known = store.get_project_by_id(1)
        assert len(store.details()) == 11
        assert len(store.project_summaries()) == len(store.get_all_projects()) == 3
        assert [claim.run_id for claim in store.running_claims()] == [4, 5, 8]
    assert runs[1].junk == {"pid": b"\x00\xff", "exit_code": "x", "started_at": "then", "ended_at": 1e300}
    assert (runs[1].pid, runs[1].exit_code, runs[1].started_at, runs[1].ended_at) == (None, None, None, None)
    assert runs[2].junk == {"args": b"[]", "status": "\udcff", "project_id": "x"}
    assert (runs[2].args, runs[2].status, runs[2].project_id) == ([], None, None)
    assert runs[3].junk == {"started_at": -9223372036854775808, "ended_at": float("inf")}
    assert all(runs[number].junk == {} for number in range(4, 12))
    assert known is not None
    assert known.junk == {"cmd": b"\x00", "prompt": b"\x01", "created_at": "x", "last_run_at": "x"}
    assert (known.cmd, known.prompt, known.created_at, known.last_run_at) == ("", None, None, None)
