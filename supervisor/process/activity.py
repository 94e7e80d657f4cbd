"""Whether an agent does anything: the processor time and the writes of all its processes.

On Linux these are all below it and all that carry its run's token; elsewhere those below it, and their processor time.
"""

from __future__ import annotations

import sys
import time

from supervisor.process import procfs, tree
from supervisor.process.token import token_of

BUSY = 0.02
"""The share of one processor above which an agent is busy. An idle terminal interface of node takes about half."""

WRITES = 1024.0
"""Bytes a second above which an agent is busy, of all that it writes anywhere: files, terminals, sockets."""

Usage = dict[tuple[int, float], tuple[float, int]]
"""Seconds of processor time and bytes written, by pid and start."""


class Activity:
    """What an agent's processes use.

    Args:
        agent: its pid.
        token: its run's.

    Raises:
        OSError: what processes do is not to be seen.
    """

    def __init__(self, agent: int, token: str) -> None:
        self._agent = agent
        self._token = token
        self._strangers: set[tuple[int, float]] = set()
        if sys.platform == "linux" and not procfs.is_ours():
            raise OSError("/proc is that of other processes")
        self._last = self._busy = (time.monotonic(), self._usage())

    def look(self) -> bool:
        """Tell whether the agent has been busy since the last look, or all in all since it was found busy.

        The second is for short times: on a crowded machine a busy agent may get less than a tick of the clock in one.
        """
        now, used = time.monotonic(), self._usage()
        # What cannot be seen, because it is another user's for example, may be busy.
        busy = not used or any(_is_busy(used, before, now - at) for at, before in (self._last, self._busy))
        self._last = (now, used)
        if busy:
            self._busy = self._last
        return busy

    def _usage(self) -> Usage:
        return self._usage_by_proc() if sys.platform == "linux" else _usage_by_psutil(self._agent)

    def _usage_by_proc(self) -> Usage:
        stats = tree.stats()
        if self._agent not in stats:
            return {}
        since = stats[self._agent].start_ticks
        members = {self._agent, *tree.below(self._agent, stats)}
        for pid, stat in stats.items():
            if pid in members or stat.start_ticks < since or (pid, stat.start_ticks) in self._strangers:
                continue
            if token_of(pid) == self._token:
                members.add(pid)
            else:  # read once: with many processes that is what a look costs
                self._strangers.add((pid, stat.start_ticks))
        self._strangers &= {(pid, stat.start_ticks) for pid, stat in stats.items()}
        used: Usage = {}
        for pid in members:
            try:
                seconds = procfs.processor_ticks(pid) / procfs.CLOCK_TICKS
            except (OSError, ValueError):
                continue
            used[pid, stats[pid].start_ticks] = (seconds, procfs.written_bytes(pid) or 0)
        return used


def _is_busy(used: Usage, before: Usage, elapsed: float) -> bool:
    seconds = written = 0.0
    for process, (its_seconds, its_bytes) in used.items():
        seconds_before, bytes_before = before.get(process, (0.0, 0))
        seconds += max(0.0, its_seconds - seconds_before)
        written += max(0, its_bytes - bytes_before)
    # One tick is the least that can be seen, and says nothing.
    return seconds > max(BUSY * elapsed, 1.5 / procfs.CLOCK_TICKS) or written > WRITES * elapsed


def _usage_by_psutil(agent: int) -> Usage:
    """Return what a tree uses where there is no /proc; it has not been run there."""
    import psutil  # noqa: PLC0415  not on Linux

    used: Usage = {}
    try:
        for process in (psutil.Process(agent), *psutil.Process(agent).children(recursive=True)):
            times = process.cpu_times()
            used[process.pid, process.create_time()] = (times.user + times.system, 0)
    except psutil.Error:
        return used
    return used
