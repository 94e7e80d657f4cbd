"""Rows of odd but real processes, from first sight to settled: threads, missing leaders, names, other namespaces."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit import COMMAND, Original, Processes, dead_pid, wait_until
from nursery import (
    Nursery,
    as_root,
    child_of_a_namespace,
    hear,
    in_child_namespace,
    leaderless,
    linux,
    say,
    tells_exits,
)
from stage import Stage

from supervisor.models import Rank
from supervisor.process import facts, procfs
from supervisor.process.stamp import stamp_of
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

_THREADED = """
import os, sys, threading
def work():
    print(threading.get_native_id(), flush=True)
    os._exit(int(sys.stdin.readline()))
threading.Thread(target=work).start()
"""

_NAMED = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0) == 0
print(flush=True)
os._exit(int(sys.stdin.readline()))
"""

INFERENCE, KERNEL = Rank.INFERENCE, Rank.KERNEL
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def watched(stage: Stage, run: int) -> None:
    """Assert that a run is taken for alive, at the first sight and in a sweep."""
    for sweep in (False, True):
        stage.tick(sweep=sweep)
        assert (stage.runs.alive, stage.runs.unknown, stage.row(run)) == (1, {}, ("running", None))


def test_the_id_of_a_thread(stage: Stage, processes: Processes) -> None:
    """A row that names a thread is watched by the thread's process, and ends as that does (F9)."""
    process = processes.python(_THREADED, **PIPES)
    thread = int(hear(process))
    assert thread != process.pid
    run = stage.run(thread)
    watched(stage, run)
    say(process, "7")
    stage.exits()
    assert stage.row(run) == ("crashed", 7)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT], ids=errno.errorcode.get)
def test_the_id_of_a_thread_by_kernel(project: Path, processes: Processes, number: int) -> None:
    """Whichever error a kernel answers for a thread, its process is found (F9)."""
    process = processes.python(_THREADED, **PIPES)
    thread = int(hear(process))

    def open_pidfd(pid: int) -> int:
        if pid == thread:
            raise OSError(number, os.strerror(number))
        return os.pidfd_open(pid)

    with Stage(project, look=lambda pid: facts.look(pid, open_pidfd=open_pidfd)) as stage:
        watched(stage, stage.run(thread))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT], ids=errno.errorcode.get)
def test_a_process_that_seems_to_be_ending(project: Path, processes: Processes, number: int) -> None:
    """A kernel that answers as for a process that is ending says nothing: the row is looked at again (F10)."""
    answers = [number, number]

    def open_pidfd(pid: int) -> int:
        if answers:
            raise OSError(answers.pop(), "ending")
        return os.pidfd_open(pid)

    with Stage(project, look=lambda pid: facts.look(pid, open_pidfd=open_pidfd)) as stage:
        run = stage.run(processes.living().pid)
        for sweep in (False, True):
            stage.tick(sweep=sweep)
            assert (stage.runs.unknown[run].line, stage.row(run)) == ("F10", ("running", None))
        stage.tick(sweep=True)
        watched(stage, run)


@pytest.mark.parametrize("order", ["exit 7", "exec"])
def test_a_process_that_lives_on_without_its_leader(stage: Stage, processes: Processes, order: str) -> None:
    """A process is alive whose first thread has exited, and ends with its last thread, also after an exec (F14, B4)."""
    process = leaderless(processes)
    run = stage.run(process.pid)
    watched(stage, run)
    say(process, order)
    if order == "exec":
        wait_until(lambda: procfs.read_stat(process.pid).state != "Z")
        watched(stage, run)
        say(process, "now")
    stage.exits()
    assert stage.row(run) == ("crashed", 9 if order == "exec" else 7)


@pytest.mark.parametrize("name", [b") Z 1 (", b"\n) Z 1 1 1", b"a) X 0 "], ids=repr)
def test_a_name_that_poses_as_a_zombie(stage: Stage, processes: Processes, name: bytes) -> None:
    """A process may call itself what it likes and is still alive until it ends (moby/moby#27540)."""
    process = processes.python(_NAMED, name.hex(), **PIPES)
    hear(process)
    run = stage.run(process.pid)
    watched(stage, run)
    say(process, "7")
    stage.exits()
    assert stage.row(run) == ("crashed", 7)


@tells_exits
@pytest.mark.parametrize("how", [7, -signal.SIGKILL])
def test_a_process_that_is_reaped_before_it_is_looked_at(stage: Stage, processes: Processes, how: int) -> None:
    """What is gone by the time that we hear of its end still ended exactly so (B2)."""
    nursery = Nursery(processes)
    agent = nursery.born()
    run = stage.run(agent)
    watched(stage, run)
    nursery.end(agent, how)
    nursery.reap(agent)
    assert not os.path.exists(f"/proc/{agent}")
    stage.exits()
    assert stage.row(run) == ("crashed", how if how > 0 else 128 - how)


def test_a_zombie_whose_parent_never_waits(stage: Stage, processes: Processes) -> None:
    """A process that has ended is not alive for want of a reap, before it was bound (F13) or after (B3).

    Zombies that are taken for alive: paperclipai/paperclip#12064, contember/okena#166, moby/moby#35910.
    """
    nursery = Nursery(processes)
    bound, unseen = nursery.spawn(2)
    runs = [stage.run(bound)]
    watched(stage, runs[0])
    nursery.end(bound, 7)
    stage.exits()
    nursery.end(unseen, 77)
    runs.append(stage.run(unseen, stamped=True))
    stage.tick()
    stage.pass_(2)
    assert [stage.ending(run) for run in runs] == [("crashed", code, "unrecorded", KERNEL) for code in (7, 77)]


class TestNamespaces:
    """PID namespaces: pids of one say nothing in another.

    Containers whose processes were judged from elsewhere: garrytan/gbrain#2840, ROCm/aiter#5269,
    stellar/stellar-core#652.
    """

    def test_rows_of_the_host_seen_from_a_child_namespace(self, project: Path, processes: Processes) -> None:
        """Inside, the host's processes, alive and dead, are unknown with and without stamp, and stay so (F3, F8)."""
        if subprocess.run(in_child_namespace("true"), capture_output=True, check=False).returncode:
            pytest.skip("needs user and PID namespaces")
        nursery = Nursery(processes)
        living, gone = nursery.born(), nursery.dead()
        with Original(project) as original:
            bare = [original.create_run(pid) for pid in (living, gone)]
            stamped = [original.create_run(pid) for pid in (living, gone)]
        with SupervisedStore(str(project)) as store:
            store.keep_stamps(
                [(run, stamp_of(pid)) for run, pid in zip(stamped, (living, gone), strict=True)], by="test"
            )
        scan = processes.start(
            *in_child_namespace(*COMMAND, "scan", "--json", "--no-wait", "--dir", str(project)), **PIPES
        )
        printed, _ = scan.communicate(timeout=30)
        found = json.loads(printed)
        assert (found["settled"], found["pending"], found["alive"]) == ([], [], 0)
        reasons = {entry["id"]: entry["reason"] for entry in found["unknown"]}
        assert reasons == {
            **dict.fromkeys(bare, "there is no such process here, but it may be in another PID namespace"),
            **dict.fromkeys(stamped, "it was started in another PID namespace"),
        }

    @as_root
    @pytest.mark.skipif(not facts.scene().initial_pid_ns, reason="needs the initial PID namespace")
    def test_rows_that_a_child_namespace_may_have_written(
        self, stage: Stage, processes: Processes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pid that is not there is unknown while a namespace lives whose row it may be, and lost after that."""
        child = child_of_a_namespace(processes, "")
        monkeypatch.setattr(procfs, "processes", lambda: [os.getpid(), child])
        run = stage.run(dead_pid())
        stage.tick()
        assert stage.runs.unknown[run].line == "F8"
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not facts.is_alive(child, None))
        stage.tick(sweep=True)
        stage.pass_(2)
        assert stage.ending(run) == ("crashed", None, "lost", INFERENCE)
