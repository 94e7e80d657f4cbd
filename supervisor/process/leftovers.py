"""What an agent has left behind: processes of its run that live on when it has ended. Linux only; elsewhere none.

Membership is proven, by the run's token in a process's environment, or by a session or group that the agent itself led.
"""

from __future__ import annotations

import os
import select
import signal
import time

from supervisor.process import command, lasting, pidfd, procfs
from supervisor.process.surroundings import terminal_is_gone
from supervisor.process.token import token_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.process.procfs import Stat

KILL_WAIT = 1.0
"""Seconds that processes may take to vanish after SIGKILL before they are left."""

_LOOK_UP = 0.05
"""Seconds between two looks whether somebody is in a hurry."""

_LONGEST = 60


class Leftover:
    """A process that was left behind.

    ``age`` is in seconds. ``lasts`` tells that it is not to be ended: it outlives agents by design, somebody has it on
    another terminal, or it stands below such a one. ``descriptor`` is its pidfd, verified; None where there are none.
    """

    __slots__ = ("age", "descriptor", "lasts", "name", "pid", "start_ticks")

    def __init__(
        self, *, pid: int, start_ticks: int, name: str, age: float, lasts: bool, descriptor: int | None
    ) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.name = name
        self.age = age
        self.lasts = lasts
        self.descriptor = descriptor


class Run:
    """The run that has ended: its token, who led sessions and groups of its own in it, and when it began.

    ``since`` is in clock ticks since boot, None where it is not known.
    """

    __slots__ = ("leaders", "since", "token")

    def __init__(self, token: str, leaders: tuple[int, ...], since: int | None) -> None:
        self.token = token
        self.leaders = leaders
        self.since = since


def look(run: Run) -> list[Leftover]:
    """Return what is left of a run, the oldest first; to be given to `close`."""
    if not procfs.is_ours():
        return []
    pids = procfs.processes()
    # A leader has been reaped; where its number is another's by now that one may lead a session of its own.
    run = Run(run.token, tuple(set(run.leaders) - set(pids)), run.since)
    terminal = procfs.read_stat(os.getpid()).tty
    found: list[tuple[Leftover, int]] = []
    for pid in pids:
        stat = _belonging(pid, run)
        if stat is None:
            continue
        descriptor = _open(pid)
        if _belonging(pid, run) is None:  # it was another that had this number when the descriptor was opened
            _close(descriptor)
            continue
        argv = procfs.read_argv(pid) or ()
        one = Leftover(
            pid=pid,
            start_ticks=stat.start_ticks,
            name=_name(pid, argv),
            age=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_ticks / procfs.CLOCK_TICKS),
            lasts=bool(argv) and (lasting.is_lasting(argv) or _is_on_another(stat.tty, terminal)),
            descriptor=descriptor,
        )
        found.append((one, stat.ppid))
    _mark_heirs(found)
    return sorted((one for one, _ in found), key=lambda one: (one.start_ticks, one.pid))


def wait(leftovers: Iterable[Leftover], seconds: float, *, hurry: Callable[[], bool] = lambda: False) -> bool:
    """Wait until these have ended, at most so long or until somebody is in a hurry; tell whether they have."""
    poll, there = select.poll(), 0
    for leftover in leftovers:
        there += 1  # also one that nothing tells of: then the whole time is waited
        if leftover.descriptor is not None:
            poll.register(leftover.descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while there and not hurry() and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(min(left, _LOOK_UP) * 1000):
            poll.unregister(descriptor)
            there -= 1
    return not there


def end(leftovers: Iterable[Leftover], grace: float, *, hurry: Callable[[], bool]) -> set[int]:
    """End these: SIGTERM, and SIGKILL after ``grace`` seconds or once somebody is in a hurry. Return who needed that.

    Nothing is sent without a pidfd.
    """
    ours = [leftover for leftover in leftovers if leftover.descriptor is not None]
    for leftover in ours:
        _send(leftover, signal.SIGTERM)
        _send(leftover, signal.SIGCONT)  # one that is stopped could not end
    if wait(ours, grace, hurry=hurry):
        return set()
    late = [leftover for leftover in ours if not _has_ended(leftover)]
    for leftover in late:
        _send(leftover, signal.SIGKILL)
    wait(late, KILL_WAIT)
    return {leftover.pid for leftover in late}


def close(leftovers: Iterable[Leftover]) -> None:
    """Close their descriptors."""
    for leftover in leftovers:
        _close(leftover.descriptor)


def _belonging(pid: int, run: Run) -> Stat | None:
    """Return the stat of a process that belongs to a run and lives, else None."""
    if pid == os.getpid():
        return None
    try:
        stat = procfs.read_stat(pid)
    except (OSError, ValueError):
        return None
    if stat.is_dead or (run.since is not None and stat.start_ticks < run.since):
        return None
    token = token_of(pid)
    belongs = token == run.token if token is not None else stat.session in run.leaders or stat.pgrp in run.leaders
    return stat if belongs else None


def _is_on_another(terminal: int, own: int) -> bool:
    """Tell whether a process is on a terminal that is not ours, and is there: agents run tools on some, and close them.

    That somebody looks at it is not certain, but to be thought.
    """
    return terminal not in (0, own) and not terminal_is_gone(terminal)


def _mark_heirs(found: list[tuple[Leftover, int]]) -> None:
    """Mark what stands below one that lasts as lasting too; ``found`` has each with its parent."""
    heirs = True
    while heirs:
        lasting_ones = {one.pid for one, _ in found if one.lasts}
        heirs = False
        for one, parent in found:
            if parent in lasting_ones and not one.lasts:
                one.lasts = heirs = True


def _name(pid: int, argv: tuple[str, ...]) -> str:
    """Return what a person knows a process by: its program, and of an interpreter's what that runs."""
    name = f"{command.program_of(argv)} {command.script_of(argv)}".strip() or procfs.name(pid) or "?"
    return name[:_LONGEST]


def _open(pid: int) -> int | None:
    try:
        return pidfd.open_pidfd(pid)
    except (OSError, OverflowError):
        return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _has_ended(leftover: Leftover) -> bool:
    return leftover.descriptor is not None and pidfd.has_fired(leftover.descriptor)


def _send(leftover: Leftover, number: int) -> None:
    if leftover.descriptor is None:
        return
    try:
        signal.pidfd_send_signal(leftover.descriptor, number)
    except (OSError, AttributeError):  # gone, another user's by now, or a Python without the call
        return
