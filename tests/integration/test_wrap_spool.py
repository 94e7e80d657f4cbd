"""What a store does not take: kept in the spool, truthful whenever anything dies, and brought into the store once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from kit import Original, Processes, rows, run_ours, wait_until
from stores import race
from wrapping import STORE, agent, children, end_runs, recorded_run, recorded_runs

from supervisor import registry
from supervisor.db import get_db
from supervisor.models import Rank
from supervisor.spool import files
from supervisor.spool.applying import apply_spooled

PATCHED = """
import os, sys
from supervisor.cli import main
from supervisor.spool import files
from supervisor.wrap import record

record.FIRST_WAIT = record.LATER_WAIT = record.LAST_WAIT = 0.02
exec(sys.argv.pop(1))
sys.argv.insert(1, "wrap")
main()
"""


DIE = """
die = lambda *_, **__: os.kill(os.getpid(), 9)
after = lambda call: lambda *a, **k: (call(*a, **k), die())
""".strip()


ENDS_IN_BETWEEN = """
import time
from supervisor.wrap import launch

def look(*args, look=launch._look_behind, **options):
    open("ended", "w").close()
    while not os.path.exists("go on"):
        time.sleep(0.01)
    look(*args, **options)

launch._look_behind = look
"""
"""Waits between an end and the look at what is left behind."""

REPLACES = """
import shutil
from supervisor.store import recording
from supervisor.store.connection import open_for_writing

def finish(*args, finish=recording.finish_run):
    finished = finish(*args)
    if not os.path.exists("old"):
        os.mkdir("old")
        os.rename(".agent-yes", "old/.agent-yes")
        replace()
    return finished

recording.finish_run = finish
replace = lambda: """
"""Replaces the store when the ending has been written into it; what is to stand there then follows."""


def impatient(*words: str, but: str = "") -> list[str]:
    """Return a command line of a wrap that waits for no lock; ``but`` is what else is other with it."""
    return [sys.executable, "-c", PATCHED, but, *words]


@pytest.fixture
def lock(project: Path) -> Iterator[sqlite3.Connection]:
    """Give the test a connection that locks the project's store, which is the original's."""
    with Original(project) as original:
        original.connection.execute("BEGIN IMMEDIATE")
        yield original.connection


def kept() -> list[str]:
    """Return how the names of what the spool holds end."""
    return [name[-len(files.BEGUN) :] for name in files.waiting()]


def test_wrapper_killed_meanwhile(project: Path, processes: Processes, lock: sqlite3.Connection) -> None:
    """A run whose wrapper dies while its beginning is only spooled is a running row later, judged as any other."""
    wrapper = processes.start(*impatient(*agent("touch", "up", "await", "never")), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    (pid,) = children(wrapper.pid)
    processes.adopt(pid)
    wrapper.kill()
    wrapper.wait()
    assert kept() == [files.BEGUN]
    daemon = Daemon(processes, project / "log")
    daemon.hear(f"1 run of {project} cannot be recorded yet")
    lock.execute("COMMIT")
    daemon.watches((project, 1))
    run = recorded_run(project)
    assert (run["pid"], run["status"], run["owner_pid"], run["cli"]) == (pid, "running", wrapper.pid, sys.executable)
    assert rows(project, "SELECT pid, start_ticks IS NOT NULL, stamped_by FROM run_process") == [(pid, 1, "wrap")]
    assert kept() == []
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: recorded_run(project)["status"] == "crashed")
    assert recorded_run(project)["rank"] < Rank.OWNER
    assert daemon.log().count("cannot be recorded yet") == 1


@pytest.mark.parametrize(
    ("instant", "left"),
    [("files.keep = die", []), ("os.rename = die", []), ("os.rename = after(os.rename)", [files.BEGUN])],
    ids=["before", "half", "kept"],
)
def test_wrapper_killed_before_the_exec(project: Path, lock: sqlite3.Connection, instant: str, left: list[str]) -> None:
    """Wherever a wrapper dies that keeps a beginning: nothing has started, or its file is there, whole."""
    ended = subprocess.run(impatient("touch", "started", but=f"{DIE}; {instant}"), check=False, timeout=20)
    assert ended.returncode == -signal.SIGKILL
    lock.execute("COMMIT")
    assert not (project / "started").exists()
    assert kept() == left
    assert apply_spooled().troubles == []
    assert [run["status"] for run in (recorded_runs(project) if left else [])] == ["running"] * len(left)


def test_drafts_that_nobody_finishes(project: Path, lock: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrapper that was killed has half written goes when it is old."""
    subprocess.run(impatient("true", but=f"{DIE}; os.rename = die"), check=False, timeout=20)
    (draft,) = os.listdir(files.folder())
    assert (draft[0], files.waiting()) == (".", [])
    monkeypatch.setattr(files, "DRAFTS_LIVE_FOR", -1)
    assert apply_spooled().troubles == []
    assert os.listdir(files.folder()) == []


def test_locked_at_the_end(project: Path, processes: Processes) -> None:
    """A run that is begun in its store, and whose end finds that locked, gets it later; weaker words give way."""
    wrapper = processes.start(*impatient(*agent("touch", "up", "await", "go", "exit", 3)), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    before = recorded_run(project)
    assert before["status"] == "running"
    holder = sqlite3.connect(project / STORE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    (project / "go").touch()
    said = wrapper.communicate(timeout=20)[1]
    assert (wrapper.returncode, said.count("\n"), kept()) == (3, 1, [files.ENDED])
    assert said.startswith("agent-yes-supervise: how this run ends is not recorded yet: ")
    holder.execute("UPDATE runs SET status = 'crashed', ended_at = 1")
    holder.execute("COMMIT")
    holder.close()
    assert apply_spooled().files == 1
    after = recorded_run(project)
    same = ("id", "pid", "token", "started_at")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert (after["status"], after["exit_code"], after["rank"]) == ("failed", 3, Rank.OWNER)


@pytest.mark.parametrize("applied", ["before", "after"], ids=lambda when: f"brought {when} that is known")
def test_left_behind(project: Path, lock: sqlite3.Connection, processes: Processes, applied: str) -> None:
    """What an agent has left behind belongs to its end, when that is only kept, too."""
    after = "" if applied == "after" else ENDS_IN_BETWEEN
    command = impatient("sh", "-c", "sleep 60 2>/dev/null & exit 3", but=after)
    wrapper = processes.start(*command, stderr=subprocess.PIPE)
    if applied == "before":
        wait_until((project / "ended").exists)
        lock.execute("COMMIT")
        assert apply_spooled().files == 1
        (project / "go on").touch()
    said = wrapper.communicate(timeout=20)[1]
    assert (wrapper.returncode, said.count("\n"), "process left: " in said) == (3, 2, True)
    if applied == "after":
        assert [files.ADDED in name for name in files.waiting()] == [True, False]
        lock.execute("COMMIT")
        assert apply_spooled().files == 2
    ((evidence,),) = rows(project, "SELECT evidence FROM run_ending")
    assert [one["name"] for one in json.loads(evidence)["left"]] == ["sleep"]
    assert (recorded_run(project)["exit_code"], kept()) == (3, [])
    end_runs(project)


@pytest.mark.parametrize("by", ["another", "nobody"])
def test_replaced_while_it_is_written(project: Path, by: str) -> None:
    """An end that is just written when its store is replaced, or deleted, goes into the one that stands there then."""
    but = REPLACES + ("open_for_writing(os.getcwd())[0].close()" if by == "another" else "None")
    ended = subprocess.run(impatient("sh", "-c", "exit 3", but=but), check=False, capture_output=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (3, b"")
    assert (recorded_run(project)["exit_code"], kept()) == (3, [])
    assert recorded_run(project / "old")["token"] == recorded_run(project)["token"]


def test_store_is_back_at_the_end(project: Path, processes: Processes) -> None:
    """A run that begins in the spool and ends when the store can be written is there at once, and the spool empty."""
    (project / ".agent-yes").write_text("mine")
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go", "exit", 3), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    assert kept() == [files.BEGUN]
    (project / ".agent-yes").unlink()
    (project / "go").touch()
    said = wrapper.communicate(timeout=20)[1]
    assert (said.count("\n"), kept(), recorded_run(project)["exit_code"]) == (1, [], 3)
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.trusted


def test_applied_while_it_runs(project: Path, processes: Processes) -> None:
    """A beginning that is brought into the store while its wrapper lives is the row that the wrapper ends."""
    (project / ".agent-yes").write_text("mine")
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go", "exit", 3), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    (project / ".agent-yes").unlink()
    assert apply_spooled().files == 1
    assert recorded_run(project)["status"] == "running"
    (project / "go").touch()
    wrapper.communicate(timeout=20)
    assert (recorded_run(project)["exit_code"], kept()) == (3, [])


@pytest.mark.parametrize("home_gone_at", ["start", "end"])
def test_neither_store_nor_spool(
    project: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, home_gone_at: str
) -> None:
    """Where the spool cannot be written either the agent runs as ever, and a line says that it is lost."""
    (project / ".agent-yes").write_text("mine")
    if home_gone_at == "start":
        monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go", "exit", 3), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    if home_gone_at == "end":
        shutil.rmtree(project.parent / "home")
        (project.parent / "home").write_text("mine")
    (project / "go").touch()
    said = wrapper.communicate(timeout=20)[1].splitlines()
    assert wrapper.returncode == 3
    assert said[-1].startswith("agent-yes-supervise: this run is not recorded: ")
    assert "; nor can it be kept for later: " in said[-1]
    assert len(said) == (2 if home_gone_at == "end" else 1)


DIES = """
import os
from supervisor.spool import applying, files

files.remove = lambda name: os.kill(os.getpid(), 9)
applying.apply_spooled()
"""
APPLIES = """
import json, sys
from supervisor.spool import applying

print(flush=True)
sys.stdin.read()
print(json.dumps([str(error) for error in applying.apply_spooled(timeout=20).troubles]))
"""


def spool_runs(project: Path, number: int, code: int = 3) -> None:
    """Run agents in a project whose store cannot be made, which then can be."""
    (project / ".agent-yes").write_text("mine")
    for _ in range(number):
        run_ours("wrap", "sh", "-c", f"exit {code}")
    (project / ".agent-yes").unlink()


def test_killed_between_commit_and_removal(project: Path, processes: Processes) -> None:
    """Whoever dies after the commit and before the file is removed leaves a file that changes nothing any more."""
    spool_runs(project, 1)
    assert processes.python(DIES).wait(20) == -signal.SIGKILL
    assert (recorded_run(project)["exit_code"], kept()) == (3, [files.ENDED])
    before = rows(project, "SELECT * FROM runs JOIN run_ending"), rows(project, "SELECT * FROM run_process")
    assert apply_spooled().files == 1
    assert (rows(project, "SELECT * FROM runs JOIN run_ending"), rows(project, "SELECT * FROM run_process")) == before
    assert kept() == []


def test_several_at_once(project: Path, processes: Processes) -> None:
    """However many bring the same files into a store at once, each run is there once."""
    spool_runs(project, 3)
    outcomes = race(processes, *[(APPLIES,)] * 4)
    assert outcomes == [[]] * 4
    assert [run["exit_code"] for run in recorded_runs(project)] == [3] * 3
    assert len({run["token"] for run in recorded_runs(project)}) == 3
    started = [run["started_at"] for run in recorded_runs(project)]
    assert started == sorted(started)
    assert kept() == []


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_rights(project: Path, umask: int) -> None:
    """What is kept is its user's alone, and can be read again whatever the umask was."""
    files.folder()
    (project / ".agent-yes").write_text("mine")
    run_ours("wrap", "true", umask=umask)
    (name,) = files.waiting()
    path = Path(files.folder(), name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


Reader = tuple[str, ...]


@pytest.mark.parametrize(
    "words", [("runs", "list"), ("runs", "show", "."), ("why", "."), ("projects", "list"), ("scan",)], ids=" ".join
)
def test_next_command(project: Path, words: Reader) -> None:
    """Each command that looks at stores brings there first what is spooled."""
    spool_runs(project, 1, code=0)
    ended = run_ours(*words)
    assert ended.returncode == 0, ended.stderr
    assert (recorded_run(project)["status"], kept()) == ("completed", [])


def test_next_wrapper(project: Path, processes: Processes) -> None:
    """A wrapper brings what earlier ones have left of the same project, while its agent runs."""
    spool_runs(project, 2)
    other = project / "other"
    other.mkdir()
    run_ours("wrap", "--project", "other", "true")
    shutil.move(other / ".agent-yes", other / "away")
    (other / ".agent-yes").write_text("mine")
    run_ours("wrap", "--project", "other", "true")
    wrapper = processes.ours("wrap", *agent("await", "go", "exit", 0))
    wait_until(lambda: len(kept()) == 1)
    (project / "go").touch()
    assert wrapper.wait(20) == 0
    assert [run["exit_code"] for run in recorded_runs(project)] == [0, 3, 3]


def test_opening_from_python(project: Path) -> None:
    """A program that opens a store by the database module finds there what was spooled for it."""
    spool_runs(project, 1)
    (run,) = get_db(project).get_all_runs()
    assert (run.exit_code, kept()) == (3, [])


def test_older_default_gives_way(project: Path, lock: sqlite3.Connection) -> None:
    """A run that is recorded late does not undo the default command that a later one has set, nor when that ran."""
    subprocess.run(impatient("--default", "true"), check=False, timeout=20, capture_output=True)
    lock.execute("COMMIT")
    run_ours("wrap", "--default", "echo")
    before = rows(project, "SELECT * FROM projects")
    apply_spooled()  # if that run has not
    assert rows(project, "SELECT * FROM projects") == before
    assert rows(project, "SELECT cmd FROM projects") == [("echo",)]
    assert sorted(run["cli"] for run in recorded_runs(project)) == ["echo", "true"]


def test_late_default(project: Path, lock: sqlite3.Connection) -> None:
    """A run that is recorded late sets the project's default all the same where nobody has since."""
    lock.execute("UPDATE projects SET updated_at = 1700000000")
    subprocess.run(impatient("--prompt", "fix it", "true"), check=False, timeout=20, capture_output=True)
    lock.execute("COMMIT")
    assert apply_spooled().files == 1
    assert rows(project, "SELECT cmd, prompt FROM projects") == [("true", "fix it")]
    ((last_run_at,),) = rows(project, "SELECT last_run_at FROM projects")
    assert abs(last_run_at - recorded_run(project)["ended_at"]) < 60_000
