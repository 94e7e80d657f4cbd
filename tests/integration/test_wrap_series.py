"""Agent after agent in one process, as where one is started anew: each end comes through, nothing stays open."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from kit import Processes
from nursery import linux
from wrapping import Terminal, ignored_signals

pytestmark = linux

SERIES = """
import json, os, resource, sys
from supervisor.wrap import signals
from supervisor.wrap.capture import capture_for

class Direct:
    fork = staticmethod(os.fork)
    def wait_for(self, agent, **keywords):
        return signals.wait_for(agent, heard={}, **keywords)
    open = drain = close = staticmethod(lambda *_, **__: None)

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
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
inherited = signals.Inherited()
before, ends = descriptors(), []
way, script, *arguments = sys.argv[1:]
if not script:
    os.fork = refuse
for argument in arguments:
    capture = Direct() if way == "direct" else capture_for(warn)
    try:
        pid = capture.fork()
    except BlockingIOError:
        continue
    if pid == 0:
        inherited.restore()
        os.execvp("sh", ["sh", "-c", script, "sh", argument])
    capture.open(os.getcwd(), os.urandom(16).hex())
    status = capture.wait_for(pid, after=0, attend=lambda: None)
    capture.drain()
    capture.close(patiently=False)
    ending = os.fork()
    if ending == 0:
        signals.end_as(status)
    ends.append(os.waitpid(ending, 0)[1])
try:
    child = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    child = None
told = json.dumps([before, descriptors(), child, ends])
with open("told", "w") as file:
    file.write(told)
"""
EXITS = "exit $1"
DIES = "kill -$1 $$"
LEAVES = "(until [ -e go ]; do sleep 0.01; done) & exit $1"
CODES = range(256)
IGNORED_BY_DEFAULT = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


def run(project: Path, processes: Processes, way: str, script: str, arguments: Iterable[int]) -> list[int]:
    """Run a series; return how ends as its agents' look to a parent; assert that nothing stays open, and no child.

    Args:
        project: where it runs.
        processes: what ends it.
        way: ``direct``, ``terminal`` or ``pipes``.
        script: what each agent is, a script of the shell; empty: none can be forked.
        arguments: of each agent.
    """
    command = [sys.executable, "-c", SERIES, way, script, *map(str, arguments)]
    if way == "terminal":
        with Terminal(processes, *command) as terminal:
            assert terminal.program.wait(30) == 0, terminal.rest()
    else:
        runner = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert runner.wait(30) == 0
        (project / "go").touch()
        assert runner.communicate(timeout=20) == ("", "")
    before, after, child, ends = json.loads((project / "told").read_text())
    assert (after, child) == (before, None)
    return [int(end) for end in ends]


@pytest.fixture(params=["direct", "terminal", "pipes"])
def way(request: pytest.FixtureRequest) -> str:
    """Return how the agents of a series are run: without a log, or with one, on a terminal or through pipes."""
    return str(request.param)


def test_every_exit_code(project: Path, processes: Processes, way: str) -> None:
    """Every exit code comes through."""
    assert run(project, processes, way, EXITS, CODES) == [code << 8 for code in CODES]


def test_every_signal(project: Path, processes: Processes, way: str) -> None:
    """Every signal that ends a program comes through."""
    spared = IGNORED_BY_DEFAULT | STOPPING | ignored_signals()
    numbers = sorted({*range(1, 65)} - {32, 33} - spared)
    assert run(project, processes, way, DIES, numbers) == numbers


def test_leftovers(project: Path, processes: Processes) -> None:
    """Processes that pass on for what agents have left behind in pipes are nobody's children."""
    assert run(project, processes, "pipes", LEAVES, range(20)) == [code << 8 for code in range(20)]


def test_leftovers_on_a_terminal(project: Path, processes: Processes) -> None:
    """What agents have left behind on terminals of their own keeps none of them open here."""
    assert run(project, processes, "terminal", LEAVES, range(5)) == [code << 8 for code in range(5)]
    (project / "go").touch()


@pytest.mark.parametrize("way", ["terminal", "pipes"])
def test_no_process_to_be_had(project: Path, processes: Processes, way: str) -> None:
    """Where no process is to be had what has been opened for one is closed."""
    assert run(project, processes, way, "", range(20)) == []
