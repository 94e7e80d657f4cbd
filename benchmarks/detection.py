"""From a kill to the committed row: how long a death stays unknown. See README.md.

Processes are killed one at a time, with 10, 100 and 1,000 watched, then all at once; every ending must read 137.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import harness
import peers
import plot
from harness import Agent, ForeignStore, Home, number

ROUNDS = 20
"""In each, the dead are replaced, and a share of the kills follows: never fewer than the stated number are watched."""

EXPECTED = ("crashed", 137)

OURS = "agent-yes-supervise"


@dataclass(slots=True)
class Series:
    """Measured times of one subject, ms; ``judges`` is whether it also has to tell the exit code."""

    name: str
    timed: str
    watched: int
    times: list[float] = field(default_factory=list)
    wrong: int = 0
    late: int = 0
    judges: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether this is what the benchmark is for."""
        return self.name == OURS

    def cells(self) -> list[str]:
        """Return its line of the table."""
        kills = len(self.times) + self.late
        right = f"{kills - self.wrong - self.late} of {kills}" if self.judges else "-"
        return [self.name, self.timed, str(self.watched), str(kills), *harness.summary(self.times), right]


@dataclass(slots=True)
class Burst:
    """What came of killing all at once, several times: each time as a curve of (ms since the first kill, committed)."""

    name: str
    curves: list[list[tuple[float, int]]] = field(default_factory=list)
    wrong: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether this is what the benchmark is for."""
        return self.name == OURS


class StoreSubject:
    """Something that watches the running rows of one store and settles them there.

    Args:
        home: where its store and its process live.
        name: a short name, unique in this home.
        ready: waits until all running rows are watched; it gets the process and the store.
        launch: starts the process once there are rows; it gets the store.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        launch: Callable[[ForeignStore], subprocess.Popen[bytes]],
        ready: Callable[[subprocess.Popen[bytes], ForeignStore], None],
        *,
        expected: tuple[str, int | None] = EXPECTED,
    ) -> None:
        self.store = ForeignStore(home.path / name / "project")
        home.at_end(self.store.close)
        self._home, self._launch, self._ready = home, launch, ready
        self._expected = expected
        self._process: subprocess.Popen[bytes] | None = None
        self._live: list[tuple[int, Agent]] = []

    def fill(self, count: int) -> None:
        """Bring the number of watched runs to ``count``."""
        agents = self._home.agents(count - len(self._live))
        self._live += zip(self.store.create_runs(agents), agents, strict=True)
        if self._process is None:
            self._process = self._launch(self.store)
        self._ready(self._process, self.store)

    def kill_one(self, series: Series) -> None:
        """Kill one at random and time until another connection sees its row settled."""
        run_id, agent = self._live.pop(random.randrange(len(self._live)))  # noqa: S311  no secret
        store, version, reaped, row = self.store, self.store.data_version(), False, None
        begin = time.perf_counter_ns()
        signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)
        end = begin + int(peers.TOO_LATE * 1e9)
        while time.perf_counter_ns() < end:
            reaped = reaped or os.waitpid(agent.pid, os.WNOHANG)[0] != 0
            if (seen := store.data_version()) != version:
                version, row = seen, store.row(run_id)
                if row[0] != "running":
                    break
            harness.blink()
        taken = (time.perf_counter_ns() - begin) / 1e6
        if not reaped:
            os.waitpid(agent.pid, 0)
        self._home.buried(agent)
        if row is None or row[0] == "running":
            series.late += 1
        else:
            series.times.append(taken)
            series.wrong += row != self._expected

    def kill_all(self) -> tuple[list[tuple[float, int]], int]:
        """Kill all at once; return how many rows were committed when (ms since the first kill), and how many wrong."""
        victims, self._live = self._live, []
        store, version, reaped = self.store, self.store.data_version(), 0
        curve: list[tuple[float, int]] = [(0.0, 0)]
        begin = time.perf_counter_ns()
        for _, agent in victims:
            signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)
        while curve[-1][1] < len(victims) and time.perf_counter_ns() - begin < peers.TOO_LATE * 1e9:
            # They die about in the order of the kills: so each is reaped at once, as by a parent of its own.
            while reaped < len(victims) and os.waitpid(victims[reaped][1].pid, os.WNOHANG)[0]:
                reaped += 1
            if (seen := store.data_version()) != version:
                version = seen
                settled = len(victims) - store.count("status = 'running'")
                curve.append(((time.perf_counter_ns() - begin) / 1e6, settled))
            harness.blink()
        for _, agent in victims[reaped:]:
            os.waitpid(agent.pid, 0)
        for _, agent in victims:
            self._home.buried(agent)
        wrong = sum(store.row(run_id) != self._expected for run_id, _ in victims)
        return curve, wrong


def daemon(home: Home) -> StoreSubject:
    """Return the daemon as it is run by a user, on a store of its own."""
    return StoreSubject(
        home,
        "ours",
        lambda _: home.daemon(home.path / "ours"),
        lambda process, store: home.wait_until_bound(store, process),
    )


def floor(home: Home, *, batched: bool = False) -> StoreSubject:
    """Return the bare floor."""

    def launch(store: ForeignStore) -> subprocess.Popen[bytes]:
        options = ["--batched"] if batched else []
        return home.start(sys.executable, str(harness.HERE / "floor.py"), str(store.file), *options, log="floor.log",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def ready(process: subprocess.Popen[bytes], _: ForeignStore) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  pipes were asked for
        process.stdin.write(b"\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise RuntimeError(f"the floor has ended: {home.log_tail('floor.log')}")

    return StoreSubject(home, "floor-batched" if batched else "floor", launch, ready)


def polling(home: Home, every: float) -> StoreSubject:
    """Return a job that polls with psutil."""

    def launch(store: ForeignStore) -> subprocess.Popen[bytes]:
        script = str(harness.HERE / "polling_job.py")
        return home.start(sys.executable, script, str(store.file), str(every), log="polling.log",
                          stdout=subprocess.PIPE)  # fmt: skip

    def ready(process: subprocess.Popen[bytes], _: ForeignStore) -> None:
        assert process.stdout is not None  # noqa: S101  a pipe was asked for
        if not process.stdout.readline():
            raise RuntimeError(f"the polling job has ended: {home.log_tail('polling.log')}")

    return StoreSubject(home, "polling", launch, ready, expected=("crashed", None))


def one_by_one(options: argparse.Namespace, watched: int) -> list[Series]:
    """Kill one at a time, ours and the floor's in turn, both on the same machine in the same minutes."""
    harness.progress(f"{options.kills} kills one at a time, {watched} runs watched …")
    results = [Series(OURS, "row committed", watched), Series("floor", "row committed", watched)]
    with Home(options.dir) as home:
        subjects = list(zip((daemon(home), floor(home)), results, strict=True))
        rounds = min(ROUNDS, options.kills)
        for turn in range(rounds):
            kills = options.kills // rounds + (turn < options.kills % rounds)
            for subject, series in subjects:
                subject.fill(watched + kills)
                harness.pause(0.5)  # the daemon's beat has just been: let kills meet every part of it
                for _ in range(kills):
                    harness.pause(options.pause)
                    subject.kill_one(series)
    return results


def all_at_once(options: argparse.Namespace, count: int) -> list[Burst]:
    """Kill so many at once, several times, each subject alone on the machine."""
    harness.progress(f"{count} deaths at once, {options.bursts} times …")
    makers: dict[str, Callable[[Home], StoreSubject]] = {
        OURS: daemon,
        "floor, one by one": floor,
        "floor, batched": lambda home: floor(home, batched=True),
    }
    results = []
    for name, make in makers.items():
        burst = Burst(name)
        with Home(options.dir) as home:
            subject = make(home)
            for _ in range(options.bursts):
                subject.fill(count)
                harness.pause(1.0)
                curve, wrong = subject.kill_all()
                burst.curves.append(curve)
                burst.wrong += wrong
        results.append(burst)
    return results


def beside(options: argparse.Namespace) -> tuple[list[Series], list[str]]:
    """Measure the peers that are installed; return their series, and a line for each that is skipped."""
    results: list[Series] = []
    skipped: list[str] = []
    for peer in peers.each(options, skipped):
        series = Series(peer.name, peer.timed, options.peer_runs, judges=False)
        for _ in _within(options.peer_seconds, min(options.kills, options.peer_runs - 1)):
            harness.pause(options.pause)
            taken = peer.kill_one()
            series.late += taken is None
            if taken is not None:
                series.times.append(taken)
        results.append(series)
    harness.progress(f"a psutil job every {options.poll:g} s with {options.peer_runs} processes …")
    series = Series(f"psutil job, {options.poll:g} s", "row committed", options.peer_runs, judges=False)
    with Home(options.dir) as home:
        subject = polling(home, options.poll)
        subject.fill(options.peer_runs)
        for _ in _within(options.peer_seconds, min(options.kills, options.peer_runs)):
            harness.pause(options.poll)  # it settles at its own beat, so the next kill must not follow at once
            subject.kill_one(series)
    return [*results, series], skipped


def _within(seconds: float, most: int) -> Iterator[int]:
    """Count to ``most``, for so long at most."""
    end = time.monotonic() + seconds
    for index in range(most):
        if time.monotonic() > end:
            return
        yield index


def report(
    options: argparse.Namespace,
    series: Sequence[Series],
    bursts: dict[int, list[Burst]],
    others: Sequence[Series],
    skipped: Sequence[str],
) -> str:
    """Return the result as Markdown."""
    header = ("what", "timed", "watched", "kills", "min", "median", "p95", "p99", "max", "right")
    parts = [
        "# From a death to the record\n",
        harness.circumstances(options.dir),
        "## One kill at a time, ms\n",
        harness.table(header, [one.cells() for one in (*series, *others)]),
    ]
    for ours, bare in zip(series[::2], series[1::2], strict=True):
        if ours.times and bare.times:
            times = statistics.median(ours.times) / statistics.median(bare.times)
            parts.append(f"- {ours.watched} runs: the median is {number(times)} times the floor's\n")
    rows = []
    for count, results in bursts.items():
        for burst in results:
            lasts = [curve[-1][0] for curve in burst.curves if curve[-1][1] == count]
            firsts = [curve[1][0] for curve in burst.curves if len(curve) > 1]
            shown = [number(statistics.median(values)) if values else "-" for values in (firsts, lasts)]
            worst = number(max(lasts)) if len(lasts) == len(burst.curves) else "too late"
            deaths = count * len(burst.curves)
            right = f"{deaths - burst.wrong} of {deaths}"
            rows.append([burst.name, f"{count:,}", str(len(burst.curves)), *shown, worst, right])
    parts += [
        "## All at once, ms from the first kill\n",
        harness.table(("what", "deaths", "times", "first row", "last row", "worst", "right"), rows),
    ]
    if skipped:
        parts.append("## Skipped\n\n" + "\n".join(f"- {line}" for line in skipped) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Measure, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 100, 1000], help="numbers of runs watched")
    parser.add_argument("--kills", type=int, default=100, help="kills one at a time, for each number of runs")
    parser.add_argument("--pause", type=float, default=0.1, help="longest pause before each kill, seconds")
    parser.add_argument("--bursts", type=int, default=3, help="how often all are killed at once")
    parser.add_argument("--full", action="store_true", help="5,000 deaths at once, too")
    parser.add_argument("--peer-seconds", type=float, default=60, help="longest time for the kills of one peer")
    harness.add_common_options(parser)
    options = parser.parse_args()
    with harness.well_behaved():
        series = [one for watched in options.runs for one in one_by_one(options, watched)]
        sizes = [1000, 5000] if options.full else [1000]
        bursts = {count: all_at_once(options, count) for count in sizes if options.bursts}
        others, skipped = ([], ["peers: not asked for"]) if options.no_peers else beside(options)
        text = report(options, series, bursts, others, skipped)
        harness.write_result("detection.md", text, keep=not options.show)
        if not options.show:
            plot.draw("detection.svg", [*series, *others], bursts)


if __name__ == "__main__":
    main()
