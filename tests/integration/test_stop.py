"""``stop`` and ``kill``: only the run's own process is ended, and the ending says who asked."""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from kit import Answer, Ask, Original, Processes, rows, run_ours, wait_until
from nursery import Nursery, as_root, linux, tells_exits
from ordinary import ordinary_user
from stage import pidfds
from strangers import stranger
from wrapping import agent, is_stopped, recorded_run

from supervisor import registry, sight, stop
from supervisor.errors import SuperviseError
from supervisor.models import Cause, Rank, RunStatus
from supervisor.process import exits, facts
from supervisor.process.stamp import stamp_of
from supervisor.registry import Origin
from supervisor.sight import Sight
from supervisor.stop import Order
from supervisor.store import recording
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

ENDS_WELL = ("trap", "TERM", "touch", "up", "take", "TERM", "exit", 0)
"""Steps of an agent that exits with 0 when it is asked to end."""

_ITSELF = """
import sys
from supervisor.cli.app import run
sys.stdin.read()
sys.exit(run(["kill", sys.argv[1]]))
"""

_REAPS_AT_ONCE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def original(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Original]:
    """Give the test a known store, open as the original module has it, and stand elsewhere.

    Any daemon on this machine, another test's too, follows the stores that somebody stands in.
    """
    monkeypatch.chdir(tmp_path)
    with Original(project) as original:
        registry.add(str(project), Origin.ADDED)
        yield original


def name(original: Original, row: int) -> str:
    """Return a run's name from anywhere."""
    return f"{original.directory}#{row}"


def requests(project: Path) -> list[tuple[Any, ...]]:
    """Return who asked runs of a store to end, and for what."""
    if not rows(project, "SELECT 1 FROM sqlite_master WHERE name = 'run_process'"):
        return []
    return rows(project, "SELECT asked_by, asked_for FROM run_process WHERE asked_at IS NOT NULL")


def ended(project: Path) -> tuple[Any, ...]:
    """Return how the only run that has been settled ended: status, code, cause, rank and who recorded it."""
    (found,) = rows(
        project,
        "SELECT runs.status, runs.exit_code, cause, rank, settled_by FROM runs JOIN run_ending ON run_id = runs.id",
    )
    return found


def evidence(project: Path) -> dict[str, Any]:
    """Return what shows how the only settled run ended."""
    ((found,),) = rows(project, "SELECT evidence FROM run_ending")
    return json.loads(found)  # type: ignore[no-any-return]  # an object, as we wrote it


def is_untouched(original: Original, run_id: int) -> bool:
    """Tell whether a row still runs and nobody is recorded to have asked for its end."""
    return original.row(run_id) == ("running", None, None) and requests(original.directory) == []


# Wrapped agents.


def wrapped(processes: Processes, project: Path, *steps: object) -> subprocess.Popen[str]:
    """Start an agent under wrap, and return its wrapper once the agent is ready; by default, it waits."""
    steps = steps or ("touch", "up", "await", "never")
    # In a process group that somebody could continue, or its wrapper would never stop with the agent.
    wrapper = processes.ours("wrap", *agent(*steps), stdout=subprocess.DEVNULL, process_group=0)
    wait_until((project / "up").exists)
    processes.adopt(recorded_run(project)["pid"])
    return wrapper


def test_stop_a_wrapped_agent(project: Path, processes: Processes) -> None:
    """A stopped agent has failed by SIGTERM because somebody asked, as its owner records; it has not crashed."""
    wrapper = wrapped(processes, project)
    answer = run_ours("stop", ".")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "project#1 ended: failed with 143\n", "")
    assert wrapper.wait(20) == -signal.SIGTERM
    assert ended(project) == ("failed", 143, Cause.STOPPED, Rank.OWNER, "wrap")
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert re.fullmatch(rf"{me} \({os.geteuid()}\), pid \d+", evidence(project)["asked_by"])
    assert evidence(project)["asked_for"] == "stop"
    assert "it was asked to end by" in run_ours("why", "1").stdout


def test_kill_a_wrapped_agent(project: Path, processes: Processes) -> None:
    """A killed agent has failed by SIGKILL because somebody asked; it has not crashed."""
    wrapper = wrapped(processes, project)
    answer = run_ours("kill", "1")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "project#1 ended: failed with 137\n", "")
    assert wrapper.wait(20) == -signal.SIGKILL
    assert ended(project) == ("failed", 137, Cause.STOPPED, Rank.OWNER, "wrap")
    assert evidence(project)["asked_for"] == "kill"


def test_an_agent_that_ends_well_when_asked(project: Path, processes: Processes) -> None:
    """An agent that takes SIGTERM and exits with 0 is completed, and was stopped all the same."""
    wrapper = wrapped(processes, project, *ENDS_WELL)
    assert run_ours("stop", ".").stdout == "project#1 ended: completed with 0\n"
    assert wrapper.wait(20) == 0
    assert ended(project) == ("completed", 0, Cause.STOPPED, Rank.OWNER, "wrap")


def test_an_agent_that_does_not_listen(project: Path, processes: Processes) -> None:
    """An agent that ignores SIGTERM is killed after the timeout, which is said; that is no crash either."""
    wrapper = wrapped(processes, project, "ignore", "TERM", "touch", "up", "await", "never")
    answer = run_ours("stop", ".", "--timeout", "0.1")
    assert (answer.returncode, answer.stdout) == (0, "project#1 ended (SIGKILL was needed): failed with 137\n")
    assert wrapper.wait(20) == -signal.SIGKILL
    assert ended(project) == ("failed", 137, Cause.STOPPED, Rank.OWNER, "wrap")
    assert evidence(project)["asked_for"] == "stop"


def test_an_agent_whose_wrapper_has_gone(project: Path, processes: Processes) -> None:
    """Where the owner is dead, nobody is waited for: what the kernel says is recorded at once."""
    wrapper = wrapped(processes, project)
    wrapper.kill()
    wrapper.wait(10)
    began = time.monotonic()
    assert run_ours("stop", ".").stdout == "project#1 ended: failed with 143\n"
    assert time.monotonic() - began < stop.OWNER_WAIT
    assert ended(project)[:4] == ("failed", 143, Cause.STOPPED, Rank.KERNEL)


def test_an_agent_that_is_stopped_with_its_wrapper(project: Path, processes: Processes) -> None:
    """A wrapper that was stopped with its agent is let go too, so that it records the end now and not some day."""
    wrapper = wrapped(processes, project)
    os.kill(recorded_run(project)["pid"], signal.SIGSTOP)
    wait_until(lambda: is_stopped(wrapper.pid))
    assert run_ours("stop", ".", "--timeout", "60").stdout == "project#1 ended: failed with 143\n"
    assert wrapper.wait(20) == -signal.SIGTERM
    assert ended(project) == ("failed", 143, Cause.STOPPED, Rank.OWNER, "wrap")


def test_an_owner_that_is_another_process_now(
    original: Original, processes: Processes, nursery: Nursery, project: Path
) -> None:
    """A stopped process that only has the owner's pid is not let go."""
    bystander, pid = processes.living(), nursery.born()
    bystander.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(bystander.pid))
    row = original.create_run(pid)
    with SupervisedStore(str(project)) as store, store.transaction() as connection:
        recording.insert_process(connection, row, stamp_of(pid), by="test", owner=(bystander.pid, 1))
    assert stop_here(project, row).exit_code == 143
    assert is_stopped(bystander.pid)


# Agents that others have started.


def test_stop_a_foreign_agent_without_a_daemon(original: Original, nursery: Nursery, project: Path) -> None:
    """Where nobody else records it, the command itself settles the run, by the kernel's word."""
    pid = nursery.born()
    row = original.create_run(pid)
    answer = run_ours("stop", name(original, row))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "project#1 ended: failed with 143\n", "")
    assert os.waitstatus_to_exitcode(nursery.reap(pid)) == -signal.SIGTERM
    assert ended(project) == ("failed", 143, Cause.STOPPED, Rank.KERNEL, "stop")
    assert evidence(project).keys() == {"source", "bound", "asked_by", "asked_for"}


@tells_exits
def test_kill_a_foreign_agent_that_is_reaped_at_once(original: Original, processes: Processes, project: Path) -> None:
    """The kernel's word is heard also after a parent that reaps at once."""
    parent = processes.python(_REAPS_AT_ONCE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    row = original.create_run(processes.adopt(int(parent.stdout.readline())))
    assert run_ours("kill", name(original, row)).stdout == "project#1 ended: failed with 137\n"
    assert parent.wait(10) == 0
    assert ended(project) == ("failed", 137, Cause.STOPPED, Rank.KERNEL, "stop")


def test_stop_a_foreign_agent_with_a_daemon(
    original: Original, nursery: Nursery, processes: Processes, project: Path, tmp_path: Path
) -> None:
    """With a daemon one of both settles the run, once, and it says who asked."""
    row = original.create_run(nursery.born())
    daemon = Daemon(processes, tmp_path / "log")
    daemon.watches((project, row))
    assert run_ours("stop", f"pid:{rows(project, 'SELECT pid FROM runs')[0][0]}").returncode == 0
    status, code, cause, rank, by = ended(project)
    assert (status, code, cause, rank) == ("failed", 143, Cause.STOPPED, Rank.KERNEL)
    assert by in ("daemon", "stop")
    assert evidence(project)["asked_for"] == "stop"
    assert daemon.stop()[0] == 0


def test_an_agent_that_is_stopped(original: Original, nursery: Nursery, project: Path) -> None:
    """An agent that a signal holds is let go to end, without waiting for the timeout."""
    pid = nursery.born()
    row = original.create_run(pid)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    assert run_ours("stop", name(original, row), "--timeout", "60").stdout == "project#1 ended: failed with 143\n"
    assert ended(project)[2] == Cause.STOPPED


def test_a_foreign_agent_that_ends_well(original: Original, processes: Processes, project: Path) -> None:
    """A plain exit 0 is left for a moment to whoever may record it; then it is completed, and was stopped."""
    process = processes.start(*agent(*ENDS_WELL), stdout=subprocess.DEVNULL)
    wait_until(Path("up").exists)
    row = original.create_run(process.pid)
    assert run_ours("stop", name(original, row)).stdout == "project#1 ended: completed with 0\n"
    assert ended(project) == ("completed", 0, Cause.STOPPED, Rank.KERNEL, "stop")


def test_who_records_it_in_time_is_believed(
    original: Original, processes: Processes, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a caller records while the command waits stands, as it is."""
    process = processes.start(*agent(*ENDS_WELL), stdout=subprocess.DEVNULL)
    wait_until(Path("up").exists)
    row = original.create_run(process.pid)
    examine = exits.examine

    def examine_late(*args: Any) -> Any:
        original.connection.execute("update runs set status = 'completed', exit_code = 5 where id = ?", (row,))
        return examine(*args)

    monkeypatch.setattr(exits, "examine", examine_late)
    monkeypatch.setattr(stop, "OTHERS_WAIT", 20)
    assert stop_here(project, row) == stop.Stopped(RunStatus.COMPLETED, 5, killed=False)
    assert rows(project, "SELECT count(*) FROM run_ending") == [(0,)]


def stop_here(project: Path, row: int, order: Order = Order.STOP, *, timeout: float = 20) -> stop.Stopped:
    """Stop a run in this process."""
    return stop.stop(str(project), row, order, by="the test", timeout=timeout)


def test_an_owner_that_never_records_it(project: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living owner has its time, and no more; then the kernel's word is written for it."""
    process = processes.living()
    with SupervisedStore(str(project)) as store:
        found = store.upsert_project(str(project), "claude")
        row = store.create_run(process.pid, found.id).id  # we are its owner
    monkeypatch.setattr(stop, "OWNER_WAIT", 0.2)
    monkeypatch.setattr(stop, "OTHERS_WAIT", 3600)
    assert stop_here(project, row).exit_code == 143
    assert ended(project) == ("failed", 143, Cause.STOPPED, Rank.KERNEL, "stop")


def test_an_exit_status_that_nobody_knows(
    original: Original, nursery: Nursery, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On kernels that do not tell, the run has failed because it was asked to end, without an exit code."""
    row = original.create_run(nursery.born())
    monkeypatch.setattr(exits, "examine", lambda *_: (None, True, "reaped, kernel without exit info"))
    assert stop_here(project, row) == stop.Stopped(RunStatus.FAILED, None, killed=False)
    assert ended(project) == ("failed", None, Cause.STOPPED, Rank.INFERENCE, "stop")


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e30])
def test_a_timeout_without_end(original: Original, nursery: Nursery, project: Path, timeout: float) -> None:
    """Who waits for ever waits until the agent has ended."""
    row = original.create_run(nursery.born())
    assert stop_here(project, row, timeout=timeout).exit_code == 143


def test_a_process_that_hangs_in_the_kernel(
    original: Original, nursery: Nursery, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not even end by SIGKILL is said to, and stays running."""
    row = original.create_run(nursery.born())
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    monkeypatch.setattr(stop, "KILL_WAIT", 0.05)
    with pytest.raises(SuperviseError, match="does not even end by SIGKILL"):
        stop_here(project, row, timeout=0)
    assert original.row(row)[0] == "running"


def test_nothing_stays_open(
    original: Original, nursery: Nursery, processes: Processes, project: Path, ask: Ask
) -> None:
    """Whether it ends a run or refuses to, no pidfd is left."""
    before = pidfds()
    row = original.create_run(nursery.born())
    stop_here(project, row)
    other = original.create_run(processes.living().pid, started_at=int(time.time()) + 100)
    assert ask("stop", name(original, other)).code == 1
    assert pidfds() == before


# What is refused.


def refused(answer: Answer, *texts: str) -> None:
    """Assert that a command was refused in one clear line."""
    assert (answer.code, answer.out) == (1, ""), answer.err
    assert re.fullmatch(r"agent-yes-supervise: [^\n]+; [^\n]+\n", answer.err), answer.err
    assert len(answer.err) < 500
    for text in texts:
        assert text in answer.err


@pytest.mark.parametrize("order", ["stop", "kill"])
@pytest.mark.parametrize("pid", ["x; rm -rf /", "y" * 100_000, b"\x00\xff", 1.5, 0, -1, 1, 2**31, 2**62])
def test_a_pid_that_is_none_of_a_runs(original: Original, ask: Ask, pid: object, order: str) -> None:
    """Nothing is sent by a row whose pid is junk, a group's, init's, or no process's: one line says why."""
    row = original.create_run(pid, started_at=int(time.time()) + 100)
    answer = ask(order, name(original, row))
    refused(answer, "is not proven to be this run's")
    assert isinstance(pid, int) == ("ps -f -p" in answer.err), "nothing is offered to a shell that is no number"
    assert is_untouched(original, row)


def test_our_own_pid(original: Original, processes: Processes) -> None:
    """A command never ends itself."""
    row = original.create_run(4711)
    command = processes.python(_ITSELF, name(original, row), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    original.connection.execute("update runs set pid = ?", (command.pid,))
    _, complaint = command.communicate("go", timeout=20)
    refused(Answer(command.returncode, "", complaint), "of init or of ourselves")
    assert is_untouched(original, row)


def test_a_stranger_that_has_the_pid_now(original: Original, ask: Ask, processes: Processes, tmp_path: Path) -> None:
    """A younger process that has the row's pid is not touched, be it certainly a stranger or only perhaps."""
    for process, text in (
        (stranger(processes, tmp_path / "elsewhere"), "is gone already; settle it: agent-yes-supervise scan"),
        (processes.living(cwd=tmp_path), "s after the row says"),
    ):
        row = original.create_run(process.pid, started_at=int(time.time()) - 10_000)
        for order in ("stop", "kill"):
            answer = ask(order, name(original, row))
            refused(answer, str(process.pid))
            assert text in answer.err or "is not proven" in answer.err
        assert process.poll() is None
        assert is_untouched(original, row)


@pytest.mark.parametrize("other", [{"pidfd_inode": 1, "start_ticks": 1}, {"boot_id": "another boot"}], ids=list)
def test_a_stamp_of_another_process(
    original: Original, ask: Ask, processes: Processes, project: Path, other: dict[str, object]
) -> None:
    """A process that has a stamped run's pid, and another start, is not touched, however well it fits otherwise.

    A stale pid that was signalled after a reboot: habitat-sh/habitat#4578, jdx/pitchfork#878.
    """
    process = processes.living(cwd=project)
    row = original.create_run(process.pid)
    stamp = stamp_of(process.pid)
    stamp.update(other)  # type: ignore[typeddict-item]  # columns of the test's choice
    with SupervisedStore(str(project)) as store:
        store.keep_stamps([(row, stamp)], by="test")
    refused(ask("kill", name(original, row)), "is gone already", "scan")
    assert process.poll() is None
    assert is_untouched(original, row)


def test_an_old_process_that_only_fits(original: Original, ask: Ask, processes: Processes, project: Path) -> None:
    """A process that is much older than the row fits any row: a container's rows bear the pids of innocents here."""
    process = processes.living(cwd=project)
    row = original.create_run(process.pid, started_at=int(time.time()) + 100)
    refused(ask("stop", name(original, row)), "is not proven", "only its age fits")
    assert process.poll() is None
    assert is_untouched(original, row)


def test_a_stranger_of_the_same_age(original: Original, ask: Ask, processes: Processes, tmp_path: Path) -> None:
    """A process that certainly is no agent is not touched, even if it started when the row says."""
    process = stranger(processes, tmp_path / "elsewhere")
    row = original.create_run(process.pid)
    refused(ask("stop", name(original, row)), "is not proven", "only its age fits")
    assert process.poll() is None
    assert is_untouched(original, row)


def test_a_run_that_is_dead_already(original: Original, ask: Ask, nursery: Nursery) -> None:
    """Of a process that has ended, reaped or not, it is said how to settle its run."""
    zombie, reaped = nursery.born(), nursery.dead()
    nursery.end(zombie, 0)
    original.create_run(nursery.born())  # shows where the store's rows are from
    for pid in (zombie, reaped):
        row = original.create_run(pid)
        refused(
            ask("stop", name(original, row)),
            f"its process {pid} is gone already",
            "settle it: agent-yes-supervise scan",
        )
        assert is_untouched(original, row)


def test_a_process_that_dies_as_we_look(
    original: Original, nursery: Nursery, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies between the look and the signal, reaped or not, was not stopped by us: nothing is recorded."""
    see = sight.see
    for reap in (False, True):
        pid = nursery.born()
        row = original.create_run(pid)

        def see_it_die(*args: Any, pid: int = pid, reap: bool = reap) -> list[Sight]:
            seen = see(*args)
            nursery.end(pid, -signal.SIGSEGV)
            if reap:
                nursery.reap(pid)
            return seen

        monkeypatch.setattr(sight, "see", see_it_die)
        with pytest.raises(SuperviseError, match="is gone already"):
            stop_here(project, row)
        assert is_untouched(original, row)


def test_without_pidfds(original: Original, nursery: Nursery, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no pidfds, no bare pid is signalled instead."""
    pid, see = nursery.born(), sight.see
    row = original.create_run(pid)

    def refuse(_: int) -> int:
        raise OSError(errno.ENOSYS, "no pidfds")

    monkeypatch.setattr(sight, "see", lambda *args: see(*args, look=lambda pid: facts.look(pid, open_pidfd=refuse)))
    with pytest.raises(SuperviseError, match=f"no pidfds here.*kill {pid}"):
        stop_here(project, row)
    assert is_untouched(original, row)
    assert facts.is_alive(pid, None)


def test_a_run_that_is_not_there(original: Original, ask: Ask) -> None:
    """A run that nobody knows, or that has ended, cannot be stopped: the user's error, in one line."""
    for order in ("stop", "kill"):
        refused(ask(order, name(original, 99)), "no run 99")
    row = original.create_run(4711)
    original.connection.execute("update runs set status = 'completed', exit_code = 0")
    refused(ask("stop", name(original, row)), f"run {row} does not run")
    assert ask("stop").code == ask("stop", "1", "--timeout", "-1").code == ask("kill", "1", "--timeout", "1").code == 2


@as_root
def test_another_users_agent(processes: Processes) -> None:
    """An agent of another user is refused in one line, and nobody is recorded to have asked for its end."""
    agent_of_root = processes.living()
    with ordinary_user() as user:
        with Original(user.project) as original:
            row = original.create_run(agent_of_root.pid)
        user.give()
        refuser = user.run("stop", str(row))
        refused(Answer(refuser.returncode, refuser.stdout, refuser.stderr), "belongs to another user")
        assert agent_of_root.poll() is None
        with Original(user.project) as original:
            assert is_untouched(original, row)


def test_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is recorded by the system's name for them, not by what the environment says, and without one by id."""
    monkeypatch.setenv("USER", "\udcff\x1b[2J")
    assert stop.asker() == f"{pwd.getpwuid(os.geteuid()).pw_name} ({os.geteuid()}), pid {os.getpid()}"
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999_999)
    assert stop.asker() == f"uid (3999999999), pid {os.getpid()}"
