"""Mistakes that other programs have made with processes, each named where it was reported, and not made here.

More of them are named by the tests of the table's lines.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from kit import Processes, wait_until
from nursery import Nursery, as_root, linux
from stage import NOBODY, Stage, absent, identity

from supervisor import sight
from supervisor.models import Claim, Rank
from supervisor.process import facts, pidfd, procfs, stamp
from supervisor.process.judge import Facts, Start, judge
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

_TELLS_BIRTH = """
import json, os, sys
from supervisor.process import facts, procfs
pid = int(sys.argv[1])
seen, _ = facts.look(pid)
with open("/proc/stat") as file:
    (boot,) = (int(line.split()[1]) for line in file if line.startswith("btime "))
print(json.dumps([seen.created, boot + seen.stat.start_ticks / procfs.CLOCK_TICKS, os.stat(f"/proc/{pid}").st_mtime]))
"""


def birth_seen_with(mounts: str, pid: int, *args: str) -> tuple[float, float, float]:
    """Return when a process was born, as told under other mounts: by us, by btime, and by its folder's time."""
    script = f'{mounts} && exec "$0" -c "$1" "$2"'
    argv = ["unshare", "--mount", "sh", "-ec", script, sys.executable, _TELLS_BIRTH, str(pid), *args]
    ours, btimes, folders = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return ours, btimes, folders


@as_root
def test_a_boot_time_that_steps_moves_no_birth(processes: Processes, tmp_path: Path) -> None:
    """The kernel's btime moves with every step of the clock; a birth that is counted from it is wrong by as much.

    giampaolo/psutil#1724, #2031, #2526, shirou/gopsutil#1802.
    """
    pid = processes.living().pid
    born, moved = stamp.started_at(procfs.read_stat(pid).start_ticks), tmp_path / "stat"
    text = Path("/proc/stat").read_text()
    btime = next(line for line in text.splitlines() if line.startswith("btime "))
    moved.write_text(text.replace(btime, f"btime {int(btime.split()[1]) + 3600}"))
    ours, btimes, _ = birth_seen_with('mount --bind "$3" /proc/stat', pid, str(moved))
    assert abs(btimes - born - 3600) < 5
    assert abs(ours - born) < 1
    seen, descriptor = facts.look(pid)
    assert descriptor is not None
    os.close(descriptor)
    verdict = judge(None, Start(ours, 0.002), seen, facts.scene(), namespace_proven=True, signature=False)
    assert verdict.line == "F19"


@as_root
def test_the_time_of_a_processs_folder_is_no_birth() -> None:
    """A new mount of ``/proc`` gives each process's folder a new time, and no process a new birth (lxc/incus#3810)."""
    pid = os.getpid()
    born = stamp.started_at(procfs.read_stat(pid).start_ticks)
    wait_until(lambda: time.time() - born > 1)
    ours, _, folders = birth_seen_with("mount -t proc proc /proc", pid)
    assert folders - born > 0.9
    assert abs(ours - born) < 0.5


def test_after_a_reboot_nobody_is_taken_for_another(stage: Stage, nursery: Nursery) -> None:
    """A pid of before a reboot is another process's now: the run is over, and that process is none of its business.

    habitat-sh/habitat#4578, jdx/pitchfork#878.
    """
    innocent = nursery.born()
    run = stage.run(innocent, stamped=True, boot_id="another boot")
    stage.tick()
    assert stage.ending(run) == ("crashed", None, "rebooted", Rank.INFERENCE)
    assert (stage.looked, stage.pidfds()) == ([], 0)
    stage.tick(sweep=True)
    assert stage.row(run) == ("crashed", None), "and it is not brought back for the pid's sake"


@settings(max_examples=500, deadline=None)
@given(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(max_value=0)
    | strategies.integers(min_value=(1 << 22) + 1)
    | strategies.floats()
    | strategies.text()
    | strategies.binary()
    | strategies.sampled_from(["1", "0", "-1", str(os.getpid()), 1.0, float(os.getpid()), b"1"])
)
def test_no_junk_pid_reaches_the_kernel(junk: object) -> None:
    """Nothing but a possible process id is looked at: 0 and -1 name others, None is oneself, True is init.

    moby/moby#5342 (kill(0)), and psutil.Process(None).
    """

    def look(pid: int) -> tuple[Facts, int | None]:
        raise AssertionError(f"looked at {pid!r}")

    store = SupervisedStore("/nowhere", create=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "start_says_nothing", lambda _: True)
        (seen,) = sight.see(store, [Claim(1, junk, None, None, None, None)], look=look)
    assert seen.verdict.line in ("F4", "F5")


def test_silence_is_no_death(stage: Stage, nursery: Nursery) -> None:
    """A process that has said and written nothing for a month, or that a signal holds, is alive.

    NazzarenoGiannelli/tuiboard#22, getpaseo/paseo#3263.
    """
    silent, stopped = nursery.spawn(2)
    runs = [stage.run(pid, started_at=int(time.time())) for pid in (silent, stopped)]
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: procfs.read_stat(stopped).is_stopped)
    for _ in range(3):
        stage.tick(sweep=True)
        stage.pass_(30 * 86400)
    assert (stage.runs.alive, stage.told) == (2, [])
    assert [stage.row(run) for run in runs] == [("running", None)] * 2


def test_a_start_settles_nothing_that_others_will_record(stage: Stage, nursery: Nursery, processes: Processes) -> None:
    """At its start the daemon settles no run because it does not know it: those of living processes and other hosts
    run on, and one that has just ended is its owner's to record first.

    apache/airflow#12396, kaeawc/auto-mobile#6551.
    """
    owner = processes.living()
    living = [stage.run(pid) for pid in nursery.spawn(8)]
    elsewhere = [stage.run(NOBODY, host="another host"), stage.run(NOBODY + 1, pid_ns=1)]
    stage.looks[NOBODY + 2] = absent(NOBODY + 2)
    ended = stage.run(NOBODY + 2, owner=identity(owner.pid))
    stage.tick(sweep=True)
    stage.pass_(2)
    stage.pass_(0.9)
    assert stage.row(ended) == ("running", None)
    stage.original.connection.execute(
        "update runs set status = 'completed', exit_code = 0, ended_at = 1 where id = ?", [ended]
    )
    stage.pass_(30)
    assert stage.row(ended) == ("completed", 0)
    assert [stage.row(run) for run in (*living, *elsewhere)] == [("running", None)] * 10
    assert stage.told == []


def test_a_sandbox_that_refuses_everything_proves_no_death(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every question is answered by EPERM nobody is dead, be there a process or not.

    vercel-labs/agent-browser#564.
    """

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    pids = nursery.born(), nursery.dead()
    scene = facts.scene()
    with monkeypatch.context() as patch:
        for module, function in ((os, "kill"), (os, "pidfd_open"), (procfs, "read_stat"), (procfs, "_read")):
            patch.setattr(module, function, refuse)
        for pid in pids:
            seen, descriptor = facts.look(pid, open_pidfd=pidfd.open_pidfd)
            assert descriptor is None
            verdict = judge(None, Start(0, 1), seen, scene, namespace_proven=True, signature=False)
            assert (verdict.line, verdict.state, verdict.identified) == ("F12", "alive", False)
            assert facts.is_alive(pid, 1)
