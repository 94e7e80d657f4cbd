"""How many of the seed's calls a second are done on 100,000 runs, here and by the original. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
from harness import ForeignStore, Home, number

from supervisor import db

OURS = "agent-yes-supervise"
SCRIPT = harness.HERE / "calls.mjs"
ORIGINAL = harness.PEERS / "original"
RUNTIMES = {"the original under Bun": "bun", "the original under Node": "node"}

CALLS: tuple[str, ...] = (
    "get_project_by_dir",
    "get_run_by_id",
    "get_run_by_pid",
    "get_running_runs",
    "create_run",
    "update_run_status",
    "get_all_runs",
)

Done = dict[str, float]


def make_store(directory: Path, runs: int) -> None:
    """Make a store as the original leaves it: ended runs, each of another pid, and one that runs."""
    store = ForeignStore(directory)
    store.create_ended_runs(runs)
    store.close()
    connection = sqlite3.connect(store.file)
    connection.execute("UPDATE runs SET pid = 1000 + id")
    connection.execute("UPDATE runs SET status = 'running', ended_at = NULL WHERE id = 1")
    connection.execute("UPDATE projects SET dir = '/somewhere'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def ours(directory: str, seconds: float, runs: int) -> Done:
    """Return how many of our calls are done in a second."""
    db.get_db(directory)

    def someone() -> int:
        return random.randint(1, runs)  # noqa: S311  no secret

    calls: dict[str, Callable[[], object]] = {
        "get_project_by_dir": lambda: db.get_project_by_dir("/somewhere"),
        "get_run_by_id": lambda: db.get_run_by_id(someone()),
        "get_run_by_pid": lambda: db.get_run_by_pid(1000 + someone()),
        "get_running_runs": db.get_running_runs,
        "create_run": lambda: db.create_run(os.getpid(), 1, ["-p", "hi"]),
        "update_run_status": lambda: db.update_run_status(someone(), "completed", 0),
        "get_all_runs": db.get_all_runs,
    }
    done = {}
    for name in CALLS:
        call = calls[name]
        for _ in range(3):
            call()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            call()
            count += 1
        done[name] = count / (time.perf_counter() - began)
    db.close_db()
    return done


def contestants(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return who does the calls: the command of each, for a store and what follows."""
    found = {OURS: [sys.executable, str(Path(__file__).resolve()), "--contestant"]}
    for name, runtime in RUNTIMES.items():
        program = shutil.which(runtime, path=f"{ORIGINAL}/node_modules/.bin:{os.environ.get('PATH', '')}")
        if options.no_peers or program is None or not (ORIGINAL / "node_modules" / "kysely").is_dir():
            harness.progress(f"{name}: left out (benchmarks/setup.sh installs it)")
        else:
            found[name] = [program, str(SCRIPT)]
    return found


def measure(options: argparse.Namespace) -> dict[str, Done]:
    """Let each do each call, in turns, and return the medians."""
    done: dict[str, list[Done]] = {}
    everyone = contestants(options)
    with Home(options.dir) as home:
        make_store(home.path / "store", options.runs)
        for turn in range(options.passes):
            for name, command in everyone.items():
                harness.progress(f"{name}, pass {turn + 1} …")
                copy = home.path / "copy"
                shutil.copytree(home.path / "store", copy)
                file = copy if name == OURS else copy / ".agent-yes" / "store.sqlite"
                told = subprocess.run(
                    [*command, str(file), str(options.seconds), str(options.runs)],
                    cwd=ORIGINAL if name != OURS else home.path,
                    env=home.environment,
                    stdout=subprocess.PIPE,
                    check=True,
                )
                done.setdefault(name, []).append(json.loads(told.stdout))
                shutil.rmtree(copy)
    return {name: {call: statistics.median(one[call] for one in all_) for call in CALLS} for name, all_ in done.items()}


def table(measured: dict[str, Done]) -> str:
    """Return the table: what each does in a second, and how we stand to the better of the originals."""
    others = [done for name, done in measured.items() if name != OURS]
    lines: list[Sequence[str]] = []
    for call in CALLS:
        best = max((done[call] for done in others), default=None)
        ratio = "-" if best is None else f"{measured[OURS][call] / best:.2f}"
        lines.append([f"`{call}`", *(number(done[call]) for done in measured.values()), ratio])
    return harness.table(("calls a second", *measured, "ours : the better original"), lines)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="runs in the store")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each call")
    parser.add_argument("--passes", type=int, default=5, help="turns of each")
    parser.add_argument("--contestant", nargs=3, metavar=("DIR", "SECONDS", "RUNS"), help=argparse.SUPPRESS)
    harness.add_common_options(parser)
    options = parser.parse_args()
    if options.contestant:
        directory, seconds, runs = options.contestant
        print(json.dumps(ours(directory, float(seconds), int(runs))))
        return
    with harness.well_behaved():
        measured = measure(options)
    parts = ["# The seed's calls\n", harness.circumstances(options.dir), table(measured)]
    harness.write_result("calls.md", "\n".join(parts), keep=not options.show)


if __name__ == "__main__":
    main()
