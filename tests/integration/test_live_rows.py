"""Rows of living processes, with any start that a writer may come up with."""

from __future__ import annotations

import random
import time
from pathlib import Path

from kit import Original, Processes, rows, run_ours
from nursery import Nursery, linux

from supervisor.process import procfs, stamp

ROWS, AGENTS = 1000, 25
JUNK = (0, -1, 1, 1.5, "", "yesterday", "2026-05-31T12:00:00Z", b"\x00\xff", 1 << 62, -(1 << 63), 1e300, 10**11, 10**14)
SPANS = (0.5, 3.0, 60.0, 130.0, 3600.0, 86400.0, 40 * 365 * 86400.0)


def some_start(dice: random.Random, born: float) -> object:
    """Return a start before, at or after a process's own, in seconds or milliseconds, or junk."""
    if dice.random() < 0.15:
        return dice.choice(JUNK)
    moment = born + dice.choice((-1, 0, 1)) * dice.random() * dice.choice(SPANS)
    return dice.choice((int, round, float))(moment * dice.choice((1, 1000)))


@linux
def test_a_live_process_is_never_called_crashed(project: Path, processes: Processes) -> None:
    """A thousand random rows of living processes are still running after a scan, whatever their start says."""
    seed = random.SystemRandom().getrandbits(32)
    dice = random.Random(seed)  # noqa: S311  no secret
    agents = Nursery(processes).spawn(AGENTS)
    born = {pid: stamp.started_at(procfs.read_stat(pid).start_ticks) for pid in agents}
    with Original(project) as original:
        original.connection.execute("begin")
        for _ in range(ROWS):
            pid = dice.choice(agents)
            original.create_run(pid, started_at=some_start(dice, born[pid]))
        original.connection.execute("commit")
    began = time.monotonic()
    result = run_ours("scan", "--dir", str(project))
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 20, "nothing looks dead, so nothing is waited for"
    assert "settled" not in result.stdout
    assert "pending" not in result.stdout
    states = rows(project, "select status, exit_code, ended_at, count(*) from runs group by 1, 2, 3")
    assert states == [("running", None, None, ROWS)], f"seed {seed}"
    alive = int(result.stderr.split()[2])
    assert alive + result.stdout.count("unknown ") == ROWS, f"seed {seed}"
    assert 100 < alive < ROWS, "the rows are of both kinds"
