"""What watching costs when nothing happens: CPU, wake-ups and memory. See README.md."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
import peers
from harness import ForeignStore, Home, number

SWEEP = 30.0
"""Seconds between the sweeps of a daemon that is started without options."""


@dataclass(slots=True)
class Usage:
    """What a process has used so far: CPU seconds and wake-ups; and what it holds now, MiB.

    ``own`` is what no file backs, and so no other process can share by running the same program.
    """

    at: float
    cpu: float
    wakeups: int
    rss: float
    pss: float
    own: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Read it, all threads together."""
        # The kernel's CPU clock of another process counts in nanoseconds, /proc/PID/stat in hundredths of a second.
        cpu = time.clock_gettime(~pid << 3 | 2)
        switches = [_field(path, "voluntary_ctxt_switches") for path in Path(f"/proc/{pid}/task").glob("*/status")]
        held = Path(f"/proc/{pid}/smaps_rollup")
        rss, pss, own = (_field(held, name) / 1024 for name in ("Rss", "Pss", "Pss_Anon"))
        return cls(time.monotonic(), cpu, sum(switches), rss, pss, own)


@dataclass(slots=True)
class Idle:
    """What a process uses while nothing happens: CPU seconds a minute, wake-ups a second, MiB."""

    cpu: float
    wakeups: float
    rss: float
    pss: float

    def cells(self) -> list[str]:
        """Return its part of a line of the table."""
        return [f"{self.cpu:.4f}", number(self.wakeups), number(self.rss), number(self.pss)]


def watch(pid: int, seconds: float) -> Idle:
    """Watch a process for so long, without touching what it looks at."""
    before = Usage.of(pid)
    time.sleep(seconds)
    after = Usage.of(pid)
    passed = after.at - before.at
    cpu, wakeups = (after.cpu - before.cpu) / passed * 60, (after.wakeups - before.wakeups) / passed
    return Idle(cpu, wakeups, after.rss, after.pss)


@contextmanager
def stores(options: argparse.Namespace, runs: int, count: int) -> Iterator[tuple[Home, list[ForeignStore]]]:
    """Give a home with live runs, spread over stores."""
    with Home(options.dir) as home:
        found = [ForeignStore(home.path / f"project-{index}") for index in range(count)]
        for index, store in enumerate(found):
            home.at_end(store.close)
            store.create_runs(home.agents(runs // count + (index < runs % count)))
        yield home, found


def daemon(options: argparse.Namespace, runs: int) -> list[str]:
    """Measure the daemon, beyond its sweep and with frequent sweeps, and return a line of the table."""
    with stores(options, runs, options.stores) as (home, found):
        bare = _daemon(home, found, options, "--sweep-every", "3600")
    with stores(options, runs, options.stores) as (home, found):
        swept = _daemon(home, found, options, "--sweep-every", str(options.sweep))
    sweep = max(0.0, swept.cpu - bare.cpu) * options.sweep / 60
    whole = bare.cpu + sweep * 60 / SWEEP
    return ["agent-yes-supervise", f"{runs:,} in {options.stores}", *bare.cells(), number(sweep * 1000), f"{whole:.4f}"]


def _daemon(home: Home, found: list[ForeignStore], options: argparse.Namespace, *arguments: str) -> Idle:
    process = home.daemon(home.path, *arguments)
    for store in found:
        home.wait_until_bound(store, process)
        store.close()  # a reader that stays would not disturb it, but neither is it needed
    time.sleep(options.settle)
    return watch(process.pid, options.window)


def floor(options: argparse.Namespace, runs: int) -> list[str]:
    """Measure the bare floor: pidfds in an asyncio loop."""
    with stores(options, runs, 1) as (home, found):
        script = str(harness.HERE / "floor.py")
        process = home.start(sys.executable, script, str(found[0].file), log="floor.log",
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  pipes were asked for
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(options.settle)
        return ["floor", f"{runs:,} in 1", *watch(process.pid, options.window).cells(), "", ""]


def polling(options: argparse.Namespace, runs: int) -> list[str]:
    """Measure a job that polls with psutil."""
    with stores(options, runs, 1) as (home, found):
        script = str(harness.HERE / "polling_job.py")
        process = home.start(sys.executable, script, str(found[0].file), str(options.poll), log="polling.log",
                             stdout=subprocess.PIPE)  # fmt: skip
        assert process.stdout is not None  # noqa: S101  a pipe was asked for
        process.stdout.readline()
        time.sleep(options.settle)
        idle = watch(process.pid, max(options.window, 2 * options.poll))
        return [f"psutil job, {options.poll:g} s", f"{runs:,} in 1", *idle.cells(), "", ""]


def others(options: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """Measure the peers that are installed; return their lines, and a line for each that is skipped."""
    lines: list[list[str]] = []
    skipped: list[str] = []
    for peer in peers.each(options, skipped):
        time.sleep(options.settle)
        lines.append([peer.name, f"{options.peer_runs:,}", *watch(peer.pid, options.window).cells(), "", ""])
    return lines, skipped


def _field(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+)", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[0, 10, 100, 1000], help="numbers of live runs")
    parser.add_argument("--stores", type=int, default=10, help="stores that they are spread over")
    parser.add_argument("--window", type=float, default=20.0, help="seconds that each is watched")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds to wait before that")
    parser.add_argument("--sweep", type=float, default=2.0, help="seconds between sweeps where their cost is measured")
    harness.add_common_options(parser)
    options = parser.parse_args()
    with harness.well_behaved():
        lines = []
        for runs in options.runs:
            harness.progress(f"the daemon with {runs} runs …")
            lines.append(daemon(options, runs))
        most = max(options.runs, default=0)
        lines.append(floor(options, most))
        skipped = ["peers: not asked for"]
        if not options.no_peers:
            lines.append(polling(options, most))
            beside, skipped = others(options)
            lines += beside
        header = ("what", "runs in stores", "CPU s/min", "wake-ups/s", "RSS MiB", "PSS MiB", "a sweep, CPU ms",
                  f"CPU s/min, sweep each {SWEEP:g} s")  # fmt: skip
        parts = ["# While nothing happens\n", harness.circumstances(options.dir), harness.table(header, lines)]
        if skipped:
            parts.append("## Skipped\n\n" + "\n".join(f"- {line}" for line in skipped) + "\n")
        harness.write_result("idle.md", "\n".join(parts), keep=not options.show)


if __name__ == "__main__":
    main()
