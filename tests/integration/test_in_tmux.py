"""Full-screen programs in tmux: the same on every screen whether run directly, under wrap, or with a log."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Processes
from multiplexer import COLUMNS, LINES, SideBySide, needs_tmux, numbers_aside
from nursery import linux

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
    sides.press("C-c")
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
    """A line editor."""
    sides.type(f"go {sys.executable} -q -S -E\n")
    sides.see(">>>")
    sides.type("1 + 1\n")
    sides.see("2")
    sides.press("C-c")
    sides.see("KeyboardInterrupt")
    sides.paste("def f():\n    return 6 * 7\n\nf()\n")
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
