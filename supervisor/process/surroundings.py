"""What surrounds a process and may explain its end: memory pressure, its terminal, its login session, the clocks.

It is sampled when a process is bound, for at its end some of it is gone: a cgroup vanishes with its last process. Linux
only; elsewhere everything is unknown. All of it can be read without privileges.
"""

from __future__ import annotations

import os
import time

from supervisor.nouns import Circumstances
from supervisor.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LATELY = 10.0
"""Seconds for which a risen counter of OOM kills still explains a SIGKILL: a big process takes long to die."""

_CGROUPS = "/sys/fs/cgroup"
_PTS_MAJORS = range(136, 144)


class Clocks(Value):
    """Differences between clocks, in seconds: they change only by a step, or by a suspend.

    ``offset`` is CLOCK_REALTIME - CLOCK_BOOTTIME; ``suspended`` is CLOCK_BOOTTIME - CLOCK_MONOTONIC.
    """

    offset: float
    suspended: float


class Surroundings(Value):
    """What surrounds a process: its memory cgroup's folder, its login session's, and its controlling terminal.

    ``terminal`` is a device number as proc(5) gives it (tty_nr), 0 for none that could be closed before our eyes.
    """

    memory: str | None
    session: str | None
    terminal: int
    clocks: Clocks


def clocks(clock_gettime: Callable[[int], float] = time.clock_gettime) -> Clocks:
    """Read the clocks: the tightest of three readings, for one that was interrupted would look like a step."""
    boottime = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    readings = []
    for _ in range(3):
        boot, real, monotonic = map(clock_gettime, (boottime, time.CLOCK_REALTIME, time.CLOCK_MONOTONIC))
        readings.append((clock_gettime(boottime) - boot, real - boot, boot - monotonic))
    _, offset, suspended = min(readings)
    return Clocks(offset, suspended)


def surroundings_of(pid: int, terminal: int, *, proc: str = "/proc", cgroups: str = _CGROUPS) -> Surroundings:
    """Look at what surrounds a process. Only what is there now can be missed later.

    Args:
        pid: its id.
        terminal: its tty_nr.
        proc: where process information is mounted.
        cgroups: where cgroups are.
    """
    memory = session = None
    unified = os.path.join(cgroups, "unified")
    for controllers, path in _cgroups_of(pid, proc):
        if controllers == "":
            root = unified if os.path.isdir(unified) else cgroups
            session = _session_of(root, path) or session
            memory = memory or _memory_of(root, path)
        elif "memory" in controllers.split(","):
            memory = _with_file(f"{cgroups}/memory{path}".rstrip("/"), "memory.oom_control")
        elif controllers == "name=systemd":
            session = _session_of(os.path.join(cgroups, "systemd"), path) or session
    seen = _terminal_name(terminal) is not None and not terminal_is_gone(terminal)
    return Surroundings(memory, session, terminal if seen else 0, clocks())


def terminal_is_gone(terminal: int) -> bool:
    """Tell whether a pseudo-terminal has been closed; other terminals stay."""
    name = _terminal_name(terminal)
    return name is not None and not os.path.exists(name)


def is_gone(folder: str) -> bool:
    """Tell whether a cgroup has vanished."""
    return not os.path.isdir(folder)


def is_shutting_down(*, run: str = "/run", now: Callable[[], float] = time.time) -> bool:
    """Tell whether the machine is being shut down: nobody may log in any more, or the announced time has come.

    Args:
        run: where systemd keeps its marks.
        now: the wall clock, Unix seconds.
    """
    if os.path.exists(os.path.join(run, "nologin")):
        return True
    due = _field(os.path.join(run, "systemd/shutdown/scheduled"), "USEC", separator="=")
    return due is not None and now() >= due / 1e6


def circumstances_of(before: Surroundings, oom_kills: OomKills, *, killed: bool) -> Circumstances:
    """Compare what surrounded a process when it was bound with what is left at its end; see `Moment.circumstances`."""
    return Moment(oom_kills).circumstances(before, killed=killed)


class Moment:
    """The moment at which processes were seen to have ended, ``at`` in Unix seconds.

    What is the same for all of them is asked once: a thousand may end together. It must begin after their ends were
    seen, for the kernel counts an OOM kill before it kills.

    Args:
        oom_kills: counted since the processes were bound.
    """

    def __init__(self, oom_kills: OomKills) -> None:
        self.at = time.time()
        self._oom_kills = oom_kills
        self._oom: dict[str | None, Mapping[str, object] | None] = {}
        self._clocks = clocks()
        self._shutting_down = is_shutting_down()  # also makes programs exit by themselves, and unseen
        self.nothing = Surroundings(None, None, 0, self._clocks)
        """What surrounds a process that has gone before it was seen: nothing that could be missed."""

    def circumstances(self, before: Surroundings, *, killed: bool) -> Circumstances:
        """Compare what surrounded a process when it was bound with what is left at its end.

        Args:
            before: what surrounded it.
            killed: whether a signal ended it: only then the more costly questions are asked.
        """
        terminal, session = before.terminal, before.session
        return Circumstances(
            shutting_down=self._shutting_down,
            suspended=self._clocks.suspended - before.clocks.suspended,
            clock_stepped=self._clocks.offset - before.clocks.offset,
            oom=self._oom_evidence(before.memory) if killed else None,
            terminal_gone=_terminal_name(terminal) if killed and terminal_is_gone(terminal) else None,
            session_gone=session if killed and session is not None and is_gone(session) else None,
        )

    def _oom_evidence(self, memory: str | None) -> Mapping[str, object] | None:
        if memory not in self._oom:
            self._oom[memory] = self._oom_kills.evidence(memory)
        return self._oom[memory]


class _Rise(Value):
    """That a counter was seen to have risen: when, and from what to what."""

    at: float
    before: int
    after: int


class OomKills:
    """Counts the kernel's OOM kills by cgroup, and remembers when each count has risen.

    Args:
        clock: a monotonic clock, seconds.
        vmstat: the file that counts for the whole machine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, vmstat: str = "/proc/vmstat") -> None:
        self._clock = clock
        self._vmstat = vmstat
        self._machine = _field(vmstat, "oom_kill")
        self._machine_rose: _Rise | None = None
        self._counts: dict[str, tuple[int, int]] = {}
        """By folder, the inode of the cgroup and its count: a service that starts again has another of that name."""
        self._rose: dict[str, _Rise] = {}

    def follow(self, memory: str | None) -> None:
        """Begin to count in a memory cgroup, if that is not done yet."""
        if memory is not None and self._counts.get(memory, (None,))[0] != _inode(memory):
            self._recount(memory)

    def refresh(self) -> bool:
        """Look whether any count has risen; tell whether the machine's could be read, without which no other is.

        Cheap as long as the machine's has not risen: one file. The kernel counts for the machine before a cgroup, and
        kills after both.
        """
        machine = _field(self._vmstat, "oom_kill")
        if machine is not None:
            if self._machine is not None and machine > self._machine:
                self._machine_rose = _Rise(self._clock(), self._machine, machine)
            self._machine = machine
        if not self._is_late(self._machine_rose):
            for memory in list(self._counts):  # each for a while after: the second count may just be missing
                self._recount(memory)
        return machine is not None

    def evidence(self, memory: str | None) -> Mapping[str, object] | None:
        """Return what speaks for an OOM kill in a cgroup just now, None if nothing does.

        ``certain`` is true where the cgroup's own counter has risen; where that cannot be read, the machine's rising
        only makes it probable.
        """
        if not self.refresh() and memory in self._counts:
            self._recount(memory)
        own, machine = self._rose.get(memory or ""), self._machine_rose
        if own is not None and not self._is_late(own):
            return {"certain": True, "counter": f"{memory}: oom_kill", "before": own.before, "after": own.after}
        if machine is None or memory in self._counts or self._is_late(machine):
            return None
        counter = f"{self._vmstat}: oom_kill"
        return {"certain": False, "counter": counter, "before": machine.before, "after": machine.after}

    def _recount(self, memory: str) -> None:
        inode, count, known = _inode(memory), _count(memory), self._counts.pop(memory, None)
        if inode is None or count is None:
            return  # vanished: what it counted last tells nothing any more
        self._counts[memory] = inode, count
        if known is None or known[0] != inode:
            self._rose.pop(memory, None)
        elif count > known[1]:
            self._rose[memory] = _Rise(self._clock(), known[1], count)

    def _is_late(self, rise: _Rise | None) -> bool:
        return rise is None or self._clock() - rise.at > LATELY


def _terminal_name(terminal: int) -> str | None:
    """Return the path of a pseudo-terminal from its device number, None for another terminal (and none)."""
    major, minor = (terminal >> 8) & 0xFFF, (terminal & 0xFF) | ((terminal >> 12) & 0xFFF00)
    if major not in _PTS_MAJORS:
        return None
    return f"/dev/pts/{(major - _PTS_MAJORS.start) * 256 + minor}"


def _cgroups_of(pid: int, proc: str) -> list[tuple[str, str]]:
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    # A path that leads out of our own cgroup namespace (``/../…``) names nothing that we can see.
    return [(line[1], line[2]) for line in lines if len(line) == 3 and ".." not in line[2].split("/")]


def _memory_of(root: str, path: str) -> str | None:
    """Return the folder of the version 2 cgroup that accounts for a cgroup's memory: the nearest with a controller."""
    while path.strip("/"):
        found = _with_file(f"{root}{path}", "memory.events")
        if found is not None:
            return found
        path = path.rpartition("/")[0]
    return None


def _with_file(folder: str, name: str) -> str | None:
    return folder if os.path.exists(os.path.join(folder, name)) else None


def _session_of(root: str, path: str) -> str | None:
    """Return the folder of the login session that a cgroup lies in (systemd.scope(5), session-N.scope)."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part.startswith("session-") and part.endswith(".scope"):
            folder = root + "/".join(parts[: index + 1])
            return folder if os.path.isdir(folder) else None
    return None


def _inode(folder: str) -> int | None:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None


def _count(memory: str) -> int | None:
    """Return a cgroup's ``oom_kill`` (not ``oom``, which counts what memory.max has refused: containerd#6323)."""
    for name in ("memory.events", "memory.oom_control"):
        count = _field(os.path.join(memory, name), "oom_kill")
        if count is not None:
            return count
    return None


def _field(path: str, name: str, *, separator: str = " ") -> int | None:
    """Return a number from a file of names and values; without a text file's layers, for each tick asks for one."""
    wanted = f"\n{name}{separator}".encode()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b"\n"
            while more := os.read(descriptor, 65536):  # the kernel gives a page or less at a time
                content += more
                _, found, value = content.partition(wanted)
                if found and b"\n" in value:
                    break
        finally:
            os.close(descriptor)
        _, found, value = content.partition(wanted)
        return int(value.partition(b"\n")[0]) if found else None
    except (OSError, ValueError):
        return None
