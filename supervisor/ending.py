"""How a process's end becomes an ending: four statuses and a closed set of causes. Pure."""

from __future__ import annotations

import errno
import os
import signal

from supervisor.nouns import Cause, Circumstances, Ending, Rank, Request, RunStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_STOPPING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE})
"""Signals by which persons and terminals end a program; an end by one of them is no crash."""

REQUEST_HOLDS = 300.0
"""Seconds after a request to end within which an end is taken for its effect."""

_CAUSE_OF_ORDER = {"timeout": Cause.TIMED_OUT, "idle-timeout": Cause.STALLED}
_BY_SHUTDOWN = frozenset({Cause.STOPPED, Cause.KILLED, Cause.LOST, Cause.UNRECORDED})
"""What an end may look like that the machine brought about as it went down."""

_NOTEWORTHY = 1.0
"""Seconds of suspend, or of a clock's step, that are worth telling."""


def ending_of(
    wait_status: int,
    *,
    rank: Rank,
    ended_at: float,
    detected_at: float,
    settled_by: str,
    own_owner: bool = False,
    evidence: Mapping[str, object] | None = None,
) -> Ending:
    """Return the ending of a process from its wait(2) status.

    Args:
        wait_status: as waitpid(2) gives it, core flag included.
        rank: who says so.
        ended_at: moment of death, Unix seconds.
        detected_at: moment of detection, Unix seconds.
        settled_by: ``wrap``, ``daemon`` or ``scan``.
        own_owner: whether the process itself should have recorded its end: then it crashed, however it ended.
        evidence: what shows it, fit for JSON.
    """
    signalled = os.WIFSIGNALED(wait_status)
    if signalled:
        number = os.WTERMSIG(wait_status)
        status, cause, code = _of_signal(number)
    else:
        number = None
        code = os.WEXITSTATUS(wait_status)
        status, cause = (RunStatus.FAILED if code else RunStatus.COMPLETED), Cause.EXITED
    if own_owner:
        status = RunStatus.CRASHED
        if not signalled:
            cause = Cause.UNRECORDED
    return Ending(
        status=status,
        exit_code=code,
        cause=cause,
        rank=rank,
        ended_at=ended_at,
        detected_at=detected_at,
        settled_by=settled_by,
        term_signal=number,
        core_dumped=os.WCOREDUMP(wait_status) if signalled else None,
        evidence=evidence or {},
    )


def ending_without_status(
    cause: Cause, *, detected_at: float, settled_by: str, evidence: Mapping[str, object] | None = None
) -> Ending:
    """Return the ending of a run whose process is gone and whose exit status nobody can know."""
    return Ending(
        status=RunStatus.CRASHED,
        exit_code=None,
        cause=cause,
        rank=Rank.INFERENCE,
        ended_at=detected_at,
        detected_at=detected_at,
        settled_by=settled_by,
        evidence=evidence or {},
    )


def not_started(code: int, *, at: float, error: str) -> Ending:
    """Return the ending of a run whose command could not be started: 127 (not found) or 126 (not executable)."""
    return Ending(
        status=RunStatus.FAILED,
        exit_code=code,
        cause=Cause.NOT_STARTED,
        rank=Rank.OWNER,
        ended_at=at,
        detected_at=at,
        settled_by="wrap",
        evidence={"error": error},
    )


def ending_by_owner(wait_status: int, ended_at: float, refused: int | None) -> Ending:
    """Return the ending that ``wrap`` reads off its agent's wait(2) status.

    Args:
        wait_status: as waitpid(2) gives it.
        ended_at: when that was, in Unix seconds.
        refused: the errno with which it could not be started, None where it was.
    """
    if refused is not None:
        name = errno.errorcode.get(refused, str(refused))
        return not_started(os.WEXITSTATUS(wait_status), at=ended_at, error=name)
    return ending_of(
        wait_status,
        rank=Rank.OWNER,
        ended_at=ended_at,
        detected_at=ended_at,
        settled_by="wrap",
        evidence={"source": "waitpid"},
    )


def explained(ending: Ending, circumstances: Circumstances) -> Ending:
    """Return an ending with what the circumstances add: evidence, and where they are the reason, the cause.

    A SIGKILL with a risen count of OOM kills is an OOM kill. What the machine ends as it goes down has not crashed.
    """
    signal_number, cause, status = ending.term_signal, ending.cause, ending.status
    evidence: dict[str, object] = {}
    if signal_number == signal.SIGKILL and circumstances.oom is not None:
        cause = Cause.OOM_KILLED
        evidence["oom"] = dict(circumstances.oom)
    if signal_number == signal.SIGHUP and circumstances.terminal_gone:
        evidence["terminal_gone"] = circumstances.terminal_gone
    if signal_number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL) and circumstances.session_gone:
        evidence["session_gone"] = circumstances.session_gone
    if circumstances.shutting_down and cause in _BY_SHUTDOWN:
        evidence["shutdown"] = True
        status, cause = _of_order(ending), Cause.STOPPED
    if circumstances.suspended >= _NOTEWORTHY:
        evidence["suspended_seconds"] = round(circumstances.suspended)
    if abs(circumstances.clock_stepped) >= _NOTEWORTHY:
        evidence["clock_stepped_seconds"] = round(circumstances.clock_stepped)
    if not evidence:
        return ending
    return ending.replaced(status=status, cause=cause, evidence={**ending.evidence, **evidence})


def after_request(ending: Ending, request: Request | None) -> Ending:
    """Return the ending of a run that was asked to end: failed by the request's cause (or completed), never a crash.

    A request that is older than `REQUEST_HOLDS` at the end has had no effect, and changes nothing.
    """
    if request is None or not -1 <= ending.ended_at - request.at <= REQUEST_HOLDS:
        return ending
    return ending.replaced(
        status=_of_order(ending),
        cause=_CAUSE_OF_ORDER.get(request.order, Cause.STOPPED),
        evidence={**ending.evidence, "asked_by": request.by, "asked_for": request.order},
    )


def _of_order(ending: Ending) -> RunStatus:
    """Return the status of a run that ended as it was told to."""
    return RunStatus.COMPLETED if ending.exit_code == 0 else RunStatus.FAILED


def _of_signal(number: int) -> tuple[RunStatus, Cause, int]:
    if number in _STOPPING:
        return RunStatus.FAILED, Cause.STOPPED, 128 + number
    if number == signal.SIGKILL:
        return RunStatus.CRASHED, Cause.KILLED, 128 + number
    return RunStatus.CRASHED, Cause.SIGNALLED, 128 + number
