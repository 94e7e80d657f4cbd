"""Ending a run's agent because a person says so: only the very process that was recorded, never a bare pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from supervisor import sight
from supervisor.ending import REQUEST_HOLDS, ending_of, ending_without_status
from supervisor.errors import SuperviseError
from supervisor.models import Cause, Claim, Ending, Rank, RunProcess, RunStatus
from supervisor.process import command, exits, facts, pidfd, procfs, signature
from supervisor.process.judge import State
from supervisor.process.stamp import stamp_of
from supervisor.sight import Sight
from supervisor.store import connection as connections
from supervisor.store.supervision import SupervisedStore

KILL_WAIT = 5.0
"""Seconds that a process may take to vanish after SIGKILL before we say that it does not."""

OWNER_WAIT = 3.5
"""Seconds that the run's living owner has to record the ending before we do."""

OTHERS_WAIT = 1.0
"""Seconds for a caller that left no trace to record what may have been a plain exit 0, or for a status to show."""

_REQUEST_LASTS = REQUEST_HOLDS / 2

_PROVEN = frozenset({"F15", "F17", "F19"})
"""Verdicts that show a process to be the run's own: those by which we may signal it, if nothing else speaks against."""

_LONGEST_POLL = 86400.0

End = tuple[int | None, bool, str]
"""A wait(2) status, None where it is not known; whether that is final; and who says so."""


class Order(StrEnum):
    """What a person asks for."""

    STOP = "stop"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a run ended that was asked to: what is recorded of it, and whether SIGKILL was needed.

    ``called_off`` tells that it had ended already, and was about to be started again.
    """

    status: RunStatus | None
    exit_code: int | None
    killed: bool
    called_off: bool = False


def stop(directory: str, run_id: int, order: Order, *, by: str, timeout: float) -> Stopped:
    """End a running run's agent and return how it ended.

    Of a run that has ended and is about to be started again, the restart is called off.

    The request is recorded first, so that the ending says who asked. `Order.STOP` sends SIGTERM, and SIGKILL after
    ``timeout``; `Order.KILL` sends SIGKILL at once. A stopped process is continued, so that it can end.

    Args:
        directory: the project whose store holds the run.
        run_id: the run.
        order: what to do.
        by: who asks, for the record.
        timeout: seconds between SIGTERM and SIGKILL.

    Raises:
        SuperviseError: the run does not run, its process cannot be proven to be its own, or is another user's.
    """
    with SupervisedStore(directory, create=False) as store:
        claim = next((claim for claim in store.running_claims() if claim.run_id == run_id), None)
        if claim is None:
            return _call_off(store, run_id)
        (seen,) = sight.see(store, [claim])
        try:
            _demand_proof(store, seen)
            assert seen.descriptor is not None and seen.facts is not None  # noqa: S101  proven
            _demand_permission(seen.descriptor, seen.facts.pid)
            if claim.process is None:
                store.keep_stamps([(run_id, stamp_of(seen.facts.pid, seen.descriptor))], by="stop")
            store.keep_request(run_id, order, by=by)
            killed = _end(seen.descriptor, order, timeout, lambda: store.keep_request(run_id, order, by=by))
            _wake_owner(claim.process)
            return _recorded(store, seen, killed=killed)
        finally:
            seen.close()


def _call_off(store: SupervisedStore, run_id: int) -> Stopped:
    """Tell the wrapper that is about to start a run's agent again not to."""
    detail = next(iter(store.details(run_id=run_id)), None)
    if detail is not None and detail.ending is not None and detail.process is not None:
        waits = "restarts_at" in detail.ending.evidence and store.is_last_of_owner(run_id)
        if waits and _tell_owner(detail.process):
            return Stopped(detail.run.status, detail.run.exit_code, killed=False, called_off=True)
    raise SuperviseError(f"run {run_id} does not run", "see: agent-yes-supervise runs list")


def _tell_owner(process: RunProcess) -> bool:
    """Send a run's wrapper SIGTERM, if its process is proven to be one: a store can name anybody's."""
    if process.owner_pid is None or process.owner_start_ticks is None:
        return False
    try:
        descriptor = pidfd.open_pidfd(process.owner_pid)
    except (OSError, OverflowError):
        return False
    try:
        if procfs.read_stat(process.owner_pid).start_ticks != process.owner_start_ticks:
            return False
        if not command.is_wrap(procfs.read_argv(process.owner_pid) or ()):
            return False
        _demand_permission(descriptor, process.owner_pid)
        _send(descriptor, signal.SIGTERM)
        _send(descriptor, signal.SIGCONT)
        return _ends_within(descriptor, KILL_WAIT)
    except (OSError, ValueError):
        return False
    finally:
        os.close(descriptor)


def _demand_proof(store: SupervisedStore, seen: Sight) -> None:
    pid, verdict = seen.claim.pid, seen.verdict
    look = f"look yourself: ps -f -p {pid}" if type(pid) is int else "its row holds junk"
    if verdict.state is State.DEAD:
        raise _gone(pid)
    if verdict.line not in _PROVEN:
        raise SuperviseError(f"process {str(pid)[:20]} is not proven to be this run's ({verdict.reason})", look)
    if not seen.matched or _is_stranger(store, seen):
        # An older process fits too, and the pid of a row of another PID namespace is an innocent's here.
        raise SuperviseError(f"process {pid} is not proven to be this run's (only its age fits)", look)
    if seen.descriptor is None or not hasattr(signal, "pidfd_send_signal"):
        raise SuperviseError(
            "there are no pidfds here, and a bare pid may be another's by now", f"end it yourself: kill {pid}"
        )


def _is_stranger(store: SupervisedStore, seen: Sight) -> bool:
    """Tell whether a process that only its age ties to the row certainly is no agent."""
    if seen.verdict.line != "F19" or seen.facts is None:
        return False
    claim, looks = seen.claim, signature.looks_of(seen.facts.pid, store.path)
    return signature.is_the_agent(looks, cli=claim.cli, directory=claim.dir, token=None) is False


def _demand_permission(descriptor: int, pid: int) -> None:
    """Refuse before anything is recorded: a request without effect would explain what it has not brought about."""
    if _ends_within(descriptor, 0):
        raise _gone(pid)
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except PermissionError:
        raise SuperviseError(f"process {pid} belongs to another user", "ask them to stop it, or root") from None
    except ProcessLookupError:
        raise _gone(pid) from None


def _gone(pid: object) -> SuperviseError:
    return SuperviseError(f"its process {pid} is gone already", "settle it: agent-yes-supervise scan")


def _end(descriptor: int, order: Order, timeout: float, ask_again: Callable[[], object]) -> bool:
    """Send the signals and wait for the end; tell whether SIGKILL was needed.

    ``ask_again`` is called before that where much time has passed: a request counts for some minutes only.
    """
    if order is Order.STOP:
        _send(descriptor, signal.SIGTERM)
        _send(descriptor, signal.SIGCONT)
        if _ends_within(descriptor, timeout):
            return False
        if timeout > _REQUEST_LASTS:
            ask_again()
    _send(descriptor, signal.SIGKILL)
    if not _ends_within(descriptor, KILL_WAIT):
        raise SuperviseError("it does not even end by SIGKILL", "it hangs in the kernel (a dead disk or mount?)")
    return True


def _send(descriptor: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return  # it has ended meanwhile


def _ends_within(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(min(_LONGEST_POLL, seconds) * 1000))


def _wake_owner(process: RunProcess | None) -> None:
    """Continue an owner that is stopped: else it would record the end on the day that somebody continues it."""
    if process is None or process.owner_pid is None:
        return
    try:
        descriptor = pidfd.open_pidfd(process.owner_pid)
    except (OSError, OverflowError):
        return
    try:
        stat = procfs.read_stat(process.owner_pid)
        if stat.is_stopped and stat.start_ticks == process.owner_start_ticks:
            _send(descriptor, signal.SIGCONT)
    except (OSError, ValueError):
        return  # not ours to continue, or gone
    finally:
        os.close(descriptor)


def _recorded(store: SupervisedStore, seen: Sight, *, killed: bool) -> Stopped:
    """Wait until the ending is recorded by whom it behoves; else settle it by the kernel's word."""
    assert seen.descriptor is not None and seen.facts is not None  # noqa: S101  proven
    detected_at, began = time.time(), time.monotonic()
    ticks = seen.facts.stat.start_ticks if seen.facts.stat else None
    while True:
        run = store.get_run_by_id(seen.claim.run_id)
        if run is None or run.status is not RunStatus.RUNNING:
            return Stopped(run.status if run else None, run.exit_code if run else None, killed)
        end = exits.examine(seen.descriptor, seen.facts.pid, ticks)
        if time.monotonic() - began >= _patience(seen.claim, end):
            break
        time.sleep(0.02)
    if end is not None:
        store.settle([(seen.claim, _ending(seen, end, detected_at))])
        with contextlib.suppress(OSError):  # it is recorded; only a power cut could still take it back
            connections.sync(store.directory)
    run = store.get_run_by_id(seen.claim.run_id)
    return Stopped(run.status if run else None, run.exit_code if run else None, killed)


def _patience(claim: Claim, end: End | None) -> float:
    """Return the seconds that others have to record how the agent ended, counted from its end."""
    process = claim.process
    if process is not None and process.owner_pid is not None:
        if facts.is_alive(process.owner_pid, process.owner_start_ticks):
            return OWNER_WAIT
    elif end is not None and end[0] == 0:
        return OTHERS_WAIT
    return 0 if end is not None and end[1] else OTHERS_WAIT


def _ending(seen: Sight, end: End, detected_at: float) -> Ending:
    process = seen.claim.process
    status, _, source = end
    evidence = {"source": source, "bound": seen.verdict.line}
    if status is None:
        return ending_without_status(Cause.LOST, detected_at=detected_at, settled_by="stop", evidence=evidence)
    return ending_of(
        status,
        rank=Rank.KERNEL,
        ended_at=detected_at,
        detected_at=detected_at,
        settled_by="stop",
        own_owner=process is None or process.owner_pid is None,
        evidence=evidence,
    )


def asker() -> str:
    """Return who we are, for the record."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = "uid"
    return f"{name} ({os.geteuid()}), pid {os.getpid()}"
