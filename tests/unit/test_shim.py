"""The shim's look at its agent."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from kit import Processes
from nursery import linux

from supervisor.wrap import shim

pytestmark = linux


def test_stop_and_continue(processes: Processes) -> None:
    """A stop is told once, with its signal, and an end as often as it is asked for: the agent keeps its pid."""
    agent = processes.living()
    assert shim._changes(agent.pid) == []
    agent.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, agent.pid, os.WSTOPPED | os.WNOWAIT)
    (status,) = shim._changes(agent.pid)
    assert (os.WIFSTOPPED(status), os.WSTOPSIG(status)) == (True, signal.SIGSTOP)
    assert shim._changes(agent.pid) == []
    agent.send_signal(signal.SIGTERM)
    agent.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, agent.pid, os.WEXITED | os.WNOWAIT)
    assert shim._changes(agent.pid) == shim._changes(agent.pid) == [signal.SIGTERM]


def test_killed_as_its_stop_is_seen(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is killed between the look at its stop and the taking of it has ended, and stays a zombie."""
    agent, waitid = processes.living(), os.waitid
    agent.send_signal(signal.SIGSTOP)
    waitid(os.P_PID, agent.pid, os.WSTOPPED | os.WNOWAIT)

    def look(kind: int, pid: int, options: int) -> Any:
        seen = waitid(kind, pid, options)
        if seen is not None and seen.si_code == os.CLD_STOPPED and options & os.WNOWAIT:
            agent.kill()
            waitid(kind, pid, os.WEXITED | os.WNOWAIT)
        return seen

    monkeypatch.setattr(os, "waitid", look)
    assert shim._changes(agent.pid) == [signal.SIGKILL]
    assert agent.wait() == -signal.SIGKILL
