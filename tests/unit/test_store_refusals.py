"""Stores that cannot or must not be opened: each error is one line that says what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kit import Original, rows
from stores import execute, place

from supervisor.db import (
    create_run,
    delete_project,
    get_all_projects,
    get_db,
    get_run_by_id,
    update_run_status,
    upsert_project,
)
from supervisor.errors import StoreBusy, StoreDamaged, StoreError, StoreMissing, StoreRefused
from supervisor.models import RunStatus
from supervisor.store import connection, files
from supervisor.store.connection import is_lock, open_for_reading, open_for_writing, translate
from supervisor.store.store import Store

STRANGER = 4711
"""The id of some other user."""

WRITING, READING = open_for_writing, open_for_reading

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to another user")


def error_of(project: Path, *, read_only: bool = False, timeout: float = 0.05) -> StoreError:
    """Open a store that cannot be opened, and return the error, which is one line with its remedy."""
    with pytest.raises(StoreError) as caught:
        (READING if read_only else WRITING)(str(project), timeout=timeout)
    error = caught.value
    assert error.message
    assert error.remedy
    assert str(error) == f"{error.message}; {error.remedy}"
    assert "\n" not in str(error)
    assert str(project) in str(error)
    return error


@pytest.fixture
def store(project: Path) -> Path:
    """Give the test a good store of the original, and return its file."""
    return place("bun-866ebbb", project)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("what", ["the folder", "the store", "the WAL", "its index", "the journal", "a broken link"])
def test_symbolic_links_are_refused(project: Path, tmp_path: Path, store: Path, what: str, read_only: bool) -> None:
    """A folder, a store or a side file of it that is a symbolic link is refused, and nothing is written through it."""
    linked = {
        "the folder": store.parent,
        "the store": store,
        "the WAL": store.with_name("store.sqlite-wal"),
        "its index": store.with_name("store.sqlite-shm"),
        "the journal": store.with_name("store.sqlite-journal"),
        "a broken link": store,
    }[what]
    target = tmp_path / "target"
    if linked.exists():
        linked.rename(target)
    else:
        target.write_bytes(b"precious")
    if what == "a broken link":
        target.unlink()
    linked.symlink_to(target)
    before = target.read_bytes() if target.is_file() else None
    error = error_of(project, read_only=read_only)
    assert isinstance(error, StoreRefused)
    assert f"{linked} is a symbolic link" in error.message
    assert (target.read_bytes() if target.is_file() else None) == before


def test_a_project_may_be_a_symbolic_link(project: Path, tmp_path: Path) -> None:
    """A link to the project's directory itself is no reason to refuse."""
    link = tmp_path / "link"
    link.symlink_to(project)
    with Store(str(link)) as store:
        assert store.upsert_project("/", "claude").id == 1


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(("what", "kind"), [("folder", "a folder"), ("store", "a file")])
def test_what_is_no_file_is_refused(project: Path, what: str, kind: str, read_only: bool) -> None:
    """A file in the folder's place, or something else than a file in the store's, is refused."""
    folder = project / ".agent-yes"
    if what == "folder":
        folder.touch()
    else:
        folder.mkdir()
        os.mkfifo(folder / "store.sqlite")
    error = error_of(project, read_only=read_only)
    assert isinstance(error, StoreRefused)
    assert f"is not {kind}" in error.message


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("whose", ["folder", "store"])
def test_a_strangers_store_is_refused(project: Path, store: Path, whose: str, read_only: bool) -> None:
    """A folder or a store that belongs to neither us, root, nor the owner of the project, is refused."""
    os.chown(store.parent if whose == "folder" else store, STRANGER, STRANGER)
    error = error_of(project, read_only=read_only)
    assert isinstance(error, StoreRefused)
    assert f"belongs to another user (uid {STRANGER})" in error.message


@needs_root
@pytest.mark.root
def test_root_opens_the_store_of_the_projects_owner(project: Path, store: Path) -> None:
    """Root may look after the store of another user in that user's own project, and leaves it theirs."""
    for path in (project, store.parent, store):
        os.chown(path, STRANGER, STRANGER)
    with Store(str(project)) as opened:
        opened.create_run(pid=1, project_id=1)
        assert {path.lstat().st_uid for path in store.parent.iterdir()} == {STRANGER}
    with Store(str(project), read_only=True) as opened:
        assert len(opened.get_all_runs()) == 12


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("brought", "named"),
    [
        (("CREATE TRIGGER t AFTER UPDATE ON runs BEGIN DELETE FROM projects; END",), "trigger t"),
        (("CREATE TRIGGER t BEFORE INSERT ON projects BEGIN SELECT RAISE(IGNORE); END",), "trigger t"),
        (
            (
                "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_at)",
                "CREATE TRIGGER t AFTER INSERT ON schema_migrations BEGIN DELETE FROM projects; END",
            ),
            "trigger t",
        ),
        (("ALTER TABLE runs RENAME TO r", "CREATE VIEW runs AS SELECT * FROM r"), "view runs"),
        (("ALTER TABLE projects RENAME TO p", "CREATE VIEW Projects AS SELECT * FROM p"), "view Projects"),
        (("CREATE VIEW run_ending AS SELECT * FROM runs",), "view run_ending"),
    ],
)
def test_a_store_with_code_of_its_own_is_refused(
    project: Path, store: Path, brought: tuple[str, ...], named: str, read_only: bool
) -> None:
    """A store with a trigger or a view in the way of our statements is refused by name, and not changed."""
    execute(project, *brought)
    before = store.read_bytes()
    error = error_of(project, read_only=read_only)
    assert isinstance(error, StoreRefused)
    assert f"code of its own ({named})" in error.message
    assert store.read_bytes() == before


def test_code_that_is_not_in_the_way_is_left_alone(project: Path, store: Path) -> None:
    """A view or a trigger on tables that are not ours is no reason to refuse."""
    execute(
        project,
        "CREATE TABLE notes (text)",
        "CREATE VIEW latest AS SELECT max(id) AS id FROM runs",
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
    )
    assert len(get_db().get_all_runs()) == 11


@pytest.mark.parametrize(
    "body", ["DELETE FROM projects", "SELECT RAISE(IGNORE)", "UPDATE projects SET cmd = 'evil'", "SELECT 1"]
)
def test_a_trigger_that_comes_later_is_denied(project: Path, body: str) -> None:
    """A trigger added to an open store does nothing: the write that would fire it fails, and changes nothing."""
    made = upsert_project(dir=str(project), cmd="claude")
    run = create_run(pid=1, project_id=made.id)
    execute(project, f"CREATE TRIGGER t BEFORE UPDATE ON runs BEGIN {body}; END")
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        update_run_status(run.id, "completed", 0)
    assert rows(project, "SELECT status, cmd FROM runs JOIN projects") == [("running", "claude")]
    execute(project, "DROP TRIGGER t")
    assert get_run_by_id(run.id) == run
    ended = update_run_status(run.id, "completed", 0)
    assert ended is not None
    assert ended.status is RunStatus.COMPLETED


def test_cascades_pass(project: Path) -> None:
    """The deletes that foreign keys bring about are none of a trigger's, and are done."""
    made = upsert_project(dir=str(project), cmd="claude")
    create_run(pid=1, project_id=made.id)
    execute(project, "CREATE TRIGGER t AFTER UPDATE ON runs BEGIN SELECT 1; END")
    assert delete_project(made.id)
    assert rows(project, "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM run_process)") == [(0,)]


def test_a_view_that_comes_later_is_denied(project: Path) -> None:
    """A view put in a table's place in an open store is not read."""
    upsert_project(dir=str(project), cmd="claude")
    execute(project, "ALTER TABLE projects RENAME TO p", "CREATE VIEW projects AS SELECT * FROM p")
    with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
        get_all_projects()


def test_a_with_query_is_denied(project: Path) -> None:
    """A query of one's own with a name in it that could be a view's is denied; the same as a subquery is not."""
    connection = get_db().connection
    with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
        connection.execute("WITH named AS (SELECT id FROM runs) SELECT count(*) FROM named")
    assert connection.execute("SELECT count(*) FROM (SELECT id FROM runs) AS named").fetchone() == (0,)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", ["text", "page", "cut"])
def test_a_damaged_store(project: Path, store: Path, kind: str, read_only: bool) -> None:
    """What is no database, or a broken one, is said to be damaged, and is left as it is."""
    content = store.read_bytes()
    broken = {
        "text": b"this is not a database, but a text of a good length\n" * 100,
        "page": content[:100] + b"\xff" * 500 + content[600:],
        "cut": content[:5000],
    }[kind]
    store.write_bytes(broken)
    error = error_of(project, read_only=read_only)
    assert isinstance(error, StoreDamaged)
    assert f"{store} is damaged" in error.message
    assert f"agent-yes-supervise stores repair {project}" in error.remedy
    assert store.read_bytes() == broken


def test_an_empty_file(project: Path) -> None:
    """An empty file, as a crash may leave it, becomes a store by writing, and holds nothing to read until then."""
    folder = project / ".agent-yes"
    folder.mkdir()
    (folder / "store.sqlite").touch()
    assert "holds no runs yet" in error_of(project, read_only=True).message
    assert (folder / "store.sqlite").stat().st_size == 0
    assert upsert_project(dir=str(project), cmd="claude").id == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_directory(project: Path, read_only: bool) -> None:
    """A directory that does not exist is said to be missing, and is not made."""
    missing = project / "missing"
    error = error_of(missing, read_only=read_only)
    assert isinstance(error, StoreMissing)
    assert not missing.exists()


def test_a_missing_store(project: Path) -> None:
    """Where there is no store, reading and writing without making one say so, and make nothing."""
    assert isinstance(error_of(project, read_only=True), StoreMissing)
    with pytest.raises(StoreMissing, match=r"there is no store in .*; start an agent there"):
        open_for_writing(str(project), create=False)
    assert list(project.iterdir()) == []


def test_a_file_for_a_directory(project: Path) -> None:
    """A file in the place of the project's directory is an error like others."""
    (project / "file").touch()
    assert "Not a directory" in error_of(project / "file").message


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_store(project: Path, journal: str, lock: str) -> None:
    """A store that another holds too long is busy: that is said once the given time is over, and not much later."""
    with Original(project) as other:
        other.connection.execute(f"PRAGMA journal_mode = {journal}")
        other.connection.execute(f"BEGIN {lock}")
        began = time.monotonic()
        error = error_of(project, timeout=0.2)
        assert 0.1 < time.monotonic() - began < 5
        assert isinstance(error, StoreBusy)
        assert "locked by another process" in error.message
        assert "end the process that holds it" in error.remedy
        other.connection.execute("COMMIT")
    open_for_writing(str(project), timeout=0.2)[0].close()


def test_a_lock_in_the_way_of_a_write(project: Path) -> None:
    """An open store that another holds too long is an error of SQLite's, known for a lock, with the same remedy."""
    upsert_project(dir=str(project), cmd="claude")
    with Store(str(project), timeout=0.1) as store, Original(project) as other:
        other.connection.execute("BEGIN IMMEDIATE")
        assert [known.cmd for known in store.get_all_projects()] == ["claude"]
        with pytest.raises(sqlite3.OperationalError) as caught:
            store.create_run(pid=1, project_id=1)
        assert is_lock(caught.value)
        assert isinstance(translate(str(project), caught.value), StoreBusy)
        other.connection.execute("COMMIT")
        assert store.create_run(pid=1, project_id=1).id == 1


def test_a_lock_that_goes_is_waited_for(project: Path) -> None:
    """A write waits for another's, and is done when that is over."""
    upsert_project(dir=str(project), cmd="claude")
    tries = threading.Event()

    def write() -> int:
        with Store(str(project)) as store:
            store.connection.set_trace_callback(lambda _: tries.set())
            return store.create_run(pid=1, project_id=1).id

    with Original(project) as other, ThreadPoolExecutor(1) as pool:
        other.connection.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(write)
        assert tries.wait(20)
        other.connection.execute("COMMIT")
        assert waiting.result(20) == 1


class TestAStoreThatGoesInThatMoment:
    """A store may be deleted when it has just been found."""

    @pytest.fixture(autouse=True)
    def gone(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Delete the store when its file has been looked at."""

        def found(_: str) -> bool:
            monkeypatch.setattr(connection, "vetted", files.vetted)
            store.unlink()
            return True

        monkeypatch.setattr(connection, "vetted", found)
        monkeypatch.setattr(connection, "share_rights", lambda _: None)

    def test_another_is_made(self, project: Path, store: Path) -> None:
        """By us, not by SQLite: nobody else may read it."""
        WRITING(str(project))[0].close()
        assert store.stat().st_mode & 0o777 == 0o600

    def test_it_is_missing(self, project: Path, store: Path) -> None:
        """Who does not make one says so."""
        with pytest.raises(StoreMissing, match="no store"):
            WRITING(str(project), create=False)
        assert not store.exists()

    def test_it_cannot_be_read(self, project: Path) -> None:
        """So does who reads."""
        with pytest.raises(StoreMissing, match="no store"):
            READING(str(project))

    def test_at_the_first_look_at_its_files(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The directory is there, and is not said to be missing."""
        monkeypatch.setattr(connection, "share_rights", files.share_rights)
        with pytest.raises(StoreMissing, match="no store"):
            WRITING(str(project), create=False)


class TestRightsOfWhatIsBesideAStore:
    """What SQLite keeps beside a store that was read-only for a while is writable again when the store is."""

    @pytest.fixture
    def beside(self, project: Path) -> Iterator[list[Path]]:
        """Give the test the WAL and its index, read-only, of a store that is not."""
        reader = Original(project)
        found = sorted((project / ".agent-yes").glob("store.sqlite-*"))
        assert [path.name for path in found] == ["store.sqlite-shm", "store.sqlite-wal"]
        for path in found:
            path.chmod(0o400)
        (project / ".agent-yes" / "store.sqlite").chmod(0o600)
        yield found
        reader.close()

    def test_who_writes_makes_it_writable(self, project: Path, beside: list[Path]) -> None:
        """It gets the rights of the store."""
        (project / ".agent-yes" / "store.sqlite").chmod(0o660)
        WRITING(str(project))[0].close()
        assert [path.stat().st_mode & 0o777 for path in beside] == [0o660, 0o660]

    def test_who_reads_changes_nothing(self, project: Path, beside: list[Path]) -> None:
        """Reading does not need it."""
        READING(str(project))[0].close()
        assert [path.stat().st_mode & 0o777 for path in beside] == [0o400, 0o400]

    def test_a_store_that_is_read_only_itself(self, project: Path, beside: list[Path]) -> None:
        """Nothing is made more writable than its store."""
        (project / ".agent-yes" / "store.sqlite").chmod(0o400)
        WRITING(str(project))[0].close()
        assert [path.stat().st_mode & 0o777 for path in beside] == [0o400, 0o400]

    @pytest.mark.root
    def test_what_is_a_strangers(self, project: Path, beside: list[Path]) -> None:
        """The files of another user keep their rights."""
        os.chown(beside[0], 12345, 12345)
        files.share_rights(str(project))
        assert [path.stat().st_mode & 0o777 for path in beside] == [0o400, 0o600]


def test_a_full_disk_is_named(project: Path) -> None:
    """A store that cannot grow is an error that speaks of space, and the transaction is over."""
    made = upsert_project(dir=str(project), cmd="claude")
    store = get_db()
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    store.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full") as caught:
        store.create_run(pid=1, project_id=made.id, args=["x" * 100_000])
    error = translate(str(project), caught.value)
    assert (type(error), error.remedy) == (StoreError, "free some space on its disk")
    store.connection.execute(f"PRAGMA max_page_count = {pages * 100}")
    assert store.create_run(pid=1, project_id=made.id).id == 1


class TestReplaced:
    """Another store comes in the place of one between the moments at which SQLite opens its database and its WAL."""

    @pytest.fixture
    def swap(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
        """Give the test how often to swap the store, of one run, and another, of 41, after a connect."""
        folder, other, left = project / ".agent-yes", project / "other", [0]
        with Original(project) as original:
            original.create_run(1)
        shutil.copytree(folder, other)
        with Original(project) as original:
            for pid in range(2, 42):
                original.create_run(pid)
        folder.rename(project / "away")
        other.rename(folder)
        connect = connection._connect

        def swapping(*args: Any, **options: Any) -> sqlite3.Connection:
            made = connect(*args, **options)
            if left[0] > 0:
                left[0] -= 1
                folder.rename(project / "between")
                (project / "away").rename(folder)
                (project / "between").rename(project / "away")
            return made

        monkeypatch.setattr(connection, "_connect", swapping)
        yield left
        for either in (folder, project / "away"):
            checked = sqlite3.connect(either / "store.sqlite")
            assert checked.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            checked.close()

    @pytest.mark.parametrize("open_it", [WRITING, READING])
    def test_it_is_opened_anew(self, project: Path, swap: list[int], open_it: Callable[..., Any]) -> None:
        """What is read is all of the store that stands there now."""
        swap[0] = 1
        opened, _ = open_it(str(project))
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (41,)
        opened.close()

    def test_what_was_wrong_with_the_first_is_none_of_the_second(self, project: Path, swap: list[int]) -> None:
        """A store that was damaged, and is exchanged for a good one while it is opened, is not called damaged."""
        first, swapped = project / ".agent-yes" / "store.sqlite", project / "away" / "store.sqlite"
        good = first.read_bytes()
        first.write_bytes(b"junk" * 1000)
        swap[0] = 1
        for open_it in (WRITING, READING):
            opened, _ = open_it(str(project))
            assert opened.execute("SELECT count(*) FROM runs").fetchone() == (41,)
            opened.close()
        swapped.write_bytes(good)

    def test_what_is_written_harms_neither(self, project: Path, swap: list[int]) -> None:
        """A run that is recorded then is in the store that stands there, beside all that it had."""
        swap[0] = 1
        with Store(str(project)) as store:
            made = store.upsert_project(dir=str(project), cmd="claude")
            assert store.create_run(pid=42, project_id=made.id).id == 42
        assert rows(project, "SELECT count(*) FROM runs") == [(42,)]
        away = sqlite3.connect(project / "away" / "store.sqlite")
        assert away.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        away.close()

    @pytest.mark.parametrize("read_only", [False, True])
    def test_without_end(self, project: Path, swap: list[int], read_only: bool) -> None:
        """Who exchanges a store all the time is told to stop it."""
        swap[0] = 1000
        error = error_of(project, read_only=read_only)
        assert isinstance(error, StoreBusy)
        assert "being replaced" in error.message
