"""Two versions at once: a daemon older than the command, and stores that a newer version has made."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import Daemon
from disks import clear, fill, small_disk
from kit import COMMAND, Original, Processes, rows, run_ours, wait_until
from nursery import Nursery, linux
from stores import NEWER, execute

from supervisor import __version__, paths
from supervisor.daemon import presence
from supervisor.daemon.lock import DaemonLock
from supervisor.daemon.presence import Presence
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

OF_VERSION = """
import sys
import supervisor
supervisor.__version__ = sys.argv.pop(1)
from supervisor.cli import main
sys.exit(main())
"""
"""The command under test, as another version of it."""


def daemon_of(processes: Processes, version: str) -> subprocess.Popen[str]:
    """Start a daemon of another version, and wait until it has said what it is."""
    started = processes.python(OF_VERSION, version, "daemon", "--no-discover", stderr=subprocess.DEVNULL)
    wait_until(lambda: (found := presence.running()) is not None and found.version == version)
    return started


def all_said() -> Presence:
    """Wait until a daemon has said all of itself, its counts included, and return it."""
    found = wait_until(lambda: [said for said in [presence.running()] if said and said.watching is not None])
    return found[0]


@pytest.mark.parametrize(("version", "said"), [("0.0.9", True), (__version__, False), ("99.0.0", False)])
def test_ls_tells_of_an_older_daemon(processes: Processes, project: Path, version: str, said: bool) -> None:
    """One line on stderr says that the daemon is older than this command, and what to do; data stays clean."""
    daemon = daemon_of(processes, version)
    shown = run_ours("ls", "--json")
    assert (shown.returncode, shown.stdout) == (0, "[]\n")
    what = f"the daemon (pid {daemon.pid}) is of version {version}, this command of {__version__}; start it anew"
    assert shown.stderr == (f"agent-yes-supervise: {what}\n" if said else "")


def test_a_daemon_from_before_it_said_its_version(home: Path) -> None:
    """A lock that is held without a word beside it is an older daemon's; words that another left do not count."""
    lock = DaemonLock()
    assert presence.running() == Presence(pid=os.getpid(), since=lock.since, version=__version__)
    said = {"pid": os.getpid(), "since": lock.since}
    Path(paths.daemon_lock()).write_text(json.dumps(said), encoding="ascii")
    assert presence.running() == Presence(pid=os.getpid(), since=lock.since)
    presence.publish(Presence(pid=os.getpid(), since=lock.since - 1, version=__version__))
    found = presence.running()
    assert found is not None
    assert found.version is None
    assert found.is_older_than("0.1.0")
    assert "is of version unknown, older, this" in run_ours("ls").stderr
    lock.close()
    assert presence.running() is None
    assert run_ours("ls").stderr.startswith("Nothing runs")


def test_what_a_daemon_says(original: Original, processes: Processes, tmp_path: Path) -> None:
    """A daemon says pid, version, start and counts; a clean end takes it back, and after a kill the lock tells."""
    assert presence.running() is None
    original.create_run(processes.living().pid)
    daemon = Daemon(processes, tmp_path / "log")
    found = all_said()
    assert (found.pid, found.version, found.watching, found.stores) == (daemon.pid, __version__, 1, 1)
    assert found.since is not None
    assert found.said_at is not None
    assert abs(found.said_at - found.since) < 60
    assert os.stat(paths.daemon_presence()).st_mode & 0o777 == 0o600
    daemon.stop()
    assert presence.running() is None
    assert not os.path.exists(paths.daemon_presence())
    killed = Daemon(processes, tmp_path / "log")
    assert all_said().pid == killed.pid
    killed.process.kill()
    killed.process.wait()
    assert os.path.exists(paths.daemon_presence())
    assert presence.running() is None


def test_what_cannot_be_said_is_said_later(home: Path, processes: Processes, tmp_path: Path) -> None:
    """Where its file cannot be written the daemon warns once, leaves no draft, and tries again until it can."""
    there = Path(paths.daemon_presence())
    there.mkdir()
    daemon = Daemon(processes, tmp_path / "log", "--sweep-every", "0.1")
    wait_until(lambda: "cannot be told to other commands" in daemon.log())
    assert [path for path in there.parent.iterdir() if path.name.startswith(there.name)] == [there]
    there.rmdir()
    assert all_said().pid == daemon.pid
    daemon.stop()
    assert daemon.log().count("cannot be told to other commands") == 1


@pytest.mark.parametrize(
    "junk",
    [
        *("", "nonsense", "[1]", "[" * 4096, f'{{"since": {10**400}}}'),
        '{"pid": "1", "since": true, "version": 3, "watching": 1.5}',
    ],
)
def test_junk_beside_the_lock(home: Path, junk: str) -> None:
    """Whatever the files hold, a held lock is a running daemon of which nothing is known."""
    with open(paths.daemon_lock(), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(junk)
        lock.flush()
        Path(paths.daemon_presence()).write_text(junk)
        assert presence.running() == Presence()


def test_full_disk_beside_the_lock(home: Path) -> None:
    """A daemon starts on a full disk, and says who it is where one has before it; elsewhere nothing is known of it."""
    with small_disk(home / "state") as disk:
        DaemonLock().close()
        fill(disk)
        lock = DaemonLock()
        said = presence.running()
        lock.close()
        assert said is not None
        assert (said.pid, said.since) == (os.getpid(), lock.since)
        clear(disk)
        os.truncate(paths.daemon_lock(), 0)
        fill(disk)
        lock = DaemonLock()
        assert presence.running() == Presence()
        lock.close()


def test_who_asks_keeps_no_daemon_from_starting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that starts while somebody asks after one waits for the moment that this takes."""
    asking = os.open(paths.daemon_lock(), os.O_RDONLY | os.O_CREAT)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr("supervisor.daemon.lock.time.sleep", lambda _: os.close(asking))
    DaemonLock().close()


@pytest.mark.parametrize(
    ("old", "new", "older"),
    [("0.1.0", "0.2.0", True), ("0.9.0", "0.10.0", True), ("0.2.0", "0.1.9", False), ("1.0", "1.0", False)],
)
def test_which_version_is_older(old: str, new: str, older: bool) -> None:
    """Versions compare by number."""
    assert Presence(version=old).is_older_than(new) is older


def test_a_long_run_in_a_store_of_a_newer_version(processes: Processes, project: Path) -> None:
    """A wrapper that has closed the store while its agent ran ends the row that it began, and makes no other."""
    with SupervisedStore(str(project)) as store:
        store.get_all_runs()
    execute(project, *NEWER)
    agent = ("sh", "-c", "until [ -e go ]; do sleep 0.02; done; exit 3")
    wrapper = processes.start(*COMMAND, "wrap", *agent, cwd=project, stderr=subprocess.DEVNULL)
    wait_until(lambda: rows(project, "select status from runs") == [("running",)])
    file = str(project / ".agent-yes" / "store.sqlite")
    wait_until(lambda: file not in files_of(wrapper.pid))
    (project / "go").touch()
    assert wrapper.wait(20) == 3
    assert rows(project, "select status, exit_code from runs") == [("failed", 3)]


def files_of(pid: int) -> set[str]:
    """Return the files that a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(entry))
    return found


def test_a_store_of_a_newer_version(original: Original, processes: Processes, project: Path, tmp_path: Path) -> None:
    """Wrap and the daemon record in the original's tables, each warns once, and what is not theirs stays whole."""
    with SupervisedStore(str(project)) as store:
        store.get_all_runs()
    execute(project, *NEWER)
    theirs = rows(project, "select * from sqlite_master")
    wrapped = run_ours("wrap", sys.executable, "-c", "raise SystemExit(3)")
    assert wrapped.returncode == 3
    agent = Nursery(processes).born()
    run = original.create_run(agent)
    daemon = Daemon(processes, tmp_path / "log", "--sweep-every", "0.1")
    daemon.watches((project, run))
    os.kill(agent, 9)
    wait_until(lambda: original.row(run)[0] != "running")
    daemon.stop()
    assert [row[:2] for row in rows(project, "select status, exit_code from runs")] == [("failed", 3), ("crashed", 137)]
    assert daemon.log().count("was made by a newer version") == 1
    assert rows(project, "select * from sqlite_master") == theirs
    assert rows(project, "select * from run_process") == []
    assert rows(project, "pragma integrity_check") == [("ok",)]
    assert json.loads(run_ours("runs", "list", "--json").stdout)[0]["status"] == "crashed"
