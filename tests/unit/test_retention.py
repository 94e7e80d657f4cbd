"""What is deleted as old, and what never is."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import Original, rows
from stores import NEWER, ending, execute, new_run, stamp

from supervisor import retention
from supervisor.config import RetentionConfig
from supervisor.log import files
from supervisor.retention import FRESH, Limits, Pruning
from supervisor.store import pruning, recording
from supervisor.store.supervision import SupervisedStore

DAY = 86400
NOW = int(time.time())
LIMITS = Limits(runs_before=NOW - 90 * DAY, logs_before=NOW - 14 * DAY, logs_bytes=1000)
TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a store, open as the original module has it."""
    with Original(project) as original:
        yield original


def ended(
    original: Original, days_ago: float, *, status: object = "completed", ended_at: object = ..., **by: int
) -> int:
    """Insert a run that ended so many days ago, in milliseconds as the original has it, and return its id.

    ``by`` may name its project.
    """
    run = original.create_run(4242, started_at=int(NOW - days_ago * DAY - 60))
    at = int((NOW - days_ago * DAY) * 1000) if ended_at is ... else ended_at
    original.connection.execute(
        "update runs set status = ?, exit_code = 0, ended_at = ?, project_id = ? where id = ?",
        (status, at, by.get("project", 1), run),
    )
    return run


def another_project(original: Original, directory: str) -> int:
    """Insert a project into the same store, as a copied one has, and return its id."""
    return original.connection.execute("insert into projects (dir, cmd) values (?, 'x')", (directory,)).lastrowid or 0


def left(original: Original) -> list[int]:
    """Return the ids of the runs that are there."""
    return [row[0] for row in original.connection.execute("select id from runs order by id")]


def prune(original: Original, limits: Limits = LIMITS, **options: object) -> Pruning:
    """Prune that store without a rest."""
    options = {"rest": lambda _: None, **options}
    return retention.prune([str(original.directory)], limits, **options)  # type: ignore[arg-type]  # the test's choice


def log(project: Path, name: str, days_ago: float, size: int = 10) -> Path:
    """Write a log that was last written so many days ago."""
    path = project / ".agent-yes" / "logs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - days_ago * DAY, NOW - days_ago * DAY))
    return path


class TestRuns:
    """Runs, and what belongs to them."""

    def test_what_is_old_goes(self, original: Original) -> None:
        """Ended runs of every kind that ended before the limit go, whichever unit their end has."""
        for status in ("completed", "failed", "crashed"):
            ended(original, 91, status=status)
        ended(original, 91, ended_at=NOW - 91 * DAY)
        ended(original, 91, ended_at=(NOW - 91 * DAY) * 1000 + 0.5)
        kept = [ended(original, 89), ended(original, 89, ended_at=NOW - 89 * DAY), ended(original, 1)]
        done = prune(original)
        assert left(original) == kept
        assert done.pruned[str(original.directory)].runs == 5
        assert not done.troubles

    def test_the_newest_of_each_project_stays(self, original: Original) -> None:
        """However old it is, each project keeps the run that is shown as its newest."""
        other = another_project(original, "/copied")
        first, older, theirs = ended(original, 200), ended(original, 300), ended(original, 400, project=other)
        orphans = [ended(original, days, project=77) for days in (500, 600)]
        prune(original)
        assert left(original) == sorted([first, theirs, orphans[0]])
        assert older not in left(original)

    def test_what_may_run_or_cannot_be_told_stays(self, original: Original) -> None:
        """Running rows, unknown statuses, and ends that are none or from an unset clock are left alone."""
        kept = [
            ended(original, 400, status="running", ended_at=None),
            ended(original, 400, status="running"),
            ended(original, 400, status="paused"),
            ended(original, 400, status=7),
            ended(original, 400, ended_at=None),
            ended(original, 400, ended_at=0),
            ended(original, 400, ended_at=60_000),
            ended(original, 400, ended_at=-5),
            ended(original, 400, ended_at="long ago"),
            ended(original, 400, ended_at=b"\x00"),
            ended(original, 1),
        ]
        assert prune(original).pruned[str(original.directory)].nothing
        assert left(original) == kept

    def test_what_belongs_to_a_run_goes_with_it(self, original: Original) -> None:
        """Stamp and ending of a deleted run go, those of others stay; so do rows of runs that are gone."""
        old, kept, gone = ended(original, 91), ended(original, 1), ended(original, 1)
        with SupervisedStore(str(original.directory)) as store, store.transaction() as connection:
            for run in (old, kept, gone):
                recording.insert_process(connection, run, stamp(4242), by="test")
        with SupervisedStore(str(original.directory)) as store:
            original.connection.execute("update runs set status = 'running'")
            store.settle([(claim, ending()) for claim in store.running_claims()])
        original.connection.execute("pragma foreign_keys = off")
        original.connection.execute("delete from runs where id = ?", (gone,))
        original.connection.execute("update runs set ended_at = ? where id = ?", ((NOW - 91 * DAY) * 1000, old))
        done = prune(original)
        assert done.pruned[str(original.directory)].orphans == 2
        for table in ("run_process", "run_ending"):
            assert rows(original.directory, f"select run_id from {table}") == [(kept,)]

    def test_looking_only(self, original: Original) -> None:
        """A dry run counts what a real one deletes, and changes nothing."""
        ended(original, 91)
        ended(original, 1)
        with SupervisedStore(str(original.directory)) as store:
            store.connection.execute("pragma foreign_keys = off")
            recording.insert_process(store.connection, 99, stamp(4242), by="test")
        log(original.directory, f"{TOKEN}.log", 15)
        dry = prune(original, dry=True)
        assert (len(left(original)), len(rows(original.directory, "select 1 from run_process"))) == (2, 1)
        assert prune(original).pruned == dry.pruned
        (pruned,) = dry.pruned.values()
        assert (pruned.runs, pruned.orphans, pruned.logs, pruned.log_bytes) == (1, 1, 1, 10)


class TestManners:
    """What others notice of it."""

    def test_writers_get_their_turn(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        """After each small transaction the store is free: the original, which does not wait under Bun, can write."""
        for _ in range(7):
            ended(original, 91)
        ended(original, 1)
        monkeypatch.setattr(pruning, "BATCH", 2)
        turns: list[int] = []

        def turn(seconds: float) -> None:
            if not seconds:
                return  # the store is done
            assert seconds >= retention.SHORTEST_REST
            original.connection.execute("pragma busy_timeout = 0")
            original.connection.execute("update runs set exit_code = 1")
            turns.append(len(left(original)))

        prune(original, rest=turn)
        assert turns == [6, 4, 2, 1]

    def test_a_run_that_goes_on_meanwhile_stays(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        """A row that is set back to running after it was found old is not deleted."""
        found, resumed = ended(original, 91), ended(original, 91)
        ended(original, 1)
        ids = pruning._ids

        def resume(*args: object) -> list[int]:
            there = ids(*args)  # type: ignore[arg-type]  # passed on
            original.connection.execute("update runs set status = 'running' where id = ?", (resumed,))
            return there

        monkeypatch.setattr(pruning, "_ids", resume)
        prune(original)
        assert resumed in left(original)
        assert found not in left(original)

    def test_the_newest_is_deleted_meanwhile(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        """If somebody deletes the newest run while others go, the project does not lose its last."""
        for _ in range(4):
            ended(original, 91)
        newest = ended(original, 1)
        monkeypatch.setattr(pruning, "BATCH", 2)

        def turn(_: float) -> None:
            original.connection.execute("delete from runs where id = ?", (newest,))

        prune(original, rest=turn)
        assert len(left(original)) == 2

    def test_it_can_be_ended_early(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the rest says so nothing more is deleted, and what was deleted is told."""
        for _ in range(5):
            ended(original, 91)
        log(original.directory, f"{TOKEN}.log", 15)
        monkeypatch.setattr(pruning, "BATCH", 1)
        turns = iter([False, True])
        done = prune(original, rest=lambda _: next(turns))
        assert (done.cut_short, done.pruned[str(original.directory)].runs, len(left(original))) == (True, 2, 3)
        assert files.logs_of(str(original.directory))

    def test_it_ends_early_between_stores(self, original: Original, tmp_path: Path) -> None:
        """Also where no store has anything old, or each is locked, the next one is not begun any more."""
        ended(original, 91)
        ended(original, 1)
        empty = tmp_path / "empty"
        empty.mkdir()
        with Original(empty):
            done = retention.prune([str(empty), str(original.directory)], LIMITS, rest=lambda _: True)
        assert (done.cut_short, list(done.pruned), len(left(original))) == (True, [str(empty)], 2)

    def test_the_wal_is_emptied_if_nobody_reads(self, original: Original) -> None:
        """The WAL gets into the database; a reader that holds on to it keeps it, and is not waited for."""
        wal = original.directory / ".agent-yes" / "store.sqlite-wal"
        ended(original, 1)
        assert wal.stat().st_size > 0
        prune(original)
        assert wal.stat().st_size == 0
        reader = sqlite3.connect(original.directory / ".agent-yes" / "store.sqlite", isolation_level=None)
        reader.execute("begin")
        reader.execute("select * from runs").fetchall()
        ended(original, 1)
        began = time.monotonic()
        prune(original)
        assert time.monotonic() - began < retention.TIMEOUT
        assert wal.stat().st_size > 0
        reader.close()

    @pytest.mark.parametrize("locked", [False, True])
    def test_statistics_are_forgotten(self, original: Original, *, locked: bool) -> None:
        """What SQLite has been told of a small store does not lead it when it is large; a writer is not waited for."""
        sql = original.connection.execute
        original.create_run(1)
        sql("create table other (x)")
        sql("create index other_x on other (x)")
        sql("insert into other values (1)")
        sql("analyze")
        with SupervisedStore(str(original.directory)) as store:
            connection = store.connection
            if locked:
                sql("begin immediate")
            pruning.tidy(connection)
        left = {row[0] for row in sql("select tbl from sqlite_stat1")}
        assert left == ({"other", "projects", "runs"} if locked else {"other"})

    def test_a_store_of_a_newer_version_is_left_alone(self, original: Original) -> None:
        """What a newer version has made is not ours to delete, which is said."""
        ended(original, 91)
        ended(original, 1)
        with SupervisedStore(str(original.directory)) as store:
            store.get_all_runs()
        execute(original.directory, *NEWER)
        for dry in (False, True):
            (trouble,) = prune(original, dry=dry).troubles
            assert "was made by a newer version; nothing is deleted there" in str(trouble)
        assert len(left(original)) == 2

    def test_one_broken_store_does_not_keep_the_others(self, original: Original, tmp_path: Path) -> None:
        """A store that cannot be used is told; a directory without one is nothing."""
        ended(original, 91)
        ended(original, 1)
        broken = tmp_path / "broken"
        (broken / ".agent-yes").mkdir(parents=True)
        (broken / ".agent-yes" / "store.sqlite").write_bytes(b"this is no database" * 100)
        places = [str(broken), str(tmp_path), str(original.directory)]
        done = retention.prune(places, LIMITS, rest=lambda _: None)
        assert len(left(original)) == 1
        (trouble,) = done.troubles
        assert "damaged" in str(trouble)


def begin_logged(original: Original) -> None:
    """Record a running run whose token is `TOKEN`."""
    run = original.create_run(4242)
    with SupervisedStore(str(original.directory)) as store, store.transaction() as connection:
        recording.insert_process(connection, run, stamp(4242), by="wrap", run=new_run(original.directory, TOKEN))


class TestLogs:
    """The logs of runs."""

    def test_old_ones_go(self, original: Original) -> None:
        """A log goes when it was last written before the limit, unless its run is running."""
        begin_logged(original)
        place = original.directory
        old = [
            log(place, f"{'f' * 32}.log", 15),
            log(place, f"{'f' * 32}.err.log", 15),
            log(place, f"{'7' * 32}.log", 15),
        ]
        kept = [log(place, f"{TOKEN}.log", 15), log(place, f"{'e' * 32}.log", 13)]
        pruned = prune(original).pruned[str(place)]
        assert (pruned.logs, pruned.log_bytes) == (3, 30)
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in kept)

    def test_the_oldest_go_when_all_take_too_much(self, original: Original) -> None:
        """Beyond the total size the oldest go first; what was written just now stays, and running runs' logs count."""
        begin_logged(original)
        place = original.directory
        names = (f"{'3' * 32}.log", f"{'4' * 32}.log", f"{'5' * 32}.log")
        oldest, older, newer = (log(place, name, age, 300) for name, age in zip(names, (9, 8, 7), strict=True))
        log(place, f"{TOKEN}.log", 10, 300)
        prune(original)
        assert [path.exists() for path in (oldest, older, newer)] == [False, True, True]
        fresh = log(place, f"{'6' * 32}.log", FRESH / 2 / DAY, 5000)
        prune(original)
        assert [path.exists() for path in (older, newer, fresh)] == [False, False, True]

    def test_only_logs_go(self, original: Original) -> None:
        """Files of other names, folders and links are not touched."""
        place = original.directory
        kept = [log(place, name, 99) for name in ("notes.txt", "7", "7.log", f"{TOKEN}0.log")]
        (place / ".agent-yes" / "logs" / f"{'8' * 32}.log").mkdir()
        (place / ".agent-yes" / "logs" / f"{'9' * 32}.log").symlink_to(kept[0])
        os.utime(place / ".agent-yes" / "logs" / f"{'9' * 32}.log", (0, 0), follow_symlinks=False)
        assert prune(original).pruned[str(place)].nothing
        assert all(path.exists() for path in kept)
        assert (place / ".agent-yes" / "logs" / f"{'9' * 32}.log").is_symlink()

    def test_a_folder_that_cannot_be_searched_stops_no_other(
        self, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a folder may be listed but not searched (0600) that is told; the other stores are pruned."""
        other, really = tmp_path / "other", os.stat
        other.mkdir()
        with Original(other):
            unreachable = log(other, f"{TOKEN}.log", 15)
            old = log(original.directory, f"{TOKEN[::-1]}.log", 15)

            def stat(path: str, **options: Any) -> os.stat_result:
                if path == unreachable.name:  # as it is for all but root
                    raise PermissionError(errno.EACCES, "Permission denied", path)
                return really(path, **options)

            monkeypatch.setattr(os, "stat", stat)
            done = retention.prune([str(other), str(original.directory)], LIMITS, rest=lambda _: None)
        (trouble,) = done.troubles
        assert str(trouble) == f"{other}: {unreachable.name}: Permission denied; check its rights"
        assert not os.path.lexists(old)

    def test_a_linked_folder_is_not_followed(self, original: Original, tmp_path: Path) -> None:
        """Where the folder of the logs is a link, what it leads to is safe."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / f"{'7' * 32}.log").touch()
        os.utime(elsewhere / f"{'7' * 32}.log", (0, 0))
        (original.directory / ".agent-yes" / "logs").symlink_to(elsewhere)
        assert prune(original).pruned[str(original.directory)].nothing
        assert (elsewhere / f"{'7' * 32}.log").exists()
        found = files.LogFile(str(original.directory), f"{'7' * 32}.log", "7" * 32, 0, 0)
        assert not files.delete(found)


def test_limits_of_the_configuration() -> None:
    """Days and MiB become times and bytes."""
    assert Limits.of(RetentionConfig(runs_days=2, logs_days=1, logs_mib=3), 1e6) == Limits(
        1e6 - 172800, 913600, 3 << 20
    )
