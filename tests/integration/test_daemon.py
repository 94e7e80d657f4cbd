"""A real daemon beside real processes: what it settles, when, and what cannot stop it."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cgroups import eat, memory_group
from daemons import Daemon
from kit import COMMAND, DATA, Original, Processes, rows, run_ours, wait_until
from nursery import Nursery, as_root, hear, in_child_namespace, linux, say, tells_exits
from stores import ending

from supervisor import registry
from supervisor.process.stamp import stamp_of
from supervisor.registry import Origin
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

TOLD_TO_END = "import os, sys; print(os.getpid(), flush=True); sys.exit(int(sys.stdin.readline()))"
"""An agent that says its pid, and ends with the code that it is told."""

_DROP_CAPABILITY, _DAC_OVERRIDE = 24, 1
"""prctl(2), PR_CAPBSET_DROP, and capabilities(7)."""


@pytest.fixture
def start(processes: Processes, project: Path, tmp_path: Path) -> Callable[..., Daemon]:
    """Give the test a function that starts a daemon which looks after known stores only."""
    return functools.partial(Daemon, processes, tmp_path / "daemon.log")


def within(seconds: float, measure: Callable[[], float]) -> None:
    """Assert that the best of three runs is that fast: other tests may be using the machine."""
    found: list[float] = []
    while len(found) < 3 and (not found or min(found) >= seconds):
        found.append(measure())
    assert min(found) < seconds, found


def endings(directory: Path) -> list[tuple[object, ...]]:
    """Return what is known of all runs: id, status, exit code, cause, rank and who settled it."""
    return rows(
        directory,
        "select id, runs.status, runs.exit_code, cause, rank, settled_by from runs"
        " left join run_ending on run_id = id order by id",
    )


class TestDeaths:
    """What is settled, and how fast."""

    def test_a_foreign_run_is_settled_within_a_tenth_of_a_second(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """A process of somebody else is killed: its row says so at once."""
        daemon = start()

        def measure() -> float:
            agent = nursery.born()
            run = original.create_run(agent)
            daemon.watches((project, run))
            began = time.monotonic()
            os.kill(agent, signal.SIGKILL)
            wait_until(lambda: original.row(run)[0] != "running")
            took = time.monotonic() - began
            assert original.row(run)[:2] == ("crashed", 137)
            return took

        within(0.1, measure)
        (line,) = set(daemon.hear(rf"INFO settled {re.escape(str(project))}#1 .*"))
        assert "(claude, pid" in line
        assert "crashed with 137, killed; source: " in line

    def test_what_died_without_a_daemon_is_settled_at_its_start(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """A row whose process has gone meanwhile is lost, and a living one is left running."""
        gone, living = original.create_run(nursery.dead()), original.create_run(nursery.born())
        start()
        wait_until(lambda: original.row(gone)[0] != "running")
        assert endings(project) == [
            (gone, "crashed", None, "lost", 1, "daemon"),
            (living, "running", None, None, None, None),
        ]

    @pytest.mark.parametrize("code", [0, pytest.param(3, marks=tells_exits)])
    def test_a_run_whose_wrapper_was_killed_is_settled_as_it_ends(
        self, start: Callable[..., Daemon], processes: Processes, project: Path, code: int
    ) -> None:
        """With the wrapper dead, the daemon writes what the kernel says, at the agent's end."""
        daemon = start()
        wrapper = processes.ours(
            "wrap", sys.executable, "-c", TOLD_TO_END, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        processes.adopt(int(hear(wrapper)))
        daemon.watches((project, 1))
        wrapper.kill()
        wrapper.wait()
        assert endings(project)[0][1] == "running"
        say(wrapper, str(code))
        wait_until(lambda: endings(project)[0][1] != "running")
        assert endings(project) == [(1, "failed" if code else "completed", code, "exited", 2, "daemon")]

    def test_a_wrapper_that_lives_records_its_agent(
        self, start: Callable[..., Daemon], processes: Processes, project: Path
    ) -> None:
        """An agent killed under its wrapper is the wrapper's to record."""
        daemon = start()
        wrapper = processes.ours(
            "wrap", sys.executable, "-c", TOLD_TO_END, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        agent = processes.adopt(int(hear(wrapper)))
        daemon.watches((project, 1))
        os.kill(agent, signal.SIGKILL)
        assert wrapper.wait(20) == -signal.SIGKILL
        assert endings(project) == [(1, "crashed", 137, "killed", 3, "wrap")]
        second = processes.ours("wrap", sys.executable, "-c", TOLD_TO_END, stdin=subprocess.PIPE)
        daemon.watches((project, 2))
        say(second, "0")
        assert second.wait(20) == 0
        assert "settled" not in daemon.log()

    def test_many_deaths_at_once(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """Two hundred agents killed at once are all settled rightly."""
        agents = nursery.spawn(200)
        runs = [original.create_run(pid) for pid in agents]
        daemon = start()
        daemon.hear(r"watching .*", times=200)
        for pid in agents:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: rows(project, "select 1 from runs where status = 'running'") == [])
        assert endings(project) == [(run, "crashed", 137, "killed", 2, "daemon") for run in runs]
        assert len(daemon.hear(r"INFO settled .*", times=200)) == 200

    @as_root
    def test_a_foreign_agent_that_the_kernel_kills_for_want_of_memory(
        self, original: Original, start: Callable[..., Daemon], processes: Processes, project: Path
    ) -> None:
        """An OOM kill of somebody else's process is recorded as one, and ``why`` tells of the counter that rose."""
        daemon = start()
        with memory_group() as group:
            eater = group.eater(processes)
            run = original.create_run(eater.pid)
            daemon.watches((project, run))
            assert eat(eater) == -signal.SIGKILL
            wait_until(lambda: original.row(run)[0] != "running")
        assert endings(project) == [(run, "crashed", 137, "oom-killed", 2, "daemon")]
        told = run_ours("why", f"project#{run}")
        assert told.returncode == 0, told.stderr
        assert re.search(r"\Wcause +.*out of memory", told.stdout), told.stdout
        assert f"{group.folder}: oom_kill rose from 0 to 1" in told.stdout
        (evidence,) = rows(project, "select evidence ->> '$.oom.certain', evidence ->> '$.oom.after' from run_ending")
        assert evidence == (1, 1)

    def test_live_processes_are_never_settled(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """Rows of living processes stay as they are through sweeps and other runs' ends."""
        living = [original.create_run(pid, started_at=when) for pid in nursery.spawn(3) for when in (0, None, 1 << 40)]
        killed = nursery.born()
        run = original.create_run(killed)
        daemon = start("--sweep-every", "0.1")
        daemon.watches((project, run))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: original.row(run)[0] == "crashed")
        later = original.create_run(nursery.born())
        daemon.watches((project, later))
        assert [row[:2] for row in endings(project)] == [
            *((number, "running") for number in living),
            (run, "crashed"),
            (later, "running"),
        ]


class TestNoticing:
    """New rows, new stores, and what only a sweep finds."""

    def test_new_stores_and_rows_are_noticed_within_a_second(
        self, start: Callable[..., Daemon], nursery: Nursery, tmp_path: Path
    ) -> None:
        """A store that becomes known, and a row in a known one, are watched in less than a second."""
        daemon = start()
        numbers = iter(range(9))

        def measure() -> float:
            place = tmp_path / f"new-{next(numbers)}"
            place.mkdir()
            with Original(place) as original:
                first = original.create_run(nursery.born())
                began = time.monotonic()
                registry.add(str(place), Origin.CREATED)
                daemon.watches((place, first))
                between = time.monotonic()
                second = original.create_run(nursery.born())
                daemon.watches((place, second))
                return max(time.monotonic() - between, between - began)

        within(1, measure)

    def test_a_store_replaced_by_rename_is_followed(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """A daemon with a store open follows the file that takes its place: its rows count, and are settled there.

        ``PRAGMA data_version`` stays what it was: only device and inode tell.
        """
        before, after, there = nursery.spawn(3)
        run = original.create_run(before)
        daemon = start("--sweep-every", "3600")
        daemon.watches((project, run))
        wait_until(lambda: open_files(daemon.pid, "store.sqlite"))
        draft = project / "draft"
        draft.mkdir()
        with Original(draft) as other:
            new = [other.create_run(pid) for pid in (after, there)]
        original.close()
        folder = project / ".agent-yes"
        for leftover in ("store.sqlite-wal", "store.sqlite-shm"):
            (folder / leftover).unlink()  # they would be taken for the new file's
        os.replace(draft / ".agent-yes" / "store.sqlite", folder / "store.sqlite")
        daemon.hear(rf"watching {re.escape(f'{project}#{new[0]}')}: .*{after}")
        daemon.watches((project, new[1]))
        for pid in (before, after):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: endings(project)[0][1] != "running")
        assert endings(project) == [
            (new[0], "crashed", 137, "killed", 2, "daemon"),
            (new[1], "running", None, None, None, None),
        ]

    def test_an_inferred_end_is_taken_back_when_a_store_is_restored(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """A run that a restored store calls lost runs again while its very process lives, and is settled as it ends.

        Of the other lost runs there one has another process under its pid now, and one none: they stay lost
        (vikasprogrammer/agentric#741).
        """
        agent, stranger = nursery.spawn(2)
        gone = nursery.dead()
        lost = [original.create_run(pid) for pid in (agent, stranger, gone)]
        with SupervisedStore(str(project)) as store:
            stamps = [stamp_of(pid) for pid in (agent, nursery.born(), gone)]
            stamps[1]["pid"] = stranger
            store.keep_stamps(list(zip(lost, stamps, strict=True)), by="test")
            store.settle([(claim, ending()) for claim in store.running_claims()])
        assert [row[1:4] for row in endings(project)] == [("crashed", None, "lost")] * 3
        daemon = start("--sweep-every", "0.1")
        daemon.hear(rf"{re.escape(f'{project}#{lost[0]}')} runs after all: pid {agent} is alive")
        daemon.watches((project, lost[0]))
        assert [original.row(run)[0] for run in lost] == ["running", "crashed", "crashed"]
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: original.row(lost[0])[0] == "crashed")
        assert [row[2:4] for row in endings(project)] == [(137, "killed"), (None, "lost"), (None, "lost")]

    def test_a_store_that_is_forgotten_is_left_alone(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """What was watched in a store is let go with it, and the daemon keeps none of its files open."""
        agent = nursery.born()
        run = original.create_run(agent)
        daemon = start()
        daemon.watches((project, run))
        wait_until(lambda: open_files(daemon.pid, "store.sqlite", "pidfd"))
        registry.forget(str(project))
        wait_until(lambda: not open_files(daemon.pid, "store.sqlite", "pidfd"))
        os.kill(agent, signal.SIGKILL)
        assert daemon.stop()[0] == 0
        assert original.row(run)[0] == "running"

    def test_an_idle_store_is_kept_open_by_nobody(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """After a store's last run has ended, neither connection nor pidfd is left."""
        agent = nursery.born()
        run = original.create_run(agent)
        daemon = start()
        daemon.watches((project, run))
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: original.row(run)[0] == "crashed")
        wait_until(lambda: not open_files(daemon.pid, "store.sqlite", "pidfd"))

    def test_a_sweep_finds_what_no_event_tells(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """A refused store that is put right without any change to its files is looked after at the next sweep."""
        agent = nursery.born()
        run = original.create_run(agent)
        folder, elsewhere = project / ".agent-yes", project / "elsewhere"
        folder.rename(elsewhere)
        folder.symlink_to(elsewhere)
        daemon = start("--sweep-every", "0.2")
        daemon.hear("is a symbolic link")
        folder.unlink()
        elsewhere.rename(folder)
        daemon.watches((project, run))
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: original.row(run)[:2] == ("crashed", 137))

    def test_stores_of_working_directories_are_discovered(self, project: Path, tmp_path: Path) -> None:
        """The store that a live process stands in becomes known, without anybody's doing."""
        with Original(project) as original:
            # In a PID namespace of its own, so that it finds no other store of this machine.
            inside = 'sleep 1000 & cd / && exec "$0" "$@" daemon --discover --verbose'
            if subprocess.run(in_child_namespace("true"), capture_output=True, check=False).returncode:
                pytest.skip("needs user and PID namespaces")
            with (
                (tmp_path / "log").open("w") as log,
                subprocess.Popen(
                    in_child_namespace("sh", "-c", inside, *COMMAND),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ) as process,
            ):
                try:
                    wait_until(lambda: f"found a store in {project}" in (tmp_path / "log").read_text())
                    run = original.create_run(2)  # the namespace's second process: sleep
                    wait_until(lambda: f"watching {project}#{run}" in (tmp_path / "log").read_text())
                finally:
                    process.kill()
        assert [entry.origin for entry in registry.entries()] == [Origin.FOUND]


class TestOneDaemon:
    """The lock, and how a daemon ends."""

    def test_a_second_daemon_says_who_is_there(self, start: Callable[..., Daemon]) -> None:
        """One daemon per user: the second names the first and gives up; the first goes on."""
        daemon = start()
        second = run_ours("daemon", "--no-discover")
        assert second.returncode == 1
        assert f"a daemon is running already: pid {daemon.pid}, since 2" in second.stderr
        assert second.stderr.count("\n") == 1
        assert daemon.process.poll() is None

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_cleanly(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path, number: int
    ) -> None:
        """SIGTERM and Ctrl-C end it within a second with 0; the agents run on, and another may start."""
        agent = nursery.born()
        run = original.create_run(agent)

        def measure() -> float:
            daemon = start()
            daemon.watches((project, run))
            code, took = daemon.stop(number)
            assert code == 0
            assert daemon.log().endswith("stopped; 1 running agents are left alone\n")
            return took

        within(1, measure)
        assert "\nState:\tS" in Path(f"/proc/{agent}/status").read_text()
        assert original.row(run) == ("running", None, None)

    def test_a_killed_daemon_is_replaced(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """After kill -9 the next daemon settles what went meanwhile, and binds again what lives."""
        gone, living = nursery.spawn(2)
        runs = original.create_run(gone), original.create_run(living)
        daemon = start()
        daemon.watches(*((project, run) for run in runs))
        wait_until(lambda: rows(project, "select count(*) from run_process") == [(2,)])
        daemon.process.kill()
        daemon.process.wait()
        os.kill(gone, signal.SIGKILL)
        nursery.reap(gone)
        daemon = start()
        daemon.watches((project, runs[1]))
        os.kill(living, signal.SIGKILL)
        wait_until(lambda: original.row(runs[1])[0] == "crashed")
        wait_until(lambda: original.row(runs[0])[0] == "crashed")
        assert endings(project) == [
            (runs[0], "crashed", None, "lost", 1, "daemon"),
            (runs[1], "crashed", 137, "killed", 2, "daemon"),
        ]


def test_the_journal_has_times_of_its_own(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Where stderr is the journal, lines bear no time; elsewhere they do, whatever the environment has inherited."""
    log = tmp_path / "daemon.log"
    log.touch()
    status = log.stat()
    for stream, beginning in ((f"{status.st_dev}:{status.st_ino}", "<6>supervising"), ("1:1", "20")):
        daemon = start(env={**os.environ, "JOURNAL_STREAM": stream})
        assert daemon.log().startswith(beginning)
        daemon.stop()


class TestTrouble:
    """Stores that are odd, damaged, locked or read-only."""

    def test_junk_rows_are_left_alone(self, start: Callable[..., Daemon], nursery: Nursery, project: Path) -> None:
        """A store full of odd values is looked after: what cannot be judged stays, what can is settled."""
        folder = project / ".agent-yes"
        folder.mkdir()
        shutil.copy(DATA / "stores" / "bun-866ebbb-odd.sqlite", folder / "store.sqlite")
        registry.add(str(project), Origin.ADDED)
        columns = "select id, pid, status, exit_code, ended_at, args from runs where id < 20"
        before = rows(project, columns)
        agent = nursery.born()
        with Original(project) as original:
            run = original.create_run(agent, args="{no json")
            daemon = start("--sweep-every", "0.2")
            daemon.watches((project, run))
            daemon.hear(r"cannot judge .*", times=17)
            os.kill(agent, signal.SIGKILL)
            wait_until(lambda: original.row(run)[:2] == ("crashed", 137))
        assert rows(project, columns) == before
        lines = re.findall(r"cannot judge .*#(\d+): .* \((F\d+)\)", daemon.log())
        assert len(lines) == 17
        assert {line for _, line in lines} == {"F4", "F5"}
        assert "Traceback" not in daemon.log()

    def test_a_damaged_store_is_one_warning(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path, tmp_path: Path
    ) -> None:
        """Beside a damaged store a good one is looked after, and the damaged one is named once."""
        damaged = tmp_path / "damaged" / ".agent-yes" / "store.sqlite"
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(b"This is no database." * 500)
        registry.add(str(tmp_path / "damaged"), Origin.ADDED)
        agent = nursery.born()
        run = original.create_run(agent)
        daemon = start("--sweep-every", "0.1")
        daemon.watches((project, run))
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: original.row(run)[0] == "crashed")
        (warning,) = re.findall("WARNING .*", daemon.log())
        assert str(damaged) in warning
        assert "is damaged" in warning

    def test_a_locked_store_is_written_afterwards(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """An agent that dies while its store is locked is settled when the lock is gone."""
        agent = nursery.born()
        run = original.create_run(agent)
        daemon = start()
        daemon.watches((project, run))
        wait_until(lambda: rows(project, "select count(*) from run_process") == [(1,)])
        original.connection.execute("begin immediate")
        os.kill(agent, signal.SIGKILL)
        daemon.hear("is locked by another process", times=2)
        original.connection.execute("rollback")
        wait_until(lambda: original.row(run)[0] == "crashed")
        assert endings(project) == [(run, "crashed", 137, "killed", 2, "daemon")]
        assert "WARNING" not in daemon.log()

    def test_a_store_that_may_not_be_written_is_tried_again(
        self, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """What ended while the store was read-only is written when it is not, and one warning says why it was not."""
        agent = nursery.born()
        with Original(project) as original:
            run = original.create_run(agent)
        with SupervisedStore(str(project)) as store:
            assert len(store.running_claims()) == 1  # has its tables now
        registry.add(str(project), Origin.ADDED)
        file = project / ".agent-yes" / "store.sqlite"
        file.chmod(0o400)
        daemon = start(preexec_fn=drop_override)
        daemon.watches((project, run))
        os.kill(agent, signal.SIGKILL)
        daemon.hear("WARNING .*cannot be written")
        file.chmod(0o600)
        wait_until(lambda: rows(project, "select status from runs") == [("crashed",)])
        assert endings(project) == [(run, "crashed", 137, "killed", 2, "daemon")]
        assert len(re.findall("WARNING", daemon.log())) == 1

    def test_text_of_a_store_does_not_speak_to_the_terminal(
        self, original: Original, start: Callable[..., Daemon], nursery: Nursery, project: Path
    ) -> None:
        """Escape sequences and line breaks in a store's values do not reach the log."""
        original.connection.execute("update projects set cmd = ?", ["\x1b[2Jcl\nINFO settled aude"])
        agent = nursery.born()
        run = original.create_run(agent)
        daemon = start()
        daemon.watches((project, run))
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: original.row(run)[0] == "crashed")
        (line,) = daemon.hear("INFO settled /.*")
        assert "\N{REPLACEMENT CHARACTER}[2Jcl" in line
        assert "INFO settled aude, pid" in line
        assert "\x1b" not in daemon.log()


def drop_override() -> None:
    """Let file rights count for root too, from the exec on."""
    ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _DAC_OVERRIDE, 0, 0, 0)


def open_files(pid: int, *names: str) -> list[str]:
    """Return what a process has open, of what has one of those names."""
    folder, found = f"/proc/{pid}/fd", []
    for descriptor in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{descriptor}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return [link for link in found if any(name in link for name in names)]
