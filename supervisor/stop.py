"""Ending a run's agent because a person says so: only the very process that was recorded, never a bare pid."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from enum import StrEnum

from supervisor import sight
from supervisor.ending import ending_of
from supervisor.errors import SuperviseError
from supervisor.models import Claim, Rank, RunStatus
from supervisor.process import exits
from supervisor.process.judge import State
from supervisor.process.stamp import stamp_of
from supervisor.sight import Sight
from supervisor.store.supervision import SupervisedStore

KILL_WAIT = 5.0
"""Seconds that a process may take to vanish after SIGKILL before we say that it does not."""

OWNER_WAIT = 3.5
"""Seconds that the run's owner, or the daemon, has to record the ending before we do."""

_PROVEN = frozenset({"F15", "F17", "F19"})
"""Verdicts that show a process to be the run's own: those by which we may signal it."""


class Order(StrEnum):
    """What a person asks for."""

    STOP = "stop"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a run ended that was asked to: what is recorded of it, and whether SIGKILL was needed."""

    status: RunStatus | None
    exit_code: int | None
    killed: bool


def stop(directory: str, run_id: int, order: Order, *, by: str, timeout: float) -> Stopped:
    """End a running run's agent and return how it ended.

    The request is recorded first, so that the ending says who asked. `Order.STOP` sends SIGTERM, and SIGKILL after
    ``timeout``; `Order.KILL` sends SIGKILL at once. A stopped process is continued, so that it can end.

    Args:
        directory: the project whose store holds the run.
        run_id: the run.
        order: what to do.
        by: who asks, for the record.
        timeout: seconds between SIGTERM and SIGKILL.

    Raises:
        SuperviseError: the run does not run, or its process cannot be proven to be its own.
        PermissionError: the process belongs to another user.
    """
    with SupervisedStore(directory, create=False) as store:
        claim = next((claim for claim in store.running_claims() if claim.run_id == run_id), None)
        if claim is None:
            raise SuperviseError(f"run {run_id} does not run", "see: agent-yes-supervise runs list")
        (seen,) = sight.see(store, [claim])
        try:
            _demand_proof(seen)
            assert seen.descriptor is not None and seen.facts is not None  # noqa: S101  proven
            if claim.process is None:
                store.keep_stamps([(run_id, stamp_of(seen.facts.pid, seen.descriptor))], by="stop")
            store.keep_request(run_id, order, by=by)
            killed = _end(seen.descriptor, order, timeout)
            return _recorded(store, claim, seen, killed=killed)
        finally:
            seen.close()


def _demand_proof(seen: Sight) -> None:
    pid, verdict = seen.claim.pid, seen.verdict
    if verdict.state is State.DEAD:
        raise SuperviseError(f"its process {pid} is gone already", "settle it: agent-yes-supervise scan")
    if verdict.line not in _PROVEN:
        raise SuperviseError(
            f"process {pid} is not proven to be this run's ({verdict.reason})", f"look yourself: ps -f -p {pid}"
        )
    if seen.descriptor is None:
        raise SuperviseError(
            "this kernel has no pidfds, and a bare pid may be another's by now", f"end it yourself: kill {pid}"
        )


def _end(pidfd: int, order: Order, timeout: float) -> bool:
    """Send the signals and wait for the end; tell whether SIGKILL was needed."""
    if order is Order.STOP:
        _send(pidfd, signal.SIGTERM)
        _send(pidfd, signal.SIGCONT)
        if _ends_within(pidfd, timeout):
            return False
    _send(pidfd, signal.SIGKILL)
    if not _ends_within(pidfd, KILL_WAIT):
        raise SuperviseError("it does not even end by SIGKILL", "it hangs in the kernel (a dead disk or mount?)")
    return True


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return  # it has ended meanwhile


def _ends_within(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _recorded(store: SupervisedStore, claim: Claim, seen: Sight, *, killed: bool) -> Stopped:
    """Wait until the ending is recorded by whom it behoves; after `OWNER_WAIT`, settle it by the kernel's word."""
    detected_at, deadline = time.time(), time.monotonic() + OWNER_WAIT
    while True:
        run = store.get_run_by_id(claim.run_id)
        if run is None or run.status is not RunStatus.RUNNING:
            return Stopped(run.status if run else None, run.exit_code if run else None, killed)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert seen.descriptor is not None and seen.facts is not None  # noqa: S101  proven
    ticks = seen.facts.stat.start_ticks if seen.facts.stat else None
    end = exits.examine(seen.descriptor, seen.facts.pid, ticks)
    if end is not None and end[0] is not None:
        ending = ending_of(
            end[0],
            rank=Rank.KERNEL,
            ended_at=detected_at,
            detected_at=detected_at,
            settled_by="stop",
            own_owner=claim.process is None or claim.process.owner_pid is None,
            evidence={"source": end[2], "bound": seen.verdict.line},
        )
        store.settle([(claim, ending)])
    run = store.get_run_by_id(claim.run_id)
    return Stopped(run.status if run else None, run.exit_code if run else None, killed)


def asker() -> str:
    """Return who we are, for the record."""
    return f"{os.environ.get('USER') or os.environ.get('LOGNAME') or 'uid'} ({os.geteuid()}), pid {os.getpid()}"
