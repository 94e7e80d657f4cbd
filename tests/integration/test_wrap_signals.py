"""Every signal, an agent that is a tree of processes, and a shell with job control of its own under wrap."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from nursery import linux
from wrapping import WAYS, Terminal, Wrapped, agent, end_runs, recorded_run

from supervisor.process import pidfd

pytestmark = [linux, pytest.mark.usefixtures("reaped")]

WRAP = (*COMMAND, "wrap")
CTRL_D, CTRL_Z = "\x04", "\x1a"
LAST = signal.SIGUSR2
PASSED_ON = [
    number
    for number in (*range(1, 32), signal.SIGRTMIN, signal.SIGRTMAX)
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, LAST)
]


@pytest.fixture
def reaped(project: Path) -> Iterator[None]:
    """End what a test that fails has left of its runs."""
    yield
    end_runs(project)


def spawn(*steps: object, prefix: tuple[str, ...] = ()) -> list[str]:
    """Return the steps that start another agent as a child."""
    return ["spawn", shlex.join(["exec", *prefix, *agent(*steps)])]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Return how the agent is run."""
    return str(request.param)


def test_every_signal(project: Path, processes: Processes, way: str) -> None:
    """Each signal that can be passed on reaches the agent once, and no end of a child does."""
    steps = [word for number in (signal.SIGCHLD, *PASSED_ON, LAST) for word in ("trap", number)]
    with Wrapped(processes, way, *agent(*steps, "say", "up", "take", LAST, "exit", 9)) as wrapped:
        assert wrapped.line() == "up"
        wrapped.program.send_signal(signal.SIGCHLD)
        for number in (*PASSED_ON, LAST):
            wrapped.program.send_signal(number)
            assert wrapped.line() == signal.Signals(number).name
        assert wrapped.end() == ("", 9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["TERM", "HUP", "INT"])
def test_signals_are_obeyed(project: Path, processes: Processes, number: signal.Signals, way: str) -> None:
    """The wrapper outlives a signal that ends its agent until that is recorded, and then ends by it."""
    with Wrapped(processes, way, *agent("touch", "up", "await", "never"), start_new_session=True) as wrapped:
        wait_until((project / "up").exists)
        wrapped.program.send_signal(number)
        assert wrapped.program.wait(20) == -number
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 128 + number, "stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_tree(project: Path, processes: Processes, number: signal.Signals, way: str) -> None:
    """What is to end an agent reaches the native program below a launcher that ignores it, once, in any session."""
    name = number.name.removeprefix("SIG")
    native = ["trap", name, "touch", "up", "take", name, "await", "done", "touch", "gone"]
    launcher = [
        "ignore",
        name,
        "trap",
        "USR1",
        *spawn(*native, prefix=("setsid",)),
        "take",
        "USR1",
        "touch",
        "done",
        "await",
        "gone",
    ]
    with Wrapped(processes, way, *agent(*launcher, "exit", 9)) as wrapped:
        wait_until((project / "up").exists)
        wrapped.program.send_signal(number)
        wrapped.program.send_signal(signal.SIGUSR1)  # passed on behind all of the first, and to the launcher alone
        shown, code = wrapped.end()
    assert shown in (f"{number.name}\nSIGUSR1\n", f"SIGUSR1\n{number.name}\n")
    assert code == 9


def test_tree_whose_root_dies_first(project: Path, processes: Processes, way: str) -> None:
    """What stands below an agent that dies of SIGTERM at once gets it too, however deep and in whatever session."""
    deep = ["touch", "up", "await", "never"]
    tool = f"exec setsid {shlex.join(agent(*spawn(*deep), 'report', 'told', 'await', 'never'))}"
    with Wrapped(processes, way, *agent("spawn", tool, "await", "never")) as wrapped:
        for name in ("up", "told"):
            wait_until((project / name).exists)
        wrapped.program.terminate()
        assert wrapped.end() == ("", -signal.SIGTERM)


def test_tree_spares_what_lasts(project: Path, processes: Processes, way: str) -> None:
    """A daemon that outlives agents by design does not get what is to end its agent, nor does what stands below it."""
    daemon = project / "codex"
    daemon.write_text(f"#!/bin/sh\n{shlex.join(agent('touch', 'up', 'await', 'never'))} &\necho $$ $! >pids\nwait\n")
    daemon.chmod(0o755)
    command = agent("spawn", "exec ./codex app-server", "await", "never")
    with Wrapped(processes, way, *command) as wrapped:
        wait_until((project / "up").exists)
        both = [processes.adopt(int(pid)) for pid in (project / "pids").read_text().split()]
        wrapped.program.terminate()
        assert wrapped.program.wait(20) == -signal.SIGTERM
    for pid in both:
        descriptor = pidfd.open_pidfd(pid)
        assert not pidfd.has_fired(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("options", [(), ("--log",)], ids=["plain", "logged"])
def test_job_control_below(project: Path, processes: Processes, options: tuple[str, ...]) -> None:
    """An interactive shell is given the terminal under wrap, stops and continues jobs of its own, and gives it back."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    interactive = (bash, "--norc", "--noprofile", "--noediting", "-i")
    environment = {**os.environ, "PS1": "", "HISTFILE": "/dev/null"}
    with Terminal(processes, *interactive, env=environment) as terminal:
        terminal.type(shlex.join([*WRAP, *options, *interactive]) + "\n")
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
        wait_until(lambda: recorded_run(project)["exit_code"] == 7)  # what is typed ahead for the shell may be lost
        terminal.type('echo "outer $?"\n')
        terminal.expect("outer 7")
        terminal.type("cat\n")
        terminal.type("to cat\n")
        terminal.expect("to cat")
    assert recorded_run(project)["exit_code"] == 7
