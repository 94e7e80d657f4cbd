"""An agent whose time is over: told to end, and killed if it does not."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit import COMMAND, Processes, rows, run_ours, wait_until
from nursery import linux
from wrapping import Terminal, agent, recorded_run, recorded_runs

pytestmark = linux

WRAP = (*COMMAND, "wrap")
PREFIX = "agent-yes-supervise: "


@pytest.fixture(autouse=True)
def grace(home: Path) -> Callable[[float], None]:
    """Give the test a function to set the grace; it is short to begin with."""

    def write(seconds: float) -> None:
        file = home / "config" / "agent-yes-supervise" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[wrap]\ngrace = {seconds}\n")

    write(0.2)
    return write


def asked(project: Path) -> tuple[str | None, str | None]:
    """Return who has asked the only run to end, and for what."""
    ((by, what),) = rows(project, "SELECT asked_by, asked_for FROM run_process")
    return by, what


def test_timeout(project: Path, grace: Callable[[float], None]) -> None:
    """When its time is over the agent gets a SIGTERM; the ending says so, and is no crash."""
    grace(30)
    ended = run_ours("wrap", "--timeout", "0.3", "sleep", "100")
    assert ended.returncode == -signal.SIGTERM
    assert ended.stderr == f"{PREFIX}its time was over (--timeout 0.3s): told to end\n"
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 143, "timed-out")
    assert asked(project) == ("wrap --timeout 0.3s", "timeout")
    assert "it ran longer than it was allowed to" in run_ours("why", ".").stdout


def test_in_time(project: Path) -> None:
    """An agent that ends in time ends as ever."""
    ended = run_ours("wrap", "--timeout", "1m", "--idle-timeout", "1m", "sh", "-c", "exit 3")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert recorded_run(project)["cause"] == "exited"
    assert asked(project) == (None, None)


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (5, "failed")])
def test_an_orderly_end(code: int, status: str, project: Path, grace: Callable[[float], None]) -> None:
    """An agent that obeys has ended as it says, and with 0 it has completed."""
    grace(30)
    command = agent("trap", "TERM", "take", "TERM", "exit", code)
    assert run_ours("wrap", "--timeout=0.5", *command).returncode == code
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == (status, code, "timed-out")


def test_killed(project: Path, processes: Processes) -> None:
    """What does not obey is killed after the grace, and so is all below it that does not either."""
    below = shlex.join(agent("ignore", "TERM", "touch", "up", "await", "never"))
    command = agent("ignore", "TERM", "spawn", f"echo $$ >pid; exec {below}", "await", "never")
    ended = run_ours("wrap", "--timeout", "0.7", *command)
    assert ended.returncode == -signal.SIGKILL
    assert (project / "up").exists()
    assert ended.stderr == f"{PREFIX}its time was over (--timeout 0.7s): killed\n"
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 137, "timed-out")
    pid = int((project / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_stopped(project: Path) -> None:
    """A stopped agent is continued, so that it can end, where nobody else would do that."""
    command = ["sh", "-c", 'trap "exit 4" TERM; (sleep 0.1; kill -STOP $$) & while :; do sleep 0.05; done']
    assert run_ours("wrap", "--timeout", "0.5", *command, start_new_session=True).returncode == 4
    assert recorded_run(project)["cause"] == "timed-out"


@pytest.mark.parametrize("words", [(), ("--log",)])
def test_idle(words: tuple[str, ...], project: Path) -> None:
    """An agent that does nothing for too long has stalled."""
    ended = run_ours("wrap", *words, "--idle-timeout", "0.5", "sleep", "100")
    assert ended.returncode == -signal.SIGTERM
    assert ended.stderr == f"{PREFIX}its time was over (--idle-timeout 0.5s): told to end\n"
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 143, "stalled")
    assert asked(project) == ("wrap --idle-timeout 0.5s", "idle-timeout")


BURNING = f"{sys.executable} -S -c 'import time\nwhile time.process_time() < 0.9: pass'"
WRITING = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do head -c 5000 /dev/zero >/dev/null; sleep 0.1; done"
SAYING = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $n; sleep 0.1; done"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ((), f"{BURNING}; exit 3"),
        ((), f"({BURNING}); exit 3"),
        ((), f"{WRITING}; exit 3"),
        (("--log",), f"{SAYING}; exit 3"),
    ],
    ids=["computing", "a child's", "writing", "output that wrap sees"],
)
def test_not_idle(words: tuple[str, ...], command: str, project: Path) -> None:
    """Computing and writing are no idling, and with a log any output is none."""
    assert run_ours("wrap", *words, "--idle-timeout", "0.7", "sh", "-c", f"{command}; exit 3").returncode == 3
    assert recorded_run(project)["cause"] == "exited"


def test_a_resize_is_no_output(project: Path, processes: Processes) -> None:
    """A window that is resized again and again does not make its agent busy."""
    sizes = itertools.cycle([(24, 80), (25, 81)])
    with Terminal(processes, *WRAP, "--log", "--idle-timeout", "0.5", "sleep", "100") as terminal:

        def has_ended() -> bool:
            terminal.resize(*next(sizes))
            return terminal.program.poll() is not None

        wait_until(has_ended, timeout=8)
    assert recorded_run(project)["cause"] == "stalled"


def test_ctrl_z_is_no_idling(project: Path, processes: Processes) -> None:
    """The time that a person has the job stopped is not held against the agent."""
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(processes, *shell, env={**os.environ, "PS1": "$ "}) as terminal:
        terminal.expect("$ ")
        command = shlex.join([*WRAP, "--idle-timeout", "2", *agent("say", "up", "line", "exit", 3)])
        terminal.type(f"{command}; echo code $?\n")
        terminal.expect("up")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("sleep 3.5; echo slept; fg\n")
        terminal.expect("slept")
        terminal.type("x\n")
        terminal.expect("[x]")
        terminal.expect("$ ")
        terminal.type("exit\n")
    assert [run["cause"] for run in recorded_runs(project)] == ["exited"]


def test_never_restarted(project: Path) -> None:
    """An end by a limit is no crash: nothing is started again."""
    words = ["--restart", "on-failure", "--timeout", "0.3"]
    assert run_ours("wrap", *words, "sleep", "100").returncode == -signal.SIGTERM
    assert len(recorded_runs(project)) == 1


def test_without_a_store(project: Path) -> None:
    """Where nothing can be recorded the limits hold all the same, and the ending says so later."""
    folder = project / ".agent-yes"
    folder.write_text("in the way")
    assert run_ours("wrap", "--timeout", "0.3", "sleep", "100").returncode == -signal.SIGTERM
    folder.unlink()
    assert run_ours("runs", "list").returncode == 0
    assert recorded_run(project)["cause"] == "timed-out"


def test_over_for_ever(project: Path, grace: Callable[[float], None]) -> None:
    """An agent whose time was over is not started again, with no record either."""
    gone = project / "gone"
    gone.mkdir()
    command = [
        *COMMAND,
        "wrap",
        "--restart",
        "on-crash",
        "--timeout",
        "0.4",
        *agent("ignore", "TERM", "await", "never"),
    ]
    ended = subprocess.run(
        ["sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert "started again" not in ended.stderr


def test_a_very_long_time(project: Path) -> None:
    """No time is too long for the system calls that wait."""
    assert run_ours("wrap", "--timeout", "999999999d", "sh", "-c", "sleep 0.3; exit 4").returncode == 4


def test_below_a_launcher(project: Path, grace: Callable[[float], None]) -> None:
    """When its launcher has ended by the SIGTERM, the agent proper that does not is ended all the same."""
    below = shlex.join(agent("ignore", "TERM", "touch", "up", "await", "never"))
    ended = run_ours("wrap", "--timeout", "1", "sh", "-c", f"{below} & wait", timeout=40)
    assert ended.returncode == -signal.SIGTERM
    assert "1 process ended: " in ended.stderr
