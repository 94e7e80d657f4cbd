"""Rows whose pid seems to be another process's by now: what it takes to say so, and that nothing less does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from kit import Original, Processes
from nursery import Nursery, linux
from stage import Stage, pidfds
from strangers import stranger

from supervisor import sight
from supervisor.clock_steps import ClockSteps
from supervisor.models import Cause, Rank
from supervisor.process import namespace
from supervisor.process.judge import Facts, Scene, Start, State, Verdict, judge
from supervisor.process.procfs import Stat
from supervisor.process.surroundings import Clocks
from supervisor.sight import Sight
from supervisor.store.supervision import SupervisedStore

PID, BORN, LATE = 4242, 1_700_000_000.0, 121.01
LONG_AGO = 10_000
SCENE = Scene("here", "boot", 1, 10, 2, own_pid=77, pid_max=32768, initial_pid_ns=True)
LIVING = Facts(PID, True, Stat(state="S", ppid=1, start_ticks=500), BORN, 900)
ZOMBIE = Facts(PID, True, Stat(state="Z", ppid=1, start_ticks=500, threads=1), BORN, 900)


def judged(
    signature: bool | None,
    *,
    late: float = LATE,
    proven: bool = True,
    unambiguous: bool = True,
    stepped: bool = False,
    facts: Facts = LIVING,
) -> Verdict:
    """Judge a row without stamp whose process was created so many seconds after the row's start."""
    start = Start(BORN - late, 1.0, unambiguous=unambiguous, clock_stepped=stepped)
    return judge(None, start, facts, SCENE, namespace_proven=proven, signature=signature)


@pytest.mark.parametrize("late", [-1e9, 0, 3, 100, LATE, 1e9])
@pytest.mark.parametrize("proven", [True, False])
def test_a_process_that_looks_like_the_agent_is_it(late: float, proven: bool) -> None:
    """F17: looks decide before any time does, also in a namespace that is not proven."""
    verdict = judged(True, late=late, proven=proven, unambiguous=False, stepped=True)
    assert (verdict.line, verdict.state, verdict.bind, verdict.identified) == ("F17", State.ALIVE, True, True)


def test_a_stranger_that_is_too_young_has_the_pid_of_a_dead_run() -> None:
    """F21: with every proof there is, the run is dead for the reason of a reused pid, once a second look agrees."""
    verdict = judged(False)
    assert (verdict.line, verdict.state, verdict.cause) == ("F21", State.DEAD, Cause.PID_REUSED)
    assert not verdict.certain
    assert not verdict.bind
    assert "certainly is no agent" in verdict.reason


@pytest.mark.parametrize(
    "missing",
    [{"signature": None}, {"proven": False}, {"unambiguous": False}, {"stepped": True}],
    ids=["looks", "namespace", "start", "clock"],
)
def test_whatever_is_missing_leaves_it_unknown(missing: dict[str, bool | None]) -> None:
    """F22: one proof too few, and the row is unknown, its process watched for the day it dies."""
    known: dict[str, bool | None] = {"signature": False, **missing}
    verdict = judged(known.pop("signature"), **known)  # type: ignore[arg-type]  # the flags are bool
    assert (verdict.line, verdict.state, verdict.bind, verdict.identified) == ("F22", State.UNKNOWN, True, False)


def test_every_combination() -> None:
    """Of all combinations only the one with every proof kills."""
    for signature, proven, unambiguous, stepped, late in itertools.product(
        (True, False, None), (True, False), (True, False), (True, False), (-50, 2.9, 3.1, 119.9, 120.1, 1e6)
    ):
        verdict = judged(signature, late=late, proven=proven, unambiguous=unambiguous, stepped=stepped)
        if signature is True:
            expected = "F17"
        elif late < 3:
            expected = "F19"
        elif late < 120:
            expected = "F20"
        else:
            expected = "F21" if signature is False and proven and unambiguous and not stepped else "F22"
        assert verdict.line == expected
        assert (verdict.state is State.DEAD) is (expected == "F21")


@settings(max_examples=300, deadline=None)
@given(
    late=strategies.floats(-1e12, 1e12),
    signature=strategies.sampled_from([True, None]),
    unambiguous=strategies.booleans(),
    stepped=strategies.booleans(),
)
def test_wall_clock_time_never_kills(late: float, signature: bool | None, unambiguous: bool, stepped: bool) -> None:
    """However far the clocks are apart, a living process that may be the agent is never called dead.

    jgravelle/jcodemunch-mcp#451, realiti4/claude-swap#299.
    """
    verdict = judged(signature, late=late, unambiguous=unambiguous, stepped=stepped)
    assert verdict.state is not State.DEAD
    assert verdict.bind


@pytest.mark.parametrize(("signature", "identified"), [(True, True), (None, False), (False, False)])
def test_a_strangers_zombie_does_not_lend_its_exit_status(signature: bool | None, identified: bool) -> None:
    """F13: a zombie ends the row; its exit status is the row's only if it looked like the agent."""
    verdict = judged(signature, facts=ZOMBIE)
    assert (verdict.line, verdict.identified) == ("F13", identified)


# From here on with real processes.

See = Callable[..., dict[int, Sight]]


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a store to write rows to."""
    with Original(project) as original:
        yield original


@pytest.fixture
def see(project: Path) -> Iterator[See]:
    """Give the test a function that judges all running rows, by run id; closes what it opened."""
    opened: list[Sight] = []
    with SupervisedStore(str(project)) as store:

        def see(*, matched_before: bool = True, steps: ClockSteps | None = None) -> dict[int, Sight]:
            sights = sight.see(store, store.running_claims(), matched_before=matched_before, steps=steps)
            opened.extend(sights)
            return {seen.claim.run_id: seen for seen in sights}

        yield see
    for seen in opened:
        seen.close()


def see_one(original: Original, see: See, pid: int, started_at: object) -> Sight:
    """Write a row and return how it is seen."""
    run = original.create_run(pid, started_at=started_at)
    return see()[run]


def ago(seconds: float = LONG_AGO) -> int:
    """Return a Unix time in the past, in whole seconds."""
    return int(time.time() - seconds)


@linux
def test_a_real_stranger_has_a_dead_runs_pid(
    original: Original, see: See, processes: Processes, tmp_path: Path
) -> None:
    """An unrelated program, in another folder, with a row's pid and much younger than it: that run is dead."""
    run = original.create_run(stranger(processes, tmp_path / "elsewhere").pid, started_at=ago())
    for _ in range(2):
        seen = see()[run]
        assert (seen.verdict.line, seen.verdict.cause, seen.looks) == ("F21", Cause.PID_REUSED, False)


@linux
def test_two_looks_settle_it(project: Path, processes: Processes, tmp_path: Path) -> None:
    """The first look only suspects; the second, five seconds later, settles the run as crashed: its pid is reused."""
    pid = stranger(processes, tmp_path / "elsewhere").pid
    with Stage(project) as stage:
        stage.original.create_run(Nursery(processes).born())  # shows where the store's rows are from
        run = stage.run(pid, started_at=ago())
        stage.tick()
        assert stage.row(run) == ("running", None)
        stage.pass_(4.9)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.2)
        assert stage.ending(run) == ("crashed", None, Cause.PID_REUSED, Rank.INFERENCE)


@linux
@pytest.mark.parametrize("started", [10_000, 3600, 150])
def test_a_young_process_is_unknown_as_long_as_its_looks_say_nothing(
    original: Original, see: See, processes: Processes, tmp_path: Path, started: int
) -> None:
    """An interpreter may run an agent, so a young one with a row's pid is unknown, and kept in sight."""
    pid = processes.living(cwd=tmp_path).pid
    seen = see_one(original, see, pid, ago(started))
    assert (seen.verdict.line, seen.verdict.state, seen.looks) == ("F22", State.UNKNOWN, None)
    assert seen.descriptor is not None


@linux
def test_a_process_in_the_projects_directory_may_be_the_agent(
    original: Original, see: See, processes: Processes, project: Path
) -> None:
    """A program of another name that works in the project's directory, or below, is unknown."""
    below = project / "below"
    for folder in (project, below):
        seen = see_one(original, see, stranger(processes, folder).pid, ago())
        assert (seen.verdict.line, seen.looks) == ("F22", None)


@linux
@pytest.mark.parametrize("name", ["claude", "claude-code", "my-claude"])
def test_a_process_with_the_agents_name_may_be_the_agent(
    original: Original, see: See, processes: Processes, tmp_path: Path, name: str
) -> None:
    """A program that bears the agent's name, or part of it, in another directory is unknown."""
    seen = see_one(original, see, stranger(processes, tmp_path / "elsewhere", name).pid, ago())
    assert (seen.verdict.line, seen.looks) == ("F22", None)


@linux
def test_a_process_with_the_agents_name_in_its_directory_is_the_agent(
    original: Original, see: See, processes: Processes, project: Path
) -> None:
    """Name and directory together tie a process to the row, whatever the times say."""
    seen = see_one(original, see, stranger(processes, project, "claude").pid, ago())
    assert (seen.verdict.line, seen.looks, seen.matched) == ("F17", True, True)


@linux
@pytest.mark.parametrize(("fraction", "line"), [(True, "F22"), (False, "F18")], ids=["fraction", "date"])
def test_a_start_that_the_original_does_not_write_kills_nobody(
    original: Original, see: See, processes: Processes, tmp_path: Path, fraction: bool, line: str
) -> None:
    """A start with a fraction, or as text, may mean anything: no proof against the process that has the pid."""
    started = ago() + 0.5 if fraction else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ago()))
    seen = see_one(original, see, stranger(processes, tmp_path / "elsewhere").pid, started)
    assert (seen.verdict.line, seen.looks) == (line, False)


@linux
@pytest.mark.parametrize("started", [5, 1000, 86400 * 365 * 11])
def test_a_number_that_is_hardly_a_time_kills_nobody(
    original: Original, see: See, processes: Processes, tmp_path: Path, started: int
) -> None:
    """A start decades ago is another number read as a time."""
    seen = see_one(original, see, stranger(processes, tmp_path / "elsewhere").pid, started)
    assert (seen.verdict.line, seen.looks) == ("F22", False)


@linux
def test_a_step_of_the_clock_since_the_start_saves_the_process(
    original: Original, see: See, processes: Processes, tmp_path: Path
) -> None:
    """Across a step of the clock the row's start and the process's cannot be compared."""
    run = original.create_run(stranger(processes, tmp_path / "elsewhere").pid, started_at=ago())
    offsets = iter([Clocks(1000.0, 0), Clocks(1000.0 + LONG_AGO, 0)])
    steps = ClockSteps(lambda: next(offsets), now=lambda: ago(LONG_AGO - 1))
    steps.observe()
    assert see(steps=steps)[run].verdict.line == "F21", "no step is known yet"
    assert steps.observe() == LONG_AGO
    assert see(steps=steps)[run].verdict.line == "F22"
    assert see()[run].verdict.line == "F22", "as those know who ask later"


@linux
def test_a_step_before_the_start_proves_nothing(
    original: Original, see: See, processes: Processes, tmp_path: Path
) -> None:
    """A step that was over when the row was written does not touch it."""
    run = original.create_run(stranger(processes, tmp_path / "elsewhere").pid, started_at=ago())
    offsets = iter([Clocks(1000.0, 0), Clocks(5000.0, 0)])
    steps = ClockSteps(lambda: next(offsets), now=lambda: ago(LONG_AGO + 10))
    steps.observe()
    steps.observe()
    assert see(steps=steps)[run].verdict.line == "F21"


@linux
def test_without_a_proven_namespace_nobody_is_dead(
    original: Original, see: See, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rows may be of another PID namespace, a stranger with a row's pid says nothing."""
    monkeypatch.setattr(namespace, "only_we_reach", lambda *_: False)
    run = original.create_run(stranger(processes, tmp_path / "elsewhere").pid, started_at=ago())
    assert see(matched_before=False)[run].verdict.line == "F22"
    original.create_run(Nursery(processes).born())
    assert see(matched_before=False)[run].verdict.line == "F21", "another row shows where they are from"


@linux
def test_nothing_stays_open(original: Original, see: See, processes: Processes, tmp_path: Path) -> None:
    """What a look at a stranger opens is closed with it."""
    before = pidfds()
    run = original.create_run(stranger(processes, tmp_path / "elsewhere").pid, started_at=ago())
    see()[run].close()
    assert pidfds() == before
