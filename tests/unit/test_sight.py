"""The first sight of rows: what shows them to be of our PID namespace, and what a look may cost."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import Original, Processes
from nursery import Nursery, linux
from stage import NOBODY, absent, pidfds

from supervisor import sight
from supervisor.process import facts, judge, namespace
from supervisor.process.judge import Facts, Scene
from supervisor.process.stamp import stamp_of
from supervisor.sight import Sight
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

Seen = Callable[..., dict[int, Sight]]


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a store to write rows to."""
    with Original(project) as original:
        yield original


@pytest.fixture
def scene() -> Scene:
    """Give the test a scene that proves nothing: a PID namespace like any other's."""
    return dataclasses.replace(facts.scene(), pid_max=1 << 22, initial_pid_ns=False)


@pytest.fixture
def see(project: Path, scene: Scene) -> Iterator[Seen]:
    """Give the test a function that judges all running rows, by run id; closes what it opened."""
    opened: list[Sight] = []
    with SupervisedStore(str(project)) as store:

        def see(matched_before: bool = False) -> dict[int, Sight]:
            claims = store.running_claims()
            sights = sight.see(store, claims, matched_before=matched_before, scene=scene, look=look)
            opened.extend(sights)
            return {seen.claim.run_id: seen for seen in sights}

        yield see
    for seen in opened:
        seen.close()


def look(pid: int) -> tuple[Facts, int | None]:
    """Look, but for pids that are nobody's."""
    return (absent(pid), None) if pid >= NOBODY else facts.look(pid)


def test_absence_alone_proves_nothing(original: Original, see: Seen) -> None:
    """A row whose pid is not there may be of another PID namespace."""
    gone = original.create_run(NOBODY)
    assert see()[gone].verdict.line == "F8"


@pytest.mark.parametrize(
    ("shift", "line"), [(0, "F7"), (30, "F7"), (100, "F8"), (100_000, "F8"), (-50, "F8"), (-1_000_000, "F8")]
)
def test_a_row_that_fits_its_process_proves_the_namespace(
    original: Original, see: Seen, processes: Processes, shift: int, line: str
) -> None:
    """Another row that began with its process shows where the store's rows are from; an older process does not."""
    gone = original.create_run(NOBODY)
    original.create_run(Nursery(processes).born(), started_at=int(time.time()) + shift)
    assert see()[gone].verdict.line == line


def test_a_row_without_a_start_proves_nothing(original: Original, see: Seen, processes: Processes) -> None:
    """That some process has a row's pid is no proof."""
    gone = original.create_run(NOBODY)
    original.create_run(Nursery(processes).born(), started_at="yesterday")
    assert see()[gone].verdict.line == "F8"


def test_the_very_process_proves_the_namespace(
    original: Original, see: Seen, processes: Processes, project: Path
) -> None:
    """Another row whose stamped process is found proves it, whatever its start says."""
    gone, pid = original.create_run(NOBODY), Nursery(processes).born()
    living = original.create_run(pid, started_at="yesterday")
    with SupervisedStore(str(project)) as store:
        store.keep_stamps([(living, stamp_of(pid))], by="test")
    assert see()[gone].verdict.line == "F7"


def test_a_match_of_before_counts(original: Original, see: Seen) -> None:
    """A store that had a row of ours once is of our namespace."""
    gone = original.create_run(NOBODY)
    assert see(matched_before=True)[gone].verdict.line == "F7"


def test_on_a_shared_file_system_other_rows_prove_nothing(
    original: Original, see: Seen, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where other hosts can write rows too, one row of ours says nothing of the others."""
    monkeypatch.setattr(namespace, "on_shared_file_system", lambda _: True)
    gone = original.create_run(NOBODY)
    original.create_run(Nursery(processes).born())
    assert see()[gone].verdict.line == "F8"


@pytest.mark.parametrize("shared", [False, True])
def test_a_rows_own_stamp_proves_its_namespace(
    original: Original, see: Seen, project: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A row that was stamped in this boot and namespace is from here, also on a file system that other hosts share."""
    monkeypatch.setattr(namespace, "on_shared_file_system", lambda _: shared)
    gone, other = original.create_run(NOBODY), original.create_run(NOBODY + 1)
    with SupervisedStore(str(project)) as store:
        store.keep_stamps([(gone, stamp_of(NOBODY))], by="test")
    seen = see()
    assert (seen[gone].verdict.line, seen[other].verdict.line) == ("F7", "F8"), "and it speaks for no other"


@pytest.mark.parametrize("missing", ["boot_id", "pid_ns"])
def test_a_stamp_that_cannot_be_compared_proves_nothing(
    original: Original, see: Seen, project: Path, missing: str
) -> None:
    """A stamp without a boot or a namespace does not show that its row is from here."""
    gone = original.create_run(NOBODY)
    with SupervisedStore(str(project)) as store:
        stamp = stamp_of(NOBODY)
        stamp.update({missing: None})  # type: ignore[misc]  # one of two columns
        store.keep_stamps([(gone, stamp)], by="test")
    assert see()[gone].verdict.line == "F8"


def test_a_stamp_is_not_believed_where_we_do_not_know_our_own_place(project: Path, original: Original) -> None:
    """A daemon that cannot tell its own boot proves nothing by a stamp's."""
    gone = original.create_run(NOBODY)
    nowhere = dataclasses.replace(facts.scene(), pid_max=1 << 22, initial_pid_ns=False, boot_id=None)
    with SupervisedStore(str(project)) as store:
        store.keep_stamps([(gone, stamp_of(NOBODY))], by="test")
        (seen,) = sight.see(store, store.running_claims(), scene=nowhere, look=look)
    assert seen.verdict.line == "F8"


def test_a_stamp_of_another_pid_is_not_in_force(original: Original, see: Seen, project: Path) -> None:
    """A row whose pid was changed since it was stamped is judged without the stamp."""
    run = original.create_run(NOBODY)
    with SupervisedStore(str(project)) as store:
        store.keep_stamps([(run, stamp_of(NOBODY + 1))], by="test")
    assert see()[run].verdict.line == "F8"


def test_a_frozen_start_says_nothing(project: Path, see: Seen, processes: Processes) -> None:
    """In a store of the older original every run has one start, which speaks neither for nor against a process."""
    with Original(project) as original:
        original.connection.executescript(
            'drop table runs; create table "runs" ("id" integer primary key autoincrement, "pid" integer not null,'
            ' "project_id" integer not null, "status" text not null, "exit_code" integer,'
            ' "started_at" integer default 1600000000000 not null, "ended_at" integer,'
            " \"args\" text default '[]' not null)"
        )
        frozen = original.create_run(Nursery(processes).born())
        real = original.create_run(os.getppid(), started_at=1600000000001)
    seen = see()
    assert seen[frozen].verdict.line == "F18"
    assert seen[real].verdict.line != "F18"


def test_a_look_is_closed(original: Original, see: Seen, processes: Processes) -> None:
    """A sight keeps a pidfd until it is closed, which may be done twice."""
    original.create_run(Nursery(processes).born())
    before = pidfds()
    (seen,) = see().values()
    assert pidfds() == before + 1
    seen.close()
    seen.close()
    assert pidfds() == before


def test_a_look_that_cannot_be_judged_is_closed(
    original: Original, see: Seen, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the judging leaves no pidfd open: it would come again at every look."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    run = original.create_run(Nursery(processes).born())
    monkeypatch.setattr(judge, "judge", fail)
    before = pidfds()
    assert see()[run].verdict.line == "-"
    assert pidfds() == before
