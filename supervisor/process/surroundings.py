"""What surrounds a process and may explain its end: memory pressure, its terminal, its login session, the clocks.

It is sampled when a process is bound, for at its end some of it is gone: a cgroup vanishes with its last process. Linux
only; elsewhere everything is unknown. All of it can be read without privileges.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.models import Circumstances

LATELY = 10.0
"""Seconds for which a risen counter of OOM kills still explains a SIGKILL: a big process takes long to die."""

_SHUTDOWN_MARKS = ("/run/systemd/shutdown/scheduled", "/run/nologin")
_PTS_MAJORS = range(136, 144)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Differences between clocks, in seconds: they change only by a step, or by a suspend.

    ``offset`` is CLOCK_REALTIME - CLOCK_BOOTTIME; ``suspended`` is CLOCK_BOOTTIME - CLOCK_MONOTONIC.
    """

    offset: float
    suspended: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What surrounds a process: its memory cgroup's folder, its login session's, and its controlling terminal.

    ``terminal`` is a device number as proc(5) gives it (tty_nr), 0 for none.
    """

    memory: str | None
    session: str | None
    terminal: int
    clocks: Clocks


def clocks() -> Clocks:
    """Read the clocks."""
    boot = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    return Clocks(time.time() - boot, boot - time.clock_gettime(time.CLOCK_MONOTONIC))


def surroundings_of(pid: int, terminal: int) -> Surroundings:
    """Look at what surrounds a process.

    Args:
        pid: its id.
        terminal: its tty_nr.
    """
    memory = session = None
    for controllers, path in _cgroups(pid):
        if controllers == "":
            session = _session_of(f"{_unified_root()}{path}") or session
            memory = memory or _with_file(f"{_unified_root()}{path}", "memory.events")
        elif "memory" in controllers.split(","):
            memory = _with_file(f"/sys/fs/cgroup/memory{path}", "memory.oom_control")
        elif controllers == "name=systemd":
            session = _session_of(f"/sys/fs/cgroup/systemd{path}") or session
    return Surroundings(memory, session, terminal, clocks())


def terminal_is_gone(terminal: int) -> bool:
    """Tell whether a pseudo-terminal has been closed; other terminals stay."""
    name = _terminal_name(terminal)
    return name is not None and not os.path.exists(name)


def is_gone(folder: str) -> bool:
    """Tell whether a cgroup has vanished."""
    return not os.path.isdir(folder)


def is_shutting_down() -> bool:
    """Tell whether the machine is being shut down."""
    return any(os.path.exists(mark) for mark in _SHUTDOWN_MARKS)


def circumstances_of(before: Surroundings, oom_kills: OomKills) -> Circumstances:
    """Compare what surrounded a process when it was bound with what is left at its end."""
    now = clocks()
    return Circumstances(
        oom=oom_kills.evidence(before.memory),
        terminal_gone=_terminal_name(before.terminal) if terminal_is_gone(before.terminal) else None,
        session_gone=before.session if before.session is not None and is_gone(before.session) else None,
        shutting_down=is_shutting_down(),
        suspended=now.suspended - before.clocks.suspended,
        clock_stepped=now.offset - before.clocks.offset,
    )


class OomKills:
    """Counts the kernel's OOM kills by cgroup, and remembers when each count has risen.

    Args:
        clock: a monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._machine = _machine_count()
        self._machine_rose: tuple[float, int, int] | None = None
        self._counts: dict[str, int] = {}
        self._rose: dict[str, tuple[float, int, int]] = {}

    def follow(self, memory: str | None) -> None:
        """Begin to count in a memory cgroup, if that is not done yet."""
        if memory is not None and memory not in self._counts:
            count = _count(memory)
            if count is not None:
                self._counts[memory] = count

    def refresh(self) -> None:
        """Look whether any count has risen. Cheap as long as the machine's has not: one file."""
        now, machine = self._clock(), _machine_count()
        if machine is None or machine == self._machine:
            return
        self._machine_rose, self._machine = (now, self._machine or 0, machine), machine
        for memory, before in list(self._counts.items()):
            count = _count(memory)
            if count is None:
                del self._counts[memory]  # vanished: what it counted last tells nothing any more
            elif count > before:
                self._rose[memory], self._counts[memory] = (now, before, count), count

    def evidence(self, memory: str | None) -> Mapping[str, object] | None:
        """Return what speaks for an OOM kill in a cgroup just now, None if nothing does.

        ``certain`` is true where the cgroup's own counter has risen; where that cannot be read, the machine's rising
        only makes it probable.
        """
        self.refresh()
        rose = self._rose.get(memory or "")
        if rose is not None and self._clock() - rose[0] <= LATELY:
            return {"certain": True, "counter": f"{memory}: oom_kill", "before": rose[1], "after": rose[2]}
        readable = memory is not None and _count(memory) is not None
        rose = self._machine_rose
        if rose is not None and not readable and self._clock() - rose[0] <= LATELY:
            return {"certain": False, "counter": "/proc/vmstat: oom_kill", "before": rose[1], "after": rose[2]}
        return None


def _terminal_name(terminal: int) -> str | None:
    """Return the path of a pseudo-terminal from its device number, None for another terminal (and none)."""
    major, minor = (terminal >> 8) & 0xFFF, (terminal & 0xFF) | ((terminal >> 12) & 0xFFF00)
    if major not in _PTS_MAJORS:
        return None
    return f"/dev/pts/{(major - _PTS_MAJORS.start) * 256 + minor}"


def _cgroups(pid: int) -> list[tuple[str, str]]:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    return [(line[1], line[2]) for line in lines if len(line) == 3]


def _unified_root() -> str:
    return "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"


def _with_file(folder: str, name: str) -> str | None:
    return folder if os.path.exists(os.path.join(folder, name)) else None


def _session_of(folder: str) -> str | None:
    """Return the folder of the login session that a cgroup lies in (systemd.scope(5), session-N.scope)."""
    parts = folder.split("/")
    for index, part in enumerate(parts):
        if part.startswith("session-") and part.endswith(".scope"):
            return "/".join(parts[: index + 1])
    return None


def _count(memory: str) -> int | None:
    """Return a cgroup's ``oom_kill`` (not ``oom``, which counts what memory.max has refused: containerd#6323)."""
    for name in ("memory.events", "memory.oom_control"):
        count = _field(os.path.join(memory, name), "oom_kill")
        if count is not None:
            return count
    return None


def _machine_count() -> int | None:
    return _field("/proc/vmstat", "oom_kill")


def _field(path: str, name: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
    except (OSError, ValueError):
        return None
    return None
