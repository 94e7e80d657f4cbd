"""Whether a store may have news, by stat(2) alone."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import Original, wait_until

from supervisor import paths, registry
from supervisor.daemon.watch import Changes, StoreWatch
from supervisor.process.stamp import stamp_of
from supervisor.registry import Origin


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a store, open as the original module has it."""
    with Original(project) as original:
        yield original


def replace_with_copy(project: Path) -> None:
    """Put another file of the same rows in the store's place."""
    file = project / ".agent-yes" / "store.sqlite"
    other = file.with_name("other.sqlite")
    sqlite3.connect(file).execute("VACUUM INTO ?", (str(other),)).connection.close()
    os.replace(other, file)


def settled(changes: Callable[[], bool]) -> Callable[[], bool]:
    """Return it once it tells of no change any more."""
    wait_until(lambda: not changes())
    return changes


def test_a_quiet_file_is_news_once(tmp_path: Path) -> None:
    """The first look is news; after that an unchanged file is none."""
    file = tmp_path / "file"
    file.write_text("x")
    changes = Changes(str(file))
    assert changes()
    settled(changes)
    assert [changes() for _ in range(3)] == [False] * 3


def test_a_write_in_the_same_tick_of_the_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that leaves size and time as they were is seen, if it came in the instant of the last look."""
    file = tmp_path / "file"
    file.write_text("x")
    changes = settled(Changes(str(file)))
    found = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda _: found)
    monkeypatch.setattr(time, "time_ns", lambda: found.st_ctime_ns + 1_000_000)
    assert not changes(), "the look itself, in the instant of the file's last write"
    assert changes(), "what was written after that look has the same time"
    monkeypatch.setattr(time, "time_ns", lambda: found.st_ctime_ns + 1_000_000_000)
    assert changes(), "the last look was still in that instant"
    assert not changes()


def test_a_file_put_back_with_its_old_times_is_seen(tmp_path: Path) -> None:
    """Content of the same size under the same modification time is news all the same."""
    file = tmp_path / "file"
    file.write_text("x")
    os.utime(file, ns=(1, 1))
    changes = settled(Changes(str(file)))
    with file.open("r+") as writer:
        writer.write("y")
    os.utime(file, ns=(1, 1))
    assert changes()


def test_a_change_of_rights_is_seen(tmp_path: Path) -> None:
    """A file that may be written again is news."""
    file = tmp_path / "file"
    file.write_text("x")
    changes = settled(Changes(str(file)))
    file.chmod(0o400)
    assert changes()


def test_a_change_of_the_rights_of_a_wal_is_seen(project: Path) -> None:
    """A WAL goes by the time of its last write, and by its rights: one that could not be read may be readable now."""
    with Original(project):
        watch = StoreWatch(str(project))
        settled(watch.changed)
        (project / ".agent-yes" / "store.sqlite-wal").chmod(0o640)
        assert watch.changed()


def test_a_replaced_file_is_seen(tmp_path: Path) -> None:
    """Another file of the same size and age in the place of the first is news."""
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("x")
    other.write_text("x")
    changes = settled(Changes(str(file)))
    os.replace(other, file)
    assert changes()


def test_a_file_that_vanishes_and_comes_back_is_seen(tmp_path: Path) -> None:
    """Its end and its return are news, its absence is not."""
    file, aside = tmp_path / "file", tmp_path / "aside"
    file.write_text("x")
    changes = settled(Changes(str(file)))
    file.rename(aside)
    assert changes()
    assert not changes()
    aside.rename(file)
    assert changes()


def test_one_of_several_files_is_enough(tmp_path: Path) -> None:
    """A change of any of them is news."""
    one, two = tmp_path / "one", tmp_path / "two"
    changes = settled(Changes(str(one), str(two)))
    two.write_text("")
    assert changes()


def test_commits_to_the_wal_are_seen(project: Path) -> None:
    """Every commit of another connection is news, whichever file it goes to."""
    with Original(project) as original:
        watch = StoreWatch(str(project))
        for _ in range(5):
            settled(watch.changed)
            original.create_run(1)
            assert watch.changed()
        settled(watch.changed)
        original.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        original.create_run(1)
        assert watch.changed()


def test_commits_without_a_wal_are_seen(project: Path) -> None:
    """A store in a rollback journal mode is followed too."""
    with Original(project) as original:
        original.connection.execute("PRAGMA journal_mode = DELETE")
        watch = StoreWatch(str(project))
        settled(watch.changed)
        original.create_run(1)
        assert watch.changed()


@pytest.mark.parametrize("others", [False, True])
def test_our_own_reading_is_no_news(project: Path, *, others: bool) -> None:
    """Opening, reading and closing an idle store does not make it look changed: that would never end."""
    original = Original(project)
    if not others:
        original.close()
    watch = StoreWatch(str(project))
    assert watch.rows() == {}
    watch.rest()
    settled(watch.changed)
    assert watch.rows() == {}
    watch.rest()
    assert not watch.changed()
    original.close()


def test_a_store_that_a_lock_kept_from_being_read_stays_news(project: Path) -> None:
    """As long as another process keeps the store to itself, the next look is worth while; and then no more."""
    with Original(project) as original:
        original.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        original.create_run(1)
        watch = StoreWatch(str(project))
        assert watch.rows() is None
        settled(watch._changes)
        assert watch.changed()
        assert watch.changed()
    assert watch.rows() is not None
    settled(watch.changed)
    watch.rest()


@pytest.fixture
def opened(original: Original) -> Iterator[StoreWatch]:
    """Give the test a watch whose connection is open, as that of a store with running rows is."""
    watch = StoreWatch(str(original.directory))
    assert watch.rows() == {}
    yield watch
    watch.rest()


def test_an_open_store_tells_of_others_commits(original: Original, opened: StoreWatch) -> None:
    """Another's commit is news until the rows are read, and only that."""
    assert not opened.changed()
    run = original.create_run(1)
    assert opened.changed()
    assert opened.changed()
    assert list(opened.rows() or ()) == [run]
    assert not opened.changed()


def test_our_own_writes_are_no_news(original: Original, opened: StoreWatch) -> None:
    """What we write into an open store does not make us read it again."""
    run = original.create_run(1)
    opened.rows()
    assert opened.keep_stamps([(run, stamp_of(1))], by="test")
    assert opened.settle([]) == []
    assert not opened.changed()


def test_a_store_replaced_under_a_write_is_read_anew(original: Original, opened: StoreWatch) -> None:
    """Rows of a file that was put in the store's place are news even if a write has opened it first."""
    replace_with_copy(original.directory)
    assert opened.settle([]) == []
    assert opened.changed()


@pytest.mark.parametrize(("code", "news"), [(sqlite3.SQLITE_BUSY, False), (sqlite3.SQLITE_IOERR, True)])
def test_a_lock_is_no_news_and_trouble_is(
    original: Original, opened: StoreWatch, monkeypatch: pytest.MonkeyPatch, code: int, news: bool
) -> None:
    """A store that a lock keeps from answering is asked again at the next look; other trouble is worth a look."""
    error = sqlite3.OperationalError("trouble")
    error.sqlite_errorcode = code

    def fail() -> int:
        raise error

    settled(opened._changes)
    original.create_run(1)
    later = os.stat(f"{opened.store.path}-wal").st_ctime_ns + 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)  # no look comes so soon that it has to be repeated
    with monkeypatch.context() as trouble:
        trouble.setattr(opened.store, "data_version", fail)
        assert opened.changed() == news
    assert opened.changed()
    assert not opened._changes()


def test_entries_of_the_registry_are_seen(project: Path, tmp_path: Path) -> None:
    """A store that becomes known, and one that is forgotten, change the registry's folder."""
    changes = settled(Changes(paths.registry_dir()))
    registry.add(str(project), Origin.ADDED)
    assert changes()
    settled(changes)
    registry.forget(str(project))
    assert changes()


def test_trouble_is_told_once_and_when_it_ends(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged store is one warning however often it is looked at, and one line when it can be used again."""
    with Original(project):
        pass
    file = project / ".agent-yes" / "store.sqlite"
    good = file.read_bytes()
    file.write_bytes(b"no database" * 1000)
    watch = StoreWatch(str(project))
    caplog.set_level("INFO", "supervisor")
    assert [watch.rows() for _ in range(3)] == [None] * 3
    assert watch.settle([]) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text
    caplog.clear()
    file.write_bytes(good)
    assert watch.rows() == {}
    assert watch.rows() == {}
    assert watch.settle([]) == []
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    watch.rest()


def test_a_lock_is_no_trouble(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is locked for a moment says nothing in the log."""
    with Original(project) as original:
        watch = StoreWatch(str(project))
        assert watch.rows() == {}
        caplog.set_level("INFO", "supervisor")
        original.connection.execute("BEGIN IMMEDIATE")
        assert watch.settle([]) is None
        original.connection.execute("ROLLBACK")
        assert watch.settle([]) == []
        watch.rest()
    assert not caplog.records


def test_endings_go_to_the_store_that_stands_there(project: Path) -> None:
    """A store that has been replaced since it was read is the one that is written to."""
    with Original(project):
        pass
    watch = StoreWatch(str(project))
    assert watch.rows() == {}
    replace_with_copy(project)
    before = watch.store.connection
    assert watch.settle([]) == []
    assert watch.store.connection is not before
    watch.rest()


def test_a_store_of_any_size_costs_little_memory(original: Original) -> None:
    """What has been read of a store stays in memory only up to a bound, whoever opens it anew, and how often."""
    watch = StoreWatch(str(original.directory))
    for _ in range(2):
        assert watch.rows() == {}
        assert [watch.store.connection.execute(f"PRAGMA {of}").fetchone() for of in ("cache_size", "cache_spill")] == [
            (-256,),
            (0,),
        ]
        watch.rest()
