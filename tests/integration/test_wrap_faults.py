"""What becomes of a run whose store fails it: the agent ends as ever, and its end is there after the repair, once."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from daemons import Daemon
from disks import clear, fill, small_disk
from kit import COMMAND, Original, Processes, run_ours, wait_until
from nursery import Nursery, linux
from wrapping import STORE, agent, no_privilege, recorded_run, recorded_runs

from supervisor.models import Rank
from supervisor.spool import files

Deed = Callable[[Path], object]


class Fault(NamedTuple):
    """What goes wrong with a project's store, before its agent starts or while it runs, and its repair."""

    spoil: Deed
    repair: Deed = id
    before: Deed = id
    says: str = ""
    """What the line on stderr holds that says why nothing is recorded yet; empty where the wrapper may not notice."""

    small: bool = False
    """Whether the project is on a small disk."""


def lock(project: Path) -> None:
    """Let another hold the lock."""
    held = sqlite3.connect(project / STORE, isolation_level=None, check_same_thread=False)
    held.execute("BEGIN IMMEDIATE")
    _held.append(held)


def unlock(project: Path) -> None:
    """Let it go."""
    _held.pop().close()


_held: list[sqlite3.Connection] = []


def read_only(project: Path) -> None:
    """Take the right to write."""
    for path in (project / STORE, *(project / ".agent-yes").glob("store.sqlite-*")):
        path.chmod(0o400)
    (project / ".agent-yes").chmod(0o500)


def writable(project: Path) -> None:
    """Give it back."""
    (project / ".agent-yes").chmod(0o700)
    for path in (project / ".agent-yes").glob("store.sqlite*"):
        path.chmod(0o600)


def read_meanwhile(project: Path) -> None:
    """Take the right to write the store alone, and have it read: SQLite makes the index of its WAL read-only too."""
    (project / STORE).chmod(0o400)
    assert run_ours("runs", "list", "--project", str(project), preexec_fn=no_privilege).returncode == 0
    assert (project / f"{STORE}-shm").stat().st_mode & 0o777 == 0o400


def damage(project: Path) -> None:
    """Overwrite the store."""
    (project / STORE).write_bytes(b"no database " * 1000)


def damaged_in_place(project: Path) -> None:
    """Put a damaged store in its place, as a tool does that writes by rename."""
    (project / "draft").write_bytes(b"no database " * 1000)
    (project / "draft").rename(project / STORE)


def away_if_need_be(project: Path) -> None:
    """Move the store away, unless its WAL has made it whole again."""
    if files.waiting():
        away(project)


def away(project: Path) -> None:
    """Move the store away, with all that belongs to it."""
    (project / ".agent-yes").rename(project / f"away-{len(list(project.glob('away-*')))}")


def replace(project: Path) -> None:
    """Put another store in its place."""
    away(project)
    Original(project).close()


def file_in_place(project: Path) -> None:
    """Put a file where the folder was."""
    away(project)
    (project / ".agent-yes").write_text("mine")


def remount(how: str) -> Deed:
    """Return what makes a disk read-only, or writable again."""
    return lambda project: subprocess.run(["mount", "-o", f"remount,{how}", project], check=True)


def has_store(project: Path) -> None:
    """Let the project have a store already."""
    Original(project).close()


AT_START = {
    "locked": Fault(lock, unlock, has_store, "locked by another process"),
    "read-only": Fault(read_only, writable, has_store, "check the rights"),
    "read-only, and read": Fault(
        read_meanwhile, lambda project: (project / STORE).chmod(0o600), has_store, "check the rights"
    ),
    "read-only disk": Fault(remount("ro"), remount("rw"), says="check the rights", small=True),
    "full disk": Fault(fill, clear, says="free some space", small=True),
    "damaged": Fault(damage, away, has_store, "is damaged"),
    "a file": Fault(file_in_place, lambda project: (project / ".agent-yes").unlink(), has_store, "is not a folder"),
}
MEANWHILE = {
    "locked": Fault(lock, unlock, says="locked by another process"),
    "read-only": Fault(read_only, writable),
    "full disk": Fault(fill, clear, says="free some space", small=True),
    "damaged": Fault(damage, away_if_need_be),
    "damaged by rename": Fault(damaged_in_place, away_if_need_be),
    "deleted": Fault(lambda project: shutil.rmtree(project / ".agent-yes")),
    "replaced": Fault(replace),
    "a file": Fault(file_in_place, lambda project: (project / ".agent-yes").unlink(), says="is not a folder"),
}
FAULTS = [
    *(pytest.param("start", fault, id=f"{name} at the start") for name, fault in AT_START.items()),
    *(pytest.param("meanwhile", fault, id=f"{name} meanwhile") for name, fault in MEANWHILE.items()),
]


@pytest.fixture
def place(project: Path) -> Iterator[Callable[[Fault], Path]]:
    """Give the test the project, on a small disk where the fault needs that; it is unlocked afterwards."""
    with contextlib.ExitStack() as stack:

        def give(fault: Fault) -> Path:
            return stack.enter_context(small_disk(project.parent / "small")) if fault.small else project

        yield give
    while _held:
        unlock(project)


@pytest.mark.parametrize("log", [[], ["--log"]], ids=["", "log"])
@pytest.mark.parametrize(("when", "fault"), FAULTS)
def test_fault(
    place: Callable[[Fault], Path], tmp_path: Path, processes: Processes, when: str, fault: Fault, log: list[str]
) -> None:
    """The agent ends as ever, one line tells of the run and one of its log, and the daemon records the end once."""
    project, marks = place(fault), tmp_path / "marks"
    marks.mkdir()
    fault.before(project)
    daemon = Daemon(processes, tmp_path / "daemon.log", preexec_fn=no_privilege)
    if when == "start":
        fault.spoil(project)
    steps = agent("touch", marks / "up", "await", marks / "go", "say", "bye", "exit", 3)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = ("wrap", *log, "--project", str(project), *steps)
    wrapper = processes.start(*COMMAND, *words, **pipes, preexec_fn=no_privilege)
    wait_until((marks / "up").exists)
    if when == "meanwhile":
        wait_until(lambda: recorded_run(project)["status"] == "running")
        fault.spoil(project)
    (marks / "go").touch()
    said, told = wrapper.communicate(timeout=20)
    assert (wrapper.returncode, said) == (3, "bye\n")
    lines = told.splitlines()
    assert len([line for line in lines if " not logged: " in line or "log of this run" in line]) <= len(log), lines
    assert len([line for line in lines if " recorded" in line]) <= 1, lines
    assert len(lines) <= 1 + len(log)
    assert bool(files.waiting()) == any(" is not recorded yet: " in line for line in lines)
    assert fault.says in told
    fault.repair(project)
    wait_until(lambda: files.waiting() == [], 30)
    ends = wait_until(lambda: [run for run in recorded_runs(project) if run["status"] != "running"])
    assert [(run["exit_code"], run["settled_by"], run["rank"]) for run in ends] == [(3, "wrap", Rank.OWNER)]
    assert len(recorded_runs(project)) == 1
    assert daemon.process.poll() is None


@pytest.mark.root
def test_one_full_disk(project: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where home and project are on one disk, and that is full when the agent ends, there is room to keep its end."""
    with small_disk(project.parent / "small", "size=1m") as small:
        monkeypatch.setenv("XDG_STATE_HOME", str(small / "state"))
        words = ("wrap", "--project", str(small), *agent("touch", "up", "await", "go", "exit", 3))
        wrapper = processes.ours(*words, stderr=subprocess.PIPE)
        wait_until((project / "up").exists)
        wait_until(lambda: reserved(wrapper.pid) == files.RESERVED)
        fill(small)
        (project / "go").touch()
        told = wrapper.communicate(timeout=20)[1]
        assert (wrapper.returncode, told.count("\n")) == (3, 1)
        assert "; it is kept in " in told
        clear(small)
        assert run_ours("runs", "list", "--project", str(small)).returncode == 0
        run = recorded_run(small)
        assert (run["exit_code"], run["rank"], files.waiting()) == (3, Rank.OWNER, [])


def reserved(pid: int) -> int:
    """Return the bytes that a process has set aside in the spool; its size tells that fallocate(2) is done."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "/spool/" in str(descriptor.readlink()):
                found += descriptor.stat().st_size
    return found


@linux
def test_what_only_the_daemon_knows(project: Path, nursery: Nursery, processes: Processes, tmp_path: Path) -> None:
    """An end that the daemon alone has seen, and cannot write, outlives the daemon."""
    agent = nursery.born()
    with Original(project) as original:
        run = original.create_run(agent)
        run_ours("stores", "add", str(project))
        daemon = Daemon(processes, tmp_path / "log")
        daemon.watches((project, run))
        lock(project)
        nursery.end(agent, -signal.SIGKILL)
        wait_until(files.waiting)
        daemon.stop(signal.SIGKILL)
        nursery.reap(agent)
        unlock(project)
        Daemon(processes, tmp_path / "log")
        wait_until(lambda: recorded_run(project)["rank"] == Rank.KERNEL)
        assert original.row(run)[:2] == ("crashed", 137)
        wait_until(lambda: files.waiting() == [])


@pytest.mark.parametrize("name", AT_START)
def test_next_command(place: Callable[[Fault], Path], name: str) -> None:
    """Without a daemon the next command records it, whatever was wrong."""
    fault = AT_START[name]
    project = place(fault)
    fault.before(project)
    fault.spoil(project)
    ended = run_ours("wrap", "--project", str(project), "sh", "-c", "exit 3", preexec_fn=no_privilege)
    assert ended.returncode == 3
    fault.repair(project)
    assert run_ours("runs", "list", "--project", str(project)).returncode == 0
    assert [run["exit_code"] for run in recorded_runs(project)].count(3) == 1
    assert files.waiting() == []
