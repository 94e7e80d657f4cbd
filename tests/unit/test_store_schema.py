"""What a store is on disk: its tables, rights and pragmas, its migrations, and what others may add to it."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from kit import Original, Processes, rows
from stores import FIXTURES, NEWER, ending, execute, new_run, place, race, seed_schema

from supervisor.db import close_db, create_run, delete_project, get_all_runs, get_db, update_run_status, upsert_project
from supervisor.errors import StoreError
from supervisor.models import Rank, RunStatus
from supervisor.store import recording
from supervisor.store.connection import open_for_reading, open_for_writing
from supervisor.store.schema import NEWEST, SEED_SCHEMA
from supervisor.store.store import Store
from supervisor.store.supervision import SupervisedStore

OPENS = """
import json, sys
from supervisor.store.store import Store
print(flush=True)
sys.stdin.read()
with Store(sys.argv[1]) as store:
    store.upsert_project(sys.argv[2], "claude")
    print(json.dumps(store.schema.version))
"""
"""A program that is among the first to use a store."""


def mode(path: Path) -> int:
    """Return the rights of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("name", ["bun-866ebbb", "node-866ebbb"])
def test_a_new_store_is_the_originals(project: Path, tmp_path: Path, name: str) -> None:
    """The original's tables and indexes in a new store are, byte for byte and page for page, those it makes itself."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    assert seed_schema(Path(get_db().path)) == seed_schema(place(name, theirs))


def test_the_schema_of_the_tests_original_is_the_originals(project: Path, tmp_path: Path) -> None:
    """The stand-in for the original that other tests write with makes the same store too."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    Original(project).close()
    assert seed_schema(project / ".agent-yes" / "store.sqlite") == seed_schema(place("bun-866ebbb", theirs))


@pytest.mark.parametrize("name", FIXTURES)
def test_migrations_leave_the_originals_tables_alone(project: Path, name: str) -> None:
    """Opening a store of the original adds our tables and changes neither its own tables nor a row of them."""
    file = place(name, project)
    tables = "SELECT * FROM runs", "SELECT * FROM projects", "SELECT * FROM sqlite_sequence"
    before = seed_schema(file), [rows(project, sql) for sql in tables]
    get_db()
    assert (seed_schema(file), [rows(project, sql) for sql in tables]) == before
    added = {name for (name,) in rows(project, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert added == {"projects", "runs", "sqlite_sequence", "run_process", "run_ending", "schema_migrations"}


def test_a_migration_is_recorded(project: Path) -> None:
    """Each migration leaves its number and its moment, in milliseconds, and is not made again."""
    get_db()
    made = rows(project, "SELECT version, length(applied_at) FROM schema_migrations")
    assert made == [(number, 13) for number in range(1, NEWEST + 1)]
    close_db()
    get_db()
    assert rows(project, "SELECT version, length(applied_at) FROM schema_migrations") == made


def test_a_failed_migration_leaves_nothing(project: Path) -> None:
    """A migration that fails half-way takes all of its step back."""
    Original(project).close()
    execute(project, "CREATE TABLE run_ending (in_the_way)")
    with pytest.raises(StoreError, match="run_ending already exists"):
        get_db()
    names = [name for (name,) in rows(project, "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'")]
    assert names == ["projects", "sqlite_sequence", "runs", "run_ending"]


@pytest.mark.parametrize("there", range(len(SEED_SCHEMA) + 1))
def test_tables_that_are_missing_are_made(project: Path, tmp_path: Path, there: int) -> None:
    """The original makes its tables and indexes one by one; where it was cut short, what is missing is made."""
    Original(tmp_path).close()
    (project / ".agent-yes").mkdir()
    execute(project, *SEED_SCHEMA[:there])
    upsert_project(dir=str(project), cmd="claude")
    close_db()
    made = seed_schema(project / ".agent-yes" / "store.sqlite")
    assert made == seed_schema(tmp_path / ".agent-yes" / "store.sqlite")


@pytest.mark.parametrize("kind", ["fresh", "of the original"])
def test_several_processes_open_a_fresh_store_at_once(project: Path, processes: Processes, kind: str) -> None:
    """Whoever comes first, the tables are made once, and all go on."""
    if kind == "of the original":
        Original(project).close()
    opened = race(processes, *((OPENS, str(project), f"/{number}") for number in range(6)))
    assert opened == [NEWEST] * 6
    assert rows(project, "SELECT version FROM schema_migrations") == [(step,) for step in range(1, NEWEST + 1)]
    assert {f"/{number}" for number in range(6)} <= {name for (name,) in rows(project, "SELECT dir FROM projects")}
    assert rows(project, "PRAGMA integrity_check") == [("ok",)]


def test_rights(project: Path) -> None:
    """The folder is its owner's alone, and so is every file in it; a .gitignore in it ignores all of them."""
    old = os.umask(0)
    try:
        upsert_project(dir=str(project), cmd="claude")
    finally:
        os.umask(old)
    folder = project / ".agent-yes"
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
        (".gitignore", "store.sqlite", "store.sqlite-shm", "store.sqlite-wal"), 0o600
    )
    assert (folder / ".gitignore").read_text() == "*\n"


def test_rights_that_others_gave_stay(project: Path) -> None:
    """A folder that is there keeps its rights and its .gitignore."""
    folder = project / ".agent-yes"
    folder.mkdir(0o755)
    folder.chmod(0o755)
    (folder / ".gitignore").write_text("store.sqlite*\n")
    get_db()
    assert mode(folder) == 0o755
    assert (folder / ".gitignore").read_text() == "store.sqlite*\n"
    assert mode(folder / "store.sqlite") == 0o600


def test_pragmas(project: Path) -> None:
    """Every connection writes to a WAL, syncs at checkpoints, keeps foreign keys, and waits 30 s for a lock."""
    place("bun-866ebbb", project)
    for _ in range(2):
        connection = get_db().connection
        pragmas = "journal_mode", "synchronous", "foreign_keys", "busy_timeout"
        answers = [connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]
        assert answers == ["wal", 1, 1, 30_000]
        close_db()


def test_a_rollback_journal_becomes_a_wal(project: Path) -> None:
    """A store that is not in WAL mode is turned to it for good."""
    (project / ".agent-yes").mkdir()
    execute(project, *SEED_SCHEMA)
    assert rows(project, "PRAGMA journal_mode") == [("delete",)]
    get_db()
    close_db()
    assert rows(project, "PRAGMA journal_mode") == [("wal",)]


def test_writes_begin_immediately(project: Path) -> None:
    """A write takes the lock at its beginning: a deferred one would fail, timeout or not, after another's write."""
    store = get_db()
    with store.transaction():
        other = sqlite3.connect(store.path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO projects (dir, cmd) VALUES ('/', 'claude')")
        other.close()


def test_a_block_that_raises_writes_nothing(project: Path) -> None:
    """A transaction whose block raises is taken back, and the next one finds the store as it was."""
    store = get_db()
    with pytest.raises(ZeroDivisionError), store.transaction() as connection:
        connection.execute("INSERT INTO projects (dir, cmd) VALUES ('/', 'claude')")
        raise ZeroDivisionError
    assert store.get_all_projects() == []
    assert store.upsert_project("/", "claude").id == 1


def test_a_newer_schema(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a newer version's store the original's functions work, its tables are left alone, and one warning says so."""
    made = upsert_project(dir=str(project), cmd="claude")
    create_run(pid=1, project_id=made.id)
    doomed = upsert_project(dir="/doomed", cmd="claude")
    create_run(pid=2, project_id=doomed.id)
    close_db()
    execute(project, *NEWER)
    theirs = "SELECT * FROM run_process ORDER BY run"
    for _ in range(2):
        run = create_run(pid=3, project_id=made.id, args=["--continue"])
        assert update_run_status(run.id, "completed", 0) == get_all_runs()[0]
        assert rows(project, theirs) == [(1, "theirs"), (2, "theirs")]
    assert delete_project(doomed.id)
    assert rows(project, theirs) == [(1, "theirs")]
    store = get_db()
    store.close()
    assert [run.pid for run in store.get_all_runs()] == [3, 3, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "newer version" in caplog.text
    assert rows(project, "SELECT max(version) FROM schema_migrations") == [(999,)]
    assert rows(project, "SELECT count(*) FROM sqlite_master WHERE name = 'run_ending'") == [(0,)]


def test_supervision_of_a_newer_schema(project: Path) -> None:
    """In a store of a newer version wrappers and settlers still write the original's columns."""
    upsert_project(dir=str(project), cmd="claude")
    close_db()
    execute(project, *NEWER)
    connection, _ = open_for_writing(str(project))
    ours = new_run(project)
    run_id = recording.begin_run(connection, ours)
    assert recording.finish_run(connection, ours, ending(Rank.OWNER, status=RunStatus.FAILED, exit_code=3))[0] == run_id
    connection.close()
    with SupervisedStore(str(project)) as store:
        theirs = store.create_run(pid=4999002, project_id=1)
        (claim,) = store.running_claims()
        assert store.settle([(claim, ending())]) == [True]
        statuses = [(detail.run.id, detail.run.status, detail.run.exit_code) for detail in store.details()]
    assert statuses == [(theirs.id, "crashed", None), (run_id, "failed", 3)]
    assert rows(project, "SELECT * FROM run_process") == []


def test_a_newer_schema_opened_for_reading(project: Path) -> None:
    """A store of a newer version can be looked at without being written to."""
    upsert_project(dir=str(project), cmd="claude")
    create_run(pid=1, project_id=1)
    close_db()
    execute(project, *NEWER)
    with SupervisedStore(str(project), read_only=True) as store:
        (detail,) = store.details()
    assert (detail.run.pid, detail.dir, detail.process, detail.ending) == (1, str(project), None, None)


def test_an_added_column(project: Path) -> None:
    """A column that someone adds to the original's tables disturbs nothing."""
    made = upsert_project(dir=str(project), cmd="claude")
    run = create_run(pid=1, project_id=made.id)
    connection = get_db().connection
    connection.execute("alter table projects add column description text")
    connection.execute("alter table runs add column cost real default 1.5")
    with pytest.raises(sqlite3.OperationalError, match="duplicate column"):
        connection.execute("alter table projects add column description text")
    connection.execute("update projects set description = 'mine'")
    again = upsert_project(dir=str(project), cmd="codex")
    assert (again.id, again.cmd) == (made.id, "codex")
    assert get_all_runs() == [run]
    assert update_run_status(run.id, "completed", 0) == get_all_runs()[0]
    close_db()
    create_run(pid=2, project_id=made.id)
    with SupervisedStore(str(project)) as store:
        assert len(store.running_claims()) == 1
        assert len(store.details()) == 2
        assert store.project_summaries()[0].counts == {"completed": 1, "running": 1}
    assert rows(project, "SELECT description, cost FROM projects JOIN runs") == [("mine", 1.5)] * 2


def test_raw_queries(project: Path) -> None:
    """The connection takes queries of one's own: the success rate of each project."""
    for directory, statuses in (("/a", ("completed", "completed", "failed", "crashed")), ("/b", ("completed",))):
        made = upsert_project(dir=directory, cmd="claude")
        for status in statuses:
            update_run_status(create_run(pid=1, project_id=made.id).id, status)
    upsert_project(dir="/never ran", cmd="claude")
    db = get_db()
    stats = db.connection.execute(
        "SELECT projects.dir, count(runs.id) AS total,"
        " count(runs.id) FILTER (WHERE runs.status = 'completed') AS successful"
        " FROM runs JOIN projects ON projects.id = runs.project_id GROUP BY projects.id"
    ).fetchall()
    assert stats == [("/a", 4, 2), ("/b", 1, 1)]
    nested = "SELECT max(n) FROM (SELECT count(*) AS n FROM runs GROUP BY project_id) AS counted"
    assert db.connection.execute(nested).fetchone() == (4,)


def test_reading_changes_nothing(project: Path) -> None:
    """A store of the original that is opened for reading keeps every byte, and gets none of our tables."""
    file = place("bun-866ebbb", project)
    before = file.read_bytes()
    with SupervisedStore(str(project), read_only=True) as store:
        assert len(store.details()) == len(store.get_all_runs()) == 11
        assert len(store.running_claims()) == 3
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.create_run(pid=1, project_id=1)
    assert file.read_bytes() == before
    left = {path.name: path.stat().st_size for path in file.parent.iterdir() if path != file}
    assert left.get("store.sqlite-wal", 0) == 0
    assert set(left) <= {"store.sqlite-wal", "store.sqlite-shm"}


def test_reading_keeps_a_wal(project: Path) -> None:
    """Rows that are still in a WAL are read, and stay there."""
    file = place("bun-866ebbb-wal", project)
    wal = file.with_name("store.sqlite-wal")
    before = file.read_bytes(), wal.read_bytes()
    with Store(str(project), read_only=True) as store:
        assert len(store.get_all_runs()) == 11
    assert (file.read_bytes(), wal.read_bytes()) == before


def test_reading_beside_a_writer(project: Path) -> None:
    """Someone who reads sees what was committed, even while a write is going on."""
    upsert_project(dir=str(project), cmd="claude")
    with Store(str(project), read_only=True, timeout=0) as reader, get_db().transaction() as connection:
        connection.execute("UPDATE projects SET cmd = 'codex'")
        assert [known.cmd for known in reader.get_all_projects()] == ["claude"]
    with Store(str(project), read_only=True) as reader:
        assert [known.cmd for known in reader.get_all_projects()] == ["codex"]


@pytest.mark.parametrize("name", ["50% ?odd #1 é", " ", "a'b\"c", "%41"])
def test_odd_directories(project: Path, name: str) -> None:
    """A directory of any name has its store, for reading too, where SQLite is given an address."""
    directory = project / name
    directory.mkdir()
    with Store(str(directory)) as store:
        store.upsert_project(str(directory), "claude")
    connection, _ = open_for_reading(str(directory))
    assert connection.execute("SELECT dir FROM projects").fetchall() == [(str(directory),)]
    connection.close()
    assert [path.name for path in project.iterdir()] == [name]


def test_a_path_with_two_slashes(project: Path) -> None:
    """A path that begins with two slashes, as POSIX allows, is a path to SQLite too, and no host."""
    upsert_project(dir=str(project), cmd="claude")
    connection, _ = open_for_reading(f"/{project}")
    assert connection.execute("SELECT dir FROM projects").fetchall() == [(str(project),)]
    connection.close()
