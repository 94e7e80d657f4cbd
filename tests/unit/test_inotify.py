"""Waking when a folder's files change: what wakes, what an early wake-up may not miss, and what is refused."""

from __future__ import annotations

import errno
import os
import resource
import select
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Original
from nursery import descriptors, linux

from supervisor.process.inotify import FolderWatch

pytestmark = linux


@pytest.fixture
def watch() -> Iterator[FolderWatch]:
    """Give the test a watch, and close it."""
    watch = FolderWatch()
    yield watch
    watch.close()


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Original]:
    """Give the test a store that the original has open."""
    with Original(tmp_path) as original:
        yield original


@pytest.fixture
def folder(original: Original, watch: FolderWatch) -> str:
    """Return the store's folder, which is watched."""
    folder = str(original.directory / ".agent-yes")
    watch.add(folder)
    return folder


def news(watch: FolderWatch) -> set[str]:
    """Wait until the watch's descriptor is readable, and return what it has to tell."""
    assert select.select([watch], [], [], 10)[0], "no news"
    return watch.take()


def is_quiet(watch: FolderWatch) -> bool:
    """Tell whether there is no news; the kernel queues events before the call returns that causes them."""
    return not select.select([watch], [], [], 0)[0] and watch.take() == set()


def test_nothing_is_no_news(watch: FolderWatch, folder: str) -> None:
    """A folder in which nothing happens tells nothing, and asking does not wait."""
    assert is_quiet(watch)


def test_a_commit_wakes(watch: FolderWatch, folder: str, original: Original) -> None:
    """A new row, and a changed one, by another connection in WAL mode is news; each once."""
    run = original.create_run(1)
    assert news(watch) == {folder}
    assert is_quiet(watch)
    original.connection.execute("update runs set status = 'completed' where id = ?", (run,))
    assert news(watch) == {folder}


def test_a_commit_in_journal_mode_wakes(watch: FolderWatch, tmp_path: Path) -> None:
    """A store that is not in WAL mode is changed in place: news too."""
    with Original(tmp_path) as original:
        original.connection.execute("PRAGMA journal_mode = DELETE")
        watch.add(str(tmp_path / ".agent-yes"))
        original.create_run(1)
        assert news(watch) == {str(tmp_path / ".agent-yes")}


def test_reading_is_no_news(watch: FolderWatch, folder: str, original: Original) -> None:
    """Who reads a store that others have open wakes nobody."""
    other = sqlite3.connect(original.directory / ".agent-yes" / "store.sqlite")
    assert other.execute("select count(*) from runs").fetchone() == (0,)
    other.close()
    assert is_quiet(watch)


def test_the_last_close_wakes(watch: FolderWatch, folder: str, original: Original) -> None:
    """The last connection takes its log into the store and deletes it."""
    original.close()
    assert news(watch) == {folder}


def test_a_replaced_store_wakes(watch: FolderWatch, folder: str, original: Original, tmp_path: Path) -> None:
    """Another file in the store's place is news; the one that it came from need not be watched."""
    (tmp_path / "draft").write_bytes(b"")
    os.replace(tmp_path / "draft", f"{folder}/store.sqlite")
    assert news(watch) == {folder}


def test_a_store_that_is_moved_away_wakes(watch: FolderWatch, folder: str, tmp_path: Path) -> None:
    """A file that leaves the folder is news."""
    os.rename(f"{folder}/store.sqlite", tmp_path / "elsewhere")
    assert news(watch) == {folder}


def test_each_folder_has_its_own_news(watch: FolderWatch, tmp_path: Path) -> None:
    """Of several folders those are told that have changed."""
    folders = [str(tmp_path / name) for name in ("one", "two", "three")]
    for folder in folders:
        os.mkdir(folder)
        watch.add(folder)
    Path(folders[0], "file").touch()
    Path(folders[2], "file").touch()
    assert news(watch) == {folders[0], folders[2]}


def test_a_folder_that_comes_back(watch: FolderWatch, folder: str) -> None:
    """A removed folder is news, and can be watched again when it is there again."""
    shutil.rmtree(folder)
    assert news(watch) == {folder}
    os.mkdir(folder)
    Path(folder, "file").touch()
    assert is_quiet(watch), "another folder of that name"
    watch.add(folder)
    Path(folder, "another").touch()
    assert news(watch) == {folder}


def test_a_folder_that_came_back_unseen(watch: FolderWatch, folder: str) -> None:
    """A folder that was replaced before anybody asked is watched from the next `add` on."""
    shutil.rmtree(folder)
    os.mkdir(folder)
    watch.add(folder)
    assert news(watch) == {folder}
    Path(folder, "file").touch()
    assert news(watch) == {folder}


def test_a_folder_that_was_renamed(watch: FolderWatch, folder: str) -> None:
    """A renamed folder is news under its old name, and then no more; that name can be watched again."""
    os.rename(folder, f"{folder}.old")
    assert news(watch) == {folder}
    Path(f"{folder}.old", "file").touch()
    assert is_quiet(watch)
    os.mkdir(folder)
    watch.add(folder)
    Path(folder, "file").touch()
    assert news(watch) == {folder}


def test_a_project_that_was_renamed(watch: FolderWatch, tmp_path: Path) -> None:
    """A folder that was moved with the one around it, and replaced, wakes nobody under the name of the new one."""
    project = tmp_path / "project"
    folder = project / "folder"
    folder.mkdir(parents=True)
    watch.add(str(folder))
    project.rename(tmp_path / "old")
    folder.mkdir(parents=True)
    watch.add(str(folder))
    watch.take()
    (tmp_path / "old" / "folder" / "file").touch()
    assert is_quiet(watch)
    (folder / "file").touch()
    assert news(watch) == {str(folder)}


def test_two_names_of_one_folder(watch: FolderWatch, folder: str, tmp_path: Path, original: Original) -> None:
    """A folder that is known by two names is news under both, and under one when the other is let go."""
    alias = str(tmp_path / "alias")
    os.symlink(folder, alias)
    watch.add(alias)
    original.create_run(1)
    assert news(watch) == {folder, alias}
    watch.remove(alias)
    original.create_run(2)
    assert news(watch) == {folder}


def test_adding_twice_is_adding_once(watch: FolderWatch, folder: str, original: Original) -> None:
    """A folder that is watched already stays watched, until it is let go once."""
    watch.add(folder)
    assert is_quiet(watch)
    for number in range(3):
        original.create_run(number)
        assert news(watch) == {folder}
    watch.remove(folder)
    watch.take()
    original.create_run(4)
    assert is_quiet(watch)


def test_letting_go(watch: FolderWatch, folder: str, original: Original) -> None:
    """A folder that is let go tells nothing more, what it had to tell included; unknown and gone ones are no error."""
    original.create_run(1)
    watch.remove(folder)
    assert watch.take() == set()
    original.create_run(2)
    assert is_quiet(watch), "the kernel does not watch it any more"
    watch.remove(folder)
    watch.remove("/nowhere")
    for taken in (False, True):
        watch.add(folder)
        shutil.rmtree(folder)
        assert not taken or watch.take() == {folder}
        watch.remove(folder)
        assert watch.take() == set()
        os.mkdir(folder)


def test_a_full_queue_is_news_of_all_folders(watch: FolderWatch, tmp_path: Path) -> None:
    """When the kernel drops events, any folder may have changed, also one of which it says nothing."""
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if room > 50_000:
        pytest.skip("the queue is too long to fill it")
    busy, silent = str(tmp_path / "busy"), str(tmp_path / "silent")
    for folder in (busy, silent):
        os.mkdir(folder)
        watch.add(folder)
    with open(f"{busy}/one", "wb") as one, open(f"{busy}/two", "wb") as two:
        for _ in range(room // 2 + 1):  # in turns, for the kernel joins what happens twice
            os.pwrite(one.fileno(), b"x", 0)
            os.pwrite(two.fileno(), b"x", 0)
    assert news(watch) == {busy, silent}
    assert is_quiet(watch)
    Path(silent, "file").touch()
    assert news(watch) == {silent}


def test_a_name_that_is_no_text(watch: FolderWatch, tmp_path: Path) -> None:
    """Folders may have any name."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    os.mkdir(folder)
    watch.add(folder)
    Path(folder, "file").touch()
    assert news(watch) == {folder}


def test_a_missing_folder_is_refused(watch: FolderWatch, folder: str, original: Original, tmp_path: Path) -> None:
    """What is not there cannot be watched; the error names it, and the other folders stay watched."""
    with pytest.raises(FileNotFoundError) as refused:
        watch.add(str(tmp_path / "missing"))
    assert refused.value.filename == str(tmp_path / "missing")
    original.create_run(1)
    assert news(watch) == {folder}


def test_a_folder_that_has_gone_is_refused_and_let_go(watch: FolderWatch, folder: str) -> None:
    """A watched folder that has gone and cannot be added again is not watched any more."""
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        watch.add(folder)
    watch.take()
    os.mkdir(folder)
    watch.add(folder)
    Path(folder, "file").touch()
    assert news(watch) == {folder}


def test_without_room_for_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no instance is to be had, that is an `OSError`, and nothing stays open."""
    before, limits = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as refused:
            FolderWatch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refused.value.errno == errno.EMFILE
    assert descriptors() == before


def test_on_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no inotify, that is an `OSError` too."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="no inotify"):
        FolderWatch()


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    """A closed watch has given back its descriptor, which no child would have inherited."""
    before = descriptors()
    watch = FolderWatch()
    watch.add(str(tmp_path))
    assert not os.get_inheritable(watch.fileno())
    watch.close()
    assert descriptors() == before
