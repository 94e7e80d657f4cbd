"""What surrounds a process: its cgroups, terminal, session and clocks, and real kills for want of memory."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cgroups import MemoryGroup, eat, memory_group
from kit import Processes, dead_pid
from nursery import as_root, linux
from wrapping import Terminal

from supervisor.ending import ending_of, explained
from supervisor.models import Cause, Rank
from supervisor.process import procfs, surroundings
from supervisor.process.surroundings import (
    LATELY,
    Clocks,
    OomKills,
    Surroundings,
    circumstances_of,
    clocks,
    is_shutting_down,
    surroundings_of,
    terminal_is_gone,
)

pytestmark = linux

PID = 4711


class Fakes:
    """A ``/proc`` and a tree of cgroups that no process need be in."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        (self.proc / str(PID)).mkdir(parents=True)
        self.cgroups.mkdir()

    def group(self, path: str, *files: str) -> str:
        """Make a cgroup with some files and return its folder."""
        folder = self.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / file).touch()
        return str(folder)

    def seen(self, *lines: str) -> tuple[str | None, str | None]:
        """Return the memory cgroup and the session of a process with these cgroups."""
        text = "".join(f"{line}\n" for line in lines)
        (self.proc / str(PID) / "cgroup").write_bytes(os.fsencode(text))
        found = surroundings_of(PID, 0, proc=str(self.proc), cgroups=str(self.cgroups))
        return found.memory, found.session


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    """Give the test a system of its making."""
    return Fakes(tmp_path)


def test_version_1(fakes: Fakes) -> None:
    """The memory cgroup is found among the others, whatever controllers share its hierarchy."""
    memory = fakes.group("memory/user/a", "memory.oom_control")
    assert fakes.seen("9:cpu,cpuacct:/other", "4:memory:/user/a", "0::/") == (memory, None)
    assert fakes.seen("4:hugetlb,memory:/user/a") == (memory, None)
    assert fakes.seen("4:memory2:/user/a") == (None, None)


def test_version_1_at_the_root(fakes: Fakes) -> None:
    """A process that nobody has put anywhere is in the hierarchy's root, which counts too."""
    memory = fakes.group("memory", "memory.oom_control")
    assert fakes.seen("4:memory:/") == (memory, None)


def test_version_2(fakes: Fakes) -> None:
    """With the one hierarchy of version 2, memory and session are found in it."""
    session = fakes.group("user.slice/user-1000.slice/session-3.scope", "memory.events")
    assert fakes.seen("0::/user.slice/user-1000.slice/session-3.scope") == (session, session)


def test_version_2_accounts_further_up(fakes: Fakes) -> None:
    """Memory is accounted for in the nearest cgroup with a controller, which may be above the process's own."""
    session = fakes.group("user.slice/session-c1.scope", "memory.events")
    fakes.group("user.slice", "memory.events")
    fakes.group("user.slice/session-c1.scope/agents/one")
    assert fakes.seen("0::/user.slice/session-c1.scope/agents/one") == (session, session)
    assert fakes.seen("0::/") == (None, None)


def test_both_versions_at_once(fakes: Fakes) -> None:
    """Where both are mounted, memory is version 1's, and systemd's sessions are in either."""
    memory = fakes.group("memory/user.slice", "memory.oom_control")
    session = fakes.group("unified/user.slice/session-3.scope")
    assert fakes.seen("4:memory:/user.slice", "0::/user.slice/session-3.scope") == (memory, session)
    fakes.group("systemd/user.slice/session-3.scope")
    assert fakes.seen("1:name=systemd:/user.slice/session-3.scope/x", "0::/") == (
        None,
        str(fakes.cgroups / "systemd/user.slice/session-3.scope"),
    )


@pytest.mark.parametrize(
    "path",
    ["/../session-3.scope", "/..", "/a/../session-3.scope", "/session-3.scope (deleted)", "/session-4.scope", ""],
)
def test_what_cannot_be_seen_is_not_missed_later(fakes: Fakes, path: str) -> None:
    """A path out of our own namespace, a deleted cgroup and one that is not mounted here are unknown: not "gone"."""
    fakes.group("unified", "memory.events")
    fakes.group("memory")
    for folder in ("", "unified", "systemd", "memory"):
        fakes.group(f"{folder}/session-3.scope", "memory.events", "memory.oom_control")
    assert fakes.seen(f"0::{path}", f"1:name=systemd:{path}", f"4:memory:{path}") == (None, None)


@pytest.mark.parametrize("name", ["session-3", "session.scope", "my-session-3.scope", "session-3.scope.old"])
def test_other_names_are_no_sessions(fakes: Fakes, name: str) -> None:
    """Only systemd's own names for them are sessions."""
    fakes.group(f"unified/{name}")
    assert fakes.seen(f"0::/{name}") == (None, None)


def test_odd_names(fakes: Fakes) -> None:
    """A cgroup's path may hold colons and what is no text; lines that are none say nothing."""
    memory = fakes.group("memory/a:b\udcff", "memory.oom_control")
    assert fakes.seen("4:memory:/a:b\udcff", "junk", "5:memory", "") == (memory, None)


def test_a_process_that_is_gone_or_hidden() -> None:
    """Of a process whose files cannot be read nothing is known."""
    found = surroundings_of(dead_pid(), 0)
    assert (found.memory, found.session, found.terminal) == (None, None, 0)


# Terminals.


def number_of(major: int, minor: int) -> int:
    """Return a device's number as proc(5) gives it (new_encode_dev of the kernel)."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (4, 1), (4, 64), (5, 0), (204, 64), (128, 0), (144, 0)])
def test_other_terminals_never_go(major: int, minor: int) -> None:
    """Consoles and serial lines are not closed, nor is no terminal at all."""
    assert not terminal_is_gone(number_of(major, minor))
    assert surroundings_of(os.getpid(), number_of(major, minor)).terminal == 0


@pytest.mark.parametrize(
    ("major", "minor", "name"), [(136, 0, 0), (136, 255, 255), (136, 256, 256), (136, 70000, 70000), (137, 3, 259)]
)
def test_pseudo_terminals_by_number(monkeypatch: pytest.MonkeyPatch, major: int, minor: int, name: int) -> None:
    """A device's number names its file, also above the first 256."""
    there = f"/dev/pts/{name}"
    monkeypatch.setattr(os.path, "exists", lambda path: path == there)
    assert not terminal_is_gone(number_of(major, minor))
    monkeypatch.setattr(os.path, "exists", lambda path: path != there)
    assert terminal_is_gone(number_of(major, minor))


def test_a_terminal_that_is_closed() -> None:
    """A real pseudo-terminal is gone once its window is closed, and is named then."""
    master, slave = pty.openpty()
    try:
        name, device = os.ttyname(slave), os.fstat(slave).st_rdev
        terminal = number_of(os.major(device), os.minor(device))
        before = surroundings_of(os.getpid(), terminal)
        assert before.terminal == terminal
        assert circumstances_of(before, OomKills(), killed=True).terminal_gone is None
        os.close(master)  # as the slave stays open, nobody is given the same number now
        assert circumstances_of(before, OomKills(), killed=True).terminal_gone == name
        assert surroundings_of(os.getpid(), terminal).terminal == 0, "gone before the first look: nothing to tell"
    finally:
        os.close(slave)


def test_the_terminal_of_a_process(processes: Processes) -> None:
    """What proc(5) says of a process's terminal is what is missed when its window is closed."""
    with Terminal(processes, "sh", "-c", 'trap "" HUP; echo up; exec sleep 3600') as terminal:
        terminal.expect("up")
        before = surroundings_of(terminal.program.pid, procfs.read_stat(terminal.program.pid).tty)
        assert before.terminal != 0
        terminal.hang_up()
        gone = circumstances_of(before, OomKills(), killed=True).terminal_gone
        assert gone is not None
        assert gone.startswith("/dev/pts/")


# Sessions, clocks, the machine.


def test_a_session_that_has_ended(tmp_path: Path) -> None:
    """A login session whose cgroup has vanished is named."""
    session = tmp_path / "session-3.scope"
    session.mkdir()
    before = Surroundings(None, str(session), 0, clocks())
    assert circumstances_of(before, OomKills(), killed=True).session_gone is None
    session.rmdir()
    assert circumstances_of(before, OomKills(), killed=True).session_gone == str(session)


def test_who_exits_has_not_lost_anything(tmp_path: Path, counters: Counters) -> None:
    """Of a process that no signal has ended, neither terminal nor session nor memory is asked."""
    before = Surroundings(counters.follow(), str(tmp_path / "session-3.scope"), number_of(136, 1 << 19), clocks())
    counters.group("one", 1)
    counters.machine(1)
    killed = circumstances_of(before, counters.kills, killed=True)
    assert None not in (killed.oom, killed.session_gone, killed.terminal_gone)
    exited = circumstances_of(before, counters.kills, killed=False)
    assert (exited.oom, exited.session_gone, exited.terminal_gone) == (None, None, None)


@pytest.mark.parametrize("killed", [True, False])
def test_a_shutdown_explains_every_end(monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """A machine that goes down makes programs exit by themselves, too."""
    monkeypatch.setattr(surroundings, "is_shutting_down", lambda: True)
    assert circumstances_of(Surroundings(None, None, 0, clocks()), OomKills(), killed=killed).shutting_down


def test_clocks_that_have_moved() -> None:
    """What the clocks have moved by since then is told: a suspend and a step, each by itself."""
    now = clocks()
    before = Surroundings(None, None, 0, Clocks(now.offset - 5, now.suspended - 7))
    found = circumstances_of(before, OomKills(), killed=False)
    assert found.clock_stepped == pytest.approx(5, abs=0.4)
    assert found.suspended == pytest.approx(7, abs=0.4)
    unmoved = circumstances_of(Surroundings(None, None, 0, now), OomKills(), killed=False)
    assert (round(unmoved.clock_stepped), round(unmoved.suspended)) == (0, 0)


def test_the_real_clocks() -> None:
    """Offset and boot make the time of day, and a machine sleeps at most since its boot."""
    now = clocks()
    assert now.offset + time.clock_gettime(time.CLOCK_BOOTTIME) == pytest.approx(time.time(), abs=5)
    assert -0.01 < now.suspended <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("held", range(12))
def test_an_interrupted_reading_is_no_step(held: int) -> None:
    """Whoever is held up for an hour between two clocks still reads them right."""
    calls, boot = 0, 1000.0

    def clock(number: int) -> float:
        nonlocal calls, boot
        calls += 1
        boot += 3600 if calls == held else 0.000001
        return {time.CLOCK_REALTIME: 5_000_000.0, time.CLOCK_MONOTONIC: -20.0}.get(number, 0.0) + boot

    found = clocks(clock)
    assert found.offset == pytest.approx(5_000_000, abs=0.001)
    assert found.suspended == pytest.approx(20, abs=0.001)


@pytest.mark.parametrize(
    ("scheduled", "nologin", "expected"),
    [
        (None, False, False),
        (None, True, True),
        ("USEC=1000000000\nWARN_WALL=1\nMODE=poweroff\n", False, True),
        ("USEC=1000000001\nMODE=reboot\n", False, False),
        ("USEC=1000000001\nMODE=reboot\n", True, True),
        ("MODE=reboot\n", False, False),
        ("USEC=soon\n", False, False),
        ("", False, False),
    ],
)
def test_a_machine_that_goes_down(tmp_path: Path, scheduled: str | None, nologin: bool, expected: bool) -> None:
    """The machine goes down when nobody may log in any more, or at the time announced, not while that is to come."""
    (tmp_path / "systemd" / "shutdown").mkdir(parents=True)
    if scheduled is not None:
        (tmp_path / "systemd" / "shutdown" / "scheduled").write_text(scheduled)
    if nologin:
        (tmp_path / "nologin").touch()
    assert is_shutting_down(run=str(tmp_path), now=lambda: 1000.0) is expected


# Counting kills for want of memory, with counters of the test's making.


class Counters:
    """The kernel's counters as files, and a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.vmstat = folder / "vmstat"
        self.folder = folder
        self.machine(0)
        self.group("one", 0)
        self.kills = OomKills(lambda: self.now, vmstat=str(self.vmstat))

    def machine(self, count: int) -> None:
        """Set the machine's counter."""
        self.vmstat.write_text(f"oom_kill_x 9\noom_kill {count}\nnr_free_pages 1\n")

    def group(self, name: str, count: int, *, version: int = 2) -> str:
        """Set a cgroup's counter; return its folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if version == 2:
            (folder / "memory.events").write_text(f"low 0\nmax 70\noom 50\noom_kill {count}\noom_group_kill 0\n")
        else:
            (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")
        return str(folder)

    def follow(self, name: str = "one") -> str:
        """Follow a cgroup and return its folder."""
        folder = str(self.folder / name)
        self.kills.follow(folder)
        return folder

    def says(self, folder: str | None) -> tuple[bool, int, int] | None:
        """Return what speaks for a kill there: whether certainly, and from what to what the counter rose."""
        found = self.kills.evidence(folder)
        if found is None:
            return None
        certain, before, after = found["certain"], found["before"], found["after"]
        assert isinstance(certain, bool)
        assert isinstance(before, int)
        assert isinstance(after, int)
        expected = f"{folder if certain else self.vmstat}: oom_kill"
        assert found["counter"] == expected
        return certain, before, after


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    """Give the test counters to turn."""
    return Counters(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_the_groups_own_counter_is_certain(counters: Counters, version: int) -> None:
    """A cgroup's own risen counter says so for certain, and from what to what it rose; before that, nothing does."""
    counters.group("other", 3, version=version)
    other = counters.follow("other")
    assert counters.says(other) is None
    counters.group("other", 5, version=version)
    counters.machine(2)
    assert counters.says(other) == (True, 3, 5)


def test_another_groups_kill_does_not_count(counters: Counters) -> None:
    """Where one's own counter can be read and has not risen, the machine's says nothing."""
    one = counters.follow()
    counters.machine(1)
    assert counters.says(one) is None


def test_without_a_group_it_is_probable(counters: Counters) -> None:
    """Where there is no cgroup to ask, the machine's counter makes it probable."""
    assert counters.says(None) is None
    counters.machine(1)
    assert counters.says(None) == (False, 0, 1)
    assert counters.says(str(counters.folder / "nowhere")) == (False, 0, 1)


def test_a_group_that_has_vanished_is_probable(counters: Counters) -> None:
    """A cgroup that vanished before anybody read its counter leaves only the machine's."""
    one = counters.follow()
    counters.machine(1)
    (counters.folder / "one" / "memory.events").unlink()
    assert counters.says(one) == (False, 0, 1)


def test_a_group_that_vanishes_after_a_look_is_certain(counters: Counters) -> None:
    """What was seen of a counter before its cgroup vanished still holds."""
    one = counters.follow()
    counters.group("one", 1)
    counters.machine(1)
    counters.kills.refresh()
    (counters.folder / "one" / "memory.events").unlink()
    assert counters.says(one) == (True, 0, 1)


def test_a_group_that_vanished_without_any_kill(counters: Counters) -> None:
    """That a cgroup is gone says nothing by itself."""
    one = counters.follow()
    (counters.folder / "one" / "memory.events").unlink()
    assert counters.says(one) is None


def test_the_machine_counts_first(counters: Counters) -> None:
    """A look between the kernel's two counts does not lose the second, even if the cgroup vanishes soon."""
    one = counters.follow()
    counters.machine(1)
    counters.kills.refresh()
    counters.group("one", 1)
    counters.now += 1
    counters.kills.refresh()
    (counters.folder / "one" / "memory.events").unlink()
    assert counters.says(one) == (True, 0, 1)


def test_only_lately(counters: Counters) -> None:
    """A risen counter explains a death for some seconds after it was seen, and not for ever."""
    one = counters.follow()
    counters.group("one", 1)
    counters.machine(1)
    counters.kills.refresh()
    counters.now += LATELY
    assert counters.says(one) == (True, 0, 1)
    assert counters.says(None) == (False, 0, 1)
    counters.now += 0.1
    assert counters.says(one) is None
    assert counters.says(None) is None
    counters.group("one", 2)
    counters.machine(2)
    assert counters.says(one) == (True, 1, 2)


def test_what_was_there_before_is_no_rise(counters: Counters) -> None:
    """Kills before a cgroup was followed, or before we were started, are not news."""
    counters.group("two", 7)
    counters.machine(9)
    kills = OomKills(lambda: counters.now, vmstat=str(counters.vmstat))
    kills.follow(str(counters.folder / "two"))
    assert kills.evidence(str(counters.folder / "two")) is None
    assert kills.evidence(None) is None


def test_following_again_keeps_the_count(counters: Counters) -> None:
    """A second process in a cgroup does not make the first one's death forgotten."""
    one = counters.follow()
    counters.group("one", 1)
    counters.machine(1)
    counters.follow()
    counters.kills.follow(None)
    assert counters.says(one) == (True, 0, 1)


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_a_service_that_starts_again(counters: Counters, count: int) -> None:
    """A new cgroup of an old name has a count of its own: what the old one's was says nothing of it."""
    counters.group("one", 5)
    one = counters.follow()
    counters.group("next", count)
    (counters.folder / "one").rename(counters.folder / "old")
    (counters.folder / "next").rename(counters.folder / "one")
    counters.machine(1)
    assert counters.says(one) is None, "before it is followed"
    counters.follow()
    assert counters.says(one) is None
    counters.group("one", count + 1)
    counters.machine(2)
    assert counters.says(one) == (True, count, count + 1)


def test_a_service_that_starts_again_after_a_kill(counters: Counters) -> None:
    """A kill in the old cgroup does not explain how the new one's process dies."""
    one = counters.follow()
    counters.group("one", 1)
    counters.machine(1)
    assert counters.says(one) == (True, 0, 1)
    counters.group("next", 0)
    (counters.folder / "one").rename(counters.folder / "old")
    (counters.folder / "next").rename(counters.folder / "one")
    counters.follow()
    assert counters.says(one) is None


def test_a_machine_that_could_not_be_asked_at_first(counters: Counters) -> None:
    """The first number that is read is none that has risen."""
    counters.vmstat.unlink()
    kills = OomKills(lambda: counters.now, vmstat=str(counters.vmstat))
    counters.machine(57)
    assert kills.evidence(None) is None
    counters.machine(58)
    found = kills.evidence(None)
    assert found is not None
    assert (found["before"], found["after"]) == (57, 58)


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill x\n", "nr_free_pages 5\n"])
def test_without_the_machines_counter(counters: Counters, text: str) -> None:
    """Where the machine counts nothing that can be read, a cgroup's own counter is enough."""
    one = counters.follow()
    counters.vmstat.write_text(text)
    counters.group("one", 1)
    assert counters.says(one) == (True, 0, 1)
    assert counters.says(None) is None


def test_a_quiet_machine_costs_one_file(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the machine's count stays, no cgroup is asked."""
    counters.follow()
    monkeypatch.setattr(surroundings, "_count", lambda _: pytest.fail("asked"))
    counters.kills.refresh()
    counters.now += 3600
    counters.kills.refresh()


# Real kills.


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    """Give the test a memory cgroup with a small limit."""
    with memory_group() as group:
        yield group


Kill = Callable[[MemoryGroup], Surroundings]


@pytest.fixture
def oom_kill(processes: Processes) -> Kill:
    """Give the test a function that lets the kernel kill a process in a cgroup; returns what surrounded it."""

    def kill(group: MemoryGroup) -> Surroundings:
        eater = group.eater(processes)
        before = surroundings_of(eater.pid, 0)
        assert eat(eater) == -signal.SIGKILL
        return before

    return kill


@as_root
def test_a_real_kill_is_certain(group: MemoryGroup, oom_kill: Kill) -> None:
    """A process that the kernel kills for want of memory has been killed for that, for certain, for a while."""
    now = 0.0
    kills = OomKills(lambda: now)
    kills.follow(str(group.folder))
    before = oom_kill(group)
    assert before.memory == str(group.folder)
    expected = {"certain": True, "counter": f"{group.folder}: oom_kill", "before": 0, "after": 1}
    found = circumstances_of(before, kills, killed=True)
    assert found.oom == expected
    killed = ending_of(signal.SIGKILL, rank=Rank.KERNEL, ended_at=1, detected_at=1, settled_by="test")
    assert explained(killed, found).cause is Cause.OOM_KILLED
    now += LATELY + 1
    assert circumstances_of(before, kills, killed=True).oom is None


@as_root
def test_a_real_cgroup_that_has_vanished(group: MemoryGroup, oom_kill: Kill) -> None:
    """A cgroup that vanishes with its last process, before its counter is read, leaves it probable."""
    kills = OomKills()
    kills.follow(str(group.folder))
    before = oom_kill(group)
    group.remove()
    found = kills.evidence(before.memory)
    assert found is not None
    assert (found["certain"], found["counter"]) == (False, "/proc/vmstat: oom_kill")


@as_root
def test_a_real_kill_elsewhere(group: MemoryGroup, oom_kill: Kill, processes: Processes) -> None:
    """Who is killed by a person while another group runs out of memory has not run out of it."""
    with memory_group() as own:
        victim = processes.living()
        own.add(victim.pid)
        before, kills = surroundings_of(victim.pid, 0), OomKills()
        for memory in (before.memory, str(group.folder)):
            kills.follow(memory)
        oom_kill(group)
        victim.kill()
        victim.wait(10)
        assert kills.evidence(before.memory) is None
        assert kills.evidence(str(group.folder)) is not None
