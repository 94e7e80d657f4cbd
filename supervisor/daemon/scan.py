"""One pass over the stores, for those who run no daemon."""

from __future__ import annotations

import contextlib
import logging
import resource
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from supervisor.daemon.bindings import RETRY
from supervisor.daemon.means import Means, Settled
from supervisor.daemon.supervisor import Supervisor
from supervisor.models import Claim
from supervisor.process.judge import Verdict
from supervisor.store import connection as connections

log = logging.getLogger(__name__)

PATIENCE = 45.0
"""Seconds after which what still waits is reported as pending: longer than any grace and second look."""


@dataclass(slots=True)
class ScanResult:
    """What one pass did: runs settled, those that still wait, those that cannot be judged, and how many are alive."""

    settled: list[Settled] = field(default_factory=list)
    pending: list[tuple[str, Claim]] = field(default_factory=list)
    unknown: list[tuple[str, int, Verdict]] = field(default_factory=list)
    alive: int = 0


def scan(directories: Iterable[str], *, waits: bool = True) -> ScanResult:
    """Judge every running row of some stores and settle the dead ones.

    Args:
        directories: the projects whose stores are looked at.
        waits: whether to stay for second looks and for owners that still may record; else such rows are pending.
    """
    result = ScanResult()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    supervisor = Supervisor(Means(settled_by="scan", fd_limit=limit, on_settled=result.settled.append))
    supervisor.follow(directories)
    supervisor.tick(sweep=True)
    supervisor.on_exits()
    end = time.monotonic() + PATIENCE
    while waits and (due := _next_due(supervisor)) is not None and due < end:
        ready, _, _ = select.select([supervisor.means.exits], [], [], max(0, due - time.monotonic()))
        if ready:
            supervisor.on_exits()
        supervisor.tick()
    for directory, store in supervisor.stores.items():
        result.pending += [(directory, claim) for claim in store.waiting()]
        result.unknown += [(directory, run_id, verdict) for run_id, verdict in store.unknown.items()]
        result.alive += store.alive
        if store.watch.is_locked:
            log.warning("%s is locked by another process: its runs have not been looked at", store.watch.store.path)
    supervisor.close()
    for directory in {settled.directory for settled in result.settled}:
        with contextlib.suppress(OSError):  # it is recorded; only a power cut could still take it back
            connections.sync(directory)
    return result


def _next_due(supervisor: Supervisor) -> float | None:
    """Return when something comes due, the next try to read a locked store included."""
    due = supervisor.next_due()
    if any(store.watch.is_locked for store in supervisor.stores.values()):
        again = time.monotonic() + RETRY
        return again if due is None else min(due, again)
    return due
