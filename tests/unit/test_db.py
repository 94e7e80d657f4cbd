"""The database module: each of the original's functions, in a test that bears its name."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit import Original, Processes, dead_pid, rows

from supervisor import db, registry
from supervisor.db import (
    RunStatus,
    Store,
    close_db,
    create_run,
    delete_project,
    delete_project_runs,
    delete_run,
    get_all_projects,
    get_all_runs,
    get_crashed_runs,
    get_db,
    get_project_by_dir,
    get_project_by_id,
    get_project_runs,
    get_project_with_latest_run,
    get_run_by_id,
    get_run_by_pid,
    get_running_runs,
    mark_run_as_crashed,
    update_project_last_run,
    update_run_status,
    upsert_project,
)
from supervisor.errors import StoreMissing
from supervisor.models import CrashedRun, ProjectInfo, Run
from supervisor.process.stamp import start_ticks

EARLY, LATE = 1_700_000_000, 1_700_000_100
"""Seconds. In milliseconds EARLY is the larger number, so that an order by numbers alone is wrong."""


@pytest.fixture
def project_id(project: Path) -> int:
    """Give the test a project in a fresh store."""
    return upsert_project(dir=str(project), cmd="claude", prompt="run all tests").id


def started(run_id: int, stored: object) -> None:
    """Store when a run started."""
    get_db().connection.execute("UPDATE runs SET started_at = ? WHERE id = ?", (stored, run_id))


def ids(runs: list[Run]) -> list[int]:
    """Return the ids of runs, in their order."""
    return [run.id for run in runs]


def test_every_function_of_the_seed_has_a_test() -> None:
    """Each function that the module offers is called in a test of its name."""
    functions = {name for name in db.__all__ if name.islower()}
    assert len(functions) == 20
    assert {f"test_{name}" for name in functions} <= set(globals())


def test_get_db(project: Path, tmp_path: Path) -> None:
    """A directory's store is made at the first call, is the same until it is closed, and is another's nowhere."""
    other = tmp_path / "other"
    other.mkdir()
    store = get_db()
    assert store.path == str(project / ".agent-yes" / "store.sqlite")
    assert Path(store.path).is_file()
    assert get_db() is store
    assert get_db(str(project)) is store
    assert get_db(project) is store
    assert get_db(other) is not store
    assert get_db(other).path == str(other / ".agent-yes" / "store.sqlite")


def test_get_db_knows_a_directory_by_its_real_path(project: Path, tmp_path: Path) -> None:
    """A symbolic link to a project gives the project's own store."""
    link = tmp_path / "link"
    link.symlink_to(project)
    assert get_db(link) is get_db(project)
    assert get_db(link).directory == str(project)


def test_get_db_of_a_missing_directory(project: Path, tmp_path: Path) -> None:
    """A directory that does not exist is an error, leaves the last store in charge, and can be used once it exists."""
    upsert_project(dir="/here", cmd="claude")
    missing = tmp_path / "missing"
    with pytest.raises(StoreMissing):
        get_db(missing)
    assert [known.dir for known in get_all_projects()] == ["/here"]
    missing.mkdir()
    assert get_db(missing).get_all_projects() == []


def test_get_db_of_a_directory_that_is_not_utf8(project: Path) -> None:
    """A directory and arguments whose names are not UTF-8 come back as they were."""
    odd = os.fsdecode(b"/proj\xff \xe2\x82")
    directory = f"{project}{odd}"
    os.makedirs(directory)
    get_db(directory)
    made = upsert_project(dir=directory, cmd="claude", prompt=odd)
    run = create_run(pid=1, project_id=made.id, args=[odd])
    assert (made.dir, made.prompt) == (directory, odd)
    assert get_project_by_dir(directory) == get_project_by_id(made.id)
    assert get_run_by_id(run.id) == run
    assert run.args == [odd]
    assert run.junk == made.junk == {}
    assert registry.entries()[0].dir == directory


def test_functions_act_on_the_last_get_db(project: Path, tmp_path: Path) -> None:
    """Two directories in use at once keep their rows apart; the functions follow the last call of get_db."""
    other = tmp_path / "other"
    other.mkdir()
    here = get_db(project)
    upsert_project(dir="/here", cmd="claude")
    there = get_db(other)
    upsert_project(dir="/there", cmd="codex")
    assert [known.dir for known in get_all_projects()] == ["/there"]
    get_db(project)
    assert [known.dir for known in get_all_projects()] == ["/here"]
    assert [known.cmd for known in here.get_all_projects()] == ["claude"]
    assert [known.cmd for known in there.get_all_projects()] == ["codex"]


def test_functions_need_no_get_db(project: Path) -> None:
    """Without a call of get_db the functions act on the store of the current directory."""
    upsert_project(dir=str(project), cmd="claude")
    assert rows(project, "SELECT dir FROM projects") == [(str(project),)]


def test_close_db(project: Path, tmp_path: Path) -> None:
    """Closing lets the files go, a second time does nothing, and the next use opens the current directory anew."""
    other = tmp_path / "other"
    other.mkdir()
    upsert_project(dir=str(project), cmd="claude")
    here = get_db(project)
    there = get_db(other)
    close_db()
    assert not here.is_open
    assert not there.is_open
    assert not os.path.exists(f"{here.path}-wal")  # the last connection to close takes it away
    close_db()
    assert [known.dir for known in get_all_projects()] == [str(project)]
    assert get_db(project) is not here


def test_a_store_can_be_used_after_close_db(project: Path, project_id: int) -> None:
    """A store that is still held opens anew at its next use, and loses nothing."""
    store = get_db()
    close_db()
    run = store.create_run(pid=1, project_id=project_id)
    assert store.is_open
    assert get_run_by_id(run.id) == run
    store.close()


def test_upsert_project(project: Path) -> None:
    """A project is created with all its columns, and updated under the same id; both give the project."""
    before = int(time.time())
    made = upsert_project(dir="/a/проект 🧪", cmd="claude", prompt="Añade «pruebas»\nnow")
    assert made == get_project_by_id(made.id)
    assert (made.id, made.dir, made.cmd, made.prompt) == (1, "/a/проект 🧪", "claude", "Añade «pruebas»\nnow")
    assert made.last_run_at is None
    assert made.created_at is not None
    assert before <= made.created_at <= time.time()
    assert made.updated_at == made.created_at
    changed = upsert_project(dir="/a/проект 🧪", cmd="gemini", prompt="other")
    assert (changed.id, changed.cmd, changed.prompt) == (1, "gemini", "other")
    assert changed.created_at == made.created_at
    assert changed.updated_at is not None
    assert before <= changed.updated_at <= time.time()
    assert changed == get_project_by_id(made.id)
    assert len(get_all_projects()) == 1


def test_upsert_project_with_an_omitted_prompt(project: Path) -> None:
    """An omitted prompt keeps the stored one, None removes it, and an empty one is one."""
    assert upsert_project(dir="/a", cmd="claude").prompt is None
    assert upsert_project(dir="/a", cmd="claude", prompt="solve").prompt == "solve"
    assert upsert_project(dir="/a", cmd="codex").prompt == "solve"
    assert upsert_project(dir="/a", cmd="codex", prompt="").prompt == ""
    assert upsert_project(dir="/a", cmd="codex", prompt=None).prompt is None


def test_times_keep_the_units_of_the_original(project: Path, project_id: int) -> None:
    """In the file, times have the original's units: seconds by default, milliseconds where it says Date.now()."""

    def stored() -> tuple[object, ...]:
        return rows(
            project, "SELECT created_at, updated_at, started_at, last_run_at, ended_at FROM projects JOIN runs"
        )[0]

    run = create_run(pid=1, project_id=project_id)
    update_run_status(run.id, "completed", 0)
    assert [len(str(time)) for time in stored()] == [10, 10, 10, 13, 13]
    upsert_project(dir=str(project), cmd="claude")
    assert [len(str(time)) for time in stored()] == [10, 13, 10, 13, 13]


def test_get_project_by_dir(project: Path, project_id: int) -> None:
    """A project is found by exactly its directory; another has none."""
    found = get_project_by_dir(str(project))
    assert found is not None
    assert (found.id, found.cmd) == (project_id, "claude")
    assert get_project_by_dir(f"{project}/") is None
    assert get_project_by_dir(str(project).upper()) is None


def test_get_project_by_id(project: Path, project_id: int) -> None:
    """A project is found by its id; an id that was never given, however large, finds none."""
    found = get_project_by_id(project_id)
    assert found is not None
    assert found.dir == str(project)
    assert [get_project_by_id(other) for other in (0, -1, project_id + 1, 1 << 70)] == [None] * 4


def test_get_all_projects(project: Path) -> None:
    """The most recently run comes first whatever the unit of its time, ties by id, those that never ran last."""
    assert get_all_projects() == []
    stored = {"/never": None, "/early": EARLY * 1000, "/late": LATE, "/late too": LATE * 1000, "/also never": None}
    for directory, last_run_at in stored.items():
        made = upsert_project(dir=directory, cmd="claude")
        get_db().connection.execute("UPDATE projects SET last_run_at = ? WHERE id = ?", (last_run_at, made.id))
    found = get_all_projects()
    assert [known.dir for known in found] == ["/late too", "/late", "/early", "/also never", "/never"]
    assert [known.last_run_at for known in found] == [LATE, LATE, EARLY, None, None]


def test_update_project_last_run(project: Path, project_id: int) -> None:
    """When a project last ran becomes now, to the millisecond; an unknown project is none."""
    before = time.time()
    updated = update_project_last_run(project_id)
    assert updated == get_project_by_id(project_id)
    assert updated is not None
    assert updated.last_run_at is not None
    assert before - 0.001 <= updated.last_run_at <= time.time()
    assert update_project_last_run(project_id + 1) is None


def test_delete_project(project: Path, project_id: int) -> None:
    """A project goes with all its runs and what supervision keeps of them; other projects stay; ids are not reused."""
    other = upsert_project(dir="/other", cmd="codex")
    create_run(pid=1, project_id=project_id)
    create_run(pid=2, project_id=project_id)
    kept = create_run(pid=3, project_id=other.id)
    assert delete_project(project_id) is True
    assert get_all_projects() == [get_project_by_id(other.id)]
    assert ids(get_all_runs()) == [kept.id]
    assert rows(project, "SELECT run_id FROM run_process") == [(kept.id,)]
    assert delete_project(project_id) is False
    assert create_run(pid=4, project_id=other.id).id == kept.id + 1
    assert upsert_project(dir=str(project), cmd="claude").id == other.id + 1


def test_create_run(project: Path, project_id: int, processes: Processes) -> None:
    """A new run is running, starts now, and is its project's last run; its process is stamped and owned by us."""
    agent = processes.living()
    before = time.time()
    run = create_run(pid=agent.pid, project_id=project_id, args=["--exit-on-idle=60s"])
    assert run == get_run_by_id(run.id)
    assert (run.pid, run.project_id, run.status) == (agent.pid, project_id, RunStatus.RUNNING)
    assert (run.exit_code, run.ended_at, run.args, run.junk) == (None, None, ["--exit-on-idle=60s"], {})
    assert run.started_at is not None
    assert int(before) <= run.started_at <= time.time()
    known = get_project_by_id(project_id)
    assert known is not None
    assert known.last_run_at is not None
    assert before - 0.001 <= known.last_run_at <= time.time()
    stamped = "SELECT pid, start_ticks, owner_pid, owner_start_ticks, token FROM run_process WHERE run_id = ?"
    own = os.getpid()
    assert rows(project, stamped, (run.id,)) == [(agent.pid, start_ticks(agent.pid), own, start_ticks(own), None)]


def test_create_run_of_oneself(project: Path, project_id: int) -> None:
    """A process that records itself, as the original does, has no owner but itself."""
    run = create_run(pid=os.getpid(), project_id=project_id)
    assert run.args == []
    assert rows(project, "SELECT pid, owner_pid FROM run_process") == [(os.getpid(), None)]


def test_create_run_of_no_process(project: Path, project_id: int) -> None:
    """A pid that is nobody's is recorded as it is given."""
    for pid in (dead_pid(), 0, -1, 1 << 53):
        run = create_run(pid=pid, project_id=project_id)
        assert (run.pid, run.status, run.junk) == (pid, RunStatus.RUNNING, {})


def test_create_run_without_a_project(project: Path, project_id: int) -> None:
    """A run of a project that does not exist is refused, and leaves nothing behind, not even an open transaction."""
    with pytest.raises(sqlite3.IntegrityError):
        create_run(pid=1, project_id=project_id + 1)
    assert get_all_runs() == []
    assert rows(project, "SELECT count(*) FROM run_process") == [(0,)]
    assert create_run(pid=1, project_id=project_id).status is RunStatus.RUNNING


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["日本語", "😀", "é"], id="unicode"),
        pytest.param(['a "quoted" \\ back', "'", "", " "], id="quotes"),
        pytest.param(["line\nbreak", "\r\n\t", "\u2028\u2029", "\x00\x7f\x1b[0m"], id="line breaks and controls"),
        pytest.param(["\ud800", "a\udcffb", "é"], id="surrogates"),
        pytest.param([], id="none"),
    ],
)
def test_args_come_back_as_they_were(project: Path, project_id: int, args: list[str]) -> None:
    """Any arguments survive being stored as JSON."""
    run = create_run(pid=1, project_id=project_id, args=args)
    found = get_run_by_id(run.id)
    assert found is not None
    assert found.args == run.args == args
    assert found.junk == {}


def test_args_are_stored_as_the_original_writes_them(project: Path, project_id: int) -> None:
    """The JSON is compact and unescaped, letter for letter that of the original."""
    create_run(
        pid=1, project_id=project_id, args=["--prompt", "日本語", "", 'a "b" \\ c', "line\nbreak", "😀", "x\u2028"]
    )
    (stored,) = rows(project, "SELECT args FROM runs")[0]
    assert stored == '["--prompt","日本語","","a \\"b\\" \\\\ c","line\\nbreak","😀","x\u2028"]'


def test_get_run_by_id(project: Path, project_id: int) -> None:
    """A run is found by its id; one that was never given, however large, finds none."""
    run = create_run(pid=1, project_id=project_id, args=["--resume"])
    create_run(pid=1, project_id=project_id)
    assert get_run_by_id(run.id) == run
    assert [get_run_by_id(other) for other in (0, -1, 3, 1 << 70)] == [None] * 4


def test_get_run_by_pid(project: Path, project_id: int) -> None:
    """Of the runs that had the same pid the most recent is found, by time and not by number or id; ties by id."""
    late = create_run(pid=4999001, project_id=project_id)
    early = create_run(pid=4999001, project_id=project_id)
    create_run(pid=4999002, project_id=project_id)
    started(late.id, LATE)
    started(early.id, EARLY * 1000)
    assert get_run_by_pid(4999001) == get_run_by_id(late.id)
    again = create_run(pid=4999001, project_id=project_id)
    started(again.id, LATE * 1000)
    assert get_run_by_pid(4999001) == get_run_by_id(again.id)
    tie = create_run(pid=4999001, project_id=project_id)
    started(tie.id, LATE)
    assert get_run_by_pid(4999001) == get_run_by_id(tie.id)
    assert get_run_by_pid(4999003) is None
    assert get_run_by_pid(1 << 70) is None


def test_get_project_runs(project: Path, project_id: int) -> None:
    """A project's runs, and no others', come newest first, whatever the units of their times."""
    other = upsert_project(dir="/other", cmd="codex")
    runs = [create_run(pid=number, project_id=project_id) for number in range(1, 5)]
    create_run(pid=9, project_id=other.id)
    for run, stored in zip(runs, (LATE, EARLY * 1000, LATE * 1000 - 1, EARLY), strict=True):
        started(run.id, stored)
    found = get_project_runs(project_id)
    assert ids(found) == [1, 3, 4, 2]
    assert [run.started_at for run in found] == [LATE, LATE - 0.001, EARLY, EARLY]
    assert get_project_runs(99) == []


def test_get_running_runs(project: Path, project_id: int) -> None:
    """Only runs whose status is running are active, newest first."""
    runs = [create_run(pid=number, project_id=project_id) for number in range(1, 7)]
    for run, status in zip(runs, ("completed", "failed", "crashed"), strict=False):
        update_run_status(run.id, status)
    started(4, LATE)
    started(5, EARLY * 1000)
    started(6, LATE)
    assert ids(get_running_runs()) == [6, 4, 5]


def test_get_all_runs(project: Path, project_id: int) -> None:
    """All runs of all projects come newest first, ties by id."""
    assert get_all_runs() == []
    other = upsert_project(dir="/other", cmd="codex")
    for number in range(1, 5):
        create_run(pid=number, project_id=other.id if number % 2 else project_id)
    for run_id, stored in ((1, LATE), (2, EARLY * 1000), (3, LATE), (4, EARLY)):
        started(run_id, stored)
    update_run_status(1, "completed")
    assert ids(get_all_runs()) == [3, 1, 4, 2]


@pytest.mark.parametrize("status", ["completed", "failed", "crashed"])
def test_update_run_status(project: Path, project_id: int, status: str) -> None:
    """Any end sets status, exit code and the moment; running again takes the latter two back."""
    run = create_run(pid=1, project_id=project_id)
    other = create_run(pid=1, project_id=project_id)
    before = time.time()
    ended = update_run_status(run.id, status, 7)
    assert ended == get_run_by_id(run.id)
    assert ended is not None
    assert (ended.status, ended.exit_code) == (RunStatus(status), 7)
    assert ended.ended_at is not None
    assert before - 0.001 <= ended.ended_at <= time.time()
    again = update_run_status(run.id, RunStatus.RUNNING)
    assert again == run
    assert get_run_by_id(other.id) == other
    assert update_run_status(99, status) is None


def test_update_run_status_with_an_omitted_exit_code(project: Path, project_id: int) -> None:
    """An omitted exit code keeps the stored one, None removes it, and a negative one is one."""
    run = create_run(pid=1, project_id=project_id)

    def code(*given: int | None) -> int | None:
        updated = update_run_status(run.id, "failed", *given)
        assert updated is not None
        return updated.exit_code

    assert [code(), code(3), code(), code(-9), code(), code(None), code()] == [None, 3, 3, -9, -9, None, None]


def test_update_run_status_to_what_is_no_status(project: Path, project_id: int) -> None:
    """A status that is none of the four is refused, and changes nothing."""
    run = create_run(pid=1, project_id=project_id)
    with pytest.raises(ValueError, match="paused"):
        update_run_status(run.id, "paused")
    assert get_run_by_id(run.id) == run


def test_mark_run_as_crashed(project: Path, project_id: int) -> None:
    """A run marked as crashed is crashed, ended now, with the exit code that it had; an unknown run is none."""
    run = create_run(pid=1, project_id=project_id)
    before = time.time()
    crashed = mark_run_as_crashed(run.id)
    assert crashed == get_run_by_id(run.id)
    assert crashed is not None
    assert (crashed.status, crashed.exit_code) == (RunStatus.CRASHED, None)
    assert crashed.ended_at is not None
    assert before - 0.001 <= crashed.ended_at <= time.time()
    assert mark_run_as_crashed(99) is None


def test_delete_run(project: Path, project_id: int) -> None:
    """One run goes, with what supervision keeps of it; the project and its other runs stay."""
    run, kept = (create_run(pid=number, project_id=project_id) for number in (1, 2))
    assert delete_run(run.id) is True
    assert get_all_runs() == [kept]
    assert rows(project, "SELECT run_id FROM run_process") == [(kept.id,)]
    assert delete_run(run.id) is False
    assert get_project_by_id(project_id) is not None


def test_delete_project_runs(project: Path, project_id: int) -> None:
    """All runs of one project go, and are counted; the project and other projects' runs stay."""
    other = upsert_project(dir="/other", cmd="codex")
    for number in range(3):
        create_run(pid=number, project_id=project_id)
    kept = create_run(pid=9, project_id=other.id)
    assert delete_project_runs(project_id) == 3
    assert get_all_runs() == [kept]
    assert rows(project, "SELECT run_id FROM run_process") == [(kept.id,)]
    assert get_project_by_id(project_id) is not None
    assert delete_project_runs(project_id) == 0


def test_get_project_with_latest_run(project: Path, project_id: int) -> None:
    """A project comes with its most recent run and the number of its runs, with none of either, or not at all."""
    known = get_project_by_id(project_id)
    assert known is not None
    assert get_project_with_latest_run(str(project)) == ProjectInfo(known, None, 0)
    other = upsert_project(dir="/other", cmd="codex")
    for stored in (EARLY, LATE, EARLY * 1000):
        started(create_run(pid=1, project_id=project_id).id, stored)
    create_run(pid=1, project_id=other.id)
    info = get_project_with_latest_run(str(project))
    assert info is not None
    assert info.project == get_project_by_id(project_id)
    assert info.latest_run == get_run_by_id(2)
    assert info.total_runs == 3
    assert get_project_with_latest_run("/nowhere") is None


def test_get_crashed_runs(project: Path, project_id: int) -> None:
    """Crashed runs, and no others, come with their project, newest first."""
    assert get_crashed_runs() == []
    other = upsert_project(dir="/other", cmd="codex")
    for number in range(1, 5):
        started(create_run(pid=number, project_id=other.id if number == 3 else project_id).id, EARLY * 1000)
    started(1, LATE)
    for run_id in (1, 2, 3):
        mark_run_as_crashed(run_id)
    update_run_status(2, "failed", 1)
    ends = [run.ended_at for run in (get_run_by_id(1), get_run_by_id(3)) if run is not None]
    assert get_crashed_runs() == [
        CrashedRun(1, 1, LATE, ends[0], project_id, str(project), "claude"),
        CrashedRun(3, 3, EARLY, ends[1], other.id, "/other", "codex"),
    ]


@pytest.mark.parametrize("who", ["get_db", "a first write"])
def test_a_store_makes_itself_known(project: Path, tmp_path: Path, who: str) -> None:
    """A store that we make is registered as made, and one that we only write to as found."""
    if who == "a first write":
        Original(project).close()
    get_db()
    assert [entry.origin for entry in registry.entries()] == (["created"] if who == "get_db" else [])
    upsert_project(dir=str(project), cmd="claude")
    (entry,) = registry.entries()
    assert (entry.dir, entry.origin) == (str(project), "created" if who == "get_db" else "found")


def test_reading_makes_no_foreign_store_known(project: Path) -> None:
    """A store that is only read does not enter the registry."""
    Original(project).close()
    assert len(get_all_projects()) == 1
    assert registry.entries() == []


def test_a_failed_registration_loses_no_record(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the registry cannot be written, the run is recorded all the same, and one warning says what is missing."""
    (project / "a file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "a file" / "state"))
    made = upsert_project(dir=str(project), cmd="claude")
    create_run(pid=1, project_id=made.id)
    assert len(get_all_runs()) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not known to the daemon" in caplog.text


def test_the_original_reads_what_we_write(project: Path, project_id: int) -> None:
    """The original's SELECT * on a store of ours sees its own columns, and may write beside us at once."""
    run = create_run(pid=1, project_id=project_id, args=["--continue"])
    with Original(project) as original:
        columns = [column[0] for column in original.connection.execute("select * from runs").description]
        assert columns == ["id", "pid", "project_id", "status", "exit_code", "started_at", "ended_at", "args"]
        theirs = original.create_run(4711)
        found = get_run_by_id(theirs)
        assert found is not None
        assert (found.pid, found.status) == (4711, RunStatus.RUNNING)
        update_run_status(run.id, "completed", 0)
        assert original.row(run.id)[:2] == ("completed", 0)


@contextmanager
def forked(action: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Let a forked child act; the block runs while the child stands at its call of the pause that it is given."""
    pauses, orders, answers = os.pipe(), os.pipe(), os.pipe()

    def pause() -> None:
        os.write(pauses[1], b"x")
        os.read(orders[0], 1)

    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            action(pause)
        except BaseException as error:  # noqa: BLE001  pytest must not go on in the child
            said = repr(error)
            os.write(pauses[1], b"x")
        finally:
            os.write(answers[1], said.encode())
            os._exit(0)
    os.close(answers[1])
    os.read(pauses[0], 1)
    try:
        yield
    finally:
        os.write(orders[1], b"x")
        said = os.read(answers[0], 1000).decode()
        os.waitpid(pid, 0)
        for descriptor in (*pauses, *orders, answers[0]):
            os.close(descriptor)
    assert said == ""


def test_a_fork_does_not_share_the_connection(project: Path, project_id: int) -> None:
    """A forked child opens a connection of its own; parent and child both go on writing."""
    store = get_db()
    ours = store.connection

    def child(pause: Callable[[], None]) -> None:
        assert not store.is_open
        create_run(pid=1, project_id=project_id)
        assert store.connection is not ours
        pause()
        create_run(pid=3, project_id=project_id)
        close_db()

    with forked(child):
        create_run(pid=2, project_id=project_id)
    assert store.connection is ours
    create_run(pid=4, project_id=project_id)
    assert [run.pid for run in get_all_runs()] == [4, 3, 2, 1]


@pytest.mark.parametrize("which", ["the inherited store", "another object for it"])
def test_a_fork_has_locks_of_its_own(project: Path, project_id: int, which: str) -> None:
    """What a forked child writes stays, although its parent and others leave the store before it does.

    The last to close a store takes its WAL away: a child that only seems to hold its parent's locks would go on writing
    into a file that is gone.
    """
    inherited = get_db()

    def child(pause: Callable[[], None]) -> None:
        store = inherited if which == "the inherited store" else Store(str(project))
        assert store.get_all_runs() == []
        pause()
        store.create_run(pid=2, project_id=project_id)
        store.close()

    with forked(child):
        close_db()
        comes_and_goes = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select 1 from runs'); c.close()"
        )
        subprocess.run([sys.executable, "-c", comes_and_goes, inherited.path], check=True)
    assert [run.pid for run in get_all_runs()] == [2]


def test_a_fork_inside_a_transaction(project: Path, project_id: int) -> None:
    """A fork in the middle of a write leaves the parent's transaction, and its lock, as they were."""
    with get_db().transaction() as connection:
        connection.execute("UPDATE projects SET cmd = 'codex'")
        with (
            forked(lambda pause: pause()),
            Store(str(project), timeout=0) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.create_run(pid=1, project_id=project_id)
        connection.execute("UPDATE projects SET prompt = 'go on'")
    assert rows(project, "SELECT cmd, prompt FROM projects") == [("codex", "go on")]
    assert rows(project, "PRAGMA integrity_check") == [("ok",)]


def test_threads(project: Path, project_id: int) -> None:
    """Threads share a store, each with a connection of its own, and lose nothing."""
    barrier = threading.Barrier(8)

    def record(number: int) -> int:
        connection = get_db().connection
        barrier.wait(10)
        for step in range(10):
            run = create_run(pid=number * 100 + step, project_id=project_id)
            update_run_status(run.id, "completed", step)
        get_db().close()
        return id(connection)

    with ThreadPoolExecutor(8) as pool:
        connections = set(pool.map(record, range(8)))
    assert len(connections | {id(get_db().connection)}) == 9
    runs = get_all_runs()
    assert {run.pid for run in runs} == {number * 100 + step for number in range(8) for step in range(10)}
    assert all(run.status is RunStatus.COMPLETED for run in runs)


def test_threads_make_a_fresh_store_at_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of one process that all are the first to use a store make one, and share it."""
    barrier = threading.Barrier(8)

    def slowly(directory: str, **options: Callable[[str, bool], None]) -> Store:
        barrier.wait(10)
        return Store(directory, on_write=options["on_write"])

    monkeypatch.setattr(db, "Store", slowly)

    def use(number: int) -> Store:
        store = get_db()
        upsert_project(dir=f"/{number}", cmd="claude")
        store.close()
        return store

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert {known.dir for known in get_all_projects()} == {f"/{number}" for number in range(8)}
