"""Wrap on a real terminal: keys, job control, its size, and its end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from wrapping import Terminal, agent, children, is_stopped, recorded_run

from supervisor.process import procfs

Words = tuple[str, ...]
Started = Callable[..., tuple[int, int]]
CTRL_C, CTRL_Z = "\x03", "\x1a"


@pytest.fixture(params=[(), ("--log",)], ids=["plain", "logged"])
def wrap(request: pytest.FixtureRequest) -> Words:
    """Return how wrap is called: with a log the agent has a terminal of its own, and nobody is to tell."""
    return (*COMMAND, "wrap", *request.param)


def trapping(*names: str) -> list[str]:
    """Return the steps that trap signals and say so."""
    return [*(word for name in names for word in ("trap", name)), "say", "up"]


def test_ctrl_c(project: Path, processes: Processes, wrap: Words) -> None:
    """Ctrl-C reaches the agent once, by the terminal alone, and the wrapper goes on."""
    steps = [*trapping("INT", "USR1"), "take", "USR1", "line", "exit", 3]
    with Terminal(processes, *wrap, *agent(*steps)) as terminal:
        terminal.expect("up")
        terminal.type(CTRL_C)
        terminal.expect("SIGINT")
        terminal.program.send_signal(signal.SIGUSR1)  # sent on behind whatever else the wrapper sends on
        assert "SIGINT" not in terminal.expect("SIGUSR1")
        terminal.type("still here\n")
        terminal.expect("[still here]")
        assert terminal.program.wait(20) == 3
    assert recorded_run(project)["exit_code"] == 3


def test_ctrl_c_ends_the_agent(project: Path, processes: Processes, wrap: Words) -> None:
    """An agent that Ctrl-C ends is recorded as stopped by SIGINT, and wrap ends by SIGINT too."""
    with Terminal(processes, *wrap, *agent("say", "up", "await", "never")) as terminal:
        terminal.expect("up")
        terminal.type(CTRL_C)
        assert terminal.program.wait(20) == -signal.SIGINT
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 130, "stopped")


def test_foreground(project: Path, processes: Processes, wrap: Words) -> None:
    """The agent is in the terminal's foreground group and reads what is typed."""
    with Terminal(processes, *wrap, *agent("report", "told", "line", "exit", 0)) as terminal:
        wait_until((project / "told").exists)
        terminal.type("a line\n")
        terminal.expect("[a line]")
        assert terminal.program.wait(20) == 0
    told = json.loads((project / "told").read_text())
    leads = told["pid"] if "--log" in wrap else terminal.program.pid
    assert told["foreground"] == told["pgid"] == leads
    assert told["sid"] == (told["ppid"] if "--log" in wrap else terminal.program.pid)


def test_resize(project: Path, processes: Processes, wrap: Words) -> None:
    """A change of the window's size reaches the agent once."""
    with Terminal(processes, *wrap, *agent(*trapping("WINCH", "USR2"), "take", "USR2", "exit", 0)) as terminal:
        terminal.expect("up")
        for lines in (40, 41):
            terminal.resize(lines, 100)
            terminal.expect("SIGWINCH")
        terminal.program.send_signal(signal.SIGUSR2)
        assert "SIGWINCH" not in terminal.expect("SIGUSR2")
        assert terminal.program.wait(20) == 0


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_hang_up(project: Path, processes: Processes, stopped: bool, wrap: Words) -> None:
    """When the terminal of a leading wrapper goes away its agent gets the hang-up, even stopped."""
    terminal = Terminal(processes, *wrap, *agent("say", "up", "await", "never"))
    terminal.expect("up")
    pid = recorded_run(project)["pid"]
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))
    terminal.hang_up()
    assert terminal.program.wait(20) == -signal.SIGHUP
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 129, "stopped")


@pytest.fixture
def shell(project: Path, processes: Processes) -> Iterator[Terminal]:
    """Give the test an interactive shell, with job control, on a terminal of its own."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    options = ("--norc", "--noprofile", "--noediting", "-i")
    with Terminal(processes, bash, *options, env={**os.environ, "PS1": "", "HISTFILE": "/dev/null"}) as shell:
        yield shell


@pytest.fixture
def started(shell: Terminal, project: Path, processes: Processes, wrap: Words) -> Started:
    """Return what starts an agent under wrap in the shell, waits until it is up, and returns the pids of both."""
    return lambda *steps, background=False: _start(shell, project, processes, wrap, *steps, background=background)


def _start(
    shell: Terminal, project: Path, processes: Processes, wrap: Words, *steps: str, background: bool
) -> tuple[int, int]:
    shell.type(shlex.join([*wrap, *agent(*steps)]) + (" &" if background else "") + "\n")
    shell.expect("up")
    run = recorded_run(project)
    return processes.adopt(run["owner_pid"]), processes.adopt(run["pid"])


def test_ctrl_z_and_fg(project: Path, shell: Terminal, started: Started) -> None:
    """Ctrl-Z stops agent and wrapper, the shell sees a job stopped by the terminal, and fg brings both back, once."""
    steps = [*trapping("CONT", "USR1"), "take", "USR1", "line", "exit", "7"]
    both = started(*steps)
    for _ in range(2):
        shell.type(CTRL_Z)
        wait_until(lambda: all(map(is_stopped, both)))
        shell.type('echo "shell: $?"\n')
        shell.expect(f"shell: {128 + signal.SIGTSTP}")
        shell.type("fg\n")
        shell.expect("SIGCONT")
        wait_until(lambda: not any(map(is_stopped, both)))
    os.kill(both[0], signal.SIGUSR1)  # sent on behind whatever else the wrapper sends on
    assert "SIGCONT" not in shell.expect("SIGUSR1")
    shell.type("still here\n")
    shell.expect("[still here]")
    wait_until(lambda: recorded_run(project)["exit_code"] == 7)
    shell.type('echo "shell: $?"\n')
    shell.expect("shell: 7")


def test_ctrl_z_in_a_script(project: Path, shell: Terminal, processes: Processes, wrap: Words) -> None:
    """Ctrl-Z stops the whole job that an agent is part of: also the script that waits for it, and what else it runs."""
    (project / "script").write_text('cat <"$1" & shift; "$@"; echo "after $?"\n')
    os.mkfifo("fifo")
    shell.type(shlex.join(["sh", "script", "fifo", *wrap, *agent("say", "up", "line", "exit", "7")]) + "\n")
    shell.expect("up")
    run = recorded_run(project)
    script = procfs.read_stat(run["owner_pid"]).ppid
    job = [processes.adopt(pid) for pid in (run["pid"], script, *children(script))]
    assert len(job) == 4
    shell.type(CTRL_Z)
    wait_until(lambda: all(map(is_stopped, job)))
    shell.type('echo "shell: $?"\n')
    shell.expect(f"shell: {128 + signal.SIGTSTP}")
    shell.type("fg\n")
    wait_until(lambda: not any(map(is_stopped, job)))
    shell.type("still here\n")
    shell.expect("[still here]")
    shell.expect("after 7")


def test_resize_while_stopped(project: Path, shell: Terminal, processes: Processes, wrap: Words) -> None:
    """An agent that is brought back to the foreground finds the size that its window has got meanwhile."""
    script = "echo up; read line; stty size; exit 7"
    shell.resize(40, 100)
    shell.type(shlex.join([*wrap, "sh", "-c", script]) + "\n")
    shell.expect("up")
    run = recorded_run(project)
    both = processes.adopt(run["owner_pid"]), processes.adopt(run["pid"])
    shell.type(CTRL_Z)
    wait_until(lambda: all(map(is_stopped, both)))
    shell.resize(41, 101)
    shell.type("fg\n")
    wait_until(lambda: not any(map(is_stopped, both)))
    shell.type("\n")
    shell.expect("41 101")


def test_background_reader(project: Path, shell: Terminal, started: Started, wrap: Words) -> None:
    """An agent in the background reads nothing of what is typed for the shell, and reads on after fg."""
    both = started("say", "up", "line", "exit", "7", background=True)
    if "--log" not in wrap:  # its own terminal has no other reader
        wait_until(lambda: all(map(is_stopped, both)))
    shell.type('echo "the shell obeys"\n')
    shell.expect("the shell obeys")
    shell.type("fg\n")
    shell.expect("fake_agent.py")
    wait_until(lambda: not any(map(is_stopped, both)))
    shell.type("a line\n")
    shell.expect("[a line]")
    wait_until(lambda: recorded_run(project)["exit_code"] == 7)
    shell.type('echo "shell: $?"\n')
    shell.expect("shell: 7")


def test_stopped_alone(project: Path, shell: Terminal, started: Started) -> None:
    """An agent that somebody stops with SIGSTOP gives the shell its terminal back, as without wrap."""
    both = started(*trapping("CONT"), "line", "exit", "7")
    os.kill(both[1], signal.SIGSTOP)
    wait_until(lambda: all(map(is_stopped, both)))
    shell.type('echo "the shell obeys"\n')
    shell.expect("the shell obeys")
    shell.type("fg\n")
    shell.expect("SIGCONT")
    shell.type("still here\n")
    shell.expect("[still here]")


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_hang_up_under_a_shell(project: Path, shell: Terminal, started: Started, background: bool) -> None:
    """When the terminal of the shell goes away the agent's end by the hang-up is recorded by its wrapper."""
    wrapper, _ = started("say", "up", "await", "never", background=background)
    shell.hang_up()
    wait_until(lambda: recorded_run(project)["status"] != "running")
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 129, "stopped")
    assert (run["settled_by"], run["owner_pid"]) == ("wrap", wrapper)


def test_hang_up_that_the_agent_outlives(project: Path, shell: Terminal, started: Started) -> None:
    """An agent that goes on after a hang-up keeps its wrapper, and how it ends later is recorded."""
    started("ignore", "HUP", "say", "up", "await", "go", "exit", "7")
    shell.hang_up()
    shell.program.wait(20)
    assert recorded_run(project)["status"] == "running"
    (project / "go").touch()
    wait_until(lambda: recorded_run(project)["exit_code"] == 7)
