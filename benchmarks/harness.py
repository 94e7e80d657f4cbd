"""What the benchmarks stand on: a throw-away home, agents to kill, rows of another writer, the daemon, and tables.

Everything started here ends with the `Home` that it belongs to, also on Ctrl-C, by process id; agents end even if the
benchmark itself is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import itertools
import os
import platform
import random
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import supervisor
from supervisor.process.stamp import stamp_of
from supervisor.store.schema import SEED_SCHEMA
from supervisor.store.supervision import SupervisedStore

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PEERS = HERE / ".peers"

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_USUAL_SLACK_NS = 50_000
_libc = ctypes.CDLL(None)


@dataclass(slots=True)
class Agent:
    """A process that does nothing: what stands for an agent."""

    pid: int
    pidfd: int


class Home:
    """A home of its own in a temporary folder, and all that is started in it.

    Args:
        parent: where the folder is made; by default, where temporary files go.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ays-benchmark-", dir=parent))
        self._ends = contextlib.ExitStack()
        # Agents read from this pipe, which nobody writes to: the end of this process is the end of them all.
        self._pipe = os.pipe()
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._agents: dict[int, Agent] = {}

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        for agent in self._agents.values():
            signal.pidfd_send_signal(agent.pidfd, signal.SIGKILL)  # not reaped yet, so still there
        for agent in list(self._agents.values()):
            os.waitpid(agent.pid, 0)
            self.buried(agent)
        for descriptor in (*self._pipe, self._nowhere):
            os.close(descriptor)
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of what runs in this home."""
        places = {f"XDG_{kind}_HOME": str(self.path / kind.lower()) for kind in ("STATE", "CONFIG", "DATA", "CACHE")}
        return {**os.environ, "HOME": str(self.path), **places}

    @property
    def plain_environment(self) -> dict[str, str]:
        """The same without what steers Python, as a person has it.

        A PYTHONPATH would bring supervisord our package, and without bytecode on disk each start compiles.
        """
        return {name: value for name, value in self.environment.items() if not name.startswith("PYTHON")}

    def at_end(self, call: Callable[[], object]) -> None:
        """Call this when the home ends, before what was asked for earlier."""
        self._ends.callback(call)

    def agents(self, count: int) -> list[Agent]:
        """Start agents. They are our children: whoever kills one has to reap it and to say so with `buried`."""
        actions = [(os.POSIX_SPAWN_DUP2, self._pipe[0], 0), (os.POSIX_SPAWN_DUP2, self._nowhere, 1)]
        agents = []
        for _ in range(count):
            pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=actions)
            agents.append(Agent(pid, os.pidfd_open(pid)))
            self._agents[pid] = agents[-1]
        return agents

    def buried(self, agent: Agent) -> None:
        """Note that an agent is dead and reaped."""
        del self._agents[agent.pid]
        os.close(agent.pidfd)

    def start(self, *argv: str, log: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a program that ends with this home, by SIGTERM and after a while by SIGKILL.

        Args:
            argv: the program.
            log: the file in this home that takes its standard error, and its output unless ``options`` say otherwise.
            options: those of `subprocess.Popen`.
        """
        with open(self.path / log, "ab") as file:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                argv,
                **{  # type: ignore[call-overload]
                    "cwd": self.path,
                    "env": self.environment,
                    "stdin": subprocess.DEVNULL,
                    "stdout": file,
                    "stderr": file,
                    "preexec_fn": _before_exec,
                    **options,
                },
            )
        self.at_end(lambda: _end(process))
        return process

    def start_on_terminal(self, *argv: str, log: str, **options: object) -> tuple[subprocess.Popen[bytes], int]:
        """Start a program that leads the session on a terminal of its own, as `start` does; return our end, too.

        Standard error goes there with the rest. Our end is the caller's to close.
        """
        ours, its = os.openpty()
        try:
            process = self.start(
                *argv, log=log, **{"stdin": its, "stdout": its, "stderr": its, "start_new_session": True,
                                   "preexec_fn": _before_exec_on_terminal, **options},
            )  # fmt: skip
        finally:
            os.close(its)
        return process, ours

    def daemon(self, below: Path, *options: str) -> subprocess.Popen[bytes]:
        """Start the daemon on every store below a folder.

        It is told not to discover stores: on a machine in use it would find those of other processes.
        """
        ours = (sys.executable, "-m", "supervisor")
        self.start(*ours, "stores", "add", "--scan", str(below), log="stores.log").wait(120)
        return self.start(*ours, "daemon", "--no-discover", *options, log="daemon.log")

    def wait_until_bound(self, store: ForeignStore, daemon: subprocess.Popen[bytes], timeout: float = 60) -> None:
        """Wait until the daemon watches every running row of a store.

        Raises:
            RuntimeError: the daemon has ended, or takes too long.
        """
        try:
            wait_until(store.is_bound, timeout, "the daemon does not watch all runs", daemon)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log_tail('daemon.log')}") from None

    def log_tail(self, name: str) -> str:
        """Return the end of a log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join((self.path / name).read_text(errors="replace").splitlines()[-5:])
        return ""


class ForeignStore:
    """A store as another program writes it: the original's tables and pragmas, over plain sqlite3.

    One connection writes rows; another only looks, as any reader would.
    """

    def __init__(self, directory: Path) -> None:
        folder = directory / ".agent-yes"
        folder.mkdir(parents=True, mode=0o700)
        self.file = folder / "store.sqlite"
        self._writer = sqlite3.connect(self.file, isolation_level=None, timeout=30)
        self._writer.execute("PRAGMA journal_mode = WAL")
        for sql in SEED_SCHEMA:
            self._writer.execute(sql)
        self._writer.execute("INSERT INTO projects (dir, cmd) VALUES (?, 'cat')", (str(directory),))
        self.reader = sqlite3.connect(self.file, isolation_level=None, timeout=30)

    def create_runs(self, agents: Sequence[Agent]) -> list[int]:
        """Insert a running row for each agent, as createRun does, and return their ids."""
        insert = "INSERT INTO runs (pid, project_id, status, args) VALUES (?, 1, 'running', '[]')"
        self._writer.execute("BEGIN IMMEDIATE")
        ids = [self._writer.execute(insert, (agent.pid,)).lastrowid or 0 for agent in agents]
        self._writer.execute("COMMIT")
        return ids

    def create_ended_runs(self, count: int) -> None:
        """Insert runs that have ended, one a minute until now, as the original leaves them."""
        now = int(time.time())
        rows = (
            (4_999_000, "crashed" if number % 10 == 0 else "completed", now - 60 * number, (now - 60 * number) * 1000)
            for number in range(count, 0, -1)
        )
        insert = (
            "INSERT INTO runs (pid, project_id, status, exit_code, started_at, ended_at, args)"
            """ VALUES (?, 1, ?, 0, ?, ?, '["-p","fix the tests"]')"""
        )
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.executemany(insert, rows)
        self._writer.execute("COMMIT")

    def create_dead_runs(self, count: int) -> None:
        """Insert rows that say that they run, of processes of this boot that are gone, each with its stamp."""
        highest = int(Path("/proc/sys/kernel/pid_max").read_text()) - 1
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        free = itertools.islice((pid for pid in range(highest, 0, -1) if pid not in there), count)
        insert = "INSERT INTO runs (pid, project_id, status, args) VALUES (?, 1, 'running', '[]')"
        self._writer.execute("BEGIN IMMEDIATE")
        ids = {self._writer.execute(insert, (pid,)).lastrowid or 0: pid for pid in free}
        self._writer.execute("COMMIT")
        ours = stamp_of(os.getpid())
        with SupervisedStore(str(self.file.parent.parent)) as store:
            store.keep_stamps([(run, {**ours, "pid": pid, "pidfd_inode": 1}) for run, pid in ids.items()], by="wrap")

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed (sqlite.org/pragma.html)."""
        version: int = self.reader.execute("PRAGMA data_version").fetchone()[0]
        return version

    def row(self, run_id: int) -> tuple[str, int | None]:
        """Return status and exit code of a run."""
        row: tuple[str, int | None] = self.reader.execute(
            "SELECT status, exit_code FROM runs WHERE id = ?", (run_id,)
        ).fetchone()
        return row

    def count(self, where: str) -> int:
        """Count rows of ``runs``."""
        number: int = self.reader.execute(f"SELECT count(*) FROM runs WHERE {where}").fetchone()[0]
        return number

    def is_bound(self) -> bool:
        """Tell whether the daemon has tied every running row to its process: it then keeps the process's stamp."""
        tables = "SELECT count(*) FROM sqlite_master WHERE name = 'run_process'"
        unbound = "status = 'running' AND id NOT IN (SELECT run_id FROM run_process)"
        return bool(self.reader.execute(tables).fetchone()[0]) and not self.count(unbound)

    def close(self) -> None:
        """Close both connections."""
        self.reader.close()
        self._writer.close()


def wait_until(
    predicate: Callable[[], T], timeout: float, message: str, process: subprocess.Popen[bytes] | None = None
) -> T:
    """Call until the answer is true and return it.

    Raises:
        RuntimeError: not within ``timeout`` seconds, or the process that should bring it about has ended.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{message}: it has ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{message}: not within {timeout:g} s")
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def well_behaved() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exit that cleans up, allow as many descriptors as there may be, sleep exactly."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _libc.prctl(_PR_SET_TIMERSLACK, 1)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def pause(longest: float) -> None:
    """Sleep for a random time, so that what comes meets no rhythm of the daemon's."""
    time.sleep(random.uniform(0, longest))  # noqa: S311  no secret


def blink() -> None:
    """Sleep between two looks, for about 0.05 ms: an observer that never sleeps takes a core from what it observes."""
    time.sleep(20e-6)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of some values, ``share`` in 0…1."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def summary(values: Sequence[float]) -> list[str]:
    """Return min, median, p95, p99 and max as cells of a table."""
    if not values:
        return ["-"] * 5
    points = (min(values), statistics.median(values), percentile(values, 0.95), percentile(values, 0.99), max(values))
    return [number(point) for point in points]


def number(value: float) -> str:
    """Return a number with about three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns aligned for those who read the text."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (padded[0], rule, *padded[1:])) + "\n"


def circumstances(scratch: Path | None) -> str:
    """Return where and how a benchmark ran, in Markdown; without any path of the machine."""
    arguments = ["DIR" if scratch and argument == str(scratch) else argument for argument in sys.argv[1:]]
    command = " ".join(("python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments))
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    place = _file_system(scratch or Path(tempfile.gettempdir()))
    facts = (
        ("command", f"`{command}`"),
        ("date", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("machine", f"{os.cpu_count()} cores of {_processor()}, load at the end {load}"),
        ("kernel", f"{platform.system()} {platform.release()}, files on {place}"),
        ("Python", f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}"),
        ("agent-yes-supervise", supervisor.__version__),
    )
    return "\n".join(f"- {name}: {value}" for name, value in facts) + "\n"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks have."""
    parser.add_argument("--no-peers", action="store_true", help="measure ours and the floor only")
    parser.add_argument("--peer-runs", type=int, default=100, help="processes that each peer watches")
    parser.add_argument("--poll", type=float, default=5.0, help="period of the psutil job, seconds")
    parser.add_argument("--dir", type=Path, help="where the throw-away homes are made")
    parser.add_argument("--show", action="store_true", help="print the result only; benchmarks/results stays as it is")


def write_result(name: str, text: str, *, keep: bool) -> None:
    """Show a result, and keep it in place of the earlier one."""
    if not keep:
        print(f"\n{text}")
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to benchmarks/results/{name}")


def progress(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)


def _before_exec() -> None:
    """In a child before its exec: let the kernel end it if this process is killed, and time it as any other."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _libc.prctl(_PR_SET_TIMERSLACK, _USUAL_SLACK_NS)


def _before_exec_on_terminal() -> None:
    _before_exec()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    """Return the type of the file system that ``path`` is on: a commit is written there."""
    best, kind = "", "?"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, found = line.split()[:3]
            if len(point) >= len(best) and path.is_relative_to(point):
                best, kind = point, found
    return kind
