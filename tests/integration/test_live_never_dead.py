"""No live run is ever called dead: random rows against a live process, and pids that change hands."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from kit import Processes
from nursery import Apart, as_root, linux, tells_exits
from stores import with_tools

from supervisor import sight
from supervisor.models import Claim, RunProcess, Stamp
from supervisor.process import facts, pidfd, signature
from supervisor.process.judge import Facts, Start, State, judge
from supervisor.process.stamp import stamp_of
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

ROWS, ROUNDS, ROW_ROUNDS = 20_000, 300, 30
DAYS = 86400.0


def rows_of(pid: int, moment: float, junk: object, stamps: list[Stamp | None]) -> list[Claim]:
    """Return rows of a process with a start in every form that a writer may use, and with each of the stamps."""
    whole, utc = math.floor(moment), datetime.fromtimestamp(moment, UTC)
    starts = [
        *(whole, round(moment), moment, int(moment * 1000), moment * 1000, int(moment * 1e6)),
        *(str(whole), utc.isoformat(), utc.replace(tzinfo=None).isoformat(), None, junk),
    ]
    processes = [None if stamp is None else RunProcess(None, None, None, stamp, "test", None, None) for stamp in stamps]
    return [
        Claim(number, pid, start, "/project", "claude", process)
        for number, (start, process) in enumerate(itertools.product(starts, processes))
    ]


def looks(pid: int) -> list[Facts]:
    """Look at a process in every way there is: with a pidfd, and where each errno refuses one."""

    def refuse(_: int) -> int:
        raise PermissionError(1, "refused")

    with_pidfd, descriptor = facts.look(pid)
    assert descriptor is not None
    assert not pidfd.has_fired(descriptor)
    os.close(descriptor)
    without = facts.look(pid, open_pidfd=refuse)[0]
    return [with_pidfd, without, replace(with_pidfd, stat=None, created=None)]


def test_random_rows_of_a_live_process(processes: Processes, project: Path) -> None:
    """Whatever its row says of its start, and however the clock was set since, a live process is not dead.

    The law's fuzz: twenty thousand rows from 12 days before the process's birth to 12 days after, with clocks that have
    been set by up to 12 days since, and with as much of a true stamp as a writer may have known.
    """
    pid = processes.living().pid
    true, scene, clock = Stamp(**stamp_of(pid)), facts.scene(), time.time
    assert true.started_at is not None
    born = true.started_at
    ways = looks(pid)
    parts = [field.name for field in fields(true) if field.name != "pid"]
    found: Counter[State] = Counter()
    days = strategies.floats(-12 * DAYS, 12 * DAYS) | strategies.floats(-130, 130)
    integers = strategies.integers(-(1 << 63), (1 << 63) - 1)
    numbers = strategies.floats(allow_nan=False)

    with SupervisedStore(str(project)) as store:
        shown = signature.looks_of(pid, store.path)

        @settings(max_examples=ROWS // 33 + 1, deadline=None, database=None)
        @given(
            offset=days,
            step=strategies.just(0.0) | days,
            junk=integers | numbers | strategies.text() | strategies.binary(),
            lost=strategies.sets(strategies.sampled_from(parts)),
            way=strategies.sampled_from(range(len(ways))),
            matched=strategies.booleans(),
        )
        def nobody_is_dead(offset: float, step: float, junk: object, lost: set[str], way: int, matched: bool) -> None:
            forgetful = replace(true, **dict.fromkeys(lost))  # type: ignore[arg-type]  # all but the pid may be None
            claims = rows_of(pid, born + offset, junk, [None, forgetful, replace(forgetful, pid=pid + 1)])
            seen = ways[way]
            if seen.created is not None:
                seen = replace(seen, created=seen.created + step)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "time", lambda: clock() + step)
                patch.setattr(signature, "looks_of", lambda *_: shown)
                sights = sight.see(store, claims, matched_before=matched, scene=scene, look=lambda _: (seen, None))
            for judged in sights:
                assert judged.verdict.state is not State.DEAD, judged
                found[judged.verdict.state] += 1

        nobody_is_dead()
    assert found.total() >= ROWS
    assert found[State.ALIVE] > ROWS / 2
    assert found[State.UNKNOWN] > ROWS / 50


def test_clock_steps_do_not_kill(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set by up to 12 days, either way, since the row was written makes no live process dead.

    giampaolo/psutil#1724, #2031, #2526, shirou/gopsutil#1802.
    """
    pid = processes.living().pid
    true, scene, real = Stamp(**stamp_of(pid)), facts.scene(), time.time
    assert true.started_at is not None
    start = Start(true.started_at, 0.002)
    states = set()
    for step in (-12 * DAYS, -3600.0, -1.0, 0.0, 1.0, 3600.0, 12 * DAYS):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        for seen in looks(pid):
            states.add(judge(None, start, seen, scene, namespace_proven=True).state)
            assert judge(true, start, seen, scene, namespace_proven=True).state is State.ALIVE
    assert states == {State.ALIVE, State.UNKNOWN}


@tells_exits
@as_root
def test_pid_that_is_used_again(processes: Processes) -> None:
    """Of a pid that has changed hands the old process's exit code is told right, and only its stamp ends its run.

    opencontainers/runc#871, #1934, tphakala/agy-mcp#8.
    """
    assert Counter(reuse_pids(processes, ROUNDS)) == {"True True F16 alive,unknown": ROUNDS}


@tells_exits
@as_root
def test_row_whose_pid_is_used_again(processes: Processes, project: Path) -> None:
    """A run whose pid is a new run's by the time that its end is heard of is settled as it ended; the new one lives."""
    assert Counter(reuse_pids(processes, ROW_ROUNDS, str(project))) == {"True running None 1": ROW_ROUNDS}


def reuse_pids(processes: Processes, rounds: int, *args: str) -> list[str]:
    """Play rounds in which pids change hands, in a PID namespace of their own, and return what is told of each."""
    player = Path(__file__).with_name("pid_reuse.py")
    command = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", sys.executable, str(player), str(rounds))
    told = processes.start(*Apart.command(*command, *args), stdout=subprocess.PIPE, env=with_tools())
    output, _ = told.communicate(timeout=50)
    assert told.returncode == 0
    return output.splitlines()
