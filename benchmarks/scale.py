"""What grows with the number of runs, stores and live processes, and how fast. See README.md."""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import harness
import plot
from harness import Agent, ForeignStore, Home, number
from idle import Usage, watch

from supervisor.daemon.watch import RESTS_AFTER

OURS = (sys.executable, "-m", "supervisor")

COMMANDS: tuple[tuple[str, ...], ...] = (("ls",), ("runs", "list"), ("projects", "show"), ("why", "1"))
"""What a person asks, in the directory of the first store."""

TOO_LATE = 60.0

SWEEP_AT_REST = 2.0
"""Seconds between the sweeps of stores at rest: one that is asked for reads all stores, those at rest too."""

Measured = dict[str, float]
Live = tuple[ForeignStore, int, Agent]


@contextmanager
def world(options: argparse.Namespace, stores: int) -> Iterator[tuple[Home, list[ForeignStore]]]:
    """Give a home with so many stores."""
    with Home(options.dir) as home:
        yield home, [_store(home, index) for index in range(stores)]


def _store(home: Home, index: int) -> ForeignStore:
    store = ForeignStore(home.path / f"project-{index}")
    home.at_end(store.close)
    return store


def commands(home: Home, store: ForeignStore, options: argparse.Namespace) -> Measured:
    """Return the ms that each command takes in a project, start of Python included."""
    measured = {}
    for words in COMMANDS:
        times = []
        for _ in range(options.repeats):
            began = time.perf_counter()
            subprocess.run(
                [*OURS, *words],
                cwd=store.file.parent.parent,
                env=home.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            times.append((time.perf_counter() - began) * 1000)
        measured[" ".join(words)] = statistics.median(times)
    return measured


def daemon(
    home: Home,
    stores: Sequence[ForeignStore],
    live: Sequence[tuple[ForeignStore, int, Agent]],
    options: argparse.Namespace,
    *,
    at_rest: bool = False,
) -> Measured:
    """Return what the daemon takes to start, to tell of deaths, and to idle; and to sweep, also when stores rest."""
    _configure(home, 3600)
    process = home.daemon(home.path)
    for store in stores:
        home.wait_until_bound(store, process)
    started = Usage.of(process.pid).cpu
    time.sleep(options.settle)
    _sweep(process, options)  # the first reads again what the start has written
    idle = watch(process.pid, options.window)
    sweep = _sweep(process, options)
    if at_rest:
        _configure(home, SWEEP_AT_REST)
        _sweep(process, options)
        time.sleep(RESTS_AFTER)
        sweep = (watch(process.pid, options.window).cpu - idle.cpu) * SWEEP_AT_REST / 60
    deaths = [_death(home, *victim) for victim in random.sample(list(live), min(options.kills, len(live)))]
    return {
        "start": started * 1000,
        "idle": idle.cpu,
        "sweep": sweep * 1000,
        "rss": idle.rss,
        "death": statistics.median(deaths),
    }


def _configure(home: Home, sweep_every: float) -> None:
    """Set the seconds between sweeps."""
    path = subprocess.run([*OURS, "config", "path"], env=home.environment, capture_output=True, text=True, check=True)
    file = Path(path.stdout.strip())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[daemon]\nsweep_every = {sweep_every}\n")


def _sweep(process: subprocess.Popen[bytes], options: argparse.Namespace) -> float:
    """Have the daemon sweep, and return the seconds of CPU that it takes."""
    before = Usage.of(process.pid).cpu
    process.send_signal(signal.SIGHUP)
    harness.wait_until(lambda: Usage.of(process.pid).cpu > before + 0.0002, 20, "no sweep", process)
    time.sleep(options.settle)
    return Usage.of(process.pid).cpu - before


def _death(home: Home, store: ForeignStore, run_id: int, agent: Agent) -> float:
    """Kill an agent and return the ms until another connection sees its row settled."""
    harness.pause(0.05)
    version, reaped = store.data_version(), False
    began = time.perf_counter()
    signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)
    while time.perf_counter() - began < TOO_LATE:
        reaped = reaped or os.waitpid(agent.pid, os.WNOHANG)[0] != 0
        if (seen := store.data_version()) != version:
            version = seen
            if store.row(run_id)[0] != "running":
                break
        harness.blink()
    taken = (time.perf_counter() - began) * 1000
    if not reaped:
        os.waitpid(agent.pid, 0)
    home.buried(agent)
    return taken


def by_runs(options: argparse.Namespace) -> dict[int, Measured]:
    """Measure with ever more ended runs in one store, which has one live run too."""
    found = {}
    for count in options.rows:
        harness.progress(f"{count:,} ended runs …")
        with world(options, 1) as (home, stores):
            stores[0].create_ended_runs(count)
            agents = home.agents(1)
            (run_id,) = stores[0].create_runs(agents)
            subprocess.run([*OURS, "prune", "--yes", "--older-than", "2001-09-10"], cwd=stores[0].file.parent.parent,
                           env=home.environment, stderr=subprocess.DEVNULL, check=True)  # fmt: skip
            measured = daemon(home, stores, [(stores[0], run_id, agents[0])], options)
            found[count] = commands(home, stores[0], options) | measured
    return found


def by_stores(options: argparse.Namespace) -> dict[int, Measured]:
    """Measure with ever more stores, each with ten ended runs and one live one."""
    found = {}
    for count in options.stores:
        harness.progress(f"{count:,} stores …")
        with world(options, count) as (home, stores):
            live = []
            for store in stores:
                store.create_ended_runs(10)
                (agent,) = home.agents(1)
                live.append((store, store.create_runs([agent])[0], agent))
            measured = daemon(home, stores, live, options)
            found[count] = commands(home, stores[0], options) | measured
    return found


def by_stores_at_rest(options: argparse.Namespace) -> dict[int, Measured]:
    """Measure with ever more stores, each with ten ended runs; a run lives in the one that the daemon comes to last."""
    found = {}
    for count in options.at_rest:
        harness.progress(f"{count:,} stores at rest …")
        with world(options, count) as (home, stores):
            for store in stores:
                store.create_ended_runs(10)
            last = max(stores, key=lambda store: str(store.file))
            agents = home.agents(1)
            (run_id,) = last.create_runs(agents)
            measured = daemon(home, [last], [(last, run_id, agents[0])], options, at_rest=True)
            found[count] = commands(home, last, options) | measured
    return found


def by_processes(options: argparse.Namespace) -> dict[int, Measured]:
    """Measure with ever more live runs in ten stores."""
    found = {}
    for count in options.live:
        harness.progress(f"{count:,} live processes …")
        with world(options, 10) as (home, stores):
            live = []
            for index, store in enumerate(stores):
                agents = home.agents(count // 10 + (index < count % 10))
                live += [(store, run, agent) for run, agent in zip(store.create_runs(agents), agents, strict=True)]
            measured = daemon(home, [store for store in stores if store.count("1")], live, options)
            found[count] = commands(home, stores[0], options) | measured
    return found


def dead_at_start(options: argparse.Namespace) -> tuple[float, float]:
    """Return CPU and time, s, until a daemon has settled 10,000 rows of dead processes in 100 stores at its start."""
    harness.progress("10,000 dead rows in 100 stores …")
    with world(options, 100) as (home, stores):
        for store in stores:
            store.create_dead_runs(100)
        began = time.monotonic()
        process = home.daemon(home.path, "--sweep-every", "3600")
        harness.wait_until(lambda: not any(store.count("status = 'running'") for store in stores), TOO_LATE, "late")
        return Usage.of(process.pid).cpu, time.monotonic() - began


_COLUMNS = {
    "start": "start, CPU ms",
    "sweep": "a sweep, CPU ms",
    "idle": "idle, CPU s/min",
    "rss": "RSS MiB",
    "death": "a death, ms",
    **{" ".join(words): f"`{' '.join(words)}`, ms" for words in COMMANDS},
}


def _table(what: str, found: dict[int, Measured]) -> str:
    lines = [
        [f"{count:,}", *(f"{one[name]:.4f}" if name == "idle" else number(one[name]) for name in _COLUMNS)]
        for count, one in found.items()
    ]
    return harness.table((what, *_COLUMNS.values()), lines)


def main() -> None:
    """Measure, and write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10, 1000, 100_000, 1_000_000], help="ended runs")
    parser.add_argument("--stores", type=int, nargs="*", default=[1, 10, 100, 1000], help="numbers of stores")
    parser.add_argument("--at-rest", type=int, nargs="*", default=[10, 100, 1000], help="numbers of stores, one in use")
    parser.add_argument("--live", type=int, nargs="*", default=[10, 100, 1000, 5000], help="live processes")
    parser.add_argument("--window", type=float, default=10.0, help="seconds that an idle daemon is watched")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds to wait before that")
    parser.add_argument("--repeats", type=int, default=5, help="times that a command is run")
    parser.add_argument("--kills", type=int, default=20, help="processes killed one at a time")
    harness.add_common_options(parser)
    options = parser.parse_args()
    with harness.well_behaved():
        cpu, taken = dead_at_start(options)
        tables = {
            "ended runs in a store": by_runs(options),
            "stores with a live run each": by_stores(options),
            "stores, a live run in one": by_stores_at_rest(options),
            "live processes in 10 stores": by_processes(options),
        }
    parts = ["# What grows\n", harness.circumstances(options.dir)]
    parts += [_table(what, found) for what, found in tables.items() if found]
    parts.append(
        f"Start with 10,000 rows of dead processes in 100 stores: {cpu:.2f} s of CPU, all settled after {taken:.1f} s"
        " (their second look comes after 10 s).\n"
    )
    harness.write_result("scale.md", "\n".join(parts), keep=not options.show)
    if not options.show:
        plot.draw_growth("scale.svg", tables, _COLUMNS)


if __name__ == "__main__":
    main()
