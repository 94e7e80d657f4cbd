"""The machine: its kernel, ``/proc``, PID namespace, clock and inotify."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator

from supervisor.clock_steps import ClockSteps
from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.process import procfs
from supervisor.process.abilities import abilities
from supervisor.process.facts import INITIAL_PID_NS
from supervisor.process.inotify import FolderWatch
from supervisor.process.namespace import hides_processes

_MADE = 1_750_000_000
"""A time before this program was written, Unix seconds: no clock that has been set shows an earlier one."""

_SYNCHRONIZED = "/run/systemd/timesync/synchronized"


def check_kernel() -> Iterator[Finding]:
    """Find what the kernel tells of processes that others have started."""
    found = abilities()
    newer = "with Linux 6.15 the exit code of every process is known"
    if not found.pidfds:
        lost = "ends are found by polling, and exit codes are not known"
        yield warn("kernel", f"{found.system}: no pidfds: {lost}", f"{newer}; start agents with wrap, which knows them")
    elif not found.exit_status:
        lost = "of processes that others have reaped the exit code is not known"
        yield warn("kernel", f"{found.system}: {lost}", f"{newer}; start agents with wrap, which knows it")
    elif not found.unique_inodes:
        yield warn("kernel", f"{found.system}: pidfds have no inodes of their own", "processes are told by their start")
    else:
        yield ok("kernel", f"{found.system}: ends are told at once, with their exit code")


def check_proc() -> Iterator[Finding]:
    """Find whether ``/proc`` shows all processes of our namespace."""
    if not os.path.exists("/proc/self/stat"):
        yield warn("proc", "there is no /proc here", "processes are looked at through psutil; nothing to do on macOS")
    elif not procfs.is_ours():
        remedy = "mount one for this PID namespace: mount -t proc proc /proc"
        yield fail("proc", "/proc is of another PID namespace and tells nothing", remedy)
    elif hides_processes():
        remedy = "remount without it if agents of other users matter: mount -o remount,hidepid=0 /proc"
        yield warn("proc", "/proc hides the processes of other users (hidepid)", remedy)
    else:
        yield ok("proc", "/proc shows all processes")


def check_namespace() -> Iterator[Finding]:
    """Find whether this is the machine's outermost PID namespace."""
    if procfs.namespace("pid") is None:
        yield ok("namespace", "no PID namespaces here")
    elif procfs.namespace("pid") == INITIAL_PID_NS:
        yield ok("namespace", "this is the machine's own PID namespace")
    else:
        remedy = "run a daemon where the agents run; runs recorded outside stay unknown here"
        yield warn("namespace", "this is a container's PID namespace", remedy)


def check_clock() -> Iterator[Finding]:
    """Find whether the clock is set, and whether it has been set anew since the machine started."""
    now, steps = time.time(), ClockSteps().known()
    if now < _MADE:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield fail("clock", f"the clock says {shown}", "set it: timedatectl set-ntp true")
    elif steps:
        times = "once" if len(steps) == 1 else f"{len(steps)} times"
        remedy = "keep it by NTP: timedatectl set-ntp true; no run from before is judged by its time"
        yield warn("clock", f"the clock was set {times} since this machine started", remedy)
    else:
        how = ", and is kept by NTP" if os.path.exists(_SYNCHRONIZED) else ""
        yield ok("clock", f"the clock has not been seen to jump since this machine started{how}")


def check_inotify() -> Iterator[Finding]:
    """Find whether changes of stores can wake the daemon."""
    try:
        FolderWatch().close()
    except OSError as error:
        remedy = "on Linux raise the limit: sysctl fs.inotify.max_user_instances=512"
        text = f"changes of stores do not wake the daemon ({error.strerror or error}): it looks twice a second"
        yield warn("inotify", text, remedy)
    else:
        yield ok("inotify", "changes of stores wake the daemon")


def check_descriptors() -> Iterator[Finding]:
    """Find how many runs the daemon can wait for, where that is few."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        yield warn("descriptors", f"at most {hard} files may be open: runs beyond that are polled", "raise ulimit -Hn")
