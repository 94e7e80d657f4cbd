"""What circumstances and requests make of an ending: the cause where they are the reason, evidence elsewhere."""

from __future__ import annotations

import signal

import pytest

from supervisor.ending import REQUEST_HOLDS, after_request, ending_of, ending_without_status, explained, not_started
from supervisor.models import Cause, Circumstances, Ending, Rank, Request, RunStatus

OOM = {"certain": True, "counter": "/sys/fs/cgroup/a: oom_kill", "before": 0, "after": 1}
KNOWN = {"source": "pidfd exit info"}
DIED = 1_795_500_000.0

EVERY_SIGNAL = range(1, 65)
CORE = 0x80


def ended(wait_status: int, *, own_owner: bool = False) -> Ending:
    """Return an ending by the kernel's word."""
    return ending_of(
        wait_status,
        rank=Rank.KERNEL,
        ended_at=DIED,
        detected_at=DIED + 1,
        settled_by="daemon",
        own_owner=own_owner,
        evidence=KNOWN,
    )


def exited(code: int, *, own_owner: bool = False) -> Ending:
    """Return the ending of a process that exited."""
    return ended(code << 8, own_owner=own_owner)


def lost(cause: Cause = Cause.LOST) -> Ending:
    """Return an ending whose status nobody knows."""
    return ending_without_status(cause, detected_at=DIED, settled_by="daemon", evidence=KNOWN)


def told(ending: Ending) -> tuple[RunStatus, int | None, Cause, dict[str, object]]:
    """Return what circumstances may change, with the evidence that they added."""
    added = {name: value for name, value in ending.evidence.items() if name not in KNOWN}
    assert ending.evidence.items() >= KNOWN.items(), "what was known stays"
    return ending.status, ending.exit_code, ending.cause, added


def test_no_circumstances_change_nothing() -> None:
    """An ending without circumstances is what it was."""
    for ending in (ended(9), ended(15), exited(0), exited(3), lost()):
        assert explained(ending, Circumstances()) == ending


def test_a_kill_with_a_risen_count_is_for_want_of_memory() -> None:
    """SIGKILL and a risen count of OOM kills make an OOM kill, with the counter as evidence."""
    found = explained(ended(signal.SIGKILL), Circumstances(oom=OOM))
    assert told(found) == (RunStatus.CRASHED, 137, Cause.OOM_KILLED, {"oom": OOM})
    assert (found.rank, found.ended_at, found.term_signal) == (Rank.KERNEL, DIED, 9)


@pytest.mark.parametrize("number", [number for number in EVERY_SIGNAL if number != signal.SIGKILL])
def test_no_other_signal_is_for_want_of_memory(number: int) -> None:
    """The kernel kills for want of memory by SIGKILL and by nothing else."""
    assert explained(ended(number), Circumstances(oom=OOM)) == ended(number)


@pytest.mark.parametrize("code", [0, 1, 137])
def test_an_exit_is_never_for_want_of_memory(code: int) -> None:
    """Who exits by itself, be it with a shell's 137, was not killed."""
    assert explained(exited(code), Circumstances(oom=OOM)) == exited(code)


def test_an_unknown_end_is_not_said_to_be_for_want_of_memory() -> None:
    """A run that is lost stays lost, however short memory was."""
    assert explained(lost(), Circumstances(oom=OOM)) == lost()


@pytest.mark.parametrize("number", EVERY_SIGNAL)
def test_a_closed_terminal_explains_a_hang_up_only(number: int) -> None:
    """SIGHUP comes from a closed terminal; the end by another signal has nothing to do with it."""
    found = explained(ended(number), Circumstances(terminal_gone="/dev/pts/3"))
    added = {"terminal_gone": "/dev/pts/3"} if number == signal.SIGHUP else {}
    assert told(found) == (*told(ended(number))[:3], added)


@pytest.mark.parametrize("number", EVERY_SIGNAL)
def test_an_ended_session_explains_its_signals_only(number: int) -> None:
    """A logout ends what it leaves behind by HUP, TERM and KILL: evidence there, and no other cause or status."""
    found = explained(ended(number), Circumstances(session_gone="/s/session-3.scope"))
    added = {"session_gone": "/s/session-3.scope"} if number in (1, 9, 15) else {}
    assert told(found) == (*told(ended(number))[:3], added)


def test_exits_have_nothing_to_do_with_terminals_and_sessions() -> None:
    """Who exits by itself was not hung up on."""
    around = Circumstances(terminal_gone="/dev/pts/3", session_gone="/s/session-3.scope")
    for ending in (exited(0), exited(129), lost()):
        assert explained(ending, around) == ending


DOWN = Circumstances(shutting_down=True)


@pytest.mark.parametrize("own_owner", [True, False])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_what_a_shutdown_ends_has_not_crashed(number: int, own_owner: bool) -> None:
    """A machine that goes down stops its programs, those too that should have recorded their end."""
    found = explained(ended(number, own_owner=own_owner), DOWN)
    assert told(found) == (RunStatus.FAILED, 128 + number, Cause.STOPPED, {"shutdown": True})


@pytest.mark.parametrize(("code", "status"), [(0, RunStatus.COMPLETED), (1, RunStatus.FAILED), (143, RunStatus.FAILED)])
def test_who_exits_unrecorded_in_a_shutdown_has_not_crashed(code: int, status: RunStatus) -> None:
    """A program that exits by itself as the machine goes down has had no time to record it."""
    found = explained(exited(code, own_owner=True), DOWN)
    assert told(found) == (status, code, Cause.STOPPED, {"shutdown": True})


def test_who_is_lost_in_a_shutdown_has_not_crashed() -> None:
    """An end that nobody saw in a shutdown is no crash either."""
    assert told(explained(lost(), DOWN)) == (RunStatus.FAILED, None, Cause.STOPPED, {"shutdown": True})


@pytest.mark.parametrize(
    "ending", [exited(0), exited(1), exited(143), ended(11 | CORE), ended(6), lost(Cause.REBOOTED)]
)
def test_a_shutdown_excuses_no_fault_of_ones_own(ending: Ending) -> None:
    """What ended for a reason of its own is not the shutdown's doing."""
    assert explained(ending, DOWN) == ending


def test_memory_may_run_out_in_a_shutdown() -> None:
    """An OOM kill is one at any time."""
    found = explained(ended(signal.SIGKILL), Circumstances(oom=OOM, shutting_down=True))
    assert told(found) == (RunStatus.CRASHED, 137, Cause.OOM_KILLED, {"oom": OOM})


@pytest.mark.parametrize(
    ("suspended", "stepped", "added"),
    [
        (0.9, 0.9, {}),
        (0, -0.9, {}),
        (1, 0, {"suspended_seconds": 1}),
        (3600.4, 0, {"suspended_seconds": 3600}),
        (-5, 0, {}),
        (0, 1, {"clock_stepped_seconds": 1}),
        (0, -86400.2, {"clock_stepped_seconds": -86400}),
        (60, -60, {"suspended_seconds": 60, "clock_stepped_seconds": -60}),
    ],
)
def test_clocks_are_evidence_only(suspended: float, stepped: float, added: dict[str, object]) -> None:
    """A suspend and a step of the clock are told from one second on, and are no reason for anything."""
    around = Circumstances(suspended=suspended, clock_stepped=stepped)
    for ending in (ended(9), ended(15), exited(0), lost()):
        assert told(explained(ending, around)) == (*told(ending)[:3], added)


# Requests.


def asked(order: str = "stop", *, before: float = 2.0) -> Request:
    """Return somebody's request, so many seconds before the end."""
    return Request("me (1000), pid 5", order, DIED - before)


def evidence(order: str = "stop") -> dict[str, object]:
    """Return what a request leaves as evidence."""
    return {"asked_by": "me (1000), pid 5", "asked_for": order}


def test_nobody_asked() -> None:
    """Without a request an ending is what it was."""
    assert after_request(ended(9), None) == ended(9)


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        ("stop", Cause.STOPPED),
        ("kill", Cause.STOPPED),
        ("timeout", Cause.TIMED_OUT),
        ("idle-timeout", Cause.STALLED),
        ("whatever", Cause.STOPPED),
        ("", Cause.STOPPED),
    ],
)
@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (ended(15), RunStatus.FAILED),
        (ended(9), RunStatus.FAILED),
        (ended(11 | CORE), RunStatus.FAILED),
        (ended(9, own_owner=True), RunStatus.FAILED),
        (exited(0), RunStatus.COMPLETED),
        (exited(0, own_owner=True), RunStatus.COMPLETED),
        (exited(3), RunStatus.FAILED),
        (lost(), RunStatus.FAILED),
    ],
    ids=["TERM", "KILL", "core", "own owner", "exit 0", "unrecorded", "exit 3", "lost"],
)
def test_who_ends_as_asked_has_not_crashed(ending: Ending, status: RunStatus, order: str, cause: Cause) -> None:
    """After a request a run has failed by its cause, or is completed, never crashed; code and signal stay."""
    found = after_request(ending, asked(order))
    assert told(found) == (status, ending.exit_code, cause, evidence(order))
    assert (found.term_signal, found.core_dumped, found.rank) == (ending.term_signal, ending.core_dumped, ending.rank)


@pytest.mark.parametrize(
    ("before", "holds"),
    [
        *((REQUEST_HOLDS, True), (REQUEST_HOLDS + 0.1, False), (86400, False)),
        *((0, True), (-1, True), (-1.1, False), (-86400, False)),
    ],
)
def test_a_request_holds_for_a_while(before: float, holds: bool) -> None:
    """A request of long ago has had no effect, and one after the end cannot have had any; a second is for clocks."""
    found = after_request(ended(11), asked(before=before))
    assert (found == ended(11)) is not holds
    assert found.status is (RunStatus.FAILED if holds else RunStatus.CRASHED)


def test_circumstances_stay_evidence_after_a_request() -> None:
    """Who was asked to end was asked, whatever else was the case."""
    around = Circumstances(oom=OOM, session_gone="/s/session-3.scope", suspended=5)
    found = after_request(explained(ended(9), around), asked("kill"))
    added = {"oom": OOM, "session_gone": "/s/session-3.scope", "suspended_seconds": 5, **evidence("kill")}
    assert told(found) == (RunStatus.FAILED, 137, Cause.STOPPED, added)


def test_the_given_ending_is_left_alone() -> None:
    """Endings are values: explaining one makes another."""
    ending = ended(9)
    before = ending.replaced(evidence=dict(ending.evidence))
    after_request(explained(ending, Circumstances(oom=OOM)), asked())
    assert ending == before
    assert KNOWN == {"source": "pidfd exit info"}


def test_a_command_that_did_not_start_has_no_circumstances() -> None:
    """Nothing around it explains a command that was not found."""
    ending = not_started(127, at=DIED, error="ENOENT")
    around = Circumstances(oom=OOM, terminal_gone="/dev/pts/3", session_gone="/s/session-3.scope", shutting_down=True)
    assert explained(ending, around) == ending
