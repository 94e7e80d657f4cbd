"""No live run is ever called dead: random rows against a live process, and pids that change hands."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from kit import Processes
from nursery import as_root, linux, tells_exits

from supervisor.models import Stamp
from supervisor.process import facts, pidfd
from supervisor.process.judge import Facts, Scene, Start, State, judge, screen
from supervisor.process.stamp import stamp_of
from supervisor.store.rows import MILLISECONDS_ABOVE, seconds

pytestmark = linux

ROWS, ROUNDS = 2000, 50
DAYS = 86400.0
JUNK: list[object] = [None, "", "junk", "2026-01-01T00:00:00Z", b"\x00", True, math.nan, math.inf, -math.inf]


def start_of(stored: object) -> Start | None:
    """Read a stored start as the daemon does; None for what is none."""
    moment = seconds(stored)
    if moment is None:
        return None
    in_ms = isinstance(stored, int | float) and stored > MILLISECONDS_ABOVE
    whole = not in_ms and math.isfinite(moment) and moment == int(moment)
    return Start(moment, 1.0 if whole else 0.002)


def random_starts(dice: random.Random, born: float) -> Iterator[object]:
    """Return stored starts of all kinds: around a process's birth, days off, ages off, and junk."""
    while True:
        offset = dice.choice(
            [
                0.0,
                dice.uniform(-3, 3),
                dice.uniform(-130, 130),
                dice.uniform(-12 * DAYS, 12 * DAYS),
                dice.choice([-1, 1]) * 10 ** dice.uniform(0, 12),
            ]
        )
        moment = born + offset
        yield dice.choice([moment, int(moment), round(moment), moment * 1000, int(moment * 1000), str(int(moment))])
        if dice.random() < 0.1:
            yield dice.choice(JUNK)


def forgetful(dice: random.Random, stamp: Stamp) -> Stamp:
    """Return the stamp as a writer may have left it who could not know everything."""
    lost = [field.name for field in fields(stamp) if field.name != "pid" and dice.random() < 0.3]
    return replace(stamp, **dict.fromkeys(lost))  # type: ignore[arg-type]  # every field but pid may be None


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


def verdict(pid: object, stamp: Stamp | None, start: Start | None, seen: Facts, scene: Scene, proven: bool) -> State:
    """Judge a row as the daemon does."""
    screened = screen(pid, stamp, scene)
    return (screened or judge(stamp, start, seen, scene, namespace_proven=proven)).state


@pytest.mark.parametrize("seed", range(3))
def test_random_rows_of_a_live_process(processes: Processes, seed: int) -> None:
    """Whatever a row says of its start, and however much of a true stamp is left, its live process is not dead."""
    dice = random.Random(seed)  # noqa: S311  rows are no secrets
    pid = processes.living().pid
    true, scene = Stamp(**stamp_of(pid)), facts.scene()
    assert true.started_at is not None
    starts = random_starts(dice, true.started_at)
    found: Counter[State] = Counter()
    for number in range(ROWS):
        if number % 100 == 0:
            ways = looks(pid)
        stored = next(starts)
        stamp = dice.choice([None, true, forgetful(dice, true), replace(forgetful(dice, true), pid=pid + 1)])
        proven = dice.random() < 0.5
        state = verdict(pid, stamp, start_of(stored), dice.choice(ways), scene, proven)
        assert state is not State.DEAD, (seed, number, stored, stamp, proven)
        found[state] += 1
    assert found[State.ALIVE] > ROWS / 2
    assert found[State.UNKNOWN] > ROWS / 50


def test_clock_steps_do_not_kill(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set by up to 12 days, either way, since the row was written makes no live process dead."""
    import time

    pid = processes.living().pid
    true, scene, real = Stamp(**stamp_of(pid)), facts.scene(), time.time
    start = start_of(true.started_at)
    states = set()
    for step in (-12 * DAYS, -3600.0, -1.0, 0.0, 1.0, 3600.0, 12 * DAYS):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        for seen in looks(pid):
            states.add(verdict(pid, None, start, seen, scene, True))
            assert verdict(pid, true, start, seen, scene, True) is State.ALIVE
    assert states == {State.ALIVE, State.UNKNOWN}


@tells_exits
@as_root
def test_pid_that_is_used_again(processes: Processes) -> None:
    """Of a pid that has changed hands the old process's exit code is told right, and only its stamp ends its run."""
    player = Path(__file__).with_name("pid_reuse.py")
    command = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", sys.executable, str(player), str(ROUNDS))
    told = processes.start(*command, stdout=subprocess.PIPE)
    output, _ = told.communicate(timeout=30)
    assert told.returncode == 0
    assert Counter(output.splitlines()) == {"True True F16 alive,unknown": ROUNDS}
