"""``prune`` as a person uses it, and the daemon's nights."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import Original, Processes, wait_until
from nursery import linux

from supervisor import paths, registry
from supervisor.cli import app
from supervisor.daemon import jobs
from supervisor.daemon.nightly import Nightly
from supervisor.daemon.settings import Settings
from supervisor.registry import Origin

DAY = 86400

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in this process; give its exit code, its data and its messages."""

    def answer(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(list(words))
        return code, *capsys.readouterr()

    return answer


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a known store with runs that ended 100, 40 and 2 days ago."""
    with Original(project) as original:
        registry.add(str(project), Origin.ADDED)
        for days in (100, 40, 2):
            run, at = original.create_run(4242), time.time() - days * DAY
            original.connection.execute(
                "update runs set status = 'completed', started_at = ?, ended_at = ? where id = ?",
                (int(at), int(at * 1000), run),
            )
        yield original


@pytest.fixture
def log(original: Original) -> Path:
    """Give the test the log of a run that is long gone."""
    path = original.directory / ".agent-yes" / "logs" / f"{'a' * 32}.log"
    path.parent.mkdir()
    path.write_bytes(b"x" * (3 << 19))
    os.utime(path, (time.time() - 20 * DAY,) * 2)
    return path


def left(original: Original) -> int:
    """Return how many runs are there."""
    return original.connection.execute("select count(*) from runs").fetchone()[0]  # type: ignore[no-any-return]


def test_prune(original: Original, log: Path, ask: Ask) -> None:
    """Without --yes it tells what it would delete; with it, it does; then nothing is left to do."""
    what = f"in {original.directory}: 1 run, 1 log (1.5 MiB)\n"
    code, said, hint = ask("prune")
    assert (code, said) == (0, f"would delete {what}")
    assert hint.startswith("Nothing has been deleted yet: ")
    assert (left(original), log.exists()) == (3, True)
    assert ask("prune", "--yes") == (0, f"deleted {what}", "")
    assert (left(original), log.exists()) == (2, False)
    assert ask("prune", "--yes") == (0, "", "There is nothing old to delete.\n")
    assert json.loads(ask("prune", "--older-than", "30d", "--json")[1]) == [
        {"directory": str(original.directory), "runs": 1, "orphans": 0, "logs": 0, "log_bytes": 0}
    ]
    ask("prune", "--older-than", "1d", "--yes")
    assert left(original) == 1


def test_what_the_settings_say(original: Original, log: Path, home: Path, tmp_path: Path, ask: Ask) -> None:
    """The settings give the limits; trouble with one store is told and does not hide the rest."""
    config = home / "config" / "agent-yes-supervise" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[retention]\nruns_days = 30\nlogs_days = 21\n")
    broken = tmp_path / "broken"
    (broken / ".agent-yes").mkdir(parents=True)
    (broken / ".agent-yes" / "store.sqlite").write_bytes(b"this is no database" * 100)
    registry.add(str(broken), Origin.ADDED)
    code, said, trouble = ask("prune", "--yes")
    assert (code, said) == (1, f"deleted in {original.directory}: 2 runs\n")
    assert "is damaged" in trouble
    assert log.exists()


def test_one_store_only(original: Original, tmp_path: Path, ask: Ask) -> None:
    """With --project the other stores are left alone."""
    other = tmp_path / "other"
    other.mkdir()
    with Original(other):
        registry.add(str(other), Origin.ADDED)
    ask("prune", "--project", str(other), "--yes")
    assert left(original) == 3


class TestNights:
    """What the daemon does on its own."""

    def test_a_night(self, original: Original, log: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The nightly job deletes what is old in all known stores, says so, and marks that it was there."""
        caplog.set_level("INFO", "supervisor")
        nightly = Nightly(Settings())
        assert nightly.catches_up_in() == jobs.CATCHES_UP_AFTER
        nightly.prune()
        assert (left(original), log.exists()) == (2, False)
        assert caplog.messages == [f"pruned {original.directory}: 1 old runs, 1 logs, 0 rows of runs that are gone"]
        assert nightly.catches_up_in() is None
        yesterday = time.time() - DAY - 1
        os.utime(paths.last_prune(), (yesterday, yesterday))
        assert nightly.catches_up_in() is not None

    def test_it_can_be_switched_off(self, original: Original, home: Path) -> None:
        """With ``nightly = false`` nothing is deleted but by hand."""
        config = home / "config" / "agent-yes-supervise" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text("[retention]\nnightly = false\n")
        Nightly(Settings()).prune()
        assert left(original) == 3

    def test_it_ends_when_the_daemon_does(self, original: Original) -> None:
        """Told to stop, a pruning ends after its present transaction and does not count as done."""
        nightly = Nightly(Settings())
        nightly.stop()
        nightly.prune()
        assert left(original) == 2
        assert nightly.catches_up_in() is not None

    def test_the_loop_goes_on_meanwhile(self, caplog: pytest.LogCaptureFixture) -> None:
        """The job runs beside the loop, once, as soon as it is to catch up; sweeps go on while it is at work.

        A stop waits for it, and says nothing of that.
        """
        swept, release, at = threading.Event(), threading.Event(), list[int]()

        def prune() -> None:
            at.append(threading.get_ident())
            assert release.wait(20)

        async def daemon() -> int:
            running = jobs.Jobs(swept.set, prune, sweep_every=0.01, prune_in=0)
            while not at:
                await asyncio.sleep(0.001)
            swept.clear()
            while not swept.is_set():
                await asyncio.sleep(0.001)
            running.stop()
            for _ in range(3):  # turns of the loop, in which a stop takes effect
                await asyncio.sleep(0)
            release.set()
            return threading.get_ident()

        assert asyncio.run(daemon()) not in at
        assert len(at) == 1
        assert not [record for record in caplog.records if record.levelname not in ("INFO", "DEBUG")]

    def test_at_night(self) -> None:
        """Without anything to make up for, the next time is three o'clock by local time."""

        async def next_time() -> tuple[int, float]:
            running = jobs.Jobs(lambda: None, lambda: None, sweep_every=60)
            at = running._scheduler.get_job("prune").next_run_time
            running.stop()
            return at.astimezone().hour, at.timestamp() - time.time()

        hour, wait = asyncio.run(next_time())
        assert hour == jobs.NIGHTLY_AT
        assert 0 < wait <= DAY

    @linux
    def test_a_daemon_prunes(self, original: Original, processes: Processes, tmp_path: Path) -> None:
        """A daemon that has missed the night deletes what is old, soon after its start."""
        patched = "from supervisor.daemon import nightly\nnightly.CATCHES_UP_AFTER = 0\n"
        main = f"{patched}import sys\nfrom supervisor.cli import main\nsys.exit(main())"
        with (tmp_path / "log").open("w") as file:
            daemon = processes.python(main, "daemon", "--no-discover", stderr=file)
        wait_until(lambda: left(original) == 2)
        wait_until(lambda: "pruned" in (tmp_path / "log").read_text())
        daemon.terminate()
        assert daemon.wait(20) == 0
