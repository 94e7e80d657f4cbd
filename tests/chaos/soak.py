"""``python -m chaos.soak``: a steady load, and whether the daemon grows under it. Exit code 1 where it does.

Agents start and end 20 times a second, in four stores, while 50 others live on; nothing is done to anybody. After two
minutes memory, descriptors and WALs have to stay as they are, and at the end every row has to be right.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from chaos import apart
from chaos.actors import Cradle, Daemon, register
from chaos.oracle import Oracle, read_rows
from chaos.traffic import Traffic
from chaos.world import FAR, Kind, Store, World, now
from chaos.writers import Writer

STORES, RESIDENTS, A_SECOND = 4, 50, 20.0
WARM_UP = 120.0
"""Seconds that it may take until all is as it stays."""

SAMPLE_EVERY = 5.0
MAY_GROW = {"rss": 1536.0, "descriptors": 10.0, "wal": 4096.0}
"""By how much the median of the last third may be above that of the first: KiB, descriptors, KiB.

Python takes memory by the MiB: a peak may cost it one more. 100 bytes that are kept of each run would be 2.4 MiB.
"""

_SHARES = {Kind.FOREIGN: 0.7, Kind.API: 0.25, Kind.WRAP: 0.05}


class Sample(NamedTuple):
    """What the daemon holds at a moment: seconds since the start, KiB, descriptors, KiB, running rows."""

    at: float
    rss: float
    descriptors: float
    wal: float
    living: int


class Soak:
    """One soak.

    Args:
        minutes: how long.
        scratch: an empty folder for everything.
    """

    def __init__(self, minutes: float, scratch: Path) -> None:
        self._seconds = minutes * 60
        random = self._random = Random(1)  # noqa: S311  to be the same again
        self._world = World(scratch)
        for name in ("logs", "home", "projects", "state"):
            (scratch / name).mkdir()
        for number in range(STORES):
            self._world.stores.append(Store(scratch / "projects" / f"p{number}", spared=True))
            self._world.stores[-1].directory.mkdir()
        self._cradle = Cradle(self._world, random)
        self._daemon = Daemon(self._world)
        self._writers = {
            (number, kind): Writer(self._world, kind, store)
            for number, store in enumerate(self._world.stores)
            for kind in (Kind.FOREIGN, Kind.API)
        }
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._traffic = Traffic(self._world, random, self._cradle, self._daemon, self._writers, self._later)
        self._samples: list[Sample] = []
        self._started = 0

    def run(self) -> int:
        """Load, measure, judge and report; return the exit code."""
        for writer in list(self._writers.values()) * (RESIDENTS // len(self._writers) + 1):
            self._traffic.create(writer, ends=False)
        self._until(lambda: not any(writer.busy for writer in self._writers.values()))
        register(self._world, self._world.scratch / "projects")
        # The pruning that makes up for a missed night would come in the middle, and leave its libraries loaded.
        (self._world.scratch / "state" / "agent-yes-supervise" / "pruned").touch()
        self._daemon.start()
        began = now()
        self._start(began)
        self._sample(began)
        self._until(lambda: now() > began + self._seconds)
        self._until(self._is_over, within=60)
        return self._report()

    def _start(self, began: float) -> None:
        """Start as many as should have been by now."""
        wanted = min(now() - began, self._seconds) * A_SECOND
        while self._started < wanted:
            self._started += 1
            self._traffic.start_agent(_SHARES)
        if now() < began + self._seconds:
            self._later(1 / A_SECOND, lambda: self._start(began))

    def _sample(self, began: float) -> None:
        self._later(SAMPLE_EVERY, lambda: self._sample(began))
        if not self._daemon.runs:
            return
        pid = self._daemon.life.pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        rss = float(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])
        wal = sum(os.stat(f"{store.file}-wal").st_size for store in self._world.stores) / 1024
        descriptors = self._daemon.descriptors() - sum(run.dead == FAR for run in self._cradle.living.values())
        self._samples.append(Sample(now() - began, rss, descriptors, wal, len(self._cradle.living)))

    def _is_over(self) -> bool:
        residents = sum(run.told == FAR for run in self._cradle.living.values())
        if self._cradle.wrappers or len(self._cradle.living) > residents:
            return False
        return sum(row.status == "running" for store in self._world.stores for row in read_rows(store)) <= residents

    def _until(self, over: Callable[[], bool], within: float = FAR) -> None:
        deadline, asked = now() + within, 0.0
        while now() < deadline:
            self._cradle.observe()
            self._daemon.observe()
            for writer in self._writers.values():
                writer.listen()
            while self._agenda and self._agenda[0][0] <= now():
                heapq.heappop(self._agenda)[2]()
            if now() - asked > 0.25:
                asked = now()
                self._cradle.reap_orphans()
                if over():
                    return
            time.sleep(0.005)

    def _later(self, seconds: float, do: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (now() + seconds, next(self._numbers), do))

    def _report(self) -> int:
        for sample in self._samples[:: max(1, len(self._samples) // 20)]:
            memory = f"RSS {sample.rss / 1024:6.2f} MiB  WALs {sample.wal / 1024:6.2f} MiB"
            print(
                f"{sample.at:6.0f} s  {memory}  {sample.descriptors:4.0f} descriptors + one a run, {sample.living} runs"
            )
        grown = growth(self._samples, min(WARM_UP, self._seconds / 4))
        for name, by in grown.items():
            print(f"{name}: {by:+.0f} {'KiB ' if name != 'descriptors' else ''}(may be {MAY_GROW[name]:+.0f})")
        for writer in self._writers.values():
            writer.leave()
        findings = Oracle(self._world).judge_all()
        bad = [*self._world.wrong, *findings.wrong, *findings.missing, *findings.doubled, *self._daemon.exits]
        self._daemon.end(15)
        print(f"{findings.judged} runs judged: {len(bad)} wrong; {findings.unknowable} not knowable")
        for line in bad[:10]:
            print(line)
        flat = all(by <= MAY_GROW[name] for name, by in grown.items())
        print(f"{self._seconds / 60:g} minutes: {'flat' if flat else 'NOT FLAT'}", flush=True)
        return 0 if flat and not bad else 1


def growth(samples: Sequence[Sample], after: float) -> dict[str, float]:
    """Return by how much the median of the last third of the samples is above that of the first, of those after."""
    counted = [sample for sample in samples if sample.at >= after]
    third = max(1, len(counted) // 3)
    return {
        name: statistics.median(getattr(sample, name) for sample in counted[-third:])
        - statistics.median(getattr(sample, name) for sample in counted[:third])
        for name in MAY_GROW
    }


def main() -> int:
    """Soak, and report."""
    parser = argparse.ArgumentParser(prog="chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    if not apart.is_apart():
        return apart.run("chaos.soak", sys.argv[1:], options.minutes * 60 + 240)
    with tempfile.TemporaryDirectory(prefix="ays-soak-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        with apart.own_disk(folder, keep=False):
            return Soak(options.minutes, folder).run()


if __name__ == "__main__":
    sys.exit(main())
