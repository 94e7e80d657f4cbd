"""Stamps: equal for one process, different for two, and honest about what is not known."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from kit import LIVES, Processes, wait_until
from nursery import Nursery, hear, linux, say

from supervisor.process import pidfd, procfs, stamp
from supervisor.process.stamp import stamp_of, start_ticks, started_at

pytestmark = linux

_EXECS = (
    "import os, sys; print(flush=True); sys.stdin.readline();"
    f"os.execv(sys.executable, [sys.executable, '-c', {LIVES!r}])"
)

_IMPORTS = """
import sys
before = set(sys.modules)
import supervisor.process, supervisor.process.procfs, supervisor.process.pidfd, supervisor.process.stamp
print(*sorted(set(sys.modules) - before))
"""


def without_time(columns: stamp.StampColumns) -> dict[str, object]:
    """Return a stamp's columns without the start in Unix seconds, which moves with the clock."""
    return {name: value for name, value in columns.items() if name != "started_at"}


def test_child(processes: Processes) -> None:
    """A live child's stamp says where we are, and of the child what the kernel says."""
    process = processes.living()
    descriptor = os.pidfd_open(process.pid)
    columns = stamp_of(process.pid)
    assert without_time(columns) == {
        "host": stamp.host_id(),
        "boot_id": procfs.boot_id(),
        "pid_ns": os.stat(f"/proc/{process.pid}/ns/pid").st_ino,
        "pid_ns_ticks": start_ticks(1),
        "time_ns": procfs.namespace("time"),
        "pid": process.pid,
        "start_ticks": procfs.read_stat(process.pid).start_ticks,
        "pidfd_inode": pidfd.inode(descriptor),
    }
    assert without_time(stamp_of(process.pid, descriptor)) == without_time(columns)
    os.close(descriptor)


def test_start_in_unix_seconds(processes: Processes) -> None:
    """The start is that of the process, right to 0.1 s."""
    before = time.time()
    process = processes.start(sys.executable, "-c", LIVES, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    after = time.time()
    started = stamp_of(process.pid)["started_at"]
    assert started is not None
    assert before - 0.1 <= started <= after + 0.1


def test_start_does_not_drift() -> None:
    """The same ticks are the same moment, whenever one asks."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    moments = [started_at(ticks) for _ in range(100)]
    assert max(moments) - min(moments) < 0.02
    assert started_at(ticks + procfs.CLOCK_TICKS) - started_at(ticks) == pytest.approx(1, abs=0.02)


def test_exec_changes_nothing(processes: Processes) -> None:
    """A process that becomes another program keeps its stamp."""
    process = processes.python(_EXECS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    hear(process)
    before = stamp_of(process.pid)
    say(process, "exec")
    hear(process)
    assert without_time(stamp_of(process.pid)) == without_time(before)


def test_two_processes_differ(processes: Processes) -> None:
    """Two processes share the place in their stamps and nothing that is their own."""
    one, two = (stamp_of(pid) for pid in Nursery(processes).spawn(2))
    assert one["pid"] != two["pid"]
    assert one["pidfd_inode"] is None or one["pidfd_inode"] != two["pidfd_inode"]
    for column in ("host", "boot_id", "pid_ns", "pid_ns_ticks", "time_ns"):
        assert one[column] == two[column]


def test_later_process_has_more_ticks(processes: Processes) -> None:
    """A process that starts at least a tick later has more ticks."""
    nursery = Nursery(processes)
    first = start_ticks(nursery.pid)
    assert first is not None
    moment = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > moment + 2 / procfs.CLOCK_TICKS)
    later = start_ticks(nursery.born())
    assert later is not None
    assert later > first


def test_zombie_keeps_its_stamp(processes: Processes) -> None:
    """A process that has ended and was not reaped still has its stamp."""
    nursery = Nursery(processes)
    pid = nursery.born()
    before = stamp_of(pid)
    nursery.end(pid, 0)
    assert without_time(stamp_of(pid)) == without_time(before)


def check_partial(pid: int) -> None:
    """Assert that a stamp has the place, and nothing of the process but the pid."""
    place = stamp.here()
    assert stamp_of(pid) == {
        "host": place.host,
        "boot_id": place.boot_id,
        "pid_ns": place.pid_ns,
        "pid_ns_ticks": place.pid_ns_ticks,
        "time_ns": place.time_ns,
        "pid": pid,
        "start_ticks": None,
        "pidfd_inode": None,
        "started_at": None,
    }


def test_dead_pid(processes: Processes) -> None:
    """The stamp of a pid that nobody has says where that is so, and no more."""
    check_partial(Nursery(processes).dead())


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31, 2**40, -(2**40)])
@pytest.mark.parametrize("by_syscall", [False, True], ids=["os", "syscall"])
def test_number_that_is_no_process(monkeypatch: pytest.MonkeyPatch, pid: int, by_syscall: bool) -> None:
    """The stamp of a number that can be no process is as partial, and no error, with or without `os.pidfd_open`."""
    if by_syscall:
        monkeypatch.delattr(os, "pidfd_open")
    check_partial(pid)


def test_stamps_leave_no_descriptor_open(processes: Processes) -> None:
    """Whatever is stamped, nothing stays open."""
    process = processes.living()
    stamp_of(process.pid)
    gone = Nursery(processes).dead()
    before = os.listdir("/proc/self/fd")
    for pid in (process.pid, gone, 0, -1, 2**40):
        stamp_of(pid)
    assert os.listdir("/proc/self/fd") == before


def test_no_free_descriptor_makes_a_partial_stamp(processes: Processes) -> None:
    """Where no descriptor is free a stamp is partial, and no error: an agent's launch waits for it."""
    told = processes.python(
        "import errno, os, resource, sys\n"
        "from supervisor.process import stamp\n"
        "descriptor = os.pidfd_open(os.getpid())\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "def fill():\n"
        "    while True: os.dup(0)\n"
        "try: fill()\n"
        "except OSError as error: assert error.errno == errno.EMFILE\n"
        "print(stamp.stamp_of(os.getpid())['start_ticks'], stamp.stamp_of(os.getpid(), descriptor)['pidfd_inode'])\n",
        stdout=subprocess.PIPE,
    )
    assert hear(told) == "None None"


def test_host_without_a_machine_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a machine id goes by its name."""

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert stamp.host_id() == os.uname().nodename


def test_light_to_import() -> None:
    """Stamping imports nothing that a wrapped agent would have to wait for."""
    told = subprocess.run(
        [sys.executable, "-S", "-c", _IMPORTS],
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(stamp.__file__)))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"dataclasses", "typing", "pathlib", "contextlib", "json", "ctypes", "select", "fcntl"}
    assert "supervisor.process.stamp" in told
    assert not heavy & set(told)
