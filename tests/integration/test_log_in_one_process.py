"""Capturing again and again in one process, as a wrapper does that starts its agent anew: nothing is left open."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import Processes
from nursery import linux
from wrapping import Terminal

pytestmark = linux

TURNS = 20
SERIES = """
import json, os, sys
from supervisor.wrap.capture import capture_for
from supervisor.wrap.signals import Inherited

def warn(line):
    raise AssertionError(line)

def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found

def refuse():
    raise BlockingIOError

os.mkdir(".agent-yes")
inherited = Inherited()
before, statuses = descriptors(), []
if not sys.argv[2]:
    os.fork = refuse
for turn in range(int(sys.argv[1])):
    way = capture_for(warn)
    try:
        pid = way.fork()
    except BlockingIOError:
        continue
    if pid == 0:
        inherited.restore()
        os.execvp("sh", ["sh", "-c", sys.argv[2], "sh", str(turn)])
    way.open(os.getcwd(), os.urandom(16).hex())
    statuses.append(way.wait_for(pid, after=0, attend=lambda: None))
    way.drain()
    way.close()
try:
    child = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    child = None
told = json.dumps([before, descriptors(), child, statuses])
with open("told", "w") as file:
    file.write(told)
"""
CODES = "exit $1"
LEAVES = "(until [ -e go ]; do sleep 0.01; done) & exit $1"
STATUSES: dict[str, list[int]] = {
    CODES: [turn << 8 for turn in range(TURNS)],
    LEAVES: [turn << 8 for turn in range(TURNS)],
    "": [],
}


def told(project: Path) -> list[int]:
    """Return the wait statuses of a series that has left nothing open and no child."""
    before, after, child, statuses = json.loads((project / "told").read_text())
    assert (after, child) == (before, None)
    return [int(status) for status in statuses]


def series(turns: int, script: str) -> list[str]:
    """Return the command of a series."""
    return [sys.executable, "-c", SERIES, str(turns), script]


@pytest.mark.parametrize("script", [CODES, LEAVES, ""], ids=["ends", "leaves", "refused"])
def test_terminal(project: Path, processes: Processes, script: str) -> None:
    """After twenty agents on terminals of their own the wrapper has open what it had before, and no child."""
    with Terminal(processes, *series(TURNS, script)) as terminal:
        assert terminal.program.wait(30) == 0, terminal.rest()
    (project / "go").touch()
    assert told(project) == STATUSES[script]


@pytest.mark.parametrize("script", [CODES, LEAVES, ""], ids=["ends", "leaves", "refused"])
def test_pipes(project: Path, processes: Processes, script: str) -> None:
    """The same for pipes, also where processes go on passing on for those that agents have left behind."""
    runner = processes.start(*series(TURNS, script), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert runner.wait(30) == 0
    (project / "go").touch()
    assert told(project) == STATUSES[script]
    assert runner.communicate(timeout=20) == ("", "")
