"""An ordinary user's daemon, and processes of that user and of others: exit codes, what is hidden, what is not said."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from kit import Original, Processes, wait_until
from nursery import Nursery, as_root, linux, tells_exits
from ordinary import OTHER_UID, UID, OrdinaryUser, ordinary_user

from supervisor import registry
from supervisor.models import Rank
from supervisor.process import procfs
from supervisor.process.stamp import stamp_of
from supervisor.registry import Origin
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

ENDS = (0, 1, 7, 77, 255, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGSEGV)
"""Exit codes, and signals as minus their numbers."""

NO_EXIT_INFO = "from supervisor.process import pidfd; pidfd.exit_status = lambda _: None\n"
"""What a kernel before 6.15 tells after the reap."""

NO_PIDFDS = """
from supervisor.process import facts, pidfd
def refuse(pid):
    raise OSError(38, "no pidfds")
pidfd.open_pidfd = facts.look.__kwdefaults__["open_pidfd"] = refuse
"""
"""What a kernel before 5.3 answers, and one whose sandbox does not know the call."""

LOST = ("crashed", None, None, None, "lost", Rank.INFERENCE)

UNDER_HIDEPID = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"')
"""Runs a command with a ``/proc`` of its own that shows no other user's processes."""

Start = Callable[..., Daemon]


@pytest.fixture
def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrdinaryUser]:
    """Give the test an ordinary user with a known store, empty as yet. Ask for it first, so that it is removed last."""
    with ordinary_user() as user:
        monkeypatch.setenv("HOME", str(user.home))
        monkeypatch.delenv("XDG_STATE_HOME")
        with Original(user.project):
            pass
        registry.add(str(user.project), Origin.ADDED)
        yield user


@pytest.fixture
def start(user: OrdinaryUser, processes: Processes, tmp_path: Path) -> Start:
    """Give the test a function that starts the user's daemon.

    ``first`` is Python to run before it, and ``prefix`` stands before the command.
    """

    def start(*options: str, first: str = "", prefix: tuple[str, ...] = ()) -> Daemon:
        user.give()
        command = (*prefix, *user.command(first=first))
        return Daemon(processes, tmp_path / "log", *options, command=command, **user.options)

    return start


def nursery_of(processes: Processes, user: OrdinaryUser, uid: int) -> Nursery:
    """Start a parent of that user, and its own folder for core files."""
    folder = user.folder / str(uid)
    folder.mkdir()
    folder.chmod(0o777)
    return Nursery(processes, user=uid, cwd=folder)


def write(user: OrdinaryUser, pids: list[int]) -> list[int]:
    """Write a row for each process, as the original does, and return their ids."""
    with Original(user.project) as original:
        return [original.create_run(pid) for pid in pids]


def finish(nursery: Nursery, pid: int, how: int) -> int:
    """End a process, reap it, and return its wait(2) status."""
    nursery.end(pid, how)
    return nursery.reap(pid)


def endings(user: OrdinaryUser) -> dict[int, tuple[object, ...]]:
    """Return what was settled, by run id: status, exit code, signal, core, cause and rank."""
    columns = "runs.id, runs.status, runs.exit_code, term_signal, core_dumped, cause, rank"
    return {row[0]: row[1:] for row in user.rows(f"select {columns} from runs join run_ending on run_id = id")}


def all_settled(user: OrdinaryUser, runs: list[int]) -> dict[int, tuple[object, ...]]:
    """Wait until those runs and no others are settled, and return how."""
    wait_until(lambda: endings(user).keys() == set(runs))
    return endings(user)


@tells_exits
@as_root
def test_exit_codes_of_non_children_are_exact(user: OrdinaryUser, processes: Processes, start: Start) -> None:
    """An ordinary user's daemon records exactly how others' children end, be they that user's own or another's."""
    nurseries = [nursery_of(processes, user, uid) for uid in (UID, OTHER_UID)]
    agents = [
        (nursery, pid, how) for nursery in nurseries for how, pid in zip(ENDS, nursery.spawn(len(ENDS)), strict=True)
    ]
    runs = write(user, [pid for _, pid, _ in agents])
    daemon = start()
    daemon.watches(*((user.project, run) for run in runs))
    expected = {}
    for run, (nursery, pid, how) in zip(runs, agents, strict=True):
        status = finish(nursery, pid, how)
        assert os.waitstatus_to_exitcode(status) == how
        dumped = None if how >= 0 else int(os.WCOREDUMP(status))
        expected[run] = (how if how >= 0 else 128 - how, -how if how < 0 else None, dumped, Rank.KERNEL)
        if how == -signal.SIGSEGV and Path("/proc/sys/kernel/core_pattern").read_text() == "core\n":
            assert dumped, "the kernel writes a core file here"
    for nursery in nurseries:
        os.kill(nursery.pid, signal.SIGKILL)  # nobody is left who could record an exit with 0
    found = all_settled(user, runs)
    assert {run: (code, number, core, rank) for run, (_, code, number, core, _, rank) in found.items()} == expected


@as_root
def test_without_exit_info_nothing_is_invented(user: OrdinaryUser, processes: Processes, start: Start) -> None:
    """On an older kernel a run whose status nobody saw is lost, without exit code; a visible zombie's is exact."""
    own, others = (nursery_of(processes, user, uid) for uid in (UID, OTHER_UID))
    reaped = [(nursery, pid, how) for nursery in (own, others) for how, pid in zip(ENDS, nursery.spawn(8), strict=True)]
    unreaped = [(own, own.born(), 77), (others, others.born(), 77), (others, others.born(), 0)]
    runs = write(user, [pid for _, pid, _ in (*reaped, *unreaped)])
    daemon = start(first=NO_EXIT_INFO)
    daemon.hear(re.escape("exit status known only of zombies"))
    daemon.watches(*((user.project, run) for run in runs))
    daemon.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: procfs.read_stat(daemon.pid).is_stopped)
    for nursery, pid, how in reaped:
        finish(nursery, pid, how)
    for nursery, pid, how in unreaped:
        nursery.end(pid, how)
    daemon.process.send_signal(signal.SIGCONT)
    found = all_settled(user, runs)
    visible = runs[len(reaped)]
    assert found.pop(visible) == ("crashed", 77, None, None, "unrecorded", Rank.KERNEL)
    assert set(found.values()) == {LOST}


@tells_exits
@as_root
def test_processes_hidden_by_hidepid_are_not_dead(user: OrdinaryUser, processes: Processes, start: Start) -> None:
    """Where ``/proc`` shows no other user's process, those that live stay running (psutil calls each of them gone).

    How one ends is told where its stamp proves that it is the run's; else the run is lost.
    """
    root, others = Nursery(processes), nursery_of(processes, user, OTHER_UID)
    agents = [root.born(), others.born()]
    known, stranger = root.spawn(2)
    starts: list[object] = [None, 0, int(time.time()) - 12 * 86400, int(time.time()) + 12 * 86400, "yesterday"]
    with Original(user.project) as original:
        living = [original.create_run(pid, started_at=start) for pid in agents for start in starts]
        stamped = {original.create_run(pid, started_at=1): pid for pid in (*agents, known)}
        unproven = original.create_run(stranger)
    with SupervisedStore(str(user.project)) as store:
        store.keep_stamps([(run, stamp_of(pid)) for run, pid in stamped.items()], by="test")
    *living, proven = *living, *stamped
    daemon = start("--sweep-every", "0.1", prefix=UNDER_HIDEPID)
    daemon.watches(*((user.project, run) for run in (*living, proven, unproven)))
    assert "hidden from us" in daemon.log()
    for pid in (known, stranger):
        os.kill(pid, signal.SIGKILL)
        root.reap(pid)
    found = all_settled(user, [proven, unproven])
    assert found == {proven: ("crashed", 137, signal.SIGKILL, 0, "killed", Rank.KERNEL), unproven: LOST}
    with Original(user.project) as original:
        later = original.create_run(root.born())
    daemon.watches((user.project, later))
    assert user.rows("select id from runs where status = 'running' order by id") == [(run,) for run in (*living, later)]


@as_root
@pytest.mark.parametrize("prefix", [(), UNDER_HIDEPID], ids=["seen", "hidden"])
def test_processes_that_may_not_be_signalled_are_not_dead(
    user: OrdinaryUser, processes: Processes, start: Start, prefix: tuple[str, ...]
) -> None:
    """Without pidfds only kill(2) tells whether another user's process lives, and its EPERM says that it does.

    uutils/shadow#28, cdalar/onctl#1082, openclaw/openclaw#110235.
    """
    root, others = Nursery(processes), nursery_of(processes, user, OTHER_UID)
    living, gone = [root.born(), others.born()], [root.born(), others.born()]
    runs = write(user, [*living, *gone])
    daemon = start("--sweep-every", "0.1", first=NO_PIDFDS, prefix=prefix)
    daemon.hear("no pidfds here")
    daemon.watches(*((user.project, run) for run in runs))
    for nursery, pid in zip((root, others), gone, strict=True):
        os.kill(pid, signal.SIGKILL)
        nursery.reap(pid)
    found = all_settled(user, runs[2:])
    assert set(found.values()) == {LOST}
    assert user.rows("select id from runs where status = 'running' order by id") == [(run,) for run in runs[:2]]
