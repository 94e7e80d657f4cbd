"""Which stores are looked at, and when: what the kernel tells of, what nobody tells of, and the rest in turn."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import linux

from supervisor.daemon import notices
from supervisor.daemon.notices import MOST_IN_TURN, TOLD_EVERY, UNTOLD_EVERY, Notices

pytestmark = linux


class Clock:
    """A clock that stands."""

    now = 100.0

    def __call__(self) -> float:
        """Return what it shows."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give the test a clock."""
    return Clock()


@pytest.fixture
def seen(clock: Clock) -> Iterator[Notices]:
    """Give the test notices, and close them."""
    seen = Notices(clock)
    yield seen
    seen.close()


def projects(folder: Path, count: int) -> list[str]:
    """Make projects with a store's folder each."""
    made = [str(folder / f"project{number}") for number in range(count)]
    for project in made:
        os.makedirs(f"{project}/.agent-yes")
    return made


def write(project: str) -> None:
    """Change something in the folder of a project's store."""
    Path(project, ".agent-yes", "store.sqlite-wal").write_text("x")


def told(notices: Notices) -> bool:
    """Take what the kernel tells."""
    descriptor = notices.fileno()
    assert descriptor is not None
    assert select.select([descriptor], [], [], 10)[0], "nothing told"
    return notices.take()


def test_what_has_changed_is_due(seen: Notices, tmp_path: Path) -> None:
    """Of many stores the one in whose folder something changed is looked at, once."""
    one, two, three = projects(tmp_path, 3)
    seen.follow([one, two, three], [])
    assert seen.due() == {one, two, three}
    assert seen.due() == set()
    write(two)
    assert told(seen)
    assert seen.due() == {two}
    assert seen.due() == set()


def test_all_are_due_in_turn(seen: Notices, clock: Clock, tmp_path: Path) -> None:
    """A look takes a part of very many stores, and the next ones the others: each comes as often."""
    made = projects(tmp_path, MOST_IN_TURN + 50)
    seen.follow(made, [])
    counts = dict.fromkeys(made, 0)
    for _ in range(3):
        due = seen.due()
        assert len(due) == MOST_IN_TURN
        for project in due:
            counts[project] += 1
        assert seen.interval == TOLD_EVERY
        clock.now += TOLD_EVERY
    assert set(counts.values()) == {2}


def test_one_that_is_let_go(seen: Notices, tmp_path: Path) -> None:
    """A store that is followed no longer is not due, whatever changes there."""
    one, two = projects(tmp_path, 2)
    seen.follow([one, two], [])
    seen.due()
    seen.follow([one], [])
    write(two)
    write(one)
    assert told(seen)
    assert seen.due() == {one}


def test_wakers_wake_only(seen: Notices, tmp_path: Path) -> None:
    """Other folders are told of, and no store is due for them."""
    (one,) = projects(tmp_path, 1)
    waker = tmp_path / "waker"
    waker.mkdir()
    seen.follow([one], [str(waker)])
    seen.due()
    (waker / "file").touch()
    assert told(seen)
    assert seen.due() == set()


def test_a_folder_that_is_not_there(seen: Notices, clock: Clock, tmp_path: Path) -> None:
    """A store that is not there is looked for often, it alone; when it is there it is told of as others are."""
    one, two = projects(tmp_path, 2)
    shutil.rmtree(two)
    seen.follow([one, two], [])
    seen.due()
    assert seen.interval == UNTOLD_EVERY
    assert seen.due() == {two}
    os.makedirs(f"{two}/.agent-yes")
    assert seen.due() == {two}
    assert seen.due() == set()
    assert seen.interval == TOLD_EVERY
    write(two)
    assert told(seen)
    assert seen.due() == {two}


@pytest.mark.parametrize("replaced", [True, False])
def test_a_folder_that_goes(seen: Notices, clock: Clock, tmp_path: Path, replaced: bool) -> None:
    """A folder that goes is looked for until it is back; one that another was put in place of is told of at once."""
    (one,) = projects(tmp_path, 1)
    seen.follow([one], [])
    seen.due()
    os.rename(f"{one}/.agent-yes", f"{one}/old")
    if replaced:
        os.mkdir(f"{one}/.agent-yes")
    assert told(seen)
    assert seen.interval == (TOLD_EVERY if replaced else UNTOLD_EVERY)
    assert seen.due() == {one}
    if not replaced:
        os.mkdir(f"{one}/.agent-yes")
        assert seen.due() == {one}
    assert seen.due() == set()
    write(one)
    assert told(seen)
    assert seen.due() == {one}


def test_where_other_hosts_write(seen: Notices, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared file system the kernel does not tell what others write: such stores are looked at often."""
    one, two = projects(tmp_path, 2)
    monkeypatch.setattr(notices, "on_shared_file_system", lambda _: True)
    seen.follow([one, two], [])
    assert [seen.due() for _ in range(2)] == [{one, two}] * 2
    assert seen.interval == UNTOLD_EVERY
    write(two)
    assert told(seen)
    monkeypatch.setattr(notices, "on_shared_file_system", lambda _: False)
    seen.follow([one, two], [])
    assert seen.due() == {two}
    assert seen.due() == set()


def test_without_inotify(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no inotify instance is to be had all stores are looked at often."""

    def refused() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(notices, "FolderWatch", refused)
    seen = Notices(clock)
    made = projects(tmp_path, MOST_IN_TURN + 1)
    seen.follow(made, [])
    assert seen.fileno() is None
    assert not seen.take()
    assert [seen.due() for _ in range(2)] == [set(made)] * 2
    assert seen.interval == UNTOLD_EVERY
    seen.close()
