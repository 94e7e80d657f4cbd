"""The attack itself: its oracle sees what is wrong, and its harness runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from chaos import apart, table
from chaos.oracle import Oracle, Row, Watch
from chaos.soak import Sample, growth
from chaos.world import FAR, Cut, DaemonLife, Kind, Run, Span, Store, Word, World
from chaos.writers import _Foreign
from kit import Processes
from nursery import linux

pytestmark = linux

ENDED = 1 << 42
"""Unix milliseconds, later than any end in these histories."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Give a store and a daemon that has been there from the start; moments are from 0 on."""
    world = World(tmp_path, stores=[Store(tmp_path / "p0")])
    world.daemons.append(DaemonLife(4, tmp_path / "log", 0.0, ready=1.0))
    return world


def ended(world: World, kind: Kind, status: int, **more: object) -> Run:
    """Add a run that was written at 10 and told to end at 20, with that wait(2) status."""
    run = world.new_run(kind, world.stores[0])
    run.started, run.up, run.written, run.connected = 9.0, 9.5, 10.0, 5.0
    run.told, run.dead, run.reaped, run.status = 20.0, 20.1, 20.2, status
    if kind is Kind.WRAP:
        run.owner_left, run.owner_status = 20.5, -(status & 0x7F) or status >> 8
    for name, value in more.items():
        setattr(run, name, value)
    return run


def row(run: Run, status: str, code: int | None, cause: str, rank: int) -> Row:
    """Return a row that says so."""
    return Row(run.number + 1, 77, status, code, ENDED, f'["{run.key}"]', cause, rank, ENDED, "daemon", 1)


def judge(world: World, *rows: Row) -> tuple[int, int, int]:
    """Return how many runs are wrong, missing and doubled."""
    found = Oracle(world, {str(world.stores[0].directory): list(rows)}).judge_all()
    return len(found.wrong), len(found.missing), len(found.doubled)


WRONG, RIGHT, MISSING, DOUBLED = (1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.mark.parametrize(
    ("kind", "truth", "said", "verdict"),
    [
        (Kind.WRAP, 0, ("completed", 0, "exited", 3), RIGHT),
        (Kind.WRAP, 3 << 8, ("failed", 3, "exited", 3), RIGHT),
        (Kind.WRAP, 3 << 8, ("failed", 3, "exited", 2), WRONG),  # its wrapper has recorded it
        (Kind.WRAP, 3 << 8, ("failed", 4, "exited", 3), WRONG),
        (Kind.WRAP, 9, ("crashed", 137, "killed", 3), RIGHT),
        (Kind.WRAP, 9, ("failed", 137, "stopped", 3), WRONG),
        (Kind.API, 15, ("failed", 143, "stopped", 2), RIGHT),
        (Kind.API, 15, ("crashed", None, "lost", 1), WRONG),
        (Kind.FOREIGN, 0, ("crashed", 0, "unrecorded", 2), RIGHT),
        (Kind.FOREIGN, 0, ("completed", 0, "exited", 2), WRONG),
        (Kind.FOREIGN, 11, ("crashed", 139, "signalled", 2), RIGHT),
        (Kind.FOREIGN, 11, ("crashed", 139, "killed", 2), WRONG),
        (Kind.FOREIGN, 11, ("crashed", None, "lost", 1), WRONG),
    ],
)
def test_a_row_must_say_how_its_agent_ended(
    world: World, kind: Kind, truth: int, said: tuple[str, int | None, str, int], verdict: tuple[int, int, int]
) -> None:
    """The oracle knows by heart what each ending makes of a row."""
    assert judge(world, row(ended(world, kind, truth), *said)) == verdict


def test_a_row_is_there_once(world: World) -> None:
    """A row that is gone, doubled, or nobody's is seen."""
    right = row(ended(world, Kind.API, 0), "completed", 0, "exited", 2)
    assert judge(world) == MISSING
    assert judge(world, right, right) == DOUBLED
    assert judge(world, right, right._replace(args='["chaos-9"]')) == WRONG


def test_an_agent_that_was_started_again_has_two_rows(world: World) -> None:
    """The first says how it fell, the second how it ended; neither may miss, and neither be there twice."""
    run = ended(world, Kind.WRAP, 0, falls=True, pid=78)
    fell = row(run, "crashed", 137, "killed", 3)
    second = row(run, "completed", 0, "exited", 3)._replace(id=9, pid=78)
    assert judge(world, fell, second) == RIGHT
    assert judge(world, second) == judge(world, fell) == MISSING
    assert judge(world, fell, fell, second) == judge(world, fell, second, second) == DOUBLED
    assert judge(world, fell._replace(exit_code=143), second) == (0, 1, 1)
    watch = Watch(world)
    watch.compare([fell])
    assert world.wrong == []


def test_the_first_may_be_lost_where_it_could_not_be_kept(world: World, tmp_path: Path) -> None:
    """A wrapper that could record the first end nowhere says so, and is believed where the state's disk was full."""
    run = ended(world, Kind.WRAP, 0, falls=True, pid=78, errors=tmp_path / "errors")
    fell = row(run, "crashed", None, "lost", 1)
    second = row(run, "completed", 0, "exited", 3)._replace(id=9, pid=78)
    (tmp_path / "errors").write_text("agent-yes-supervise: this run is not recorded: it is locked")
    assert judge(world, fell, second) == (0, 1, 1)
    world.state_full.spans.append(Span(8.0, 12.0))
    assert judge(world, fell, second) == RIGHT
    (tmp_path / "errors").write_text("")
    assert judge(world, fell, second) == (0, 1, 1)


def test_an_agent_that_did_not_begin_ends_with_its_wrapper(world: World) -> None:
    """Where a wrapper was killed before its agent began, nobody has told the agent to end."""
    run = ended(world, Kind.WRAP, 0, up=FAR, written=FAR, told=FAR, dead=9.1, owner_gone=9.1, owner_left=FAR)
    assert judge(world, row(run, "failed", 1, "exited", 2)) == RIGHT
    assert judge(world, row(run, "failed", 1, "exited", 2)._replace(ended_at=-(1 << 42))) == WRONG


def test_a_writer_knows_its_runs_from_others(tmp_path: Path) -> None:
    """A store may hold another run under the same id, whose key begins alike."""
    writer = _Foreign(tmp_path)
    (run_id,) = writer.create([(1, '["chaos-81"]')])
    assert not writer.update(run_id, "chaos-8", "completed", 0)
    assert writer.update(run_id, "chaos-81", "completed", 0)
    writer.close()


def test_what_an_owner_has_said_counts(world: World) -> None:
    """Once the store has taken an owner's word, no other does."""
    run = ended(world, Kind.API, 0, word=Word("failed", 104, said=True, connected=5.0))
    assert judge(world, row(run, "failed", 104, "exited", 2)) == RIGHT
    assert judge(world, row(run, "completed", 0, "exited", 2)) == WRONG


@pytest.mark.parametrize(
    ("happened", "verdict"),
    [
        (lambda _life: None, WRONG),
        (lambda life: setattr(life, "ended", 19.0), RIGHT),  # nobody was there
        (lambda life: setattr(life, "ready", 19.5), RIGHT),  # too short before
        (lambda life: setattr(life, "descriptors", 64), RIGHT),
    ],
)
def test_lost_is_allowed_only_where_nobody_could_know(
    world: World, happened: object, verdict: tuple[int, int, int]
) -> None:
    """A daemon that has watched a run for long enough has to know how it ended."""
    assert callable(happened)
    happened(world.daemons[0])
    assert judge(world, row(ended(world, Kind.FOREIGN, 9), "crashed", None, "lost", 1)) == verdict


def test_only_what_was_taken_may_be_missing(world: World) -> None:
    """A store that was put back as it had been must have what was written before, and a wrapper's end thereafter."""
    ended(world, Kind.API, 0)
    world.stores[0].cuts = [Cut(15.0)]
    assert judge(world) == RIGHT
    world.stores[0].cuts = [Cut(30.0, taken=12.0)]
    assert judge(world) == MISSING
    world.runs.clear()
    world.stores[0].cuts = [Cut(15.0)]
    ended(world, Kind.WRAP, 0)
    assert judge(world) == MISSING


def test_an_agent_that_lives_is_never_said_to_have_ended(world: World, processes: Processes) -> None:
    """That is seen while it lives, whatever the row says later."""
    agent = processes.living()
    run = world.new_run(Kind.API, world.stores[0])
    run.pid, run.pidfd = agent.pid, os.pidfd_open(agent.pid)
    watch = Watch(world)
    watch.compare([row(run, "crashed", None, "lost", 1)])
    assert len(world.wrong) == 1
    assert judge(world, row(run, "crashed", None, "lost", 1)) == WRONG
    agent.kill()
    agent.wait()
    watch.compare([row(run, "crashed", None, "lost", 1)])
    assert len(world.wrong) == 1
    os.close(run.pidfd)


def test_growth_is_measured_after_the_warm_up() -> None:
    """What grows once is none, what goes on growing is."""
    once = [Sample(at, 9000.0 if at < 100 else 30000.0, 20, 0, 0) for at in range(0, 1000, 5)]
    assert growth(once, 120)["rss"] == 0
    on = [sample._replace(rss=sample.rss + 4 * sample.at) for sample in once]
    assert growth(on, 120)["rss"] > 2000
    assert FAR > growth(on, 120)["descriptors"] == 0


@pytest.mark.skipif(not apart.is_possible(), reason="needs root or user namespaces")
@pytest.mark.timeout(150)
def test_the_attack_runs_and_can_fail(tmp_path: Path) -> None:
    """A moment of it, with three rows spoiled at its end, finds those and nothing else."""
    short = ["--stores", "2", "--burst", "40", "--seconds", "2", "--seed", "1", "--spoil", "--figures"]
    played = subprocess.run(
        apart.python("chaos", [*short, str(tmp_path / "figures")]),
        env={**apart.surroundings(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert ": 1 wrong, 1 lost, 1 doubled;" in played.stdout, played.stdout + played.stderr
    assert "0 ended unasked; tracebacks: 0" in played.stdout, played.stdout
    assert (played.returncode, played.stdout.splitlines()[-1]) == (1, "seed 1: FAILED")
    first = table.page(table.read(tmp_path / "figures")).partition("| --- |")[2].splitlines()[1]
    assert first.startswith("| 1 | 2 |")
