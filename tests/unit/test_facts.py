"""Looking at processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from kit import Processes, wait_until
from nursery import Nursery, as_root, descriptors, hear, leaderless, linux, say, tells_exits

from supervisor.process import facts, judge, pidfd, procfs
from supervisor.process.facts import exists, is_alive, look

pytestmark = linux

_THREADED = """
import sys, threading
threading.Thread(target=lambda: (print(threading.get_native_id(), flush=True), sys.stdin.read())).start()
"""

_HIDDEN = """
import os, sys
from supervisor.process import facts
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
pid = int(sys.argv[1])
assert not os.path.exists(f"/proc/{pid}")
seen, descriptor = facts.look(pid)
print(seen.exists, seen.stat, descriptor is not None, facts.is_alive(pid, 1))
"""

SAYS_NOTHING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSYS, errno.EPERM, errno.EACCES)
ENDING = (errno.EINVAL, errno.ENOENT)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Every look must close what it has opened, but for the pidfd that it returns."""
    facts.look(os.getpid())[1]  # the first one opens what is kept
    before = descriptors()
    yield
    assert descriptors() <= before


def refusing(number: int) -> Callable[[int], int]:
    """Return a pidfd_open(2) that fails."""

    def open_pidfd(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    return open_pidfd


def seen_at(pid: int, open_pidfd: Callable[[int], int] = pidfd.open_pidfd) -> judge.Facts:
    """Look, and close the pidfd."""
    seen, descriptor = look(pid, open_pidfd=open_pidfd)
    if descriptor is not None:
        os.close(descriptor)
    return seen


def test_live_process(processes: Processes) -> None:
    """A live process is seen with its stat, its pidfd and its birth."""
    before = time.time()
    process = processes.living()
    asked = []

    def open_pidfd(pid: int) -> int:
        asked.append(pid)
        return pidfd.open_pidfd(pid)

    seen, descriptor = look(process.pid, open_pidfd=open_pidfd)
    assert descriptor is not None
    assert asked == [process.pid]
    assert not pidfd.has_fired(descriptor)
    assert (seen.pid, seen.exists, seen.pidfd_inode) == (process.pid, True, pidfd.inode(descriptor))
    os.close(descriptor)
    assert seen.stat is not None
    assert (seen.stat.ppid, seen.stat.is_dead) == (os.getpid(), False)
    assert seen.created is not None
    assert before - 0.1 <= seen.created <= time.time() + 0.1


def test_birth_is_within_a_tenth_of_a_second() -> None:
    """The birth of a process is told right to 0.1 s, where whole-second boot times would be up to 1 s off."""
    before = time.time()
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), 9)
    after = time.time()
    seen = seen_at(pid)
    os.waitpid(pid, 0)
    assert seen.created is not None
    assert before - 0.1 <= seen.created <= after + 0.1


def test_dead_pid(processes: Processes) -> None:
    """Of a process that has been reaped it is known that there is none."""
    pid = Nursery(processes).dead()
    assert look(pid) == (judge.Facts(pid, False, None, None, None), None)


def test_zombie(processes: Processes) -> None:
    """A zombie exists, is dead by its stat, and still has a pidfd."""
    nursery = Nursery(processes)
    pid = nursery.born()
    nursery.end(pid, 7)
    seen, descriptor = look(pid)
    assert descriptor is not None
    assert pidfd.has_fired(descriptor)
    os.close(descriptor)
    assert seen.exists
    assert seen.stat is not None
    assert (seen.stat.is_dead, seen.stat.exit_status) == (True, 7 << 8)


@pytest.mark.parametrize("number", [None, *SAYS_NOTHING, *ENDING], ids=lambda number: errno.errorcode.get(number, "-"))
def test_thread_is_judged_as_its_process(processes: Processes, number: int | None) -> None:
    """The look at a thread's id is a look at its process, whatever error tells of the thread (F9)."""
    process = processes.python(_THREADED, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    thread = int(hear(process))

    def open_pidfd(pid: int) -> int:
        if pid == thread and number is not None:
            raise OSError(number, os.strerror(number))
        return pidfd.open_pidfd(pid)

    seen, descriptor = look(thread, open_pidfd=open_pidfd)
    assert descriptor is not None
    assert (seen.pid, seen.exists, seen.pidfd_inode) == (process.pid, True, pidfd.inode(descriptor))
    os.close(descriptor)


def test_process_without_its_leader(processes: Processes) -> None:
    """A process whose first thread has exited is seen alive (F14)."""
    process = leaderless(processes)
    seen = seen_at(process.pid)
    assert seen.stat is not None
    assert (seen.exists, seen.stat.state, seen.stat.is_dead) == (True, "Z", False)
    say(process, "exit 0")


@pytest.mark.parametrize("number", SAYS_NOTHING, ids=errno.errorcode.get)
def test_errors_that_say_nothing(processes: Processes, number: int) -> None:
    """Without a pidfd, a live process is seen by the other means, a zombie as one, and a dead pid by kill(2) (F11)."""
    nursery = Nursery(processes)
    pid = nursery.born()
    seen, descriptor = look(pid, open_pidfd=refusing(number))
    assert descriptor is None
    assert (seen.exists, seen.pidfd_inode) == (True, None)
    assert seen.stat is not None
    assert not seen.stat.is_dead
    assert seen.created is not None
    nursery.end(pid, 3)
    zombie = seen_at(pid, refusing(number))
    assert zombie.stat is not None
    assert zombie.stat.is_dead
    nursery.reap(pid)
    assert look(pid, open_pidfd=refusing(number)) == (judge.Facts(pid, False, None, None, None), None)


@pytest.mark.parametrize("number", ENDING, ids=errno.errorcode.get)
def test_errors_of_a_process_that_is_ending(processes: Processes, number: int) -> None:
    """Where pidfd_open(2) answers as for a process that is ending, only its absence is certain (F10).

    giampaolo/psutil#2715, systemd/systemd#36982.
    """
    process = processes.living()
    assert look(process.pid, open_pidfd=refusing(number)) == (judge.Facts(process.pid, None, None, None, None), None)
    pid = Nursery(processes).dead()
    assert look(pid, open_pidfd=refusing(number)) == (judge.Facts(pid, False, None, None, None), None)


@tells_exits
def test_end_during_the_look_is_not_mixed_with_the_next_process(processes: Processes) -> None:
    """If the process ends between the pidfd and the stat, what is told is of one process: the stat's."""
    nursery = Nursery(processes)
    old, new = nursery.born(), processes.living().pid
    stale = pidfd.open_pidfd(old)
    nursery.end(old, 5)
    nursery.reap(old)
    answers = [stale]

    def open_pidfd(pid: int) -> int:
        return answers.pop() if answers else pidfd.open_pidfd(pid)

    seen, descriptor = look(new, open_pidfd=open_pidfd)
    assert descriptor is not None
    assert not pidfd.has_fired(descriptor)
    assert seen.pidfd_inode == pidfd.inode(descriptor)
    os.close(descriptor)


def test_no_free_descriptor_says_nothing(processes: Processes) -> None:
    """A process that has no descriptor left still sees the living as living."""
    process = processes.living()
    told = processes.python(
        "import errno, os, resource, sys\n"
        "from supervisor.process import facts, pidfd\n"
        "pid = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "def fill():\n"
        "    while True: os.dup(0)\n"
        "try: fill()\n"
        "except OSError as error: assert error.errno == errno.EMFILE\n"
        "seen, descriptor = facts.look(pid)\n"
        "print(seen.exists, descriptor, facts.is_alive(pid, 1))\n"
        "os.close(15)\n"
        "seen, descriptor = facts.look(pid)\n"
        "print(seen.exists, descriptor, seen.pidfd_inode)\n",
        str(process.pid),
        stdout=subprocess.PIPE,
    )
    assert hear(told) == "True None True"
    assert hear(told) == "True 15 None"


def test_exists(processes: Processes) -> None:
    """A live process and a zombie exist, a reaped one does not."""
    nursery = Nursery(processes)
    pid = nursery.born()
    assert exists(pid) is True
    nursery.end(pid, 0)
    assert exists(pid) is True
    nursery.reap(pid)
    assert exists(pid) is False
    assert exists(1) is True
    assert exists(2**31 - 1) is False


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31, 2**40])
def test_numbers_that_are_no_process_never_reach_kill(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """A number that kill(2) takes for a group, for all, or for another one, is answered without it."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("kill was called"))
    assert exists(pid) is None
    assert is_alive(pid, 1)


@pytest.mark.parametrize(("error", "answer"), [(errno.ESRCH, False), (errno.EPERM, True), (errno.EINVAL, None)])
def test_exists_by_errno(monkeypatch: pytest.MonkeyPatch, error: int, answer: bool | None) -> None:
    """Only ESRCH means that there is none; EPERM means that there is one.

    uutils/shadow#28, cdalar/onctl#1082, openclaw/openclaw#110235.
    """

    def kill(pid: int, number: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "kill", kill)
    assert exists(os.getpid()) is answer


def test_is_alive(processes: Processes) -> None:
    """A process known by its start is alive until it ends, reaped or not; another with its pid is not it."""
    nursery = Nursery(processes)
    pid = nursery.born()
    ticks = procfs.read_stat(pid).start_ticks
    assert is_alive(pid, ticks)
    assert is_alive(pid, None)
    assert not is_alive(pid, ticks + 1)
    nursery.end(pid, 0)
    assert not is_alive(pid, ticks)
    nursery.reap(pid)
    assert not is_alive(pid, ticks)
    assert not is_alive(pid, None)


def test_process_without_its_leader_is_alive(processes: Processes) -> None:
    """A process whose first thread has exited is alive."""
    process = leaderless(processes)
    assert is_alive(process.pid, procfs.read_stat(process.pid).start_ticks)
    say(process, "exit 0")
    wait_until(lambda: not is_alive(process.pid, None))


def test_scene_is_here() -> None:
    """The scene is that of our own process."""
    scene = facts.scene()
    assert (scene.own_pid, scene.boot_id, scene.pid_max) == (os.getpid(), procfs.boot_id(), procfs.pid_max())
    assert scene.initial_pid_ns == (scene.pid_ns == facts.INITIAL_PID_NS)
    assert judge.screen(os.getpid(), None, scene) is not None


def test_initial_namespace_is_the_kernel_s() -> None:
    """The initial PID namespace is the one that the kernel's own threads can be seen in."""
    assert facts.scene().initial_pid_ns == (procfs.status_field(2, b"Name:") == b"kthreadd")


def test_scene_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ``/proc`` there are no namespaces, and process ids end where macOS ends them."""
    monkeypatch.setattr(sys, "platform", "darwin")
    scene = facts.scene()
    assert (scene.pid_max, scene.initial_pid_ns) == (99999, True)


def test_look_elsewhere(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ``/proc``, psutil tells the living, the zombies and the gone apart, and when they started."""
    psutil.Process()
    nursery = Nursery(processes)
    before = time.time()
    pid = nursery.born()
    monkeypatch.setattr(sys, "platform", "darwin")
    seen, descriptor = look(pid)
    assert descriptor is None
    assert (seen.pid, seen.exists, seen.pidfd_inode) == (pid, True, None)
    assert seen.stat is not None
    assert (seen.stat.state, seen.stat.ppid, seen.stat.start_ticks) == ("S", nursery.pid, 0)
    assert seen.created is not None
    assert before - 2 <= seen.created <= time.time() + 2
    nursery.end(pid, 0)
    zombie, _ = look(pid)
    assert zombie.exists
    assert zombie.stat is not None
    assert zombie.stat.is_dead
    nursery.reap(pid)
    assert look(pid) == (judge.Facts(pid, False, None, None, None), None)


def test_psutil_that_finds_no_process_proves_nothing(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psutil raises NoSuchProcess for a live process, whether there is one is for kill(2) to say."""

    def absent(pid: int) -> psutil.Process:
        raise psutil.NoSuchProcess(pid)

    process = processes.living()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(psutil, "Process", absent)
    assert look(process.pid) == (judge.Facts(process.pid, True, None, None, None), None)


@as_root
def test_process_hidden_by_hidepid_is_alive(processes: Processes) -> None:
    """Under hidepid=2 a live process of another user looks like none in ``/proc``; it is seen to exist (F12)."""
    process = processes.living()
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$0" -c "$1" "$2"'
    told = processes.start(
        *("unshare", "--mount", "sh", "-c", script, sys.executable, _HIDDEN, str(process.pid)), stdout=subprocess.PIPE
    )
    assert hear(told) == "True None True True"
