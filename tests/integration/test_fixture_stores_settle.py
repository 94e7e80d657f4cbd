"""Stores that the original module has written: nothing in them may be settled, for nothing is known of their runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from daemons import Daemon
from kit import DATA, Original, Processes, rows
from nursery import Nursery, linux

from supervisor import registry
from supervisor.daemon.scan import scan
from supervisor.process import facts
from supervisor.registry import Origin

pytestmark = linux

STORES = sorted(path.stem for path in (DATA / "stores").iterdir())
ALL = "select * from runs order by id"
RUNNING = "select id, pid from runs where status = 'running' and pid is not 1"


def place(name: str, directory: Path) -> Path:
    """Copy a store, with all its files, to where a project has it, and return the project's directory."""
    source = DATA / "stores" / name
    folder = directory / ".agent-yes"
    if source.is_dir():
        shutil.copytree(source, folder)
    else:
        folder.mkdir(parents=True)
        shutil.copy(source.with_suffix(".sqlite"), folder / "store.sqlite")
    return directory


def read_aside(name: str, tmp_path: Path) -> list[tuple[object, ...]]:
    """Return all runs of a store as the original has left them, from a copy of its own."""
    return rows(place(name, tmp_path / "aside" / name), ALL)


@pytest.mark.parametrize("name", STORES)
def test_a_scan_settles_nothing(name: str, home: Path, tmp_path: Path) -> None:
    """Pid 1 lives, other pids are no process of this system: every row stays as it is, and is told as unknown."""
    directory = place(name, tmp_path / "project")
    result = scan([str(directory)])
    assert (result.settled, result.pending) == ([], [])
    assert rows(directory, ALL) == read_aside(name, tmp_path)
    lines = {run_id: verdict.line for _, run_id, verdict in result.unknown}
    for run_id, pid in rows(directory, RUNNING):
        above = type(pid) is int and facts.scene().pid_max < pid < 1 << 31
        assert lines[run_id] == ("F5" if above else "F4")


@pytest.mark.parametrize("name", [name for name in STORES if "odd" not in name])
def test_pid_1_stays_running(name: str, home: Path, tmp_path: Path) -> None:
    """Init is never an agent that has died."""
    directory = place(name, tmp_path / "project")
    scan([str(directory)])
    assert rows(directory, "select status, exit_code, ended_at from runs where pid = 1") == [("running", None, None)]


def test_a_daemon_settles_nothing(home: Path, tmp_path: Path, processes: Processes) -> None:
    """A daemon that looks after all of them, sweep after sweep, logs each row once and changes none."""
    stores = {name: place(name, tmp_path / f"project {name}") for name in STORES}
    for directory in stores.values():
        registry.add(str(directory), Origin.ADDED)
    daemon = Daemon(processes, tmp_path / "log", "--sweep-every", "0.1")
    unknown = sum(len(rows(directory, RUNNING)) for directory in stores.values())
    of_rows = r"cannot judge .*#\d+: .* \(F[45]\)"
    daemon.hear(of_rows, times=unknown)
    agents = Nursery(processes)
    (tmp_path / "living").mkdir()
    registry.add(str(tmp_path / "living"), Origin.ADDED)
    with Original(tmp_path / "living") as living:
        for _ in range(3):  # each is noticed by the sweep after the last's
            daemon.watches((tmp_path / "living", living.create_run(agents.born())))
    heard = daemon.hear(of_rows)
    assert len(heard) == len(set(heard)) == unknown
    assert daemon.stop()[0] == 0
    for name, directory in stores.items():
        assert rows(directory, ALL) == read_aside(name, tmp_path)
    assert "settled" not in daemon.log()
    assert "Traceback" not in daemon.log()
