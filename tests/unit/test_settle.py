"""Who may say how a run ended: compare-and-set, ranks, and a wrapper's own record by its token."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import pytest
from kit import Original, Processes, rows
from stores import ending, execute, new_run, place, race, stamp

from supervisor.models import Cause, Claim, Ending, Rank, RunDetail, RunStatus
from supervisor.store import recording
from supervisor.store.supervision import SupervisedStore

OWNER, KERNEL, INFERENCE = Rank.OWNER, Rank.KERNEL, Rank.INFERENCE

KILLED = {"status": RunStatus.CRASHED, "exit_code": 137, "cause": Cause.KILLED, "term_signal": 9, "core_dumped": False}
EXITED = {"status": RunStatus.FAILED, "exit_code": 3, "cause": Cause.EXITED}

RACES = """
import json, sys
from stores import ending
from supervisor.store.supervision import SupervisedStore
with SupervisedStore(sys.argv[1]) as store:
    claims = store.running_claims()
    print(flush=True)
    sys.stdin.read()
    ours = [(claim, ending(settled_by=sys.argv[2])) for claim in claims]
    won = [store.settle(ours[start:start + 10]) for start in range(0, len(ours), 10)]
    print(json.dumps([claim.run_id for claim, wins in zip(claims, sum(won, [])) if wins]))
"""
"""A program that settles every run, ten at a time, and prints those that it has settled."""


@pytest.fixture
def store(project: Path) -> Iterator[SupervisedStore]:
    """Give the test a store with one project."""
    with SupervisedStore(str(project)) as store:
        store.upsert_project(str(project), "claude")
        yield store


def running(store: SupervisedStore, pid: int = 4999001) -> Claim:
    """Record a run and return what it claims."""
    run = store.create_run(pid=pid, project_id=1)
    return next(claim for claim in store.running_claims() if claim.run_id == run.id)


def detail(store: SupervisedStore, run_id: int) -> RunDetail:
    """Return all that is known of a run."""
    (found,) = store.details(run_id=run_id)
    return found


def row(store: SupervisedStore, run_id: int) -> tuple[object, ...]:
    """Return a run's status, exit code and end as they are stored."""
    return rows(Path(store.directory), "SELECT status, exit_code, ended_at FROM runs WHERE id = ?", (run_id,))[0]


def test_a_running_run_is_settled(store: SupervisedStore) -> None:
    """An ending is written into the row, in the original's units, and kept whole beside it."""
    claim, other = running(store), running(store)
    how = ending(KERNEL, evidence={"source": "pidfd", "odd": "\udcff", "deep": [1, {"a": None}]}, **KILLED)
    assert store.settle([(claim, how)]) == [True]
    assert row(store, claim.run_id) == ("crashed", 137, 1795500000250)
    found = detail(store, claim.run_id)
    assert found.ending == how
    assert (found.run.status, found.run.exit_code, found.run.ended_at) == ("crashed", 137, 1795500000.25)
    assert not found.overwritten
    assert row(store, other.run_id) == ("running", None, None)
    assert detail(store, other.run_id).ending is None


@pytest.mark.parametrize("changed", ["id", "pid", "start", "gone"])
def test_a_row_that_is_not_the_claims_is_left_alone(store: SupervisedStore, changed: str) -> None:
    """A claim is settled only while its id, pid and start are still those of the row."""
    claim = running(store)
    execute_in = Path(store.directory)
    if changed == "id":
        claim = replace(claim, run_id=claim.run_id + 1)
    elif changed == "gone":
        store.delete_run(claim.run_id)
    else:
        execute(execute_in, f"UPDATE runs SET {'pid' if changed == 'pid' else 'started_at'} = 4711")
    assert store.settle([(claim, ending())]) == [False]
    assert [run.status for run in store.get_all_runs()] == ([] if changed == "gone" else ["running"])
    assert rows(execute_in, "SELECT * FROM run_ending") == []


@pytest.mark.parametrize(
    "odd",
    [
        "'x'",
        "1.5",
        "x'00ff'",
        "''",
        "CAST(x'ff' AS TEXT)",
        "'x' || char(0) || 'y'",
        "-1",
        "9223372036854775807",
        "1e300",
    ],
)
@pytest.mark.parametrize("column", ["pid", "started_at"])
def test_odd_values_are_compared_as_they_are(store: SupervisedStore, column: str, odd: str) -> None:
    """A pid or a start of any kind is its row's own, spoils no settling beside it, and is no other's."""
    plain, claim = running(store, 4999002), running(store)
    execute(Path(store.directory), f"UPDATE runs SET {column} = {odd} WHERE id = {claim.run_id}")
    claims = {claim.run_id: claim for claim in store.running_claims()}
    (other,) = (claims[plain.run_id],)
    stale = replace(claims[claim.run_id], **{column: getattr(other, column)})
    assert store.settle([(stale, ending()), (other, ending()), (claims[claim.run_id], ending())]) == [False, True, True]


def test_null_values_are_compared_as_they_are(project: Path) -> None:
    """In a table that takes them, a missing pid and a missing start are equal to themselves and to nothing else."""
    (project / ".agent-yes").mkdir()
    execute(
        project,
        "CREATE TABLE projects (id INTEGER PRIMARY KEY, dir, cmd, prompt, created_at, updated_at, last_run_at)",
        "CREATE TABLE runs (id INTEGER PRIMARY KEY, pid, project_id, status, exit_code, started_at, ended_at, args)",
        "INSERT INTO runs (id, status) VALUES (1, 'running'), (2, 'running')",
    )
    with SupervisedStore(str(project)) as store:
        first, second = store.running_claims()
        assert (first.pid, first.started_at) == (None, None)
        wrong = [replace(first, pid=0), replace(first, started_at=0), replace(first, pid="")]
        assert store.settle([(claim, ending()) for claim in wrong]) == [False] * 3
        assert store.settle([(first, ending()), (second, ending())]) == [True, True]
        assert [run.junk for run in store.get_all_runs()] == [
            {"pid": None, "project_id": None, "started_at": None, "args": None}
        ] * 2


@pytest.mark.parametrize("first", list(Rank))
@pytest.mark.parametrize("second", list(Rank))
def test_ranks(store: SupervisedStore, first: Rank, second: Rank) -> None:
    """The owner's word beats the kernel's, and that an inference; an equal or a lower one loses, and is told so."""
    claim = running(store)
    before, after = ending(first, settled_by="first", **KILLED), ending(second, settled_by="second", **EXITED)
    assert store.settle([(claim, before)]) == [True]
    assert store.settle([(claim, after)]) == [second > first]
    found = detail(store, claim.run_id)
    assert found.ending == (after if second > first else before)
    assert found.run.exit_code == (3 if second > first else 137)
    assert not found.overwritten


def test_an_ending_that_its_owner_overwrote_stays(store: SupervisedStore) -> None:
    """What an owner has set over an inferred ending is not replaced by the kernel's word, and is shown as its own."""
    claim = running(store)
    inferred = ending()
    assert store.settle([(claim, inferred)]) == [True]
    store.update_run_status(claim.run_id, "completed", 0)
    assert store.settle([(claim, ending(KERNEL, **KILLED))]) == [False]
    found = detail(store, claim.run_id)
    assert (found.run.status, found.run.exit_code) == ("completed", 0)
    assert found.ending == inferred
    assert found.overwritten


@pytest.mark.parametrize("change", ["status = 'completed'", "exit_code = 1", "exit_code = NULL", "ended_at = 4711"])
def test_an_ending_is_replaced_only_as_a_whole(store: SupervisedStore, change: str) -> None:
    """A row of which anyone has changed any part since it was settled is not settled again, by whatever rank."""
    claim = running(store)
    store.settle([(claim, ending(exit_code=3))])
    execute(Path(store.directory), f"UPDATE runs SET {change}")
    before = row(store, claim.run_id)
    assert store.settle([(claim, ending(OWNER, **KILLED))]) == [False]
    assert row(store, claim.run_id) == before


def test_a_run_that_runs_again_is_settled_again(store: SupervisedStore) -> None:
    """A run that its owner set back to running can be settled by anyone, whatever was said before."""
    claim = running(store)
    assert store.settle([(claim, ending(KERNEL, **KILLED))]) == [True]
    store.update_run_status(claim.run_id, RunStatus.RUNNING)
    assert detail(store, claim.run_id).overwritten
    assert store.settle([(claim, ending())]) == [True]
    assert not detail(store, claim.run_id).overwritten


def test_an_end_that_others_recorded_stays(project: Path) -> None:
    """A run that a foreign writer has ended is not settled over."""
    with Original(project) as original, SupervisedStore(str(project)) as store:
        run_id = original.create_run(4999001)
        (claim,) = store.running_claims()
        original.connection.execute("UPDATE runs SET status = 'completed', exit_code = 0, ended_at = 1795400000000")
        assert store.settle([(claim, ending(OWNER, **KILLED))]) == [False]
        assert original.row(run_id) == ("completed", 0, 1795400000000)
        assert not detail(store, run_id).overwritten


def test_losers_are_told_one_by_one(store: SupervisedStore) -> None:
    """In one transaction some endings may be written and others not; each gets its own answer."""
    claims = [running(store) for _ in range(4)]
    store.settle([(claims[1], ending())])
    assert store.settle([(claim, ending()) for claim in claims]) == [True, False, True, True]
    assert store.settle([]) == []


def test_a_settling_that_fails_writes_nothing(store: SupervisedStore) -> None:
    """Where one ending cannot be written at all, none of its transaction is."""
    claim, other = running(store), running(store)
    bad = ending(evidence={"not fit for JSON": object()})
    with pytest.raises(TypeError):
        store.settle([(claim, ending()), (other, bad)])
    assert len(store.get_running_runs()) == 2
    assert store.settle([(claim, ending()), (other, ending())]) == [True, True]


def test_racing_settlers(project: Path, store: SupervisedStore, processes: Processes) -> None:
    """Of three processes that settle the same three hundred runs at once, exactly one wins each."""
    with store.transaction() as connection:
        for number in range(300):
            recording.insert_run(connection, 4999001 + number, 1, [])
    store.close()
    won = race(processes, *((RACES, str(project), name) for name in "abc"))
    assert sorted(chain.from_iterable(won)) == list(range(1, 301))
    by = dict(rows(project, "SELECT settled_by, count(*) FROM run_ending GROUP BY 1"))
    assert [by.get(name, 0) for name in "abc"] == [len(wins) for wins in won]
    assert rows(project, "SELECT status, count(*) FROM runs GROUP BY 1") == [("crashed", 300)]


def test_begin_run(project: Path) -> None:
    """A wrapper's run begins with its project, its token, its own command, and who its process and its owner are."""
    with SupervisedStore(str(project)) as store:
        run_id = recording.begin_run(store.connection, new_run(project, "t1", args=["-p", "日本語"], prompt="go"))
        found = detail(store, run_id)
        known = store.get_project_by_dir(str(project))
    assert known is not None
    assert (known.cmd, known.prompt) == ("claude", "go")
    assert known.last_run_at is not None
    assert (found.run.pid, found.run.status, found.run.args) == (4999001, "running", ["-p", "日本語"])
    assert (found.dir, found.cli, found.ending) == (str(project), "claude", None)
    process = found.process
    assert process is not None
    assert (process.token, process.cwd, process.stamped_by) == ("t1", str(project), "wrap")
    assert (process.owner_pid, process.owner_start_ticks) == (4999000, 4242)
    assert asdict(process.stamp) == stamp(4999001, started_at=process.stamp.started_at)
    assert found.run.started_at == int(process.stamp.started_at or 0)


def test_begin_run_keeps_the_projects_default(project: Path) -> None:
    """A known project keeps its command and prompt, unless they are to become its default; None is no prompt."""
    with SupervisedStore(str(project)) as opened:

        def begin(token: str, cli: str, prompt: str | None, set_default: bool) -> tuple[str, str | None]:
            run = new_run(project, token, cli=cli, prompt=prompt, set_default=set_default)
            assert detail(opened, recording.begin_run(opened.connection, run)).cli == cli
            (known,) = opened.get_all_projects()
            return known.cmd, known.prompt

        assert begin("t1", "claude", "first", False) == ("claude", "first")
        assert begin("t2", "codex", "second", False) == ("claude", "first")
        assert begin("t3", "codex", None, True) == ("codex", "first")
        assert begin("t4", "gemini", "third", True) == ("gemini", "third")


@pytest.mark.parametrize("before", [None, INFERENCE, KERNEL])
def test_finish_run(project: Path, before: Rank | None) -> None:
    """A wrapper finds its run by its token and has the last word over all others."""
    ours = new_run(project)
    how = ending(OWNER, **EXITED)
    with SupervisedStore(str(project)) as store:
        run_id = recording.begin_run(store.connection, ours)
        recording.begin_run(store.connection, new_run(project, "another"))
        if before is not None:
            claim = store.running_claims()[0]
            assert store.settle([(claim, ending(before, **KILLED))]) == [True]
        assert recording.finish_run(store.connection, ours, how)[0] == run_id
        found = detail(store, run_id)
        assert (found.run.status, found.run.exit_code, found.ending) == ("failed", 3, how)
        assert not found.overwritten
        assert [run.id for run in store.get_running_runs()] == [run_id + 1]
        claim = replace(store.running_claims()[0], run_id=run_id)
        assert store.settle([(claim, ending(KERNEL, **KILLED))]) == [False]


def test_finish_run_of_an_unknown_token(project: Path) -> None:
    """A run that the store has never heard of is inserted whole, with the start that its process had."""
    began = 1_795_000_000.75
    ours = new_run(project, "lost", stamp=stamp(4999001, started_at=began), prompt="go")
    with SupervisedStore(str(project)) as store:
        run_id, _ = recording.finish_run(store.connection, ours, ending(OWNER, **EXITED))
        found = detail(store, run_id)
        assert (found.run.started_at, found.run.status, found.run.exit_code) == (1_795_000_000, "failed", 3)
        assert found.process is not None
        assert (found.process.token, found.dir) == ("lost", str(project))
        assert recording.finish_run(store.connection, ours, ending(OWNER, **EXITED))[0] == run_id
        assert len(store.get_all_runs()) == 1


def test_finish_run_in_a_store_that_was_made_anew(project: Path, tmp_path: Path) -> None:
    """Ids start again in a new store: the token brings the run as a new one, and touches no other's row."""
    ours = new_run(project, "ours")
    with SupervisedStore(str(project)) as store:
        run_id = recording.begin_run(store.connection, ours)
    (project / ".agent-yes").rename(tmp_path / "moved away")
    with SupervisedStore(str(project)) as store:
        assert recording.begin_run(store.connection, new_run(project, "theirs", pid=4999002)) == run_id
        assert recording.finish_run(store.connection, ours, ending(OWNER, **EXITED))[0] == run_id + 1
        assert row(store, run_id) == ("running", None, None)
        assert store.get_running_runs()[0].pid == 4999002


def test_a_start_that_is_known_is_recorded_in_a_frozen_store(project: Path) -> None:
    """Where the column's default says nothing, a wrapper's run says all the same when it started."""
    place("bun-cbaec88", project)
    with SupervisedStore(str(project)) as store:
        run_id = recording.begin_run(
            store.connection, new_run(project, stamp=stamp(4999001, started_at=1_795_000_000.5))
        )
        claim = next(claim for claim in store.running_claims() if claim.run_id == run_id)
        assert claim.started_at == 1_795_000_000
        assert not store.start_says_nothing(claim.started_at)
        recording.begin_run(store.connection, new_run(project, "t2", stamp=stamp(4999001, started_at=None)))
        assert store.start_says_nothing(store.running_claims()[-1].started_at)


def test_tokens_are_unique(project: Path) -> None:
    """One token names one run: beginning it a second time changes nothing."""
    with SupervisedStore(str(project)) as store:
        first = recording.begin_run(store.connection, new_run(project))
        assert recording.begin_run(store.connection, new_run(project, pid=4999002)) == first
        assert recording.finish_run(store.connection, new_run(project), ending(OWNER, **EXITED))[0] == first
        assert [run.pid for run in store.get_all_runs()] == [4999001]


def test_keep_stamps(store: SupervisedStore) -> None:
    """The stamp taken at first sight is kept, one that is there stays, and a run that is gone is passed over."""
    known = running(store)
    with store.transaction() as connection:
        unknown = recording.insert_run(connection, 4999002, 1, [])
    taken = [(run_id, stamp(4999002, start_ticks=1)) for run_id in (99, known.run_id, unknown)]
    store.keep_stamps(taken, by="daemon")
    by_id = {claim.run_id: claim.process for claim in store.running_claims()}
    assert by_id[known.run_id] == known.process
    process = by_id[unknown]
    assert process is not None
    assert (process.stamped_by, process.stamp.start_ticks, process.owner_pid, process.token) == (
        "daemon",
        1,
        None,
        None,
    )
    store.keep_stamps([(unknown, stamp(4999002, start_ticks=2))], by="scan")
    assert store.running_claims()[-1].process == process
    assert rows(Path(store.directory), "SELECT count(*) FROM run_process WHERE run_id = 99") == [(0,)]


def test_supervision_rows_that_make_no_sense(store: SupervisedStore) -> None:
    """A stamp or an ending that someone has garbled is as none, and spoils no list."""
    claims = [running(store) for _ in range(3)]
    store.settle([(claim, ending(KERNEL)) for claim in claims])
    execute(
        Path(store.directory),
        "UPDATE run_process SET pid = 'x' WHERE run_id = 1",
        "UPDATE run_process SET host = 7, start_ticks = 'x', owner_pid = 1.5, started_at = 'x' WHERE run_id = 2",
        "UPDATE run_ending SET cause = 'bad luck' WHERE run_id = 1",
        "UPDATE run_ending SET evidence = '[not json', ended_at = 'x', term_signal = 'x' WHERE run_id = 2",
        "UPDATE run_ending SET rank = 'x' WHERE run_id = 3",
    )
    third, second, first = store.details()
    assert (first.process, first.ending, third.ending) == (None, None, None)
    assert second.process is not None
    stamped = second.process.stamp
    assert (stamped.start_ticks, stamped.started_at, second.process.owner_pid) == (None, None, None)
    assert second.ending is not None
    assert (second.ending.evidence, second.ending.ended_at, second.ending.term_signal) == ({}, 0, None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [4, 3, 2, 1]),
        ({"limit": 2}, [4, 3]),
        ({"limit": 0}, []),
        ({"run_id": 2}, [2]),
        ({"run_id": 99}, []),
        ({"run_id": 1 << 70}, []),
        ({"pid": 4999001}, [3, 1]),
        ({"statuses": [RunStatus.FAILED]}, [2]),
        ({"statuses": [RunStatus.FAILED, RunStatus.RUNNING]}, [4, 2, 1]),
        ({"since": 1_700_000_100.0}, [4, 3]),
        ({"since": 1_700_000_100.5}, [4]),
        ({"ended_since": 1_700_000_250.0}, [3]),
        ({"statuses": [RunStatus.RUNNING], "since": 1_700_000_050.0, "limit": 5}, [4]),
    ],
)
def test_details(store: SupervisedStore, asked: dict[str, object], found: list[int]) -> None:
    """Runs are chosen by id, pid, status, start and end, whatever the units of their times, and come newest first."""
    for number in range(1, 5):
        store.create_run(pid=4999001 if number % 2 else 4999002, project_id=1)
    execute(
        Path(store.directory),
        "UPDATE runs SET started_at = 1700000000",
        "UPDATE runs SET started_at = 1700000010000, status = 'failed', ended_at = 1700000200000 WHERE id = 2",
        "UPDATE runs SET started_at = 1700000100, status = 'crashed', ended_at = 1700000300 WHERE id = 3",
        "UPDATE runs SET started_at = 1700000200000 WHERE id = 4",
    )
    assert [detail.run.id for detail in store.details(**asked)] == found  # type: ignore[arg-type]  # as named above


def test_project_summaries(store: SupervisedStore) -> None:
    """A project's runs are counted by status, and the rate is that of the ended ones, none where none has ended."""
    for status in ("completed", "completed", "completed", "failed"):
        store.update_run_status(store.create_run(pid=1, project_id=1).id, status)
    store.create_run(pid=1, project_id=1)
    store.upsert_project("/idle", "codex")
    busy, idle = store.project_summaries()
    assert (busy.counts, busy.success_rate) == ({"completed": 3, "failed": 1, "running": 1}, 0.75)
    assert (idle.project.dir, idle.counts, idle.success_rate) == ("/idle", {}, None)


def test_an_ending_knows_its_types(store: SupervisedStore) -> None:
    """An ending that is read is equal to the one that was written, its enums and its absences included."""
    written: list[Ending] = [
        ending(KERNEL, core_dumped=True, term_signal=11, cause=Cause.SIGNALLED, exit_code=139),
        ending(KERNEL, core_dumped=False, term_signal=15, cause=Cause.STOPPED, status=RunStatus.FAILED, exit_code=143),
        ending(OWNER, status=RunStatus.COMPLETED, exit_code=0, cause=Cause.EXITED),
        ending(cause=Cause.REBOOTED),
    ]
    claims = [running(store) for _ in written]
    assert store.settle(list(zip(claims, written, strict=True))) == [True] * 4
    assert [found.ending for found in reversed(store.details())] == written


def test_overwritten_needs_an_ending(store: SupervisedStore) -> None:
    """A row that nobody has settled is not overwritten, however it ended."""
    claim = running(store)
    assert not detail(store, claim.run_id).overwritten
    store.mark_run_as_crashed(claim.run_id)
    assert not detail(store, claim.run_id).overwritten


def test_an_unusable_connection_is_an_error(store: SupervisedStore) -> None:
    """Settling while another holds the lock for too long says so, and can be tried again."""
    claim = running(store)
    with SupervisedStore(store.directory, timeout=0.05) as other:
        assert len(other.running_claims()) == 1
        with store.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.settle([(claim, ending())])
        assert other.settle([(claim, ending())]) == [True]
