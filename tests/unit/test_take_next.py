"""Taking the next signal within a time: it is a signal that has come, or none."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from kit import Processes, wait_until
from nursery import hear, linux

from supervisor.process import procfs

pytestmark = linux

_TAKES = """
import os, signal, sys, time
from supervisor.wrap import signals
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for timer in sys.argv[2:]:
    signal.setitimer(signal.ITIMER_REAL, *map(float, timer.split()))
print("ready", flush=True)
taken = signals.take_next(float(sys.argv[1]))
print(None if taken is None else (taken.number, taken.sender), flush=True)
after = signals.take_next(0.0)
left = [int(round(seconds, -1)) for seconds in signal.getitimer(signal.ITIMER_REAL)]
print(None if after is None else after.number, *left, flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(processes: Processes) -> Start:
    """Start a process that blocks all signals and takes one, within a time; then it says which, and what is left."""

    def start(timeout: float, *timers: str) -> subprocess.Popen[str]:
        taker = processes.python(_TAKES, str(timeout), *timers, stdout=subprocess.PIPE)
        assert hear(taker) == "ready"
        return taker

    return start


def test_none_comes(start: Start) -> None:
    """When the time is over, nothing has come, and nothing is left behind."""
    taker = start(0.05)
    assert [hear(taker), hear(taker)] == ["None", "None 0 0"]


def test_one_comes(start: Start) -> None:
    """A signal is told with who has sent it, and the time is forgotten."""
    taker = start(60)
    taker.send_signal(signal.SIGUSR1)
    assert [hear(taker), hear(taker)] == [f"({signal.SIGUSR1:d}, {os.getpid()})", "None 0 0"]


def test_stopped_beyond_its_time(start: Start) -> None:
    """Who is stopped while it waits, and continued when the time is over, has got no other signal than that.

    sigtimedwait(2) then makes CPython return what lies on its stack.
    """
    taker = start(0.2)
    taker.send_signal(signal.SIGSTOP)
    wait_until(lambda: procfs.read_stat(taker.pid).is_stopped)
    with pytest.raises(subprocess.TimeoutExpired):
        taker.wait(0.3)
    taker.send_signal(signal.SIGCONT)
    assert hear(taker) in ("None", f"({signal.SIGCONT:d}, {os.getpid()})")
    assert hear(taker) in ("None 0 0", f"{signal.SIGCONT:d} 0 0")


@pytest.mark.parametrize(
    ("timeout", "timer", "taken", "left"),
    [
        (60, "0.05", "(14, 0)", "None 0 0"),
        (60, "0.05 60", "(14, 0)", "None 60 60"),
        (0.05, "60", "None", "None 60 0"),
        (0.05, "60 30", "None", "None 60 30"),
    ],
    ids=["rings", "rings again and again", "goes on", "goes on, and again"],
)
def test_alarm_of_others(start: Start, timeout: float, timer: str, taken: str, left: str) -> None:
    """An alarm that was set before is told when it rings, and not forgotten otherwise."""
    taker = start(timeout, timer)
    assert [hear(taker), hear(taker)] == [taken, left]


def test_alarm_of_others_beside_a_signal(start: Start) -> None:
    """An alarm that was set before goes on when another signal comes first."""
    taker = start(60, "100")
    taker.send_signal(signal.SIGUSR1)
    assert [hear(taker), hear(taker)] == [f"({signal.SIGUSR1:d}, {os.getpid()})", "None 100 0"]
