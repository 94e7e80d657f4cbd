"""Exits of processes that are no children of the watcher."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kit import Processes, wait_until
from nursery import Nursery, as_root, descriptors, hear, leaderless, linux, say, tells_exits

from supervisor.process import pidfd, procfs
from supervisor.process.exits import Exit, ExitWatcher, examine

pytestmark = linux

ENDS = {
    **{f"exit {code}": (code, code << 8) for code in (0, 1, 7, 77, 255)},
    **{number.name: (-number, int(number)) for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV)},
}
each_end = pytest.mark.parametrize(("how", "status"), ENDS.values(), ids=ENDS)

_UNPRIVILEGED = """
import fcntl, os, select, sys
from supervisor.process import exits, facts
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
watcher = exits.ExitWatcher()
seen, descriptor = facts.look(int(sys.argv[1]))
watcher.watch("it", descriptor, seen.pid, seen.stat.start_ticks if seen.stat else None)
print("sees" if seen.stat else "is blind", flush=True)
final = False
while not final:
    select.select([watcher], [], [])
    told = watcher.take()
    print(*(f"{exit.status} {exit.final}" for exit in told), flush=True)
    final = any(exit.final for exit in told)
"""


@pytest.fixture
def watcher() -> Iterator[ExitWatcher]:
    """Give the test a watcher, and assert that it closes all descriptors in the end."""
    pidfd.inode(0)  # the first one opens and closes what is asked once
    before = descriptors()
    watcher = ExitWatcher()
    yield watcher
    watcher.close()
    assert {line for line in descriptors() if "pidfd" in line or "eventpoll" in line} <= before


def watch(watcher: ExitWatcher, pid: int, key: object = None) -> None:
    """Watch a process, by its pid unless another key is given."""
    stat = procfs.read_stat(pid)
    watcher.watch(pid if key is None else key, os.pidfd_open(pid), pid, stat.start_ticks)


def readable(watcher: ExitWatcher) -> bool:
    """Tell whether the watcher's descriptor says that there is news."""
    return bool(select.select([watcher], [], [], 0)[0])


def news(watcher: ExitWatcher) -> list[Exit]:
    """Wait until the watcher has something to tell, and take it."""
    assert select.select([watcher], [], [], 20)[0]
    return watcher.take()


@tells_exits
@each_end
def test_stranger_that_is_reaped(watcher: ExitWatcher, nursery: Nursery, how: int, status: int) -> None:
    """The exact wait status of a stranger's child is told when it has been reaped before we could look."""
    pid = nursery.born()
    watch(watcher, pid)
    assert not readable(watcher)
    nursery.end(pid, how)
    assert nursery.reap(pid) == status
    assert news(watcher) == [Exit(pid, status, True, "pidfd exit info")]
    assert not readable(watcher)


@each_end
def test_stranger_that_is_never_reaped(watcher: ExitWatcher, nursery: Nursery, how: int, status: int) -> None:
    """A zombie whose parent never waits is told at once and for good, with the status that it shows (B3)."""
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, how)
    assert news(watcher) == [Exit(pid, status, True, "zombie's exit status")]
    assert not readable(watcher)
    nursery.reap(pid)


def test_living_are_silent(watcher: ExitWatcher, nursery: Nursery) -> None:
    """Of processes that live nothing is told, stopped or not, however often one asks (B1)."""
    pids = nursery.spawn(3)
    for pid in pids:
        watch(watcher, pid)
    os.kill(pids[0], signal.SIGSTOP)
    wait_until(lambda: procfs.read_stat(pids[0]).is_stopped)
    for _ in range(3):
        watcher.rearm()
        assert watcher.take() == []
        assert not readable(watcher)
    os.kill(pids[0], signal.SIGCONT)
    assert len(watcher) == 3


def test_watching_one_that_has_ended(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A process that has ended before it was watched is told all the same."""
    pid = nursery.born()
    stat, descriptor = procfs.read_stat(pid), os.pidfd_open(pid)
    nursery.end(pid, 7)
    watcher.watch("it", descriptor, pid, stat.start_ticks)
    assert news(watcher) == [Exit("it", 7 << 8, True, "zombie's exit status")]


def test_start_that_is_not_known(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A process whose start was hidden from us is told like any other."""
    pid = nursery.born()
    watcher.watch("it", os.pidfd_open(pid), pid, None)
    nursery.end(pid, 7)
    assert news(watcher) == [Exit("it", 7 << 8, True, "zombie's exit status")]


@tells_exits
def test_pidfd_that_fires_for_a_process_that_runs(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A pidfd that fires while the process is seen to run is no end, and does not fire on and on (B7)."""
    zombie, living = nursery.spawn(2)
    watcher.watch("it", os.pidfd_open(zombie), living, procfs.read_stat(living).start_ticks)
    nursery.end(zombie, 7)
    assert news(watcher) == []
    assert not readable(watcher)
    nursery.reap(zombie)
    assert news(watcher) == [Exit("it", 7 << 8, True, "pidfd exit info")]


def test_three_hundred_at_once(watcher: ExitWatcher, nursery: Nursery) -> None:
    """Three hundred processes that end at once are each told once, with their own status."""
    pids = nursery.spawn(300)
    for pid in pids:
        watch(watcher, pid)
    for number, pid in enumerate(pids):
        nursery.exit(pid, number % 256)
    told: list[Exit] = []
    while len(told) < 300:
        told.extend(news(watcher))
    assert {end.key: end.status for end in told} == {pid: (n % 256) << 8 for n, pid in enumerate(pids)}
    assert len(told) == 300
    assert all(end.final for end in told)
    assert watcher.take() == []


def test_forget_closes(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A forgotten process is told no more and its pidfd is closed; forgetting what is unknown is no error."""
    pid = nursery.born()
    before = descriptors()
    watch(watcher, pid)
    assert descriptors() != before
    watcher.forget(pid)
    watcher.forget(pid)
    watcher.forget("nobody")
    assert descriptors() == before
    assert len(watcher) == 0
    nursery.end(pid, 7)
    watcher.rearm()
    assert watcher.take() == []


def test_forgotten_process_with_another_descriptor(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A forgotten process wakes nobody, also where its pidfd lives on under another number."""
    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    other = os.dup(descriptor)
    watcher.watch(pid, descriptor, pid, None)
    watcher.forget(pid)
    nursery.end(pid, 7)
    assert not readable(watcher)
    os.close(other)


def test_close_closes_all(nursery: Nursery) -> None:
    """A closed watcher holds no descriptor."""
    pids = nursery.spawn(5)
    before = descriptors()
    watcher = ExitWatcher()
    for pid in pids:
        watch(watcher, pid)
    watcher.close()
    assert descriptors() == before


def test_key_that_is_watched_anew(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A key that is given to another process no longer speaks of the first, whose pidfd is closed."""
    first, second = nursery.spawn(2)
    watch(watcher, first, "run")
    before = len(descriptors())
    watch(watcher, second, "run")
    assert (len(descriptors()), len(watcher)) == (before, 1)
    nursery.end(first, 1)
    assert watcher.take() == []
    nursery.end(second, 2)
    assert [(end.key, end.status) for end in news(watcher)] == [("run", 2 << 8)]


def test_descriptor_numbers_are_given_out_again(watcher: ExitWatcher, nursery: Nursery) -> None:
    """A descriptor number that once named another process speaks only of the one that it names now."""
    numbers = set()
    for code in range(1, 21):
        old, new = nursery.spawn(2)
        descriptor = os.pidfd_open(old)
        numbers.add(descriptor)
        watcher.watch(old, descriptor, old, procfs.read_stat(old).start_ticks)
        if code % 2:
            nursery.end(old, 99)  # it has fired, and is forgotten untold
        watcher.forget(old)
        watch(watcher, new)
        assert watcher.take() == []
        nursery.end(new, code)
        assert [(end.key, end.status) for end in news(watcher)] == [(new, code << 8)]
        watcher.forget(new)
    assert len(numbers) < 20


def test_watch_that_fails_leaves_nothing(watcher: ExitWatcher) -> None:
    """A descriptor that cannot be watched is not taken, and forgetting its key is no error."""
    with open(__file__, "rb") as file, pytest.raises(OSError):
        watcher.watch("it", file.fileno(), 1, None)
    assert len(watcher) == 0
    watcher.forget("it")


def test_rearm_tells_nothing_final_twice(watcher: ExitWatcher, nursery: Nursery) -> None:
    """What was told for good is not told again by a sweep, whether it has been reaped since or not."""
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 7)
    assert news(watcher)[0].final
    watcher.rearm()
    assert watcher.take() == []
    nursery.reap(pid)
    watcher.rearm()
    assert watcher.take() == []


def test_rearm_tells_again_what_is_not_final(
    watcher: ExitWatcher, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zombie whose status is hidden is told once, without spinning, and once more by each sweep."""
    monkeypatch.setattr(procfs, "exit_status_visible", lambda _: False)
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 0)
    hidden = [Exit(pid, None, False, "zombie, exit status hidden from us")]
    assert news(watcher) == hidden
    assert not readable(watcher)
    watcher.rearm()
    assert news(watcher) == hidden
    assert not readable(watcher)
    monkeypatch.undo()
    watcher.rearm()
    assert news(watcher) == [Exit(pid, 0, True, "zombie's exit status")]


@tells_exits
def test_hidden_status_becomes_final_at_the_reap(
    watcher: ExitWatcher, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reap of a zombie whose status was hidden brings the status, without a sweep."""
    monkeypatch.setattr(procfs, "exit_status_visible", lambda _: False)
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 0)
    assert [end.final for end in news(watcher)] == [False]
    nursery.reap(pid)
    assert news(watcher) == [Exit(pid, 0, True, "pidfd exit info")]


def test_visible_status_other_than_0_needs_no_proof(
    watcher: ExitWatcher, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel hides a status as 0, so that any other is true."""
    monkeypatch.setattr(procfs, "exit_status_visible", lambda _: False)
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 7)
    assert news(watcher) == [Exit(pid, 7 << 8, True, "zombie's exit status")]


@tells_exits
@as_root
@pytest.mark.parametrize(("how", "status"), [(0, 0), (77, 77 << 8), (-9, 9)])
def test_root_s_zombie_seen_by_nobody(processes: Processes, nursery: Nursery, how: int, status: int) -> None:
    """A status that the kernel hides as 0 from other users is never taken for 0; it is told at the reap."""
    pid = nursery.born()
    other = processes.python(_UNPRIVILEGED, str(pid), stdout=subprocess.PIPE)
    assert hear(other) == "sees"
    nursery.end(pid, how)
    assert hear(other) == "None False"
    nursery.reap(pid)
    assert hear(other) == f"{status} True"
    assert other.wait(20) == 0


@tells_exits
@as_root
def test_zombie_hidden_by_hidepid_is_not_taken_for_gone(processes: Processes, nursery: Nursery) -> None:
    """Under hidepid=2 an unreaped zombie looks gone; its status is told at the reap and not given up before (B6)."""
    pid = nursery.born()
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$0" -c "$1" "$2"'
    other = processes.start(
        *("unshare", "--mount", "sh", "-c", script, sys.executable, _UNPRIVILEGED, str(pid)), stdout=subprocess.PIPE
    )
    assert hear(other) == "is blind"
    nursery.end(pid, 7)
    assert hear(other) == "None False"
    nursery.reap(pid)
    assert hear(other) == f"{7 << 8} True"
    assert other.wait(20) == 0


@pytest.mark.parametrize("code", [0, 7])
def test_leader_that_exits_is_no_end(watcher: ExitWatcher, processes: Processes, code: int) -> None:
    """The exit of a process's first thread is not told; the end of the process is, with its status (B4)."""
    process = leaderless(processes)
    watch(watcher, process.pid)
    watcher.rearm()
    assert watcher.take() == []
    descriptor = os.pidfd_open(process.pid)
    ticks = procfs.read_stat(process.pid).start_ticks
    assert examine(descriptor, process.pid, ticks) is None
    os.close(descriptor)
    say(process, f"exit {code}")
    assert news(watcher) == [Exit(process.pid, code << 8, True, "zombie's exit status")]


@tells_exits
def test_leader_that_exits_before_its_worker_execs(watcher: ExitWatcher, processes: Processes) -> None:
    """A worker that outlives its leader and execs another program is still that process, to its end."""
    process = leaderless(processes)
    stat = procfs.read_stat(process.pid)
    watch(watcher, process.pid)
    say(process, "exec")
    wait_until(lambda: procfs.read_stat(process.pid).state != "Z")
    assert watcher.take() == []
    assert procfs.read_stat(process.pid).start_ticks == stat.start_ticks
    say(process, "now")
    assert [(end.status, end.final) for end in news(watcher)] == [(9 << 8, True)]


def _no_exit_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfd, "exit_status", lambda _: None)


def test_old_kernel_reap_without_status(
    watcher: ExitWatcher, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On kernels that keep no status, a process that was reaped before we looked is told for good without one (B2)."""
    _no_exit_info(monkeypatch)
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 7)
    nursery.reap(pid)
    assert [(end.status, end.final) for end in news(watcher)] == [(None, True)]


def test_old_kernel_zombie_still_tells(watcher: ExitWatcher, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """On kernels that keep no status, a zombie's is read while it is one."""
    _no_exit_info(monkeypatch)
    pid = nursery.born()
    watch(watcher, pid)
    nursery.end(pid, 7)
    assert news(watcher) == [Exit(pid, 7 << 8, True, "zombie's exit status")]


@pytest.mark.parametrize(
    ("kept", "source"),
    [(None, "reaped, kernel without exit info"), (7 << 8, "pidfd exit info")],
    ids=["old kernel", "new kernel"],
)
def test_pid_that_has_changed_hands(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, kept: int | None, source: str
) -> None:
    """If the pid is gone or another process's now, ours has been reaped; its status is asked for once more (B5)."""
    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    ticks = procfs.read_stat(pid).start_ticks
    for gone in (False, True):
        answers = [None, kept]
        monkeypatch.setattr(pidfd, "exit_status", lambda _, answers=answers: answers.pop(0))
        if gone:
            nursery.end(pid, 7)
            nursery.reap(pid)
        assert examine(descriptor, pid, ticks - 1) == (kept, True, source)
    os.close(descriptor)


@pytest.mark.parametrize("error", [PermissionError, ValueError, OSError])
def test_stat_that_cannot_be_read(nursery: Nursery, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """A pidfd that has fired is a death even where ``/proc`` says nothing; the status may still come (B6)."""

    def refuse(_: int) -> procfs.Stat:
        raise error

    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    monkeypatch.setattr(procfs, "read_stat", refuse)
    assert examine(descriptor, pid, 1) == (None, False, "zombie, hidden from us")
    assert examine(descriptor, pid, 1, reaped=True) == (None, True, "reaped, kernel without exit info")
    os.close(descriptor)


def test_stat_that_says_running(nursery: Nursery) -> None:
    """A pidfd that has fired for a process that runs is no death (B7)."""
    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    assert examine(descriptor, pid, procfs.read_stat(pid).start_ticks) is None
    os.close(descriptor)


@pytest.mark.parametrize("error", [25, 22, 3, 66, 1])
def test_no_error_of_the_question_is_a_death(nursery: Nursery, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Whatever the kernel answers to the question for a status, it says nothing about life (B8)."""
    import fcntl

    def ioctl(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert pidfd.exit_status(descriptor) is None
    assert examine(descriptor, pid, procfs.read_stat(pid).start_ticks) is None
    os.close(descriptor)


def test_visibility_is_asked_of_the_zombie_itself(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the pid changes hands while we ask, the next process's openness does not make a hidden 0 a true one."""
    pid = nursery.born()
    descriptor = os.pidfd_open(pid)
    ticks = procfs.read_stat(pid).start_ticks
    nursery.end(pid, 7)
    hidden = True

    def visible(_: int) -> bool:
        return not hidden

    def read(_: int) -> procfs.Stat:
        nonlocal hidden
        hidden = False  # reaped, and its pid given to a process of ours
        return procfs.Stat(state="Z", ppid=1, start_ticks=ticks, exit_status=0)

    monkeypatch.setattr(procfs, "exit_status_visible", visible)
    monkeypatch.setattr(procfs, "read_stat", read)
    told = examine(descriptor, pid, ticks)
    assert told is not None
    assert told[:2] == (None, False)
    os.close(descriptor)
