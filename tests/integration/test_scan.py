"""``scan``: one pass over the stores, for those who run no daemon."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from kit import Original, Processes, run_ours, wait_until
from nursery import Nursery, linux

from supervisor.process.stamp import stamp_of
from supervisor.store.supervision import SupervisedStore

pytestmark = linux


def of_another_boot(original: Original) -> int:
    """Insert a row that was stamped before the machine has rebooted, and return its id."""
    run = original.create_run(4242)
    stamp = stamp_of(4242)
    stamp["boot_id"] = "another"
    with SupervisedStore(str(original.directory)) as store:
        store.keep_stamps([(run, stamp)], by="test")
    return run


def test_nothing_to_do(home: Path) -> None:
    """Without any store a scan says so and is content."""
    result = run_ours("scan")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "0 settled, 0 running\n")


def test_a_dead_run_is_settled_after_a_second_look(original: Original, nursery: Nursery, project: Path) -> None:
    """A scan stays for the second look, settles what both show dead, and leaves the living alone."""
    dead, living = nursery.dead(), nursery.born()
    gone, zombie = original.create_run(dead), nursery.born()
    ended = original.create_run(zombie)
    runs = original.create_run(living)
    nursery.end(zombie, -signal.SIGTERM)
    result = run_ours("scan")
    assert (result.returncode, result.stderr) == (0, "2 settled, 1 running\n")
    assert sorted(result.stdout.splitlines()) == [
        f"settled {project}#{gone} (pid {dead}): crashed, lost",
        f"settled {project}#{ended} (pid {zombie}): crashed 143, stopped",
    ]
    assert [original.row(run)[:2] for run in (gone, ended, runs)] == [
        ("crashed", None),
        ("crashed", 143),
        ("running", None),
    ]


def test_without_waiting_it_is_pending(original: Original, nursery: Nursery, project: Path) -> None:
    """With --no-wait a row that wants a second look is told as pending and stays as it is."""
    dead = nursery.dead()
    run = original.create_run(dead)
    original.create_run(nursery.born())
    result = run_ours("scan", "--no-wait")
    assert (result.returncode, result.stderr) == (0, "0 settled, 1 running\n")
    assert result.stdout == f"pending {project}#{run} (pid {dead}): looks dead, wants a second look\n"
    assert original.row(run)[0] == "running"


def test_one_directory_only(original: Original, tmp_path: Path) -> None:
    """With --dir only that project's store is looked at, known or not."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = of_another_boot(original)
    with Original(elsewhere) as other:
        there = of_another_boot(other)
        result = run_ours("scan", "--dir", str(elsewhere))
        assert result.stdout == f"settled {elsewhere}#{there} (pid 4242): crashed, rebooted\n"
        assert (other.row(there)[0], original.row(here)[0]) == ("crashed", "running")


def test_a_directory_without_a_store_is_an_error(home: Path, tmp_path: Path) -> None:
    """A --dir that names no store is a user's error."""
    result = run_ours("scan", "--dir", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert str(tmp_path) in result.stderr


def test_json(original: Original, nursery: Nursery, project: Path) -> None:
    """As JSON the result is one document: what was settled, what waits, what cannot be judged, and how many live."""
    before = time.time()
    rebooted, pending = of_another_boot(original), original.create_run(nursery.dead())
    junk = original.create_run("no pid")
    original.create_run(nursery.born())
    result = run_ours("scan", "--no-wait", "--json")
    found = json.loads(result.stdout)
    ended_at = found["settled"][0].pop("ended_at")
    assert before - 0.01 <= ended_at <= time.time()
    store = str(project)
    assert found == {
        "settled": [{"store": store, "id": rebooted, "status": "crashed", "exit_code": None, "cause": "rebooted"}],
        "pending": [{"store": store, "id": pending}],
        "unknown": [{"store": store, "id": junk, "reason": "its pid is no process id"}],
        "alive": 1,
    }
    again = json.loads(run_ours("scan", "--no-wait", "--json").stdout)
    assert again["settled"] == []


def test_a_locked_store_is_waited_for(original: Original, processes: Processes) -> None:
    """A scan does not pass over a store because somebody keeps it to himself for a moment."""
    run = of_another_boot(original)
    original.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    original.connection.execute("begin exclusive")
    refused = run_ours("scan", "--no-wait")
    assert "is locked by another process: its runs have not been looked at" in refused.stderr
    waiting = processes.ours("scan")
    wait_until(lambda: f"{original.directory}/.agent-yes/store.sqlite" in files_of(waiting.pid))
    original.close()
    assert waiting.wait(20) == 0
    with Original(original.directory) as again:
        assert again.row(run)[0] == "crashed"


def test_what_a_scan_settles_is_signed_by_it(original: Original, nursery: Nursery, project: Path) -> None:
    """Endings and stamps that a scan writes say so."""
    of_another_boot(original)
    original.create_run(nursery.born())
    run_ours("scan")
    connection = original.connection
    assert connection.execute("select settled_by from run_ending").fetchall() == [("scan",)]
    assert connection.execute("select stamped_by from run_process order by run_id").fetchall() == [("test",), ("scan",)]


def files_of(pid: int) -> set[str]:
    """Return what a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found
