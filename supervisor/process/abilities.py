"""What this system can tell of processes, found out by trying."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from dataclasses import dataclass

from supervisor.process import pidfd, procfs
from supervisor.process.facts import INITIAL_PID_NS


@dataclass(frozen=True, slots=True)
class Abilities:
    """What can be known of processes that others have started.

    ``pidfds``: their end is told at once. ``unique_inodes``: a process can never be taken for another of this boot.
    ``exit_status``: how they ended is known even after their parent has reaped them. ``whole_proc``: ``/proc`` is of
    our own PID namespace. ``initial_pid_ns``: this is the machine's outermost PID namespace.
    """

    system: str
    pidfds: bool
    unique_inodes: bool
    exit_status: bool
    whole_proc: bool
    initial_pid_ns: bool

    def __str__(self) -> str:
        """Return them as one line for a log."""
        if not self.pidfds:
            return f"{self.system}: no pidfds here; ends are found by polling, without exit status once reaped"
        status = "known" if self.exit_status else "known only of zombies (needs Linux 6.15)"
        identity = "pidfd inodes" if self.unique_inodes else "start ticks (inodes need Linux 6.9)"
        place = "the machine's" if self.initial_pid_ns else "a container's"
        proc = "" if self.whole_proc else "; /proc is not of this namespace and tells nothing"
        how = f"ends by pidfd, exit status {status}, identity by {identity}"
        return f"{self.system}: {how}, in {place} PID namespace{proc}"


def abilities() -> Abilities:
    """Find out, by a child that is forked, watched and reaped. Call it before any thread is started."""
    system = f"{platform.system()} {platform.release()}"
    if sys.platform != "linux":
        return Abilities(system, False, False, False, False, True)
    place = procfs.is_ours(), procfs.namespace("pid") == INITIAL_PID_NS
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # lives until we hold its pidfd: where SIGCHLD is ignored it leaves no zombie
        os._exit(_TEST_CODE)
    try:
        descriptor = pidfd.open_pidfd(child)
    except OSError:
        descriptor = None
    os.close(writer)
    os.close(reader)
    with contextlib.suppress(ChildProcessError):  # reaped by the kernel, as above
        os.waitpid(child, 0)
    if descriptor is None:
        return Abilities(system, False, False, False, *place)
    try:
        unique = pidfd.inode(descriptor) is not None
        return Abilities(system, True, unique, pidfd.exit_status(descriptor) == _TEST_CODE << 8, *place)
    finally:
        os.close(descriptor)


_TEST_CODE = 77
