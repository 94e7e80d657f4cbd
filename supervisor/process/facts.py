"""Looking at a process: all that a first verdict needs, gathered in the one order that races cannot spoil.

pidfd, then stat, then poll: anything read before the pidfd is hearsay, for the pid may change hands in between.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from supervisor.process import pidfd, procfs, stamp
from supervisor.process.judge import Facts, Scene
from supervisor.process.procfs import Stat

INITIAL_PID_NS = 0xEFFFFFFC
"""The inode of the initial PID namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO)."""

_PID_MAX_MACOS = 99999


def scene() -> Scene:
    """Return where we judge from."""
    here = stamp.here()
    linux = sys.platform == "linux"
    return Scene(
        host=here.host,
        boot_id=here.boot_id,
        pid_ns=here.pid_ns,
        pid_ns_ticks=here.pid_ns_ticks,
        time_ns=here.time_ns,
        own_pid=os.getpid(),
        pid_max=procfs.pid_max() if linux else _PID_MAX_MACOS,
        initial_pid_ns=here.pid_ns == INITIAL_PID_NS if linux else True,
    )


def look(pid: int, *, open_pidfd: Callable[[int], int] = pidfd.open_pidfd) -> tuple[Facts, int | None]:
    """Look at a process that `judge.screen` has passed.

    Returns:
        The facts, and its pidfd where one could be opened; closing that is the caller's business.
    """
    if sys.platform != "linux":
        return _look_portably(pid), None
    facts, descriptor = _look_once(pid, open_pidfd)
    living = facts.stat is not None and not facts.stat.is_dead
    if descriptor is not None and living and pidfd.has_fired(descriptor):
        # It has ended between our calls, and the stat may be that of the next process with its pid.
        os.close(descriptor)
        return _look_once(pid, open_pidfd)
    return facts, descriptor


def _look_once(pid: int, open_pidfd: Callable[[int], int]) -> tuple[Facts, int | None]:
    try:
        descriptor = open_pidfd(pid)
    except OSError as error:
        return _look_without(pid, error.errno, open_pidfd)
    facts = Facts(pid, True, *_stat_of(pid), pidfd.inode(descriptor))
    return facts, descriptor


def exists(pid: int) -> bool | None:
    """Tell whether some process has that id, by kill(2) with signal 0; EPERM means that it has.

    None where the kernel gives another answer, and for a number that it does not take for one process's id. (Inside a
    macOS sandbox everything is EPERM, agent-browser#564: so True means "or we cannot tell", which is the safe side.)
    """
    if not 0 < pid < 1 << 31:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OSError:
        return None
    return True


def is_alive(pid: int, start_ticks: int | None) -> bool:
    """Tell whether a process known by its start still lives; in doubt it does."""
    found = exists(pid)
    if found is False:
        return False
    stat, _ = _stat_of(pid)
    if stat is None:
        return True
    return not stat.is_dead and start_ticks in (None, stat.start_ticks)


def _look_without(pid: int, number: int | None, open_pidfd: Callable[[int], int]) -> tuple[Facts, int | None]:
    """Go on where no pidfd could be opened: only ESRCH says something about the process."""
    if number == errno.ESRCH:
        return Facts(pid, False, None, None, None), None
    group = procfs.thread_group(pid)
    if group not in (None, pid):
        return _look_once(group, open_pidfd)
    found = exists(pid)
    if number in (errno.EINVAL, errno.ENOENT):
        # The process is ending at this moment (psutil#2715, systemd#36982): only its absence is certain.
        return Facts(pid, False if found is False else None, None, None, None), None
    stat, created = _stat_of(pid) if found else (None, None)
    return Facts(pid, found, stat, created, None), None


def _stat_of(pid: int) -> tuple[Stat | None, float | None]:
    try:
        stat = procfs.read_stat(pid)
    except (OSError, ValueError):
        return None, None
    return stat, stamp.started_at(stat.start_ticks)


def _look_portably(pid: int) -> Facts:
    """Look with psutil, on macOS. Written from psutil's documentation and source; it has not been run there."""
    import psutil  # noqa: PLC0415  only where there is no /proc

    found = exists(pid)
    if not found:
        return Facts(pid, found, None, None, None)
    try:
        process = psutil.Process(pid)
        created = process.create_time()
        state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "S"
        stat = Stat(state=state, ppid=process.ppid(), start_ticks=0)
    except psutil.Error:  # NoSuchProcess may be raised for a live process there (psutil#2189): existence is kill's say
        return Facts(pid, exists(pid), None, None, None)
    return Facts(pid, True, stat, created, None)
