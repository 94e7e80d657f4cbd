"""An agent that becomes another user's, as sudo does: wrap may not signal it, and records how it ends all the same."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Processes, rows, wait_until
from nursery import as_root, linux
from wrapping import (
    MAY_NOT_KILL,
    Terminal,
    calls_are_known,
    children,
    is_done_with,
    others,
    recorded_run,
    recorded_runs,
)

pytestmark = linux

LOGGED = (*MAY_NOT_KILL, *COMMAND, "wrap", "--log")


class Strings:
    """What an agent of another user hangs on: it tells by a pipe of a hang-up, and ends by another."""

    def __init__(self) -> None:
        self._told, tell = os.pipe()
        wait, self._go = os.pipe()
        self.passed = (tell, wait)
        self.agent = others(
            f"def tell(*_): os.write({tell}, b'.')\n"
            "came = []; signal.signal(signal.SIGHUP, lambda *_: (came.append(1), tell()))\n"
            f"poll = select.poll(); poll.register(0, 0); poll.register({wait}, select.POLLIN)\n"
            "leave(); os.write(1, b'up')\n"
            "while 0 in dict(poll.poll()): tell(), poll.unregister(0)\n"
            "os._exit(8 if came else 7)"
        )

    def wait(self) -> None:
        """Wait until it is hung up on: its terminal is gone, or it got the signal."""
        os.read(self._told, 1)

    def let_go(self) -> None:
        """Let it end: with 8 if it has got the signal, else with 7."""
        os.write(self._go, b".")

    def close(self) -> None:
        """Close the pipes."""
        for descriptor in (self._told, self._go, *self.passed):
            os.close(descriptor)


@pytest.fixture
def strings() -> Iterator[Strings]:
    """Give the test an agent on strings."""
    strings = Strings()
    yield strings
    strings.close()


@as_root
@calls_are_known
def test_closed_window(project: Path, processes: Processes, strings: Strings) -> None:
    """When the window is closed, and the agent may not be told, it goes on as it likes."""
    script = 'trap : HUP; "$@"; touch ended'  # the leader stays, so that the kernel tells nobody else
    command = ("sh", "-c", script, "sh", *LOGGED, *strings.agent)
    with Terminal(processes, *command, pass_fds=strings.passed) as terminal:
        terminal.expect("up")
        run = recorded_run(project)
        processes.adopt(run["pid"])
        (shim,) = children(run["owner_pid"])
    strings.wait()
    wait_until(lambda: is_done_with(shim, signal.SIGHUP))
    strings.let_go()
    wait_until((project / "ended").exists)
    assert recorded_run(project)["exit_code"] == 7


@as_root
def test_killed_shim(project: Path, processes: Processes, strings: Strings) -> None:
    """When the shim is killed as well, a signal that cannot be passed on ends nothing."""
    with Terminal(processes, *LOGGED, *strings.agent, pass_fds=strings.passed) as terminal:
        terminal.expect("up")
        processes.adopt(recorded_run(project)["pid"])
        (shim,) = children(terminal.program.pid)
        os.kill(shim, signal.SIGKILL)
        strings.wait()
        terminal.program.terminate()
        wait_until(lambda: is_done_with(terminal.program.pid, signal.SIGTERM, sleeping=False))
        strings.let_go()
        code = terminal.program.wait(20)
    run = recorded_run(project)
    assert (code, run["status"], run["exit_code"]) in [(8, "failed", 8), (125, "running", None)]


@as_root
def test_time_is_over(project: Path) -> None:
    """That its time was over is said, but not recorded as what it was not: the reason of its end, or of no restart."""
    program = "leave(); time.sleep(1.2); os._exit(3)"
    words = ("--timeout", "0.5", "--restart", "on-failure", "--max-restarts", "1")
    ended = subprocess.run(
        [*MAY_NOT_KILL, *COMMAND, "wrap", *words, *others(program)], capture_output=True, check=False
    )
    over = b"its time was over (--timeout 0.5s): but it is another user's by now, and may not be ended"
    assert (ended.returncode, ended.stderr.count(over)) == (3, 2)
    assert [(run["status"], run["cause"]) for run in recorded_runs(project)] == [("failed", "exited")] * 2
    assert rows(project, "SELECT asked_by, asked_for FROM run_process") == [(None, None)] * 2
