"""Pidfds of bound runs, parked with the service manager while we live, and taken up again by the next daemon.

The kernel tells an exit status only to those who hold a pidfd from before the reap: so an exit while no daemon runs,
because it is restarted or has been killed, is still known exactly. A binding is taken up as it was; it is not judged
again, for a pidfd names its process for good.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection
from dataclasses import dataclass

from supervisor.daemon.bindings import Bound, Identity, owner_of
from supervisor.daemon.service_manager import ServiceManager
from supervisor.models import Cause, Claim
from supervisor.process import pidfd, procfs
from supervisor.process.surroundings import Surroundings, clocks, surroundings_of
from supervisor.sight import stamp_in_force

log = logging.getLogger(__name__)

ROOM = 1024
"""How many are parked at most: FileDescriptorStoreMax of the unit."""

LONGEST_NAME = 126
"""Characters of a name at most. The manager hands the names over in one variable of the environment, which execve(2)
limits to 128 KiB: with more, the daemon could not be started again."""

_NAME = re.compile(
    r"run=\d+,pid=(?P<pid>\d+),start=(?P<start>\d+),line=(?P<line>F\d+),(?:parent=(?P<parent>\d+)@(?P<since>\d+),)?"
    r"row=(?P<store>[0-9a-f]{16})(?P<row>[0-9a-f]{16})"
)
"""Letters, digits and marks that FDNAME may have (sd_pid_notify_with_fds(3): printable ASCII without colons)."""


@dataclass(frozen=True, slots=True)
class _Parked:
    """One from the daemon before us."""

    name: str
    descriptor: int
    process: Identity
    parent: Identity | None
    line: str
    store: str


@dataclass(frozen=True, slots=True)
class _Order:
    """What the manager is to do: keep a descriptor by a name, or let go of it."""

    name: str
    descriptor: int | None


class Parking:
    """What is parked. A run is given by its directory and id."""

    def __init__(self, manager: ServiceManager | None = None) -> None:
        self._manager = manager
        self._names: dict[tuple[str, int], str] = {}
        self._orders: list[_Order] = []
        self._found: dict[str, _Parked] = {}
        for name, descriptor in manager.inherited if manager else ():
            self._find(name, descriptor)

    def park(self, run: tuple[str, int], bound: Bound, descriptor: int) -> None:
        """Park the pidfd of a run that has been bound; what is not surely the run's own process is not worth it."""
        if self._manager is None or not self._manager.is_there or not bound.identified:
            return
        name = name_of(run, bound)
        self.remove(run)
        if name is not None and len(self._names) + len(self._found) < ROOM:
            self._names[run] = name
            self._order(_Order(name, descriptor))

    def remove(self, run: tuple[str, int]) -> None:
        """Let go of a run's pidfd; one that is not parked is no error."""
        self.closing(run)
        name = self._names.pop(run, None)
        if name is not None:
            self._order(_Order(name, None))

    def closing(self, run: tuple[str, int]) -> None:
        """Take note that our own pidfd of a run is going: what the manager has not heard of yet, it never will."""
        name = self._names.get(run)
        unheard = next((order for order in self._orders if order.name == name and order.descriptor is not None), None)
        if unheard is not None:
            self._orders.remove(unheard)
            del self._names[run]

    def flush(self) -> None:
        """Give the manager its orders, as far as it takes them now."""
        while self._orders and self._manager is not None and self._give(self._manager, self._orders[0]):
            del self._orders[0]

    def leave(self) -> None:
        """Leave everything parked from now on: we end, and the next daemon is to find it."""
        self.flush()
        self._names.clear()
        self._manager = None
        self._orders.clear()

    def take_up(self, run: tuple[str, int], claim: Claim) -> tuple[Bound, int] | None:
        """Return the binding of a row as the daemon before us had it, and its pidfd; None where it had none.

        The row must be the very one that was bound, and the process the one that it was stamped with.
        """
        parked = self._found.pop("".join(_row_of(run, claim)), None) if self._found else None
        if parked is None:
            return None
        stamp, inode = stamp_in_force(claim), pidfd.inode(parked.descriptor)
        if stamp is not None and None not in (stamp.pidfd_inode, inode) and stamp.pidfd_inode != inode:
            self._drop(parked)
            return None
        self._names[run] = parked.name
        stamped = stamp is not None and inode is not None and stamp.pidfd_inode == inode
        owner = owner_of(claim)
        bound = Bound(
            claim=claim,
            process=parked.process,
            identified=True,
            line="F15" if stamped else parked.line,
            owner=owner,
            parent=None if owner else parked.parent,
            cause=Cause.LOST,
            surroundings=_surroundings(parked),
        )
        return bound, parked.descriptor

    def drop_store(self, directory: str) -> None:
        """Let go of what was parked for a store, and no row of it has asked for."""
        if self._found:
            self._drop_where({_digest(directory)})

    def drop_others(self, directories: Collection[str]) -> None:
        """Let go of what was parked for stores that are not looked after any more."""
        if self._found:
            wanted = {_digest(directory) for directory in directories}
            self._drop_where({parked.store for parked in self._found.values()} - wanted)

    def _find(self, name: str, descriptor: int) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            log.warning("the service manager has kept a descriptor that is not ours: %r", name)
            os.close(descriptor)
            self._order(_Order(name, None))
            return
        pid, start, parent = int(match["pid"]), int(match["start"]), None
        if match["parent"]:
            parent = Identity(int(match["parent"]), int(match["since"]))
        parked = _Parked(name, descriptor, Identity(pid, start), parent, match["line"], match["store"])
        twin = self._found.pop(match["store"] + match["row"], None)
        if twin is not None:
            os.close(twin.descriptor)
        self._found[match["store"] + match["row"]] = parked

    def _drop_where(self, stores: set[str]) -> None:
        for row, parked in list(self._found.items()):
            if parked.store in stores:
                del self._found[row]
                self._drop(parked)

    def _drop(self, parked: _Parked) -> None:
        os.close(parked.descriptor)
        self._order(_Order(parked.name, None))

    def _order(self, order: _Order) -> None:
        """Note an order for the next flush: settling must not wait for a service manager."""
        if self._manager is not None:
            self._orders.append(order)

    @staticmethod
    def _give(manager: ServiceManager, order: _Order) -> bool:
        if order.descriptor is None:
            return manager.tell("FDSTOREREMOVE=1", f"FDNAME={order.name}")
        # Without FDPOLL=0 the manager lets go of a pidfd at the very moment that it is kept for.
        return manager.tell("FDSTORE=1", f"FDNAME={order.name}", "FDPOLL=0", descriptor=order.descriptor)


def name_of(run: tuple[str, int], bound: Bound) -> str | None:
    """Return the name that a run's pidfd is parked by, all that is needed to go on; None where it would be too long."""
    if bound.process.start_ticks is None:
        return None
    parent = ""
    if bound.parent is not None and bound.parent.start_ticks is not None:
        parent = f"parent={bound.parent.pid}@{bound.parent.start_ticks},"
    row = "".join(_row_of(run, bound.claim))
    name = f"run={run[1]},pid={bound.process.pid},start={bound.process.start_ticks},line={bound.line},{parent}row={row}"
    return name if len(name) <= LONGEST_NAME else None


def _row_of(run: tuple[str, int], claim: Claim) -> tuple[str, str]:
    """Return what tells a row from all others, and from what may become of it: digests of its store and of itself."""
    directory, run_id = run
    return _digest(directory), _digest(json.dumps([run_id, repr(claim.pid), repr(claim.started_at)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _surroundings(parked: _Parked) -> Surroundings:
    """Look at what surrounds a process that still lives: the pid of one that has ended may be another's by now."""
    with contextlib.suppress(OSError, ValueError):
        stat = procfs.read_stat(parked.process.pid)
        seen = surroundings_of(parked.process.pid, stat.tty)
        if not pidfd.has_fired(parked.descriptor):
            return seen
    return Surroundings(None, None, 0, clocks())
