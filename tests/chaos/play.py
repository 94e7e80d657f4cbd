"""The play: agents come and go, faults strike, then all is put right, and the oracle judges."""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from chaos import apart
from chaos.actors import Cradle, Daemon, register
from chaos.faults import Faults
from chaos.oracle import Findings, Oracle, Row, Watch, key_of, read_rows
from chaos.process_faults import ProcessFaults
from chaos.report import Figures, report
from chaos.store_faults import StoreFaults
from chaos.traffic import Traffic
from chaos.world import FAR, Kind, Run, Store, World, now
from chaos.writers import Writer

TICK = 0.005
AGENTS_A_SECOND, FAULTS_A_SECOND, READERS_A_SECOND = 12.0, 1.2, 0.3
LOOKS_EVERY = 0.4
DESCRIPTORS = 24
"""What the daemon may hold beside three for each store and one for each running row."""

BURSTS_AT = (0.2, 0.4, 0.6, 0.8)
"""Shares of the time."""


class Play:
    """One play.

    Args:
        options: of the command line.
        scratch: an empty folder for everything.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options = options
        random = self._random = Random(options.seed)  # noqa: S311  to be the same again
        self.world = World(scratch)
        for name in ("logs", "home", "projects", "state"):
            (scratch / name).mkdir()
        apart.mount_small(scratch / "state", "8m")
        self.world.stores = [self._store(number) for number in range(options.stores)]
        self._cradle = Cradle(self.world, random)
        self._daemon = Daemon(self.world)
        self._writers = {
            (number, kind): Writer(self.world, kind, store)
            for number, store in enumerate(self.world.stores)
            for kind in (Kind.FOREIGN, Kind.API)
        }
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._traffic = Traffic(self.world, random, self._cradle, self._daemon, self._writers, self._later)
        everyone = list(self._writers.values())
        processes = ProcessFaults(self.world, random, self._cradle, self._daemon, everyone, self._later)
        stores = StoreFaults(self.world, random, self._cradle, everyone, self._later)
        self._faults = Faults(self.world, random, processes, stores)
        self._watch = Watch(self.world)
        self._beacons: list[Run] = []
        self._last: dict[str, float] = {}
        self._slowest_step = 0.0

    def _store(self, number: int) -> Store:
        directory = self.world.scratch / "projects" / f"p{number}"
        directory.mkdir()
        small = number == self._options.stores - 1
        if small:
            apart.mount_small(directory, "24m")
        return Store(directory, small=small, spared=number < self._options.stores // 2)

    def run(self) -> int:
        """Play, settle, judge and report; return the exit code."""
        self._begin()
        began = now()
        self._loop(began + self._options.seconds)
        played = now()
        self._put_right()
        unsettled = self._settle()
        settled = now()
        for writer in self._writers.values():
            writer.leave()
        findings = self._judge()
        findings.wrong += unsettled
        steps, looks = self._slowest_step, self._watch.looks
        figures = Figures(self._options.seed, played - began, settled - played, steps, looks, self._options.figures)
        return report(self.world, findings, self._daemon.exits, figures)

    # The loop

    def _begin(self) -> None:
        for writer in self._writers.values():
            if writer.kind is Kind.FOREIGN:
                self._traffic.create(writer)
        while any(writer.busy for writer in self._writers.values()):
            self._step()
        register(self.world, self.world.scratch / "projects")
        self._daemon.start(sweep_every=5)
        while self._daemon.life.ready == FAR and self._daemon.runs:
            self._step()
        rate = self._options.rate
        self._often(AGENTS_A_SECOND * rate, self._traffic.start_agent)
        self._often(FAULTS_A_SECOND * rate, self._faults.strike)
        self._often(READERS_A_SECOND * rate, self._traffic.read)
        if self._options.burst:
            for share in BURSTS_AT:
                self._later(share * self._options.seconds, lambda: self._traffic.burst(self._options.burst))

    def _loop(self, until: float) -> None:
        while now() < until:
            self._step()
            while self._agenda and self._agenda[0][0] <= now():
                started = now()
                heapq.heappop(self._agenda)[2]()
                self._slowest_step = max(self._slowest_step, now() - started)

    def _step(self) -> None:
        started = now()
        self._cradle.observe()
        self._daemon.observe()
        for writer in self._writers.values():
            writer.listen()
        self._every("look", LOOKS_EVERY, self._watch.look)
        self._every("orphans", 0.5, self._cradle.reap_orphans)
        self._every("readers", 0.2, self._traffic.see_readers)
        self._slowest_step = max(self._slowest_step, now() - started)
        time.sleep(TICK)

    def _every(self, name: str, seconds: float, do: Callable[[], object]) -> None:
        if now() - self._last.get(name, 0.0) >= seconds:
            do()
            self._last[name] = now()

    def _later(self, seconds: float, do: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (now() + seconds, next(self._numbers), do))

    def _often(self, a_second: float, do: Callable[[], object]) -> None:
        """Do something again and again, at random moments, while the play goes on."""
        until = now() + self._options.seconds

        def again() -> None:
            if now() < until:
                self._later(self._random.expovariate(a_second), again)
                do()

        self._later(self._random.expovariate(a_second), again)

    # The end

    def _put_right(self) -> None:
        """End all faults, and record in each store an agent that lives to the end.

        That one shows the daemon that the rows of its store are of its own PID namespace.
        """
        self._faults.end_all()
        pending, self._agenda = sorted(self._agenda), []
        for _, _, do in pending:
            do()
        self._faults.end_all()
        if not self._daemon.runs or self._daemon.life.descriptors is not None:
            self._daemon.end(signal.SIGKILL)
            self._daemon.start(sweep_every=2)
        for writer in self._writers.values():
            writer.order("close")
            if writer.kind is Kind.API:
                self._beacons.append(self._traffic.create(writer, ends=False))

    def _settle(self) -> list[str]:
        """Wait until nothing is left to be settled; return what is."""
        deadline = now() + self._options.settle
        left = ["nothing was looked at"]
        while now() < deadline:
            self._loop(now() + 0.25)
            for run in list(self._cradle.living.values()):
                if run not in self._beacons:
                    self._cradle.tell(run, -signal.SIGKILL)
            self._every("read anew", 5.0, self._daemon.read_anew)
            left = self._left()
            if not left:
                return []
        return [f"after {self._options.settle:g} s: {line}" for line in left]

    def _left(self) -> list[str]:
        left = [f"{run.key} lives" for run in self._cradle.living.values() if run not in self._beacons]
        left += [f"the wrapper of chaos-{number} runs" for number in self._cradle.wrappers]
        left += [f"{command} runs" for _, command, _ in self._traffic.readers]
        left += [
            f"the {writer.kind} writer of {writer.store.name} is busy"
            for writer in self._writers.values()
            if writer.busy
        ]
        spool = self.world.scratch / "state" / "agent-yes-supervise" / "spool"
        left += [f"{path.name} is in the spool" for path in spool.glob("*.json")]
        for store in self.world.stores:
            try:
                left += [f"{run.key} in {store.name} runs" for run in self._running(read_rows(store))]
            except sqlite3.Error as error:
                left.append(f"{store.name} cannot be read: {error}")
        return left

    def _running(self, rows: list[Row]) -> list[Run]:
        runs = [self._run_of(row) for row in rows if row.status == "running"]
        return [run for run in runs if run is not None and run.kind is not Kind.ODD and run not in self._beacons]

    def _run_of(self, row: Row) -> Run | None:
        number = key_of(row.args)
        return self.world.runs[number] if number is not None and number < len(self.world.runs) else None

    def _judge(self) -> Findings:
        rows = {str(store.directory): read_rows(store) for store in self.world.stores}
        if self._options.spoil:
            self._spoil(rows)
        findings = Oracle(self.world, rows).judge_all()
        findings.wrong += self.world.wrong
        for store in self.world.stores:
            with contextlib.closing(sqlite3.connect(store.file)) as connection:
                answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
                if answer != "ok":
                    findings.wrong.append(f"{store.name}: {answer}")
        self._daemon.observe()
        running = sum(row.status == "running" for listed in rows.values() for row in listed)
        held, may_hold = self._daemon.descriptors(), DESCRIPTORS + 3 * len(self.world.stores) + running
        if held > may_hold:
            findings.wrong.append(f"the daemon holds {held} descriptors, and may hold {may_hold}")
        self._daemon.end(signal.SIGTERM)
        return findings

    def _spoil(self, rows: dict[str, list[Row]]) -> None:
        """Change one row, take one, double one."""
        sure = []
        for listed in rows.values():
            for row in listed:
                run = self._run_of(row)
                if row.status == "running" or run is None or run.falls:
                    continue
                if run.written != FAR and run.store.spared:
                    sure.append((listed, row))
        (first, changed), (second, taken), (third, doubled) = sure[:3]
        first[first.index(changed)] = changed._replace(exit_code=77)
        second.remove(taken)
        third.append(doubled)
