"""Full-screen programs in tmux: the same on every screen whether run directly, under wrap, or with a log."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from multiplexer import COLUMNS, LINES, PROMPT, Server, Side, SideBySide, needs_tmux, numbers_aside
from nursery import linux
from wrapping import end_runs, recorded_run, recorded_runs

from supervisor.process import procfs

pytestmark = [linux, needs_tmux]


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"there is no {program} here")


@pytest.fixture
def sides(project: Path, tmp_path: Path, processes: Processes) -> Iterator[SideBySide]:
    """Give the test a shell on each side, and a text in its directory."""
    with SideBySide(processes, tmp_path / "sides") as sides:
        for side in sides.sides:
            (side.work / "text").write_text("".join(f"line {number}\n" for number in range(1, 201)))
        yield sides


@needs("less")
def test_less(sides: SideBySide) -> None:
    """A pager on the alternate screen."""
    sides.type("go less text\n")
    sides.see("line 23")
    sides.resize(15, 50)
    assert sides.see("line 14", gone="line 15")[14] == ":"
    sides.resize(LINES, COLUMNS)
    sides.see("line 23")
    sides.type("F")
    sides.see("Waiting for data")
    sides.press("C-c")
    sides.see("line 200", gone="Waiting for data")
    sides.type("g")
    sides.see("line 23")
    sides.type("/line 150\n")
    sides.see("line 172")
    sides.press("C-z")
    sides.see("Stopped")
    sides.type("fg\n")
    sides.see("line 172")
    sides.type("q")
    sides.see("Stopped")
    sides.ended(0)


@needs("vim")
def test_vim(sides: SideBySide) -> None:
    """An editor that takes keys raw, what is pasted too."""
    sides.type("go vim -u NONE -i NONE -N -n text\n")
    sides.see("200L")
    sides.type("i")
    sides.see("INSERT")
    sides.paste("first\nsecond \u00fc\n")
    sides.see("second \u00fc")
    sides.press("C-c")
    sides.see("line 20", gone="INSERT")
    sides.resize(15, 50)
    sides.see("line 12", gone="line 15")
    sides.resize(LINES, COLUMNS)
    sides.see("line 20")
    sides.press("C-z")
    sides.see("Stopped")
    sides.type("fg\n")
    sides.see("line 20")
    sides.type(":wq\n")
    sides.see("Stopped")
    sides.ended(0)
    texts = [(side.work / "text").read_text() for side in sides.sides]
    assert texts[0].startswith("first\nsecond \u00fc\nline 1\n")
    assert texts == [texts[0]] * len(texts)


def summary(lines: list[str]) -> list[str]:
    """Return what top shows whatever runs: its summary and the heads of its columns."""
    return [line for line in numbers_aside(lines[:8]) if not line.startswith("#")]


@needs("top")
def test_top(sides: SideBySide) -> None:
    """A program that draws by itself."""
    sides.type("go top -d 0.5\n")
    sides.see("COMMAND", summary)
    sides.resize(15, 60)
    sides.see("%MEM", summary, gone="COMMAND")
    sides.resize(LINES, COLUMNS)
    sides.see("COMMAND", summary)
    sides.press("C-z")
    sides.see("Stopped", lambda lines: [line for line in lines if "Stopped" in line])
    sides.type("fg\n")
    sides.see("COMMAND", summary)
    sides.press("C-c")
    sides.ended(0)


def test_python(sides: SideBySide) -> None:
    """A line editor: readline's, because the newer one of Python 3.13 fails after a stop even when run directly."""
    sides.type(f"go env PYTHON_BASIC_REPL=1 {sys.executable} -q -S\n")
    sides.see(">>>")
    sides.type("1 + 1\n")
    sides.see("2")
    sides.press("C-c")
    sides.see("KeyboardInterrupt")
    sides.paste("6 * (3 + 4)")
    sides.see("6 * (3 + 4)")
    sides.type("\n")
    sides.see("42")
    sides.resize(15, 50)
    sides.resize(LINES, COLUMNS)
    sides.press("C-z")
    sides.see("Stopped")
    sides.type("fg\n")
    # What is echoed is not the same: a terminal of its own is still set as the agent left it, the person's is not.
    sides.type("print('back', 2 + 3)\n")
    sides.expect("back 5")
    sides.type("import sys; sys.exit(3)\n")
    sides.ended(3)


EDITOR = "go vim -u NONE -i NONE -N -n -c 'set mouse=a' text\n"
OURS = shlex.join(COMMAND)


@pytest.fixture
def side(request: pytest.FixtureRequest, project: Path, tmp_path: Path, processes: Processes) -> Iterator[Side]:
    """Give the test a shell on one side: the one of its parameter."""
    with Server(processes) as server:
        side = Side(server, request.param, tmp_path / "side", {})
        (side.work / "text").write_text("some text\n")
        side.expect(PROMPT)
        yield side
    end_runs(side.work)


def is_usable(side: Side, modes: dict[str, str]) -> None:
    """See that the shell obeys, that its screen is as before, and that the next run and ``ls`` are as ever."""
    wait_until(lambda: side.modes() == modes)
    side.press("Enter")
    wait_until(side.is_at_prompt)
    side.type("clear\n")
    wait_until(side.is_clear)
    side.type('go sh -c "exit 9"; echo "code $?"\n')
    side.expect("code 9")
    side.type(f'{OURS} ls >listed; echo "listed $?"\n')
    side.expect("listed 0")
    assert recorded_runs(side.work)[1]["exit_code"] == 9
    assert "vim" in (side.work / "listed").read_text()


@needs("vim")
@pytest.mark.parametrize("side", ["plain", "logged"], indirect=True)
def test_killed_agent(side: Side) -> None:
    """When an editor is killed on its screen, the shell has its own again, without mouse, and can be used."""
    modes, settings = side.modes(), side.settings()
    side.type("clear\n")
    wait_until(side.is_clear)
    side.type(EDITOR)
    side.expect("some text")
    wait_until(lambda: (side.modes()["alternate_on"], side.modes()["mouse_any_flag"]) == ("1", "1"))
    os.kill(recorded_run(side.work)["pid"], signal.SIGKILL)
    side.expect("Killed")
    wait_until(side.is_at_prompt)
    command, killed, prompt, *rest = side.screen()
    assert (command, "Killed" in killed, prompt, set(rest)) == (f"{PROMPT} {EDITOR.strip()}", True, PROMPT, {""})
    is_usable(side, modes)
    assert side.settings() == settings
    side.type("clear\n")
    wait_until(side.is_clear)
    side.type("go sh -c 'echo one; echo two; kill -9 $$'\n")
    side.expect("Killed")
    wait_until(side.is_at_prompt)
    _, *said, killed, prompt = filter(None, side.screen())
    assert (said, "Killed" in killed, prompt) == (["one", "two"], True, PROMPT)


@needs("vim")
@pytest.mark.parametrize("side", ["logged"], indirect=True)
def test_killed_wrapper(side: Side, processes: Processes) -> None:
    """When the wrapper of a logged run is killed, the shell has its screen again, and the editor ends."""
    modes, settings = side.modes(), side.settings()
    side.type(EDITOR)
    side.expect("some text")
    wait_until(lambda: (side.modes()["alternate_on"], side.modes()["mouse_any_flag"]) == ("1", "1"))
    run = recorded_run(side.work)
    editor = processes.adopt(run["pid"])
    os.kill(run["owner_pid"], signal.SIGKILL)
    is_usable(side, modes)
    assert side.settings() == settings
    wait_until(lambda: is_gone(editor))


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return procfs.read_stat(pid).is_dead
    except procfs.GONE:
        return True


@needs("reset")
@pytest.mark.parametrize("side", ["plain"], indirect=True)
def test_killed_wrapper_without_a_log(side: Side, processes: Processes) -> None:
    """When another wrapper is killed, its agent lives on, and ``reset`` makes the terminal usable."""
    modes = side.modes()
    draws = r"printf '\033[?1000h\033[?25l\033[?1h\033=vim is drawn'; stty raw -echo; touch up"
    waits = "until [ -e done ]; do sleep 0.01; done"
    (side.work / "vim").write_text(f"trap '' HUP TTOU; {draws}; {waits}\n")
    side.type("go sh ./vim\n")
    wait_until((side.work / "up").exists)
    run = recorded_run(side.work)
    agent = processes.adopt(run["pid"])
    os.kill(run["owner_pid"], signal.SIGKILL)
    side.expect("Killed")
    assert side.modes() != modes
    side.type("reset\n")
    is_usable(side, modes)
    assert not is_gone(agent)
    (side.work / "done").touch()
    wait_until(lambda: is_gone(agent))
