"""The terminal after an agent that could not put it right itself."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from kit import COMMAND, Processes
from wrapping import Terminal

WRAP = (*COMMAND, "wrap")
SWITCHED_ON = r"\033[?1049h\033[?25l\033[?2004h\033[?1000h\033[?1006h"
SWITCHED_OFF = ["[?1049l", "[?25h", "[?2004l", "[?1000l", "[?1006l"]
SCRIPT = 'echo "before $(stty -g)"; echo begun; "$@"; echo "ended $? $(stty -g)"; read never'
"""A program on a terminal that, unlike an interactive shell, puts nothing right itself."""


@pytest.fixture(params=[(), ("--log",)], ids=["plain", "logged"])
def wrap(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return how wrap is called."""
    return (*WRAP, *request.param)


def run(
    processes: Processes, agent: str, *, wrap: tuple[str, ...] = WRAP, term: str = "xterm-256color"
) -> tuple[str, str, str, str]:
    """Run an agent, a text of the shell, under wrap on a terminal.

    Returns: the terminal's settings before, what was written to it meanwhile, how wrap ended, the settings afterwards.
    """
    command = ("sh", "-c", SCRIPT, "sh", *wrap, "sh", "-c", agent)
    with Terminal(processes, *command, env={**os.environ, "TERM": term}) as terminal:
        terminal.expect("before ")
        before = terminal.expect("\r\n")
        terminal.expect("begun\r\n")
        shown = terminal.expect("ended ")
        code, after = terminal.expect("\n").split()
    return before, shown, code, after


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_killed(project: Path, processes: Processes, number: signal.Signals, wrap: tuple[str, ...]) -> None:
    """After a signal has ended the agent, the settings are as before, and what it may have switched on is off."""
    agent = f"ulimit -c 0; printf '{SWITCHED_ON}drawn'; stty raw -echo; kill -{int(number)} $$"
    before, shown, code, after = run(processes, agent, wrap=wrap)
    assert (code, after) == (str(128 + number), before)
    drawn, _, behind = shown.partition("drawn")
    assert drawn == SWITCHED_ON.replace(r"\033", "\x1b")
    assert [off for off in SWITCHED_OFF if f"\x1b{off}" not in behind] == []


def test_killed_below_a_shell(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """The same is done where a shell in between tells of the signal by its exit code."""
    agent = f"sh -c \"printf '{SWITCHED_ON}drawn'; stty raw -echo; kill -9 \\$\\$\"; exit $?"
    before, shown, code, after = run(processes, agent, wrap=wrap)
    assert (code, after) == ("137", before)
    behind = shown.partition("drawn")[2]
    assert [off for off in SWITCHED_OFF if f"\x1b{off}" not in behind] == []


def test_ended_well(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """After an exit with 0 nothing is written, and the settings are as the agent left them: stty may be one."""
    before, shown, code, after = run(processes, f"printf '{SWITCHED_ON}'; stty -echo -icanon", wrap=wrap)
    assert (code, shown) == ("0", SWITCHED_ON.replace(r"\033", "\x1b"))
    assert after != before


def test_failed(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """After another exit nothing is written, and the settings are as before."""
    before, shown, code, after = run(processes, "printf drawn; stty raw -echo; exit 101", wrap=wrap)
    assert (shown, code, after) == ("drawn", "101", before)


def test_terminal_that_obeys_nothing(project: Path, processes: Processes) -> None:
    """To a terminal that knows no sequences none is written."""
    before, shown, code, after = run(processes, "printf drawn; stty raw -echo; kill -9 $$", term="dumb")
    assert (code, after) == ("137", before)
    assert "\x1b" not in shown


def test_background(project: Path, processes: Processes) -> None:
    """A terminal that is another's by then is left alone: an agent in the background is killed, and nothing shown."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    interactive = (bash, "--norc", "--noprofile", "--noediting", "-i")
    environment = {**os.environ, "PS1": "", "HISTFILE": "/dev/null", "TERM": "xterm"}
    with Terminal(processes, *interactive, env=environment) as terminal:
        terminal.type('echo "here $((1 + 1))"\n')
        terminal.expect("here 2")
        settings = terminal.settings()
        terminal.type(shlex.join([*WRAP, "sh", "-c", "kill -9 $$"]) + " & wait $!; echo ended $?\n")
        assert "\x1b" not in terminal.expect("ended 137")
        assert terminal.settings() == settings
