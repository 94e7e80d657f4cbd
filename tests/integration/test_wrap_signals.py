"""Every signal, an agent that is a tree of processes, and a shell with job control of its own under wrap."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from nursery import linux
from wrapping import Terminal, agent, end_runs, recorded_run

from supervisor.process import pidfd

pytestmark = [linux, pytest.mark.usefixtures("reaped")]

WRAP = (*COMMAND, "wrap")
CTRL_D, CTRL_Z = "\x04", "\x1a"
LAST = signal.SIGUSR2
PASSED_ON = [number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, LAST)]


@pytest.fixture
def reaped(project: Path) -> Iterator[None]:
    """End what a test that fails has left of its runs."""
    yield
    end_runs(project)


def spawn(*steps: object) -> list[str]:
    """Return the steps that start another agent as a child."""
    return ["spawn", "exec " + shlex.join(agent(*steps))]


def test_every_signal(project: Path, processes: Processes) -> None:
    """Each of the signals 1 to 31 that can be passed on reaches the agent once, and no end of a child does."""
    steps = [word for number in (signal.SIGCHLD, *PASSED_ON, LAST) for word in ("trap", number)]
    wrapper = processes.start(*WRAP, *agent(*steps, "say", "up", "take", LAST, "exit", 9), stdout=subprocess.PIPE)
    assert wrapper.stdout is not None
    assert wrapper.stdout.readline() == "up\n"
    wrapper.send_signal(signal.SIGCHLD)
    for number in (*PASSED_ON, LAST):
        wrapper.send_signal(number)
        assert wrapper.stdout.readline() == f"{signal.Signals(number).name}\n"
    assert (wrapper.stdout.read(), wrapper.wait(20)) == ("", 9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_tree(project: Path, processes: Processes, number: signal.Signals) -> None:
    """What is to end an agent reaches the native program below a launcher that ignores it, once, in any session."""
    name = number.name.removeprefix("SIG")
    native = ["trap", name, "touch", "up", "take", name, "await", "done", "touch", "gone"]
    launcher = ["ignore", name, "trap", "USR1", *spawn(*native), "take", "USR1", "touch", "done", "await", "gone"]
    wrapper = processes.start(*WRAP, "setsid", *agent(*launcher, "exit", 9), stdout=subprocess.PIPE)
    wait_until((project / "up").exists)
    wrapper.send_signal(number)
    wrapper.send_signal(signal.SIGUSR1)  # passed on behind all of the first, and to the launcher alone
    assert wrapper.stdout is not None
    assert wrapper.stdout.read() in (f"{number.name}\nSIGUSR1\n", f"SIGUSR1\n{number.name}\n")
    assert wrapper.wait(20) == 9


def test_tree_whose_root_dies_first(project: Path, processes: Processes) -> None:
    """What stands below an agent that dies of SIGTERM at once gets it too, however deep and in whatever session."""
    deep = ["touch", "up", "await", "never"]
    tool = f"exec setsid {shlex.join(agent(*spawn(*deep), 'report', 'told', 'await', 'never'))}"
    wrapper = processes.start(*WRAP, *agent("spawn", tool, "await", "never"), stderr=subprocess.PIPE)
    for name in ("up", "told"):
        wait_until((project / name).exists)
    wrapper.terminate()
    assert wrapper.stderr is not None
    assert (wrapper.wait(20), wrapper.stderr.read()) == (-signal.SIGTERM, "")


def test_tree_spares_what_lasts(project: Path, processes: Processes) -> None:
    """A daemon that outlives agents by design does not get what is to end its agent, nor does what stands below it."""
    daemon = project / "codex"
    daemon.write_text(f"#!/bin/sh\n{shlex.join(agent('touch', 'up', 'await', 'never'))} &\necho $$ $! >pids\nwait\n")
    daemon.chmod(0o755)
    wrapper = processes.start(*WRAP, *agent("spawn", "exec ./codex app-server", "await", "never"))
    wait_until((project / "up").exists)
    both = [processes.adopt(int(pid)) for pid in (project / "pids").read_text().split()]
    wrapper.terminate()
    assert wrapper.wait(20) == -signal.SIGTERM
    for pid in both:
        descriptor = pidfd.open_pidfd(pid)
        assert not pidfd.has_fired(descriptor)
        os.close(descriptor)


def test_job_control_below(project: Path, processes: Processes) -> None:
    """An interactive shell is given the terminal under wrap, stops and continues jobs of its own, and gives it back."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    interactive = (bash, "--norc", "--noprofile", "--noediting", "-i")
    environment = {**os.environ, "PS1": "", "HISTFILE": "/dev/null"}
    with Terminal(processes, *interactive, env=environment) as terminal:
        terminal.type(shlex.join([*WRAP, *interactive]) + "\n")
        terminal.type('echo "inner $((1 + 1))"\n')
        terminal.expect("inner 2")
        terminal.type("cat\n")
        terminal.type("to cat\n")
        terminal.expect("to cat")
        terminal.type(CTRL_Z)
        terminal.expect("Stopped")
        terminal.type('echo "stopped $?"\n')
        terminal.expect(f"stopped {128 + signal.SIGTSTP}")
        terminal.type("fg\n")
        terminal.type("again\n")
        terminal.expect("again")
        terminal.type(CTRL_D)
        terminal.type('echo "ended $?"\n')
        terminal.expect("ended 0")
        terminal.type("exit 7\n")
        terminal.type('echo "outer $?"\n')
        terminal.expect("outer 7")
        terminal.type("cat\n")
        terminal.type("to cat\n")
        terminal.expect("to cat")
    assert recorded_run(project)["exit_code"] == 7
