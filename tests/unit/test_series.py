"""When an agent is started again: decided by how it ended, by who has spoken, and by how often that has been."""

from __future__ import annotations

import signal

import pytest
from stores import ending

from supervisor.models import Cause, Ending, Rank, RunStatus
from supervisor.wrap.restarts import HEEDED_FOR, ON_CRASH, ON_FAILURE, Pace, is_restarted, was_told

CRASHED, FAILED, COMPLETED = RunStatus.CRASHED, RunStatus.FAILED, RunStatus.COMPLETED


def ended(status: RunStatus, cause: Cause, code: int | None) -> Ending:
    """Return an ending by its owner."""
    return ending(Rank.OWNER, status=status, cause=cause, exit_code=code)


@pytest.mark.parametrize(
    ("how", "on_crash", "on_failure"),
    [
        (ended(COMPLETED, Cause.EXITED, 0), False, False),
        (ended(FAILED, Cause.EXITED, 1), False, True),
        (ended(FAILED, Cause.EXITED, 255), False, True),
        (ended(FAILED, Cause.EXITED, 129), False, False),
        (ended(FAILED, Cause.EXITED, 130), False, False),
        (ended(FAILED, Cause.EXITED, 131), False, True),
        (ended(FAILED, Cause.EXITED, 143), False, False),
        (ended(CRASHED, Cause.SIGNALLED, 139), True, True),
        (ended(CRASHED, Cause.KILLED, 137), True, True),
        (ended(CRASHED, Cause.OOM_KILLED, 137), True, True),
        (ended(FAILED, Cause.STOPPED, 143), False, False),
        (ended(FAILED, Cause.STOPPED, 137), False, False),
        (ended(COMPLETED, Cause.STOPPED, 0), False, False),
        (ended(FAILED, Cause.TIMED_OUT, 143), False, False),
        (ended(FAILED, Cause.STALLED, 1), False, False),
        (ended(FAILED, Cause.NOT_STARTED, 127), False, False),
    ],
)
def test_which_ends(how: Ending, on_crash: bool, on_failure: bool) -> None:
    """Crashes are followed by a restart, and failures if so asked; what was told to end or never began is not."""
    assert is_restarted(ON_CRASH, how) is on_crash
    assert is_restarted(ON_FAILURE, how) is on_failure


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ({}, False),
        ({signal.SIGINT: 100.0}, True),
        ({signal.SIGINT: 100.0 - HEEDED_FOR}, True),
        ({signal.SIGINT: 99.9 - HEEDED_FOR}, False),
        ({signal.SIGQUIT: 99.0}, True),
        ({signal.SIGTERM: 1.0}, True),
        ({signal.SIGHUP: 1.0}, True),
        ({signal.SIGWINCH: 100.0, signal.SIGCONT: 100.0, signal.SIGUSR1: 100.0}, False),
    ],
)
def test_who_has_spoken(heard: dict[int, float], told: bool) -> None:
    """A TERM or HUP is the last word whenever it came; a Ctrl-C only shortly before the end."""
    assert was_told(heard, 100.0) is told


def pace(most: int = 100, chance: float = 0.0) -> Pace:
    """Return a pace whose chance is known."""
    return Pace(most=most, delay=1.0, longest=60.0, healthy_after=60.0, chance=lambda: chance)


def test_waits_double() -> None:
    """Each wait is twice the one before, up to the longest, however many there are."""
    waiting = pace(most=2000)
    assert [waiting.next(0.1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert {waiting.next(0.1) for _ in range(1900)} == {60}


def test_chance_shortens() -> None:
    """Chance takes up to a half of a wait."""
    assert pace(chance=1.0).next(0.1) == 0.5
    assert 0.5 <= (Pace(most=1, delay=1.0, longest=60.0, healthy_after=60.0).next(0.1) or 0) <= 1.0


def test_gives_up() -> None:
    """After so many restarts without a healthy run it gives up."""
    tired = pace(most=2)
    assert [tired.next(59.9) for _ in range(3)] == [1, 2, None]
    assert pace(most=0).next(0.1) is None


def test_health_makes_new() -> None:
    """A run that has lasted long enough makes the waits short and the restarts many again."""
    waiting = pace(most=2)
    assert [waiting.next(lasted) for lasted in (1, 1, 60, 1, 1)] == [1, 2, 1, 2, None]
