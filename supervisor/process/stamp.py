"""Stamps: who exactly a process is, in words that stay true after its pid has been given to another.

Light to import: a wrapped agent waits for it.
"""

from __future__ import annotations

import os
import sys
import time

from supervisor.process import pidfd, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class StampColumns(TypedDict):
        """The fields of `supervisor.models.Stamp`, by column."""

        host: str | None
        boot_id: str | None
        pid_ns: int | None
        pid_ns_ticks: int | None
        time_ns: int | None
        pid: int
        start_ticks: int | None
        pidfd_inode: int | None
        started_at: float | None


class Here:
    """The part of every stamp that is the same for all processes we can see: this host, boot and namespaces."""

    __slots__ = ("boot_id", "host", "pid_ns", "pid_ns_ticks", "time_ns")

    def __init__(self) -> None:
        self.host = host_id()
        self.boot_id = procfs.boot_id()
        self.pid_ns = procfs.namespace("pid")
        self.time_ns = procfs.namespace("time")
        self.pid_ns_ticks = start_ticks(1)


_here: Here | None = None


def here() -> Here:
    """Return where we are; read once, for a process never changes the namespaces that it sees others from."""
    global _here  # noqa: PLW0603  a constant of this process
    if _here is None:
        _here = Here()
    return _here


def host_id() -> str:
    """Return a name for this host that outlives a change of network: the machine id, else the node name."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            machine = file.read().strip()
    except (OSError, ValueError):
        machine = ""
    return machine or os.uname().nodename


def stamp_of(pid: int, descriptor: int | None = None) -> StampColumns:
    """Return the stamp of a process that the caller knows to be the right one: a child, or a verified pidfd's.

    Args:
        pid: its id.
        descriptor: its pidfd, where the caller has one; else one is opened for the moment.
    """
    place = here()
    ticks = start_ticks(pid)
    return {
        "host": place.host,
        "boot_id": place.boot_id,
        "pid_ns": place.pid_ns,
        "pid_ns_ticks": place.pid_ns_ticks,
        "time_ns": place.time_ns,
        "pid": pid,
        "start_ticks": ticks,
        "pidfd_inode": _inode_of(pid) if descriptor is None else pidfd.inode(descriptor),
        "started_at": None if ticks is None else started_at(ticks),
    }


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, None where that cannot be read."""
    if sys.platform != "linux":
        return None
    try:
        return procfs.read_stat(pid).start_ticks
    except (OSError, ValueError):
        return None


def started_at(ticks: int) -> float:
    """Return a start in Unix seconds, right to 0.02 s as long as the clock is.

    Both clocks are read now: psutil's create_time() counts from btime, which is whole seconds and up to 1 s early. Our
    own CLOCK_BOOTTIME has our time namespace's offset, and so cancels the one in ``ticks``.
    """
    return ticks / procfs.CLOCK_TICKS + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _inode_of(pid: int) -> int | None:
    try:
        descriptor = pidfd.open_pidfd(pid)
    except (OSError, OverflowError):
        return None
    try:
        return pidfd.inode(descriptor)
    finally:
        os.close(descriptor)
