"""What is recorded is brought to the disk: within a second by the daemon, by every command before it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from kit import Original, Processes, dead_pid, run_ours, wait_until
from wrapping import agent, recorded_run

from supervisor.spool import files

_TELLS_SYNCS = """
import os

def fsync(descriptor, fsync=os.fsync):
    fsync(descriptor)
    with open({log!r}, "a") as log:
        print(os.fstat(descriptor).st_ino, file=log)

def unlink(path, unlink=os.unlink):
    unlink(path)
    with open({log!r}, "a") as log:
        print(os.path.basename(path), file=log)

os.fsync, os.unlink = fsync, unlink
"""

IsSynced = Callable[..., bool]


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Hold a connection to the store all the while: nobody else's is the last, so that SQLite itself syncs nothing."""
    with Original(project) as original:
        yield original


@pytest.fixture
def is_synced(original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IsSynced:
    """Tell whether what we start has synced the store's WAL and its folder, if need be before it removed a file."""
    hooks, log = tmp_path / "hooks", tmp_path / "syncs"
    hooks.mkdir()
    log.touch()
    (hooks / "sitecustomize.py").write_text(_TELLS_SYNCS.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(hooks))
    folder = original.directory / ".agent-yes"

    def synced(before: str = "") -> bool:
        inodes = {str(path.stat().st_ino) for path in (folder, folder / "store.sqlite-wal")}
        done = log.read_text().split()
        return inodes <= set(done[: done.index(before)] if before else done)

    return synced


def test_wrap(original: Original, project: Path, is_synced: IsSynced) -> None:
    """A wrapped agent's end is on the disk when its wrapper ends."""
    assert run_ours("wrap", "sh", "-c", "exit 3").returncode == 3
    assert is_synced()


def blocked(project: Path) -> Callable[[], object]:
    """Put a file in the place of the store's folder; return what undoes that."""
    folder, away = project / ".agent-yes", project / "away"
    folder.rename(away)
    folder.touch()

    def free() -> None:
        folder.unlink()
        away.rename(folder)

    return free


def locked(original: Original) -> Callable[[], object]:
    """Lock the store; return what undoes that."""
    original.connection.execute("BEGIN IMMEDIATE")
    return lambda: original.connection.execute("COMMIT")


@pytest.mark.parametrize("taken", ["while it runs", "at its end"])
def test_wrap_has_it_in_the_spool_until_then(
    original: Original, project: Path, processes: Processes, is_synced: IsSynced, taken: str
) -> None:
    """A run whose beginning has been kept is on the disk of its store before its file in the spool goes."""
    let = locked(original) if taken == "while it runs" else blocked(project)
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go"), stderr=subprocess.DEVNULL)
    wait_until((project / "up").exists)
    (kept,) = files.waiting()
    assert kept.endswith(files.BEGUN)
    let()
    if taken == "while it runs":
        wait_until(lambda: files.waiting() == [])
    (project / "go").touch()
    assert wrapper.wait(20) == 0
    assert files.waiting() == []
    assert is_synced(before=kept)


def test_scan(original: Original, is_synced: IsSynced) -> None:
    """What a scan has settled is on the disk when it ends."""
    original.create_run(dead_pid())
    assert "crashed" in run_ours("scan").stdout
    assert is_synced()


def test_stop(original: Original, project: Path, processes: Processes, is_synced: IsSynced) -> None:
    """The end of an agent without owner is on the disk when stop ends."""
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "never"))
    wait_until((project / "up").exists)
    processes.adopt(recorded_run(project)["pid"])
    wrapper.kill()
    wrapper.wait(10)
    assert "ended" in run_ours("stop", ".").stdout
    assert is_synced()


@pytest.mark.parametrize("who", ["daemon", "another"])
def test_daemon(original: Original, processes: Processes, tmp_path: Path, is_synced: IsSynced, who: str) -> None:
    """The daemon syncs what it settles and what others record."""
    process = processes.living()
    run = original.create_run(process.pid)
    run_ours("stores", "add", str(original.directory))
    daemon = Daemon(processes, tmp_path / "log")
    daemon.watches((original.directory, run))
    wait_until(is_synced, message="the stamp is not synced")
    (tmp_path / "syncs").write_text("")
    if who == "daemon":
        os.kill(process.pid, signal.SIGKILL)
    else:
        original.connection.execute("update runs set status = 'completed', exit_code = 0, ended_at = unixepoch()")
    wait_until(is_synced)


def test_a_daemon_that_ends(original: Original, processes: Processes, tmp_path: Path, is_synced: IsSynced) -> None:
    """What it has settled last is synced before the daemon ends."""
    process = processes.living()
    run = original.create_run(process.pid)
    run_ours("stores", "add", str(original.directory))
    daemon = Daemon(processes, tmp_path / "log")
    daemon.watches((original.directory, run))
    wait_until(is_synced)
    (tmp_path / "syncs").write_text("")
    os.kill(process.pid, signal.SIGKILL)
    daemon.hear("settled")
    assert daemon.stop()[0] == 0
    assert is_synced()
