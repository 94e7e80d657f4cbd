"""How a wait(2) status becomes an ending."""

from __future__ import annotations

import pytest

from supervisor.ending import ending_of, ending_without_status, not_started
from supervisor.models import Cause, Ending, Rank, RunStatus

CORE = 0x80
STOPPING = {1: "HUP", 2: "INT", 3: "QUIT", 13: "PIPE", 15: "TERM"}
KILL = 9


def ending(wait_status: int, *, own_owner: bool = False) -> Ending:
    """Return what the daemon makes of a status."""
    return ending_of(
        wait_status, rank=Rank.KERNEL, ended_at=10.5, detected_at=11.5, settled_by="daemon", own_owner=own_owner
    )


def told(ending: Ending) -> tuple[RunStatus, int | None, Cause, int | None, bool | None]:
    """Return how a run ended, without who says so and when."""
    return ending.status, ending.exit_code, ending.cause, ending.term_signal, ending.core_dumped


def test_exit_0_is_completed() -> None:
    """A run that exits with 0 is completed."""
    assert told(ending(0)) == (RunStatus.COMPLETED, 0, Cause.EXITED, None, None)


@pytest.mark.parametrize("code", [1, 2, 3, 125, 126, 127, 128, 129, 130, 134, 137, 139, 143, 255])
def test_other_exit_codes_are_failed(code: int) -> None:
    """A run that exits with another code has failed with it, also where a shell means a signal by that code."""
    assert told(ending(code << 8)) == (RunStatus.FAILED, code, Cause.EXITED, None, None)


@pytest.mark.parametrize("number", STOPPING, ids=STOPPING.values())
def test_stopping_signals_are_no_crash(number: int) -> None:
    """The signals by which persons and terminals end programs stop a run: failed, never crashed."""
    assert told(ending(number)) == (RunStatus.FAILED, 128 + number, Cause.STOPPED, number, False)


def test_kill_is_a_crash() -> None:
    """SIGKILL is a crash whose sender is not known."""
    assert told(ending(KILL)) == (RunStatus.CRASHED, 137, Cause.KILLED, KILL, False)


@pytest.mark.parametrize("number", [number for number in range(1, 65) if number not in STOPPING and number != KILL])
def test_all_other_signals_are_crashes(number: int) -> None:
    """Every other signal, the real-time ones too, is a crash by that signal."""
    assert told(ending(number)) == (RunStatus.CRASHED, 128 + number, Cause.SIGNALLED, number, False)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 11, 24, 25, 31])
def test_core_flag_is_no_part_of_the_signal(number: int) -> None:
    """A core dump is told beside the signal, and changes nothing else."""
    plain, dumped = ending(number), ending(number | CORE)
    assert dumped.core_dumped is True
    assert told(dumped)[:4] == told(plain)[:4]


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 137, 143, 255])
def test_owner_that_exits_without_a_record_has_crashed(code: int) -> None:
    """A process that should have recorded its end, and exits without, has crashed; its code is kept."""
    assert told(ending(code << 8, own_owner=True)) == (RunStatus.CRASHED, code, Cause.UNRECORDED, None, None)


@pytest.mark.parametrize(
    ("number", "cause"), [(15, Cause.STOPPED), (1, Cause.STOPPED), (9, Cause.KILLED), (11, Cause.SIGNALLED)]
)
def test_owner_ended_by_a_signal_has_crashed(number: int, cause: Cause) -> None:
    """A process that should have recorded its end, and is ended by a signal, has crashed for that cause."""
    assert told(ending(number, own_owner=True)) == (RunStatus.CRASHED, 128 + number, cause, number, False)


def test_ending_carries_who_says_so_and_when() -> None:
    """Rank, times, who settled it and the evidence are kept as given."""
    found = ending_of(0, rank=Rank.OWNER, ended_at=1.5, detected_at=2.5, settled_by="wrap", evidence={"source": "wait"})
    assert (found.rank, found.ended_at, found.detected_at, found.settled_by) == (Rank.OWNER, 1.5, 2.5, "wrap")
    assert found.evidence == {"source": "wait"}
    assert found.status is RunStatus.COMPLETED, "nobody is its own owner unless so said"
    assert ending(0).evidence == {}


@pytest.mark.parametrize("cause", [Cause.LOST, Cause.REBOOTED, Cause.PID_REUSED])
def test_unknowable_status_is_a_crash_without_code(cause: Cause) -> None:
    """A run whose process is gone without a known status has crashed, has no exit code, and is only inferred."""
    found = ending_without_status(cause, detected_at=7.5, settled_by="scan")
    assert told(found) == (RunStatus.CRASHED, None, cause, None, None)
    assert (found.rank, found.ended_at, found.detected_at, found.settled_by) == (Rank.INFERENCE, 7.5, 7.5, "scan")
    assert found.evidence == {}
    shown = ending_without_status(cause, detected_at=7.5, settled_by="scan", evidence={"line": "F7"})
    assert shown.evidence == {"line": "F7"}


@pytest.mark.parametrize("code", [126, 127])
def test_command_that_did_not_start_is_failed(code: int) -> None:
    """A command that could not be started is failed with a shell's code, by its owner's word."""
    found = not_started(code, at=3.5, error="not found")
    assert told(found) == (RunStatus.FAILED, code, Cause.NOT_STARTED, None, None)
    assert (found.rank, found.ended_at, found.evidence) == (Rank.OWNER, 3.5, {"error": "not found"})
