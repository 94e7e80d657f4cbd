"""A real daemon under a service manager: what it tells it, and what it parks there for the next daemon."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import Original, Processes, rows, wait_until
from managers import Manager
from nursery import Nursery, linux, tells_exits

from supervisor import registry
from supervisor.registry import Origin

pytestmark = linux


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Give the test a service manager."""
    with Manager(tmp_path) as manager:
        yield manager


@pytest.fixture
def start(processes: Processes, manager: Manager, tmp_path: Path) -> Callable[..., Any]:
    """Give the test a function that starts a daemon under the manager."""
    return lambda **options: manager.start(processes, tmp_path / "daemon.log", **options)


def ending(project: Path, run: int) -> tuple[object, ...]:
    """Return how a run ended: status, exit code, cause, and the rank of who says so."""
    sql = "select runs.status, runs.exit_code, cause, rank from runs left join run_ending on run_id = id where id = ?"
    return rows(project, sql, (run,))[0]


def settled(project: Path, run: int) -> tuple[object, ...]:
    """Wait until a run is settled, and return how it ended."""
    wait_until(lambda: ending(project, run)[0] != "running")
    return ending(project, run)


class TestTelling:
    """What the manager hears."""

    def test_the_status_counts_from_ready_on(
        self, original: Original, start: Callable[..., Any], manager: Manager, nursery: Nursery
    ) -> None:
        """READY=1 means that what ran before is watched already; what happens then changes the line, told once."""
        agents = nursery.spawn(2)
        original.create_run(agents[0])
        start()
        assert "STATUS=1 running in 1 store; 0 settled since the start" in manager.hear("READY=1")
        original.create_run(agents[1])
        manager.hear("STATUS=2 running in 1 store; 0 settled")
        os.kill(agents[0], signal.SIGKILL)
        manager.hear("STATUS=1 running in 1 store; 1 settled")
        statuses = re.findall(r"STATUS=(.*)", "\n".join(manager.heard))
        assert len(statuses) == len(set(statuses))

    @pytest.mark.usefixtures("home")
    def test_the_loop_pets_the_watchdog(self, start: Callable[..., Any], manager: Manager) -> None:
        """It beats three times within what the manager allows; a stopped daemon falls silent."""
        daemon = start(watchdog=0.3)

        def beats(count: int) -> float:
            began = manager.listen().count("WATCHDOG=1")
            at = time.monotonic()
            wait_until(lambda: manager.listen().count("WATCHDOG=1") >= began + count)
            return time.monotonic() - at

        assert any(beats(3) < 0.6 for _ in range(3))  # other tests may be using the machine
        daemon.send_signal(signal.SIGSTOP)
        wait_until(lambda: "State:\tT" in Path(f"/proc/{daemon.pid}/status").read_text())
        heard = len(manager.listen())
        daemon.send_signal(signal.SIGCONT)
        wait_until(lambda: len(manager.listen()) > heard)

    @pytest.mark.usefixtures("home")
    def test_a_reload_and_the_end_are_announced(self, start: Callable[..., Any], manager: Manager) -> None:
        """SIGHUP: RELOADING=1 with the moment, everything is looked at anew, then READY=1. SIGTERM: STOPPING=1."""
        daemon = start()
        manager.heard.clear()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.send_signal(signal.SIGHUP)
        manager.hear("READY=1")
        assert [message.partition("\n")[0] for message in manager.heard] == ["RELOADING=1", "READY=1"]
        assert int(manager.heard[0].partition("MONOTONIC_USEC=")[2]) >= before
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
        manager.hear("STOPPING=1")


class TestParking:
    """Pidfds that outlive the daemon."""

    @tells_exits
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 0), (signal.SIGTERM, 42)])
    def test_an_exit_between_two_daemons_is_known_exactly(
        self,
        original: Original,
        start: Callable[..., Any],
        manager: Manager,
        nursery: Nursery,
        project: Path,
        number: int,
        code: int,
    ) -> None:
        """Foreign agents that end, and are reaped, while no daemon runs are settled with their exit statuses."""
        agents = dict(zip(nursery.spawn(2), (code, -signal.SIGSEGV), strict=True))
        runs = {agent: original.create_run(agent) for agent in agents}
        living = nursery.born()
        original.create_run(living)
        daemon = start()
        manager.keeps(3)
        daemon.send_signal(number)
        daemon.wait(20)
        manager.keeps(3)
        for agent, how in agents.items():
            nursery.end(agent, how)
            nursery.reap(agent)
        start()
        for agent, how in agents.items():
            end = (how, "unrecorded") if how >= 0 else (128 - how, "signalled")
            assert settled(project, runs[agent]) == ("crashed", *end, 2)
        manager.keeps(1)
        assert ending(project, 3)[0] == "running"
        nursery.end(living, 7)
        assert settled(project, 3)[:2] == ("crashed", 7)
        manager.keeps(0)

    def test_one_that_lives_on_is_taken_up_and_not_parked_twice(
        self, original: Original, start: Callable[..., Any], manager: Manager, nursery: Nursery, tmp_path: Path
    ) -> None:
        """Over two daemons there is one parked pidfd for one run."""
        original.create_run(nursery.born())
        for _ in range(2):
            daemon = start()
            manager.keeps(1)
            daemon.kill()
            daemon.wait(20)
        assert (tmp_path / "daemon.log").read_text().count("taken up again") == 1

    def test_a_row_that_has_changed_does_not_get_the_parked_one(
        self, original: Original, start: Callable[..., Any], manager: Manager, nursery: Nursery, project: Path
    ) -> None:
        """A run resumed under another pid meanwhile is judged by its own process, and the old pidfd is let go."""
        first, second = nursery.spawn(2)
        run = original.create_run(first)
        daemon = start()
        manager.keeps(1)
        (name,) = manager.kept
        daemon.kill()
        daemon.wait(20)
        nursery.end(first, 9)
        nursery.reap(first)
        original.connection.execute("update runs set pid = ? where id = ?", (second, run))
        start()
        manager.hear("FDSTOREREMOVE=1", name)
        manager.keeps(1)
        assert ending(project, run)[0] == "running"
        nursery.end(second, 3)
        assert settled(project, run)[:2] == ("crashed", 3)

    def test_what_no_row_asks_for_is_let_go(
        self, original: Original, start: Callable[..., Any], manager: Manager, nursery: Nursery, project: Path
    ) -> None:
        """Runs removed, or stores forgotten, while no daemon ran leave nothing parked; nor does what is not ours."""
        for directory in (project, project.parent / "other"):
            directory.mkdir(exist_ok=True)
            with Original(directory) as store:
                store.create_run(nursery.born())
                registry.add(str(directory), Origin.ADDED)
        daemon = start()
        manager.keeps(2)
        daemon.kill()
        daemon.wait(20)
        original.connection.execute("delete from runs")
        registry.forget(str(project.parent / "other"))
        manager.kept["somebody's"] = os.open(os.devnull, os.O_RDONLY)
        start()
        manager.hear("FDSTOREREMOVE=1", "somebody's")
        manager.keeps(0)

    def test_a_manager_that_does_not_read_holds_nobody_up(
        self, original: Original, start: Callable[..., Any], manager: Manager, nursery: Nursery, project: Path
    ) -> None:
        """More runs than its queue holds: they are settled all the same, and parked when it reads again."""
        start()
        agents = nursery.spawn(350)
        with_rows = {original.create_run(agent): agent for agent in agents}
        run = next(iter(with_rows))
        wait_until(lambda: rows(project, "select count(*) from run_process")[0][0] == len(agents))
        os.kill(with_rows[run], signal.SIGKILL)
        assert settled(project, run)[:2] == ("crashed", 137)
        manager.keeps(len(agents) - 1)
