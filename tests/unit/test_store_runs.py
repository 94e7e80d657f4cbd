"""The way of a run from first sight to settled, from scripted histories."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from kit import Original, Processes, rows, wait_until
from nursery import Nursery, linux, tells_exits
from stage import NOBODY, Stage, absent, identity

from supervisor.daemon import supervisor, watch
from supervisor.daemon.bindings import (
    LONGEST_RETRY,
    MASS_LOOK,
    OWNER_GRACE,
    REAP_GRACE,
    RETRY,
    REUSED_LOOK,
    SECOND_LOOK,
    STOPPED_OWNER_GRACE,
    UNKNOWN_WRITER_GRACE,
)
from supervisor.daemon.means import FD_RESERVE, Settled
from supervisor.daemon.store_runs import StoreRuns
from supervisor.daemon.supervisor import MOST_AT_REST
from supervisor.daemon.watch import StoreWatch
from supervisor.models import Rank
from supervisor.process import facts, pidfd, procfs, signature
from supervisor.process.judge import Facts
from supervisor.process.surroundings import OomKills
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

INFERENCE, KERNEL = Rank.INFERENCE, Rank.KERNEL
KILLED = ("crashed", 137, "killed", KERNEL)
LOST = ("crashed", None, "lost", INFERENCE)


@pytest.fixture
def owner(processes: Processes) -> subprocess.Popen[str]:
    """Give the test a process that could record how a run ends."""
    return processes.living()


def test_times_are_those_of_the_law() -> None:
    """How long anybody is waited for is settled, and no test of ours may move with it."""
    assert (SECOND_LOOK, REUSED_LOOK, MASS_LOOK) == (2, 5, 10)
    assert (OWNER_GRACE, STOPPED_OWNER_GRACE, UNKNOWN_WRITER_GRACE, REAP_GRACE) == (3, 30, 1, 1)
    assert (RETRY, LONGEST_RETRY) == (0.25, 30)


class TestOnlyThese:
    """A tick may be told which stores have changed."""

    def test_others_are_not_looked_at(self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that nothing is told of costs nothing, after its first look."""
        monkeypatch.setattr(watch, "_SETTLES_WITHIN_NS", 0)
        stage.run(nursery.born())
        stage.supervisor.tick(only=())
        assert stage.runs.alive == 1
        stage.run(nursery.born())
        stage.supervisor.tick(only=["/elsewhere"])
        assert stage.runs.alive == 1
        stage.supervisor.tick(only=[str(stage.directory)])
        assert stage.runs.alive == 2

    def test_one_that_has_just_changed_is_looked_at_again(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit may show after its write has been told of, when nothing more is told."""
        monkeypatch.setattr(watch, "_SETTLES_WITHIN_NS", 3600 * 10**9)
        stage.tick()
        stage.run(nursery.born())
        stage.supervisor.tick(only=())
        assert stage.runs.alive == 1

    def test_what_comes_due_is_done(self, stage: Stage) -> None:
        """A second look does not wait for anything to be told."""
        run = stage.gone()
        stage.tick()
        stage.now += SECOND_LOOK
        stage.supervisor.tick(only=())
        assert stage.ending(run) == LOST

    def test_a_locked_store_is_read_when_it_can_be(self, stage: Stage, nursery: Nursery) -> None:
        """A store whose change could not be read for a lock is tried again, though nothing more is told."""
        stage.tick()
        stage.run(nursery.born())
        stage.original.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        stage.original.connection.execute("BEGIN EXCLUSIVE")
        stage.tick()
        assert stage.runs.alive == 0
        stage.original.connection.execute("ROLLBACK")
        stage.original.connection.execute("PRAGMA locking_mode = NORMAL")
        stage.original.connection.execute("SELECT count(*) FROM runs").fetchone()
        stage.supervisor.tick(only=())
        assert stage.runs.alive == 1

    def test_a_process_without_pidfd_is_asked_after(self, stage: Stage, nursery: Nursery) -> None:
        """A run that no pidfd tells of ends in time, though nothing is told of its store."""
        stage.supervisor.means.fd_limit = 0
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        assert stage.supervisor.polls
        nursery.end(agent, -signal.SIGKILL)
        stage.supervisor.tick(only=())
        assert stage.row(run)[0] == "crashed"
        assert not stage.supervisor.polls


class TestStoresAtRest:
    """Stores in which nothing runs or changes: a sweep reads some of them, lest it grow with their number."""

    @pytest.fixture(autouse=True)
    def settled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have a store come to rest at once when it does not change."""
        monkeypatch.setattr(watch, "_SETTLES_WITHIN_NS", 0)
        monkeypatch.setattr(watch, "RESTS_AFTER", 0)

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Give the projects whose stores are read, as they are."""
        read: list[str] = []
        reconcile = StoreRuns.reconcile

        def noting(runs: StoreRuns, *, sweep: bool = False) -> None:
            read.append(runs.watch.directory)
            reconcile(runs, sweep=sweep)

        monkeypatch.setattr(StoreRuns, "reconcile", noting)
        return read

    def test_a_sweep_reads_some_of_them_in_turn(
        self, stage: Stage, nursery: Nursery, tmp_path: Path, read: list[str]
    ) -> None:
        """Each has its turn; one in which something runs is read by every sweep, and one that has changed at once."""
        many = [str(tmp_path / f"at-rest-{number}") for number in range(2 * MOST_AT_REST)]
        for directory in many:
            os.mkdir(directory)
            Original(Path(directory)).close()
        busy = str(stage.directory)
        stage.supervisor.follow([busy, *many])
        stage.run(nursery.born())
        stage.tick(sweep=True)
        assert sorted(read) == sorted([busy, *many])
        stage.tick(sweep=True)  # reads those again to which the first has added our tables
        read.clear()
        stage.tick(sweep=True)
        assert (len(read), read.count(busy)) == (MOST_AT_REST + 1, 1)
        stage.tick(sweep=True)
        assert sorted(read) == sorted([busy, busy, *many])
        read.clear()
        stage.tick()
        assert read == []
        original = Original(Path(many[0]))
        run = original.create_run(nursery.born())
        stage.tick(sweep=True)
        assert many[0] in read
        assert (stage.supervisor.alive, original.row(run)[0]) == (2, "running")
        original.close()

    def test_one_with_an_ending_that_may_be_wrong_is_read_by_each(
        self, stage: Stage, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that was settled by inference in this boot is looked for by each sweep, also if it is alone."""
        stage.gone()
        stage.tick()
        stage.pass_(SECOND_LOOK)
        stage.tick(sweep=True)
        monkeypatch.setattr(supervisor, "MOST_AT_REST", 0)
        read.clear()
        for _ in range(3):
            stage.tick(sweep=True)
        assert not stage.is_open()
        assert read == 3 * [str(stage.directory)]
        stage.original.connection.execute("delete from run_ending")
        stage.tick(sweep=True)
        read.clear()
        stage.tick(sweep=True)
        assert read == []

    @pytest.mark.parametrize("refuses", ["running_rows", "running_claims", "inferred_claims", "keep_stamps"])
    def test_one_that_refuses_something_is_tried_by_each(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch, refuses: str
    ) -> None:
        """What is wrong with a store may end without a change of its files; its runs are then watched, and stamped."""
        monkeypatch.setattr(supervisor, "MOST_AT_REST", 0)
        stage.tick(sweep=True)

        def refuse(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        run = stage.run(nursery.born())
        with monkeypatch.context() as broken:
            broken.setattr(SupervisedStore, refuses, refuse)
            for _ in range(3):
                stage.tick(sweep=True)
        stage.tick(sweep=True)
        assert stage.runs.alive == 1
        assert rows(stage.directory, "select run_id from run_process") == [(run,)]

    def test_one_that_has_changed_lately_is_read_by_each(
        self, stage: Stage, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit may show long after its last write: when its writer has synced it, which changes no file."""
        monkeypatch.setattr(supervisor, "MOST_AT_REST", 0)
        monkeypatch.setattr(watch, "RESTS_AFTER", 60)
        for _ in range(5):
            stage.tick(sweep=True)
        assert read == 5 * [str(stage.directory)]

    def test_all_are_read_if_they_are_doubted(
        self, stage: Stage, read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A person who has the daemon read everything anew gets just that."""
        monkeypatch.setattr(supervisor, "MOST_AT_REST", 0)
        for _ in range(3):
            stage.tick(sweep=True)
        read.clear()
        stage.tick(sweep=True)
        assert read == []
        stage.supervisor.doubt()
        stage.tick(sweep=True)
        assert read == [str(stage.directory)]


class TestFirstSight:
    """Rows that were never bound."""

    def test_an_absent_process_is_settled_at_the_second_look(self, stage: Stage) -> None:
        """A row without a process waits for a second look, two seconds later, and is lost then."""
        run = stage.gone()
        stage.tick()
        assert stage.supervisor.next_due() == stage.now + SECOND_LOOK
        assert [claim.run_id for claim in stage.runs.waiting()] == [run]
        stage.pass_(SECOND_LOOK - 0.01)
        assert (stage.row(run), len(stage.looked)) == (("running", None), 1)
        stage.pass_(0.01)
        assert (stage.ending(run), stage.row(run)) == (LOST, ("crashed", None))
        assert len(stage.looked) == 2
        assert stage.supervisor.next_due() is None

    @pytest.mark.parametrize("column", ["pid", "started_at"])
    def test_a_row_that_changes_between_the_looks_is_judged_anew(self, stage: Stage, column: str) -> None:
        """The second look counts only if pid and start are those of the first."""
        run = stage.gone()
        stage.tick()
        stage.now += SECOND_LOOK / 2
        stage.looks[NOBODY + 1] = absent(NOBODY + 1)
        stage.original.connection.execute(f"update runs set {column} = {column} + 1 where id = ?", [run])
        stage.tick(sweep=True)
        stage.pass_(SECOND_LOOK / 2)
        assert stage.row(run) == ("running", None)

    def test_a_row_that_its_owner_completes_between_the_looks_is_left_alone(self, stage: Stage) -> None:
        """What the owner records before the second look stands."""
        run = stage.gone()
        stage.tick()
        stage.original.connection.execute("update runs set status = 'completed', exit_code = 0 where id = ?", [run])
        stage.pass_(SECOND_LOOK)
        assert (stage.row(run), stage.ending(run)) == (("completed", 0), None)
        assert stage.supervisor.next_due() is None

    def test_what_others_have_written_is_seen_beside_a_second_look(self, stage: Stage, nursery: Nursery) -> None:
        """What the second look has read of other rows is heeded, for the next look takes it for known."""
        other = stage.run(nursery.born())
        run = stage.gone()
        stage.tick()
        stage.original.connection.execute("update runs set status = 'completed', exit_code = 0 where id = ?", [other])
        stage.now += MASS_LOOK
        stage.supervisor.on_exits()
        assert stage.ending(run) == LOST
        stage.tick()
        assert stage.runs.alive == 0

    def test_a_zombie_of_a_completed_row_is_let_go(self, stage: Stage, nursery: Nursery) -> None:
        """What a suspect has open is closed when its row runs no more."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        nursery.end(agent, 0)
        stage.tick()
        assert stage.pidfds() == 1
        stage.original.connection.execute("update runs set status = 'completed', exit_code = 0 where id = ?", [run])
        stage.tick()
        assert (stage.pidfds(), stage.supervisor.next_due()) == (0, None)

    def test_a_store_that_had_a_row_of_ours_stays_ours(self, project: Path, nursery: Nursery) -> None:
        """A process that was matched shows the store's later rows to be of our PID namespace, after its end too."""
        scene = dataclasses.replace(facts.scene(), pid_max=1 << 22, initial_pid_ns=False)
        with Stage(project, scene=scene) as stage:
            agent = nursery.born()
            stage.run(agent)
            stage.tick()
            nursery.end(agent, -signal.SIGKILL)
            stage.exits()
            stage.looks[NOBODY] = absent(NOBODY)
            run = stage.run(NOBODY)
            stage.tick()
            stage.pass_(SECOND_LOOK)
            assert stage.ending(run) == LOST

    def test_a_process_that_shows_at_the_second_look_lives(self, stage: Stage, nursery: Nursery) -> None:
        """A second look that shows it alive binds it."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.looks[agent] = absent(agent)
        stage.tick()
        assert stage.runs.waiting()
        del stage.looks[agent]
        stage.pass_(SECOND_LOOK)
        assert (stage.row(run), stage.runs.alive, stage.runs.waiting()) == (("running", None), 1, [])

    @pytest.mark.parametrize(
        ("dead", "living", "waits"), [(5, 0, SECOND_LOOK), (6, 0, MASS_LOOK), (6, 6, SECOND_LOOK), (7, 6, MASS_LOOK)]
    )
    def test_many_dead_at_once_wait_longer(
        self, stage: Stage, nursery: Nursery, dead: int, living: int, waits: float
    ) -> None:
        """More than five rows and more than half of a store that look dead at once wait ten seconds."""
        runs = [stage.gone(number) for number in range(dead)]
        alive = [stage.run(pid) for pid in (nursery.spawn(living) if living else [])]
        stage.tick()
        stage.pass_(waits - 0.01)
        assert {stage.row(run) for run in runs} == {("running", None)}
        stage.pass_(0.01)
        assert {stage.ending(run) for run in runs} == {LOST}
        assert {stage.row(run) for run in alive} <= {("running", None)}

    def test_a_reboot_is_certain(self, stage: Stage) -> None:
        """Rows of another boot are settled at once, however many."""
        runs = [stage.run(NOBODY + number, boot_id="another") for number in range(10)]
        stage.tick()
        assert {stage.ending(run) for run in runs} == {("crashed", None, "rebooted", INFERENCE)}
        assert stage.looked == []

    def test_a_reused_pid_is_certain(self, stage: Stage, nursery: Nursery) -> None:
        """A row whose stamp names another process than the one that has its pid now is settled at once."""
        agent = nursery.born()
        run = stage.run(agent, start_ticks=1, pidfd_inode=1)
        stage.tick()
        assert stage.ending(run) == ("crashed", None, "pid-reused", INFERENCE)
        assert stage.pidfds() == 0

    @pytest.mark.parametrize("reaped", [False, pytest.param(True, marks=tells_exits)])
    def test_a_zombie_tells_its_exit_status(self, stage: Stage, nursery: Nursery, reaped: bool) -> None:
        """A process that is a zombie at the first look is settled at the second, by what the kernel says."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        nursery.end(agent, -signal.SIGKILL)
        stage.tick()
        assert stage.row(run) == ("running", None)
        if reaped:
            nursery.reap(agent)
        stage.pass_(SECOND_LOOK)
        assert stage.ending(run) == KILLED

    def test_a_zombie_is_probably_short_of_memory(self, project: Path, nursery: Nursery, tmp_path: Path) -> None:
        """Nothing is known of its cgroup: where the machine has just killed for memory, a SIGKILL is taken for that."""
        vmstat = tmp_path / "vmstat"
        vmstat.write_text("nr 1\noom_kill 0\n")
        with Stage(project, oom_kills=OomKills(vmstat=str(vmstat))) as stage:
            agent = nursery.born()
            run = stage.run(agent, stamped=True)
            nursery.end(agent, -signal.SIGKILL)
            stage.tick()
            vmstat.write_text("nr 1\noom_kill 1\n")
            stage.pass_(SECOND_LOOK)
            assert stage.ending(run) == ("crashed", 137, "oom-killed", KERNEL)

    def test_the_owner_of_a_zombie_has_the_rest_of_its_time(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """After two looks a living owner still has what is left of its three seconds, and its end ends them."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        nursery.end(agent, 3)
        stage.tick()
        stage.pass_(SECOND_LOOK)
        assert stage.supervisor.next_due() == pytest.approx(stage.now + OWNER_GRACE - SECOND_LOOK)
        owner.kill()
        stage.exits()
        assert stage.ending(run) == ("failed", 3, "exited", KERNEL)

    def test_a_stranger_with_the_pid_is_looked_at_again_later(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that began after the row, and certainly is no agent, makes the pid a reused one after 5 seconds."""
        monkeypatch.setattr(signature, "is_the_agent", lambda *_, **__: False)
        stranger, agent = nursery.spawn(2)
        stage.run(agent)
        run = stage.run(stranger, started_at=int(time.time()) - 1000)
        stage.tick()
        stage.pass_(REUSED_LOOK - 0.01)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.01)
        assert stage.ending(run) == ("crashed", None, "pid-reused", INFERENCE)
        assert stage.pidfds() == 1

    def test_a_stranger_of_the_second_look_is_looked_at_again(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stranger that was not there at the first look has been seen once only, and that is not enough."""
        monkeypatch.setattr(signature, "is_the_agent", lambda *_, **__: False)
        stranger, agent = nursery.spawn(2)
        stage.run(agent)
        run = stage.run(stranger, started_at=int(time.time()) - 1000)
        stage.looks[stranger] = absent(stranger)
        stage.tick()
        del stage.looks[stranger]
        stage.pass_(SECOND_LOOK)
        assert stage.row(run) == ("running", None)
        stage.pass_(REUSED_LOOK)
        assert stage.ending(run) == ("crashed", None, "pid-reused", INFERENCE)

    def test_an_unknown_row_is_logged_once(self, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
        """A row that cannot be judged is one line in the log until it cannot be judged for another reason."""
        caplog.set_level("INFO", "supervisor")
        run = stage.run(-1)
        for _ in range(3):
            stage.tick(sweep=True)
        assert [record.getMessage() for record in caplog.records] == [
            f"cannot judge {stage.directory}#{run}: its pid is no process id (F4)"
        ]
        stage.original.connection.execute("update runs set pid = 4194305")
        for _ in range(3):
            stage.tick(sweep=True)
        assert [record.getMessage()[-4:] for record in caplog.records] == ["(F4)", "(F5)"]
        assert stage.row(run) == ("running", None)

    @pytest.mark.parametrize("change", ["delete from runs", "update runs set status = 'completed'"])
    def test_an_unknown_row_that_runs_no_more_is_let_go(self, stage: Stage, change: str) -> None:
        """A row that could not be judged is unknown only as long as it says that it runs."""
        stage.run(-1)
        stage.tick()
        assert list(stage.runs.unknown) == [1]
        stage.original.connection.execute(change)
        stage.tick()
        assert (stage.runs.unknown, stage.is_open()) == ({}, False)

    def test_what_can_be_judged_again_is_unknown_no_more(self, stage: Stage, nursery: Nursery) -> None:
        """A row that was unknown and is seen alive counts as alive."""
        agent = nursery.born()
        stage.run(agent)
        stage.looks[agent] = Facts(agent, None, None, None, None)
        stage.tick()
        assert list(stage.runs.unknown) == [1]
        del stage.looks[agent]
        stage.tick(sweep=True)
        assert (stage.runs.unknown, stage.runs.alive) == ({}, 1)

    def test_a_row_that_cannot_be_looked_at_stops_no_other(
        self, stage: Stage, nursery: Nursery, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A bug in the judging of one row leaves it running, is logged, and keeps the others from nothing."""
        agent, odd = nursery.born(), NOBODY + 7
        stage.looks[odd] = RuntimeError("a bug")
        spoilt, gone, living = stage.run(odd), stage.gone(), stage.run(agent)
        stage.tick()
        stage.pass_(SECOND_LOOK)
        assert (stage.row(spoilt), stage.ending(gone)) == (("running", None), LOST)
        assert "cannot be judged" in caplog.text
        nursery.end(agent, -9)
        stage.exits()
        assert stage.row(living) == ("crashed", 137)

    def test_the_wrong_process_ending_says_nothing_of_how(self, stage: Stage, nursery: Nursery) -> None:
        """A process that began long after its row is watched, but neither counted alive nor believed at its end."""
        agent = nursery.born()
        run = stage.run(agent, started_at=1_000_000_000)
        stage.tick()
        assert (stage.runs.unknown[run].line, stage.runs.alive) == ("F22", 0)
        assert rows(stage.directory, "select * from run_process") == []
        nursery.end(agent, 7)
        stage.exits()
        assert stage.ending(run) == LOST
        assert stage.runs.unknown == {}


class TestBound:
    """Rows whose process was seen alive."""

    @pytest.mark.parametrize(
        ("how", "ending"),
        [
            (-signal.SIGKILL, KILLED),
            (-signal.SIGSEGV, ("crashed", 139, "signalled", KERNEL)),
            (-signal.SIGTERM, ("crashed", 143, "stopped", KERNEL)),
            (3, ("crashed", 3, "unrecorded", KERNEL)),
        ],
    )
    def test_a_run_of_an_unknown_writer_is_settled_at_once(
        self, stage: Stage, nursery: Nursery, how: int, ending: tuple[object, ...]
    ) -> None:
        """A signal or a code that is not 0 is settled at once, as what the process has not recorded."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, how)
        stage.exits()
        assert stage.ending(run) == ending
        assert [(told.claim.run_id, told.ending.cause) for told in stage.told] == [(run, ending[2])]

    def test_a_plain_exit_waits_for_the_parent(self, stage: Stage, nursery: Nursery) -> None:
        """An exit with 0 is left to the process's parent for a second, and unrecorded after that."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.pass_(UNKNOWN_WRITER_GRACE - 0.01)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.01)
        assert stage.ending(run) == ("crashed", 0, "unrecorded", KERNEL)

    def test_a_plain_exit_that_is_recorded_is_left_alone(self, stage: Stage, nursery: Nursery) -> None:
        """What the unknown writer records within that second stands."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.original.connection.execute("update runs set status = 'completed', exit_code = 0 where id = ?", [run])
        stage.now += UNKNOWN_WRITER_GRACE
        stage.supervisor.on_exits()
        stage.tick()
        assert (stage.row(run), stage.ending(run), stage.told) == (("completed", 0), None, [])

    def test_a_plain_exit_does_not_wait_for_a_dead_parent(self, stage: Stage, processes: Processes) -> None:
        """With the parent's end nobody is left who could record an exit with 0."""
        nursery = Nursery(processes)
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        assert stage.row(run) == ("running", None)
        os.kill(nursery.pid, signal.SIGKILL)
        stage.exits()
        assert stage.ending(run) == ("crashed", 0, "unrecorded", KERNEL)

    def test_a_living_owner_comes_first(self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]) -> None:
        """An owner that lives has three seconds; then the kernel's word is written for it."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, 3)
        stage.exits()
        assert [claim.run_id for claim in stage.runs.waiting()] == [run]
        stage.pass_(OWNER_GRACE - 0.01)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.01)
        assert stage.ending(run) == ("failed", 3, "exited", KERNEL)

    def test_a_stopped_owner_has_longer(self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]) -> None:
        """An owner that a signal holds has thirty seconds."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        owner.send_signal(signal.SIGSTOP)
        wait_until(lambda: procfs.read_stat(owner.pid).is_stopped)
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.pass_(STOPPED_OWNER_GRACE - 0.01)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.01)
        assert stage.ending(run) == KILLED

    def test_an_owner_that_is_stopped_while_it_has_time_gets_more(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """When the three seconds are over, a stopped owner still has the rest of thirty."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        owner.send_signal(signal.SIGSTOP)
        wait_until(lambda: procfs.read_stat(owner.pid).is_stopped)
        stage.pass_(OWNER_GRACE)
        assert stage.row(run) == ("running", None)
        assert stage.supervisor.next_due() == stage.now + STOPPED_OWNER_GRACE - OWNER_GRACE

    def test_the_end_of_the_owner_ends_the_waiting(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """An owner that dies without a word is waited for no longer."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert stage.row(run) == ("running", None)
        owner.kill()
        stage.exits()
        assert stage.ending(run) == KILLED

    @pytest.mark.parametrize(
        ("how", "ending"),
        [
            (0, ("completed", 0, "exited", KERNEL)),
            (3, ("failed", 3, "exited", KERNEL)),
            (-signal.SIGTERM, ("failed", 143, "stopped", KERNEL)),
            (-signal.SIGKILL, KILLED),
        ],
    )
    def test_a_dead_owner_is_not_waited_for(
        self,
        stage: Stage,
        nursery: Nursery,
        owner: subprocess.Popen[str],
        how: int,
        ending: tuple[object, ...],
    ) -> None:
        """A run whose owner is gone is settled at its process's exit, as its owner would have."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        owner.kill()
        owner.wait()
        nursery.end(agent, how)
        stage.exits()
        assert stage.ending(run) == ending

    def test_an_owner_whose_pid_is_anothers_now_is_not_waited_for(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """An owner is a pid with a start: a stranger with its pid gets no time."""
        agent = nursery.born()
        run = stage.run(agent, owner=(owner.pid, 1))
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert stage.ending(run) == KILLED

    def test_what_the_owner_records_is_not_overwritten(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """An owner that records within its time has said how the run ended, whatever the kernel says."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.original.connection.execute("update runs set status = 'failed', exit_code = 9 where id = ?", [run])
        stage.now += OWNER_GRACE
        stage.supervisor.on_exits()
        stage.tick()
        owner.kill()
        assert (stage.row(run), stage.ending(run), stage.told) == (("failed", 9), None, [])
        assert len(stage.supervisor.means.exits) == 0

    @pytest.mark.parametrize("pid", [1 << 40, 0, -1, 1 << 31])
    def test_an_owner_that_is_no_process_id_harms_nothing(self, stage: Stage, nursery: Nursery, pid: int) -> None:
        """Whatever a store says the owner is, the run is settled when an owner's time is over."""
        agent = nursery.born()
        run = stage.run(agent, owner=(pid, None))
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.pass_(OWNER_GRACE)
        assert stage.ending(run) == KILLED

    def test_a_new_pid_under_the_same_row_is_judged_anew(self, stage: Stage, nursery: Nursery) -> None:
        """A resumed run keeps its row and changes its pid: the old process's end is not the run's any more.

        EmpiricaAI/empirica#195.
        """
        old, new = nursery.spawn(2)
        run = stage.run(old)
        stage.tick()
        stage.original.connection.execute("update runs set pid = ? where id = ?", [new, run])
        stage.tick()
        nursery.end(old, -signal.SIGKILL)
        assert (len(stage.supervisor.means.exits), stage.row(run)) == (1, ("running", None))
        nursery.end(new, 4)
        stage.exits()
        assert stage.row(run) == ("crashed", 4)

    def test_a_new_pid_not_yet_seen_is_not_settled_by_the_old(self, stage: Stage, nursery: Nursery) -> None:
        """The end of the process that a row named before is written only if the row still names it."""
        old, new = nursery.spawn(2)
        run = stage.run(old)
        stage.tick()
        stage.original.connection.execute("update runs set pid = ? where id = ?", [new, run])
        nursery.end(old, -signal.SIGKILL)
        stage.exits()
        assert stage.row(run) == ("running", None)
        stage.tick()
        nursery.end(new, 4)
        stage.exits()
        assert stage.row(run) == ("crashed", 4)

    @pytest.mark.parametrize("change", ["delete from runs", "update runs set status = 'completed', exit_code = 0"])
    def test_a_row_that_runs_no_more_is_let_go(self, stage: Stage, nursery: Nursery, change: str) -> None:
        """A row that is deleted, or completed by its owner, is watched no longer."""
        agent = nursery.born()
        stage.run(agent)
        stage.tick()
        assert stage.pidfds() == 1
        stage.original.connection.execute(change)
        stage.tick()
        assert (len(stage.supervisor.means.exits), stage.pidfds()) == (0, 0)
        nursery.end(agent, -signal.SIGKILL)
        stage.supervisor.on_exits()
        assert (stage.told, stage.runs.alive) == ([], 0)

    def test_the_stamp_is_kept(self, stage: Stage, nursery: Nursery) -> None:
        """A process bound at first sight is stamped, so that a reuse of its pid is certain later."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        columns = "run_id, pid, start_ticks, boot_id, pid_ns, stamped_by, owner_pid"
        ticks, here = procfs.read_stat(agent).start_ticks, facts.scene()
        assert rows(stage.directory, f"select {columns} from run_process") == [
            (run, agent, ticks, here.boot_id, here.pid_ns, "daemon", None)
        ]

    def test_a_stamp_is_written_once(self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stamp that is kept is not written again at each look."""
        stage.run(nursery.born())
        stage.tick()
        monkeypatch.setattr(StoreWatch, "keep_stamps", lambda *_, **__: pytest.fail("written again"))
        stage.original.create_run(-1)
        stage.tick(sweep=True)
        assert stage.runs.alive == 1

    def test_a_stamp_that_a_lock_kept_out_is_kept_later(self, stage: Stage, nursery: Nursery) -> None:
        """The stamp of a process bound while the store was locked is written when it is not."""
        run = stage.run(nursery.born())
        stage.run(nursery.born(), stamped=True)  # so that the store has its tables before it is locked
        stage.original.connection.execute("begin immediate")
        stage.tick()
        assert stage.runs.alive == 2
        stage.original.connection.execute("rollback")
        stage.tick(sweep=True)
        assert rows(stage.directory, "select count(*) from run_process where run_id = ?", [run]) == [(1,)]


class TestRetracting:
    """Runs that were called lost, and whose very process lives."""

    def lose(self, stage: Stage, pid: int) -> int:
        """Insert a row of a living process and have it called lost."""
        run = stage.run(pid, stamped=True)
        stage.looks[pid] = absent(pid)
        stage.tick()
        stage.pass_(SECOND_LOOK)
        assert stage.ending(run) == LOST
        del stage.looks[pid]
        return run

    def test_a_lost_run_that_lives_runs_again(
        self, stage: Stage, nursery: Nursery, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The next sweep sets it back to running, says so, and watches it: its end is settled as any other's.

        vikasprogrammer/agentric#741.
        """
        agent = nursery.born()
        run = self.lose(stage, agent)
        stage.tick()
        assert stage.row(run) == ("crashed", None), "only a sweep looks back"
        stage.tick(sweep=True)
        assert stage.original.row(run) == ("running", None, None)
        assert (stage.ending(run), stage.runs.alive) == (None, 1)
        assert f"{stage.directory}#{run} runs after all: pid {agent} is alive" in caplog.text
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert stage.ending(run) == KILLED

    def test_the_dead_stay_dead(self, stage: Stage, nursery: Nursery) -> None:
        """Neither a zombie, nor another process with the pid, nor what its owner has recorded since is set back."""
        zombie, agent, recorded = nursery.spawn(3)
        runs = [self.lose(stage, pid) for pid in (zombie, agent, recorded)]
        nursery.end(zombie, 0)
        sql = stage.original.connection.execute
        sql("update run_process set start_ticks = 1, pidfd_inode = 1 where run_id = ?", [runs[1]])
        sql("update runs set status = 'failed', exit_code = 3 where id = ?", [runs[2]])
        stage.tick(sweep=True)
        assert [stage.row(run) for run in runs] == [("crashed", None), ("crashed", None), ("failed", 3)]
        assert stage.pidfds() == 0

    def test_what_the_kernel_has_told_stands(self, stage: Stage, nursery: Nursery) -> None:
        """A run that was settled by its process's exit is never set back."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.tick(sweep=True)
        assert stage.ending(run) == KILLED


class TestHiddenStatus:
    """Zombies whose exit status we may not see before they are reaped."""

    @pytest.fixture(autouse=True)
    def hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hide exit statuses of zombies: the kernel shows 0 for them."""
        monkeypatch.setattr(procfs, "exit_status_visible", lambda _: False)

    def test_it_is_lost_after_a_while(self, stage: Stage, nursery: Nursery) -> None:
        """A zombie that is not reaped within the grace is settled as lost."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.pass_(REAP_GRACE - 0.01)
        assert stage.row(run) == ("running", None)
        stage.pass_(0.01)
        assert stage.ending(run) == LOST

    @tells_exits
    def test_a_reap_in_time_tells_it(self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]) -> None:
        """A zombie that is reaped within the grace is settled by its exit status, once."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        nursery.reap(agent)
        stage.exits()
        assert stage.row(run) == ("running", None), "the owner still has its time"
        stage.pass_(OWNER_GRACE)
        assert stage.ending(run) == ("completed", 0, "exited", KERNEL)
        assert len(stage.told) == 1

    def test_the_end_of_the_owner_does_not_shorten_the_grace(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """A zombie whose owner dies may still be reaped within the second."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        owner.kill()
        stage.exits()
        assert stage.row(run) == ("running", None)
        stage.pass_(REAP_GRACE)
        assert stage.ending(run) == LOST

    @tells_exits
    def test_a_reap_that_nobody_records_is_settled_at_once(
        self, stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]
    ) -> None:
        """A run whose owner is dead waits for the reap of its zombie alone."""
        agent = nursery.born()
        run = stage.run(agent, owner=identity(owner.pid))
        stage.tick()
        owner.kill()
        owner.wait()
        nursery.end(agent, 0)
        stage.exits()
        assert stage.row(run) == ("running", None)
        nursery.reap(agent)
        stage.exits()
        assert stage.ending(run) == ("completed", 0, "exited", KERNEL)

    def test_a_late_reap_that_tells_nothing_is_the_end_of_it(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On kernels that tell no exit status after the reap, a lost run stays lost, and nothing stays open."""
        monkeypatch.setattr(pidfd, "exit_status", lambda _: None)
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.pass_(REAP_GRACE)
        nursery.reap(agent)
        stage.exits()
        assert (stage.ending(run), len(stage.told), stage.pidfds()) == (LOST, 1, 0)

    @tells_exits
    @pytest.mark.parametrize("sweeps", [0, 2])
    def test_a_late_reap_corrects_it(self, stage: Stage, nursery: Nursery, sweeps: int) -> None:
        """A zombie reaped after its run was called lost tells its exit status then, sweeps or not."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.pass_(REAP_GRACE)
        assert stage.ending(run) == LOST
        for _ in range(sweeps):
            stage.tick(sweep=True)
            stage.supervisor.on_exits()
        nursery.reap(agent)
        stage.exits()
        assert stage.ending(run) == ("crashed", 0, "unrecorded", KERNEL)
        assert len(stage.supervisor.means.exits) == 0

    @tells_exits
    def test_a_late_reap_corrects_what_could_not_be_written(self, stage: Stage, nursery: Nursery) -> None:
        """The exit status is not lost when the store was locked as the run was called lost."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.original.connection.execute("begin immediate")
        stage.pass_(REAP_GRACE)
        nursery.reap(agent)
        stage.exits()
        stage.original.connection.execute("rollback")
        stage.pass_(LONGEST_RETRY)
        assert stage.ending(run) == ("crashed", 0, "unrecorded", KERNEL)
        assert [told.ending.cause for told in stage.told] == ["unrecorded"]

    def test_a_sweep_does_not_shorten_the_grace(self, stage: Stage, nursery: Nursery) -> None:
        """A sweep that finds the zombie again does not call it lost any sooner."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, 0)
        stage.exits()
        stage.now += REAP_GRACE / 2
        stage.tick(sweep=True)
        stage.exits()
        stage.tick()
        assert stage.row(run) == ("running", None)

    def test_a_new_process_under_the_row_is_not_mistaken_for_the_zombie(self, stage: Stage, nursery: Nursery) -> None:
        """A row that is resumed while its first zombie is still not reaped is settled by its new process."""
        first, second = nursery.spawn(2)
        run = stage.run(first)
        stage.tick()
        nursery.end(first, 0)
        stage.exits()
        stage.pass_(REAP_GRACE)
        resume = "update runs set status = 'running', exit_code = null, ended_at = null, pid = ? where id = ?"
        stage.original.connection.execute(resume, [second, run])
        stage.tick()
        nursery.end(second, 5)
        stage.exits()
        assert stage.row(run) == ("crashed", 5)


class TestWithoutPidfds:
    """The poll tier: too few descriptors, or a kernel without them."""

    def test_runs_beyond_the_limit_are_polled(self, project: Path, nursery: Nursery) -> None:
        """Where descriptors run out, processes are asked after at each tick, and settled as well."""
        with Stage(project, fd_limit=FD_RESERVE) as stage:
            agent, other = nursery.spawn(2)
            run, living = stage.run(agent), stage.run(other)
            stage.tick()
            assert len(stage.supervisor.means.exits) == 0
            assert stage.pidfds() == 0
            stage.tick()
            assert stage.row(run) == ("running", None)
            nursery.end(agent, -signal.SIGKILL)
            stage.tick()
            assert stage.ending(run) == KILLED
            assert stage.row(living) == ("running", None)

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSYS, errno.EPERM, errno.ENOMEM])
    def test_processes_without_a_pidfd_are_polled(self, project: Path, nursery: Nursery, number: int) -> None:
        """A pidfd that cannot be had says nothing of the process; its zombie still tells how it ended."""
        with Stage(project, look=functools.partial(facts.look, open_pidfd=refusing(number))) as stage:
            agent = nursery.born()
            run = stage.run(agent)
            stage.tick()
            stage.tick(sweep=True)
            assert (stage.row(run), stage.runs.alive) == (("running", None), 1)
            nursery.end(agent, -signal.SIGKILL)
            stage.tick()
            assert stage.ending(run) == KILLED

    def test_a_polled_process_that_is_gone_is_lost(self, project: Path, nursery: Nursery) -> None:
        """A polled process that was reaped between two ticks is settled as lost, when its parent has had its time."""
        with Stage(project, look=functools.partial(facts.look, open_pidfd=refusing(errno.ENOSYS))) as stage:
            agent = nursery.born()
            run = stage.run(agent)
            stage.tick()
            os.kill(agent, signal.SIGKILL)
            nursery.reap(agent)
            stage.tick()
            assert stage.row(run) == ("running", None), "it may have been a plain exit that its parent records"
            stage.pass_(UNKNOWN_WRITER_GRACE)
            assert stage.ending(run) == LOST

    def test_a_full_kernel_is_no_end(self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the kernel has no room to wait for one more process, that one is polled."""
        monkeypatch.setattr(stage.supervisor.means.exits, "watch", refusing(errno.ENOSPC))
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.tick()
        assert stage.ending(run) == KILLED


class TestTheStore:
    """Stores that are locked, replaced, idle or in trouble."""

    def test_a_locked_store_loses_nothing(self, stage: Stage, nursery: Nursery) -> None:
        """What a lock keeps from being written is tried again, and written when the lock is gone."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert (stage.told, stage.supervisor.next_due()) == ([], stage.now + RETRY)
        stage.pass_(RETRY)
        assert stage.supervisor.next_due() == stage.now + 2 * RETRY
        stage.original.connection.execute("rollback")
        stage.pass_(2 * RETRY)
        assert stage.ending(run) == KILLED
        assert (len(stage.told), stage.supervisor.next_due()) == (1, None)

    def test_all_that_has_ended_is_written_before_any_of_it_is_told(
        self, stage: Stage, nursery: Nursery, tmp_path: Path
    ) -> None:
        """Deaths in several stores wait for each other's transactions only, never for the log or whoever is told."""
        other = tmp_path / "other"
        other.mkdir()
        agents = nursery.spawn(2)
        with Original(other) as elsewhere:
            elsewhere.create_run(agents[1])
            stage.run(agents[0])
            stage.supervisor.follow([str(stage.directory), str(other)])
            stage.tick()
            seen = []

            def look(_: Settled) -> None:
                seen.append([rows(directory, "select status from runs") for directory in (stage.directory, other)])

            stage.supervisor.means.on_settled = look
            for agent in agents:
                nursery.end(agent, -signal.SIGKILL)
            wait_until(lambda: all(procfs.read_stat(agent).is_dead for agent in agents))
            stage.exits()
        assert seen == [[[("crashed",)], [("crashed",)]]] * 2

    def test_the_waits_double_up_to_a_limit(
        self, stage: Stage, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The longer a store cannot be written, the less often that is tried, but it is tried."""
        agent = nursery.born()
        stage.run(agent)
        stage.tick()
        monkeypatch.setattr(StoreWatch, "settle", lambda *_: None)
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        waits = []
        for _ in range(10):
            due = stage.supervisor.next_due()
            assert due is not None
            waits.append(due - stage.now)
            stage.pass_(waits[-1])
        assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    def test_what_the_owner_records_meanwhile_stands(self, stage: Stage, nursery: Nursery) -> None:
        """An ending that waits for a lock does not overwrite what the lock's holder has recorded."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.original.connection.execute("update runs set status = 'completed', exit_code = 0")
        stage.original.connection.execute("commit")
        stage.pass_(RETRY)
        assert (stage.row(run), stage.ending(run), stage.told) == (("completed", 0), None, [])
        assert stage.supervisor.next_due() is None

    def test_a_last_try_is_made_at_the_end(self, stage: Stage, nursery: Nursery) -> None:
        """What waits to be written when the daemon stops is tried once more."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.original.connection.execute("rollback")
        stage.supervisor.follow([])
        assert stage.ending(run) == KILLED

    def test_what_cannot_be_written_to_the_end_is_told(
        self, stage: Stage, nursery: Nursery, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A run whose ending could never be written is named in the log."""
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.supervisor.follow([])
        stage.original.connection.execute("rollback")
        assert f"{stage.directory}#{run} has ended, but that cannot be written" in caplog.text

    def test_an_idle_store_is_closed(self, stage: Stage, nursery: Nursery) -> None:
        """A store without running rows keeps no connection open, before its first run and after its last."""
        stage.tick()
        assert not stage.is_open()
        agent = nursery.born()
        stage.run(agent)
        stage.tick()
        assert stage.is_open()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        stage.tick()
        assert not stage.is_open()

    def test_a_replaced_store_is_followed(self, stage: Stage, nursery: Nursery) -> None:
        """When another file is put in the store's place, its rows count, and what ends is written there."""
        agent, other = nursery.spawn(2)
        stage.run(agent)
        stage.tick()
        file = stage.directory / ".agent-yes" / "store.sqlite"
        draft = file.with_name("draft")
        stage.original.connection.execute("VACUUM INTO ?", [str(draft)])
        with sqlite3.connect(draft) as connection:
            connection.execute("update runs set pid = ?", [other])
        connection.close()
        stage.original.close()
        os.replace(draft, file)
        for leftover in ("-wal", "-shm"):
            (file.parent / f"store.sqlite{leftover}").unlink(missing_ok=True)
        stage.tick()
        nursery.end(other, -signal.SIGKILL)
        stage.exits()
        assert rows(stage.directory, "select status, exit_code from runs") == [("crashed", 137)]
        nursery.end(agent, 1)
        assert len(stage.supervisor.means.exits) == 0

    def test_a_store_that_vanishes_and_returns_loses_nothing(self, stage: Stage, nursery: Nursery) -> None:
        """A project that is moved away for a while is settled when it is back."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        folder, aside = stage.directory / ".agent-yes", stage.directory / "aside"
        folder.rename(aside)
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert not folder.exists(), "nothing is made where the store was"
        aside.rename(folder)
        stage.pass_(RETRY)
        assert rows(stage.directory, "select id, status, exit_code from runs") == [(run, "crashed", 137)]

    def test_a_store_in_trouble_stops_no_other(
        self,
        stage: Stage,
        nursery: Nursery,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A bug in one store's way is logged once and keeps the daemon from no other store."""
        troubled = str(tmp_path / "a-second-project")
        stage.supervisor.follow([troubled, str(stage.directory)])
        agent = nursery.born()
        run = stage.run(agent)
        settle = StoreRuns.reconcile

        def reconcile(runs: StoreRuns, *, sweep: bool = False) -> None:
            if runs.watch.directory == troubled:
                raise RuntimeError("a bug")
            settle(runs, sweep=sweep)

        monkeypatch.setattr(StoreRuns, "reconcile", reconcile)
        for _ in range(3):
            stage.tick(sweep=True)
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        assert stage.ending(run) == KILLED
        assert caplog.text.count("cannot be looked after") == 1

    def test_a_place_that_cannot_be_stops_no_other(self, stage: Stage, nursery: Nursery) -> None:
        """A registry entry that names no possible directory keeps the daemon from no other store."""
        stage.supervisor.follow(["/nowhere/\0/at all", str(stage.directory)])
        run = stage.run(nursery.born())
        stage.tick()
        assert (stage.row(run), stage.runs.alive) == (("running", None), 1)

    def test_exits_of_a_store_that_was_just_forgotten_are_nothing(self, stage: Stage, nursery: Nursery) -> None:
        """A store may be forgotten between an exit and its being heard of."""
        agent = nursery.born()
        run = stage.run(agent)
        stage.tick()
        nursery.end(agent, -signal.SIGKILL)
        taken = stage.supervisor.means.exits.take()
        stage.supervisor.follow([])
        stage.supervisor.means.exits.take = lambda: taken  # type: ignore[method-assign]  # the exits of just before
        stage.supervisor.on_exits()
        assert stage.row(run) == ("running", None)


def test_many_runs_leave_nothing_open(stage: Stage, nursery: Nursery, owner: subprocess.Popen[str]) -> None:
    """Runs that end in every way leave no descriptor behind and nothing in memory."""
    agents = nursery.spawn(60)
    suspects = nursery.spawn(4)
    for pid in suspects:
        nursery.end(pid, 1)
    for number, pid in enumerate(agents):
        stage.run(pid, owner=identity(owner.pid) if number % 3 == 0 else None)
    for pid in suspects:
        stage.run(pid, stamped=True)
    stage.tick()
    for number, pid in enumerate(agents):
        nursery.end(pid, (0, 1, -9)[number % 3])
    while stage.supervisor.next_due() is not None:
        stage.supervisor.on_exits()
        stage.pass_(0.5)
    stage.tick(sweep=True)
    assert rows(stage.directory, "select count(*) from runs where status = 'running'") == [(0,)]
    assert (len(stage.supervisor.means.exits), stage.pidfds()) == (0, 0)


def refusing(number: int) -> functools.partial[int]:
    """Return a function that fails with that errno."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return functools.partial(refuse)
