"""What is left of a run: who counts, and how wrap deals with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import Processes
from nursery import linux

from supervisor.process import leftovers, pidfd
from supervisor.process.leftovers import Run
from supervisor.process.procfs import read_stat
from supervisor.process.token import VARIABLE
from supervisor.wrap.leftovers import tidy

pytestmark = linux

TOKEN = os.urandom(16).hex()
RUN = Run(TOKEN, (), None)
MARKED = {**os.environ, VARIABLE: TOKEN}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Collect the lines that are said; afterwards no descriptor may be left open."""
    before = os.listdir("/proc/self/fd")
    yield []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def after_wait(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Have something happen between the first look and the second."""
    wait = leftovers.wait

    def acting(found: Any, seconds: float, **options: Any) -> bool:
        act()
        return wait(found, 20, **options)

    monkeypatch.setattr(leftovers, "wait", acting)


def test_just_about_to_end(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends within a moment of its agent is not left behind: nothing is said, and nothing to be recorded."""
    with Processes() as processes:
        process = processes.living(env=MARKED)
        found = leftovers.look(RUN)
        assert [one.pid for one in found] == [process.pid]
        leftovers.close(found)
        assert process.stdin is not None
        after_wait(monkeypatch, process.stdin.close)
        assert (tidy(RUN, reap=False, say=lines.append), lines) == ({}, [])


def test_started_before() -> None:
    """A process that is older than its agent cannot be its own, whatever its environment says."""
    with Processes() as processes:
        process = processes.living(env=MARKED)
        since = read_stat(process.pid).start_ticks
        assert leftovers.look(Run(TOKEN, (), since + 1)) == []
        found = leftovers.look(Run(TOKEN, (), since))
        assert [one.pid for one in found] == [process.pid]
        leftovers.close(found)


@pytest.mark.parametrize("value", ["", "0" * 32, TOKEN[:-1], TOKEN + "0"], ids=["empty", "zeros", "shorter", "longer"])
def test_another_token(value: str) -> None:
    """A process of another run is not this one's, nor does it count by a session."""
    with Processes() as processes:
        process = processes.living(env={**os.environ, VARIABLE: value}, start_new_session=True)
        assert leftovers.look(Run(TOKEN, (os.getsid(process.pid),), None)) == []


def test_leader_whose_pid_is_anothers() -> None:
    """A session whose leader lives is not that of an agent that has been reaped, though the number is the same."""
    with Processes() as processes:
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        process = processes.living(env=environment, start_new_session=True)
        assert leftovers.look(Run(TOKEN, (process.pid,), None)) == []


def test_pid_that_changes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is another by the time its descriptor is opened is neither told nor ever signalled."""
    with Processes() as processes:
        process = processes.living(env=MARKED)
        open_pidfd = pidfd.open_pidfd

        def opening(pid: int) -> int:
            descriptor = open_pidfd(pid)
            monkeypatch.setattr(leftovers, "token_of", lambda _: None)
            return descriptor

        monkeypatch.setattr(pidfd, "open_pidfd", opening)
        assert leftovers.look(RUN) == []
        assert process.poll() is None


def test_without_descriptors(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no pidfd is to be had what is left is told, and not signalled: a bare pid may be another's."""
    with Processes() as processes:
        process = processes.living(env=MARKED)

        def refuse(pid: int) -> int:
            raise OSError(24, "none left")

        monkeypatch.setattr(pidfd, "open_pidfd", refuse)
        recorded = tidy(RUN, reap=True, say=lines.append)
        assert [one["fate"] for one in recorded["left"]] == ["left"]  # type: ignore[attr-defined]
        assert lines[0].startswith(f"1 process left: {process.pid} ")
        assert process.poll() is None


def test_killed_after_the_grace(processes: Processes) -> None:
    """What has not ended by SIGTERM within the grace is killed."""
    deaf = "import signal\nsignal.signal(15, 1)\nprint(flush=True)\nsignal.pause()\nsignal.pause()"
    refusing = processes.python(deaf, stdout=-1, env=MARKED)
    assert refusing.stdout is not None
    refusing.stdout.readline()
    obeying = processes.living(env=MARKED)
    found = leftovers.look(RUN)
    assert leftovers.end(found, 0.05, hurry=lambda: False) >= {refusing.pid}
    leftovers.close(found)
    assert (refusing.wait(10), obeying.wait(10)) == (-signal.SIGKILL, -signal.SIGTERM)


def test_many(lines: list[str]) -> None:
    """Of many that are left the five oldest are told, and all are recorded."""
    with Processes() as processes:
        pids = [processes.living(env=MARKED).pid for _ in range(7)]
        recorded = tidy(RUN, reap=False, say=lines.append)
        (line,) = lines
        assert line.startswith("7 processes left: ")
        assert line.endswith(", and 2 more")
        left = recorded["left"]
        assert isinstance(left, list)
        assert sorted(one["pid"] for one in left) == pids
