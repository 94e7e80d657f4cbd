"""Pidfds, by Python's function and by the bare system call, and the exit statuses that they keep."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from kit import Processes, wait_until
from nursery import Nursery, descriptors, hear, linux, tells_exits

from supervisor.process import pidfd

pytestmark = linux

_THREADED = """
import sys, threading
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), sys.stdin.read())).start()
"""

WAYS = [pidfd.open_pidfd, pidfd._open_by_syscall]
both_ways = pytest.mark.parametrize("open_pidfd", WAYS, ids=["os", "syscall"])

Opener = Callable[[int], int]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Each test closes what it has opened, and the module nothing else."""
    before = descriptors()
    yield
    assert {line for line in descriptors() if "pidfd" in line} <= before


def forked(end: Callable[[], None]) -> tuple[int, int]:
    """Fork a child that ends so; return its pid and pidfd. It is a zombie, or will be."""
    pid = os.fork()
    if pid == 0:
        try:
            end()
        finally:
            os._exit(99)
    return pid, os.pidfd_open(pid)


def inode_of(pid: int) -> int | None:
    """Return the inode of a live process's pidfds."""
    descriptor = os.pidfd_open(pid)
    found = pidfd.inode(descriptor)
    os.close(descriptor)
    return found


def failure(open_pidfd: Opener, pid: int) -> int | None:
    """Return the errno of an attempt to open one."""
    with pytest.raises(OSError) as caught:
        os.close(open_pidfd(pid))
    return caught.value.errno


@both_ways
def test_live_process(processes: Processes, open_pidfd: Opener) -> None:
    """A pidfd of a live process is close-on-exec, silent, and has the inode of every pidfd of that process."""
    process = processes.living()
    one, two = open_pidfd(process.pid), os.pidfd_open(process.pid)
    assert fcntl.fcntl(one, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not pidfd.has_fired(one)
    assert pidfd.inode(one) == pidfd.inode(two)
    assert pidfd.exit_status(one) is None
    process.kill()
    wait_until(lambda: pidfd.has_fired(one))
    os.close(one)
    os.close(two)


@both_ways
def test_dead_pid(processes: Processes, open_pidfd: Opener) -> None:
    """Of a reaped process none can be opened: ESRCH."""
    assert failure(open_pidfd, Nursery(processes).dead()) == errno.ESRCH


@both_ways
def test_thread(processes: Processes, open_pidfd: Opener) -> None:
    """Of a thread none can be opened, and the error is not that of a dead process."""
    process = processes.python(_THREADED, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert failure(open_pidfd, int(hear(process))) in (errno.ENOENT, errno.EINVAL)


@both_ways
@pytest.mark.parametrize("pid", [0, -1, -(2**31)])
def test_no_process_id(open_pidfd: Opener, pid: int) -> None:
    """A number that cannot be a process is refused by the kernel: EINVAL."""
    assert failure(open_pidfd, pid) == errno.EINVAL


@both_ways
@pytest.mark.parametrize("add", [2**31, 2**32, 2**40, -(2**32)])
def test_number_too_large(open_pidfd: Opener, add: int) -> None:
    """A number beyond the kernel's is never cut down to a process that exists."""
    with pytest.raises(OverflowError):
        open_pidfd(os.getpid() + add)


def test_python_without_the_function(monkeypatch: pytest.MonkeyPatch, processes: Processes) -> None:
    """A Python built without `os.pidfd_open` opens them all the same."""
    process = processes.living()
    monkeypatch.delattr(os, "pidfd_open")
    descriptor = pidfd.open_pidfd(process.pid)
    monkeypatch.undo()
    theirs = os.pidfd_open(process.pid)
    assert pidfd.inode(descriptor) == pidfd.inode(theirs)
    os.close(descriptor)
    os.close(theirs)


@tells_exits
@pytest.mark.parametrize("code", [0, 1, 7, 126, 128, 255])
def test_exit_code_after_the_reap(code: int) -> None:
    """The kernel keeps the wait status of a process that has exited and been reaped."""
    pid, descriptor = forked(lambda: os._exit(code))
    _, status = os.waitpid(pid, 0)
    assert pidfd.exit_status(descriptor) == status == code << 8
    os.close(descriptor)


@tells_exits
@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGALRM, signal.SIGRTMIN],
    ids=lambda number: number.name,
)
def test_signal_after_the_reap(number: signal.Signals) -> None:
    """The kernel keeps the wait status of a process that was ended by a signal and reaped."""

    def end() -> None:
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)

    pid, descriptor = forked(end)
    _, status = os.waitpid(pid, 0)
    assert pidfd.exit_status(descriptor) == status == number
    os.close(descriptor)


@tells_exits
def test_core_flag_after_the_reap(tmp_path: os.PathLike[str]) -> None:
    """The core flag, where a core was written, is part of the status that the kernel keeps."""

    def end() -> None:
        import resource

        os.chdir(tmp_path)
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)

    pid, descriptor = forked(end)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGQUIT
    assert pidfd.exit_status(descriptor) == status
    os.close(descriptor)


def test_zombie_has_no_exit_status_yet(processes: Processes) -> None:
    """A zombie's pidfd has fired and tells no status before the reap."""
    nursery = Nursery(processes)
    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    nursery.end(pid, 7)
    assert pidfd.has_fired(descriptor)
    assert pidfd.exit_status(descriptor) is None
    os.close(descriptor)


@tells_exits
def test_stranger_opened_as_a_zombie(processes: Processes) -> None:
    """A pidfd that was opened when its process, no child of ours, had already ended tells the status after the reap."""
    nursery = Nursery(processes)
    pid = nursery.born()
    nursery.end(pid, 77)
    descriptor = os.pidfd_open(pid)
    nursery.reap(pid)
    assert pidfd.exit_status(descriptor) == 77 << 8
    os.close(descriptor)


def test_descriptors_of_other_kinds_have_no_status_and_no_inode() -> None:
    """What is no pidfd, or is closed, has no exit status, and no error is raised."""
    reader, writer = os.pipe()
    event = os.eventfd(0)
    assert pidfd.exit_status(reader) is None
    assert pidfd.exit_status(event) is None
    assert pidfd.inode(event) is None
    for descriptor in (reader, writer, event):
        os.close(descriptor)
    assert pidfd.exit_status(event) is None
    assert pidfd.inode(event) is None


def test_inode_is_the_process_s_own(processes: Processes) -> None:
    """All processes of a boot have different inodes, also those that have ended."""
    nursery = Nursery(processes)
    pids = nursery.spawn(20)
    opened = [os.pidfd_open(pid) for pid in pids]
    inodes = [pidfd.inode(descriptor) for descriptor in opened]
    for pid in pids:
        nursery.end(pid, 0)
        nursery.reap(pid)
    assert [pidfd.inode(descriptor) for descriptor in opened] == inodes
    for descriptor in opened:
        os.close(descriptor)
    inodes.extend(map(inode_of, nursery.spawn(20)))
    if inodes[0] is None:
        assert set(inodes) == {None}
        pytest.skip("needs pidfs (Linux 6.9)")
    assert len(set(inodes)) == 40
