"""What ``/proc`` says of processes with odd names, missing leaders, and parents that never wait."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from kit import Processes, wait_until
from nursery import Nursery, hear, leaderless, linux, say

from supervisor.process import procfs
from supervisor.process.procfs import Stat

pytestmark = linux

_NAMED = """
import ctypes, sys
name = bytes.fromhex(sys.argv[1])
assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0
print(flush=True)
sys.stdin.read()
"""

_THREADED = """
import sys, threading
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), sys.stdin.read())).start()
"""

RAW = b"7 (%s) S 3 4 5 6 -1 4194304 1 0 0 0 0 0 0 0 20 0 2 0 888" + b" 0" * 29 + b" 1792\n"


def named(processes: Processes, name: bytes) -> int:
    """Start a process of that name."""
    process = processes.python(_NAMED, name.hex(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    hear(process)
    return process.pid


@pytest.mark.parametrize("name", [b"sh", b"a b", b") Z 1 (", b")\n) Z 1", b"((((", b"\xff\xfe", b""], ids=repr)
def test_fields_are_found_behind_any_name(name: bytes) -> None:
    """Only the last bracket ends a name, whatever the name holds."""
    stat = Stat.parse(RAW % name)
    assert (stat.state, stat.ppid, stat.pgrp, stat.session, stat.tty) == ("S", 3, 4, 5, 6)
    assert (stat.threads, stat.start_ticks, stat.exit_status) == (2, 888, 1792)


def test_kernels_with_fewer_fields_have_no_exit_status() -> None:
    """A file that ends before field 52 is read without it."""
    assert Stat.parse(RAW[: RAW.rindex(b" 1792")] % b"sh").exit_status == 0


@pytest.mark.parametrize("name", [b") Z 1 (", b")\n) Z 1 1 1", b"\n)\n Z 1\n"], ids=repr)
def test_name_of_a_live_process_cannot_pose_as_fields(processes: Processes, name: bytes) -> None:
    """A process may call itself what it likes and is still seen as what it is."""
    pid = named(processes, name)
    stat = procfs.read_stat(pid)
    assert stat.state in "RS"
    assert (stat.ppid, stat.session) == (os.getpid(), os.getsid(0))
    assert not stat.is_dead


@pytest.mark.parametrize("name", [b"a\rTgid:\t1", b"a\nTgid:\t1", b"\rNSpid:\t1 1"], ids=repr)
def test_name_cannot_pose_as_a_status_line(processes: Processes, name: bytes) -> None:
    """A name with line ends in it makes no lines of its own in the status file."""
    pid = named(processes, name)
    assert procfs.thread_group(pid) == pid
    levels = procfs.status_field(pid, b"NSpid:")
    assert levels is not None
    assert int(levels.split()[0]) == pid


def test_leader_that_has_exited_is_no_death(processes: Processes) -> None:
    """A process whose first thread has exited is a zombie by its state and lives; the end of its workers is its end."""
    process = leaderless(processes)
    stat = procfs.read_stat(process.pid)
    assert (stat.state, stat.threads, stat.is_dead) == ("Z", 2, False)
    say(process, "exit 7")
    wait_until(lambda: procfs.read_stat(process.pid).is_dead)
    stat = procfs.read_stat(process.pid)
    assert (stat.state, stat.threads, os.waitstatus_to_exitcode(stat.exit_status)) == ("Z", 1, 7)


def test_thread_is_seen_as_its_process(processes: Processes) -> None:
    """A thread's id leads to the process that it is of; a process leads to itself."""
    process = processes.python(_THREADED, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    thread = int(hear(process))
    assert thread != process.pid
    assert procfs.thread_group(thread) == process.pid
    assert procfs.thread_group(process.pid) == process.pid
    assert procfs.read_stat(process.pid).threads == 2


@pytest.mark.parametrize(("how", "status"), [(0, 0), (77, 77 << 8), (255, 255 << 8), (-signal.SIGTERM, 15), (-9, 9)])
def test_zombie_whose_parent_never_waits(processes: Processes, how: int, status: int) -> None:
    """A zombie that nobody reaps is dead, and shows its wait status to those who may trace it."""
    nursery = Nursery(processes)
    pid = nursery.born()
    assert not procfs.read_stat(pid).is_dead
    nursery.end(pid, how)
    stat = procfs.read_stat(pid)
    assert (stat.state, stat.is_dead, stat.ppid, stat.exit_status) == ("Z", True, nursery.pid, status)
    assert procfs.exit_status_visible(pid)


def test_stopped_process_is_stopped_and_not_dead(processes: Processes) -> None:
    """A process held by SIGSTOP is told from one that runs and from one that has ended."""
    process = processes.living()
    assert not procfs.read_stat(process.pid).is_stopped
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: procfs.read_stat(process.pid).is_stopped)
    assert not procfs.read_stat(process.pid).is_dead


def test_process_that_is_gone(processes: Processes) -> None:
    """Of a process that has been reaped nothing can be read, and the error is one of `GONE`."""
    pid = Nursery(processes).dead()
    with pytest.raises(procfs.GONE):
        procfs.read_stat(pid)
    assert procfs.thread_group(pid) is None
    assert procfs.status_field(pid, b"NSpid:") is None
    assert not procfs.exit_status_visible(pid)
    assert procfs.working_directory(pid) is None


def test_working_directory(processes: Processes, tmp_path: os.PathLike[str]) -> None:
    """A live process's working directory is told until it is deleted."""
    place = os.path.join(tmp_path, "place")
    os.mkdir(place)
    process = processes.living(cwd=place)
    assert procfs.working_directory(process.pid) == os.path.realpath(place)
    os.rmdir(place)
    assert procfs.working_directory(process.pid) is None


def test_this_system() -> None:
    """The boot, the namespaces and the largest pid can be told, and ``/proc`` is our own."""
    boot = procfs.boot_id()
    assert boot is not None
    assert len(boot) == 36
    assert procfs.boot_id() == boot
    assert procfs.namespace("pid") == os.stat("/proc/self/ns/pid").st_ino
    assert procfs.namespace("no such kind") is None
    assert procfs.pid_max() > os.getpid()
    assert procfs.is_ours()
    assert os.getpid() in procfs.processes()


def test_name(processes: Processes) -> None:
    """A process's name is what it goes by in the kernel, whatever its bytes; one that is gone has none."""
    assert procfs.name(named(processes, b"a )\xff\n")) == "a )\udcff\n"
    assert procfs.name((1 << 22) + 1) is None
