"""What a wrapped agent pays: at its start and end, while it runs, and for what it writes. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import harness
import peers
from harness import Home, number, wait_until
from idle import Usage

OURS = str(Path(sys.executable).with_name("agent-yes-supervise"))

MIB = 1024 * 1024
_LATEST = 120.0
"""Seconds after which something has gone wrong."""

_TELLS_TIME = ("date", "+%s%N")
_TELLS_TIME_IN_SHELL = "exec date +%s%N"
_SLEEPS = ("sleep", "600")


@dataclass(slots=True)
class Start:
    """A way to start a program, and how long each start took: to its own first word, and to the end of all, ms."""

    name: str
    argv: tuple[str, ...]
    tells: bool = True
    terminal: bool = False
    begun: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return its line of the table."""
        return [self.name, str(len(self.done)), *_middle(self.begun), *_middle(self.done)]


class Place:
    """A home with a project whose store is warm: it has recorded a run, and all bytecode is written."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.project = home.path / "project"
        self.project.mkdir()
        self._where: dict[str, object] = {"cwd": self.project, "env": home.plain_environment}
        for options in ((), ("--log",)):
            self.run(OURS, "wrap", *options, *_TELLS_TIME)
            self.run(OURS, "wrap", *options, *_TELLS_TIME, terminal=True)

    def start(self, *argv: str, terminal: bool = False, timed: bool = False) -> tuple[subprocess.Popen[bytes], int]:
        """Start a program in the project; return it, and where to read what it writes, to be closed.

        ``timed`` asks for a start without what would end it if we were killed: that takes a millisecond.
        """
        if terminal:
            return self.home.start_on_terminal(*argv, log="wrap.log", **self._where)
        options: dict[str, object] = {"preexec_fn": None} if timed else {}
        output, its = os.pipe()
        try:
            return self.home.start(*argv, log="wrap.log", stdout=its, **self._where, **options), output
        finally:
            os.close(its)

    def run(self, *argv: str, terminal: bool = False) -> bytes:
        """Run a program to its end, and return what it has written.

        Raises:
            RuntimeError: it has failed.
        """
        process, output = self.start(*argv, terminal=terminal, timed=True)
        told = b"".join(_pieces(output))
        if process.wait(_LATEST) != 0:
            raise RuntimeError(f"{argv} has failed: {told!r} {self.home.log_tail('wrap.log')}")
        return told


@contextlib.contextmanager
def place(options: argparse.Namespace) -> Iterator[Place]:
    """Give a place that ends with its home."""
    with Home(options.dir) as home:
        yield Place(home)


def starts(options: argparse.Namespace, skipped: list[str]) -> list[Start]:
    """Time starts, all ways in turn, so that what else the machine does meets them alike."""
    ways = [
        Start("the agent alone: date", _TELLS_TIME),
        Start("the same on a terminal", _TELLS_TIME, terminal=True),
        Start("python3 -c pass", (sys.executable, "-c", "pass"), tells=False),
        Start("wrap", (OURS, "wrap", *_TELLS_TIME)),
        Start("wrap on a terminal", (OURS, "wrap", *_TELLS_TIME), terminal=True),
        Start("wrap --log", (OURS, "wrap", "--log", *_TELLS_TIME)),
        Start("wrap --log on a terminal", (OURS, "wrap", "--log", *_TELLS_TIME), terminal=True),
    ]
    if not options.no_peers:
        ways += _others(skipped)
    with place(options) as project:
        for index in range(options.starts):
            for way in ways[index % len(ways) :] + ways[: index % len(ways)]:
                began = time.time_ns()
                told = project.run(*way.argv, terminal=way.terminal)
                way.done.append((time.time_ns() - began) / 1e6)
                if way.tells:
                    way.begun.append((int(told) - began) / 1e6)
    return ways


def _others(skipped: list[str]) -> list[Start]:
    found = []
    if _is_there("script", skipped):
        found.append(Start("script", ("script", "-qc", _TELLS_TIME_IN_SHELL, "/dev/null")))
    try:
        scope = peers.systemd_scope()
        found.append(Start(f"systemd-run {scope} --scope", ("systemd-run", scope, "--scope", "--quiet", *_TELLS_TIME)))
    except peers.Missing as why:
        skipped.append(f"systemd-run: {why}")
    if _is_there("node", skipped):
        found.append(Start("node -e 0", ("node", "-e", "0"), tells=False))
    return found


@dataclass(slots=True)
class Waiting:
    """What starts processes that wait for an agent, and which of them are to be looked at, by name."""

    argv: tuple[str, ...]
    parts: dict[str, Callable[[int], int]]
    terminal: bool = False


def _first_child(pid: int) -> int:
    return peers.children(pid)[0]


def _itself(pid: int) -> int:
    return pid


def waits(options: argparse.Namespace) -> list[list[str]]:
    """Look at wrappers whose agents run: alone, and several at once, which share what they have in common."""
    idle_python = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
    kinds = [
        Waiting(idle_python, {"python3 that sleeps": _itself}),
        Waiting((OURS, "wrap", *_SLEEPS), {"wrap": _itself}),
        Waiting((OURS, "wrap", "--log", *_SLEEPS), {"wrap --log": _itself}),
        Waiting(
            (OURS, "wrap", "--log", *_SLEEPS), {"wrap --log on a terminal": _itself, "its shim": _first_child}, True
        ),
    ]
    if not options.no_peers and shutil.which("script"):
        kinds.append(Waiting(("script", "-qc", f"exec {' '.join(_SLEEPS)}", "/dev/null"), {"script": _itself}))
    return [line for kind in kinds for count in (1, options.wrappers) for line in _wait(options, kind, count)]


def _wait(options: argparse.Namespace, kind: Waiting, count: int) -> list[list[str]]:
    lines = []
    with place(options) as project, contextlib.ExitStack() as ends:
        started = []
        for _ in range(count):
            process, output = project.start(*kind.argv, terminal=kind.terminal)
            ends.callback(os.close, output)
            started.append(process.pid)
        if kind.argv[-len(_SLEEPS) :] == _SLEEPS:
            wait_until(lambda: all(_agent_of(pid, _SLEEPS[0]) for pid in started), _LATEST, "an agent does not start")
        time.sleep(options.settle)
        pids = [part(pid) for part in kind.parts.values() for pid in started]
        before = [Usage.of(pid) for pid in pids]
        time.sleep(options.window)
        uses = list(zip(before, map(Usage.of, pids), strict=True))
        for index, name in enumerate(kind.parts):
            mine = uses[index * count : (index + 1) * count]
            held = [statistics.median(value) for value in zip(*((now.pss, now.own) for _, now in mine), strict=True)]
            woken = max(now.wakeups - before.wakeups for before, now in mine)
            busy = max(now.cpu - before.cpu for before, now in mine)
            lines.append([name, str(count), *(f"{value:.2f}" for value in held), str(woken), f"{busy * 1000:.1f}"])
    return lines


@dataclass(slots=True)
class Passing:
    """A way for bytes from an agent to a reader: how long each time took, in seconds, and whether all were the same."""

    name: str
    where: str
    argv: tuple[str, ...]
    terminal: bool = False
    taken: list[float] = field(default_factory=list)
    wrong: int = 0


def passes(options: argparse.Namespace, size: int) -> list[Passing]:
    """Let an agent write a file of random bytes, each way in turn, and compare what arrives with it."""
    with place(options) as project:
        file = project.project / "file"
        with file.open("wb") as written:
            for _ in range(size // MIB):
                written.write(os.urandom(MIB))
        plain = ("sh", "-c", f"exec cat {file.name}")
        raw = f"stty raw; exec cat {file.name}"
        ways = [
            Passing("the agent alone", "pipe", plain),
            Passing("wrap --log", "pipe", (OURS, "wrap", "--log", *plain)),
            Passing("the agent alone", "terminal", ("sh", "-c", raw), True),
            Passing("wrap --log", "terminal", (OURS, "wrap", "--log", "sh", "-c", raw), True),
        ]
        if not options.no_peers and shutil.which("script"):
            ways.insert(2, Passing("script", "pipe", ("script", "-qc", raw, "/dev/null")))
            ways.append(Passing("script", "terminal", ("script", "-qc", raw, "/dev/null"), True))
        for _ in range(options.passes):
            for way in ways:
                began = time.monotonic()
                process, output = project.start(*way.argv, terminal=way.terminal)
                is_same = _arrives(output, file)
                code = process.wait(_LATEST)
                way.taken.append(time.monotonic() - began)
                way.wrong += code != 0 or not is_same
    return ways


def _arrives(output: int, file: Path) -> bool:
    """Tell whether what arrives is a file's content, all of it and no more."""
    same = True
    with file.open("rb") as sent:
        for piece in _pieces(output):
            same = same and sent.read(len(piece)) == piece
        return same and not sent.read(1)


def stalls(options: argparse.Namespace) -> list[list[str]]:
    """Let nobody read, and look how far the agent gets, and how much more its wrapper then holds than before."""
    lines = []
    for where in ("pipe", "terminal"):
        with place(options) as project:
            script = "until [ -e go ]; do sleep 0.1; done; exec dd if=/dev/zero bs=1k"
            process, output = project.start(OURS, "wrap", "--log", "sh", "-c", script, terminal=where == "terminal")
            wait_until(lambda: _agent_of(process.pid, "sleep"), _LATEST, "the agent does not start")  # noqa: B023  now
            time.sleep(options.settle)
            before = Usage.of(process.pid)
            (project.project / "go").touch()
            agent = wait_until(lambda: _agent_of(process.pid, "dd"), _LATEST, "the agent does not go on")  # noqa: B023
            time.sleep(options.settle)
            first = _written(agent)
            time.sleep(options.settle)
            later = _written(agent)
            more = (Usage.of(process.pid).own - before.own) * 1024
            lines.append([where, f"{first / 1024:,.0f}", f"{later / 1024:,.0f}", f"{max(0, more):,.0f}"])
            os.close(output)
    return lines


def _written(pid: int) -> int:
    """Return how many bytes a process has written."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def _agent_of(pid: int, name: str) -> int:
    """Return the process of that name below another, 0 where there is none."""
    for child in peers.children(pid):
        found = child if _name(child) == name else _agent_of(child, name)
        if found:
            return found
    return 0


def _pieces(output: int) -> Iterator[bytes]:
    """Yield what arrives until the end, then close."""
    try:
        while piece := os.read(output, 64 * 1024):
            yield piece
    except OSError:  # EIO: the other side of the terminal is closed
        pass
    finally:
        os.close(output)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    return ""


def _is_there(program: str, skipped: list[str]) -> bool:
    if shutil.which(program) is None:
        skipped.append(f"{program}: it is not installed")
        return False
    return True


def _middle(values: list[float]) -> list[str]:
    if not values:
        return [""] * 3
    return [number(value) for value in (min(values), statistics.median(values), harness.percentile(values, 0.95))]


def report(options: argparse.Namespace, skipped: list[str]) -> str:
    """Measure, and return the result as Markdown."""
    size = (1024 if options.full else 64) * MIB
    harness.progress("starts …")
    times = ("min", "median", "p95")
    header = ("what", "times", *(f"agent runs: {time}" for time in times), *(f"all done: {time}" for time in times))
    parts = ["# What a wrapped agent pays\n"]
    begun = harness.table(header, [way.cells() for way in starts(options, skipped)])
    harness.progress("waiting …")
    header = ("what", "at once", "PSS MiB", "its own MiB", f"wake-ups in {options.window:g} s", "CPU ms")
    waiting = harness.table(header, waits(options))
    harness.progress(f"{size // MIB} MiB …")
    header = ("what", "through a", "times", "median s", "MiB/s", "times script's", "unchanged")
    passed = harness.table(header, _compared(passes(options, size), size))
    harness.progress("nobody reads …")
    header = ("through a", "written, KiB", "a while later", "more held by the wrapper, KiB")
    stalled = harness.table(header, stalls(options))
    parts += [harness.circumstances(options.dir), "## Start and end, ms\n", begun, "## While the agent runs\n", waiting,
              f"## {size // MIB:,} MiB from the agent to a reader\n", passed,
              "## An agent that writes while nobody reads\n", stalled]  # fmt: skip
    if skipped:
        parts.append("## Skipped\n\n" + "\n".join(f"- {line}" for line in skipped) + "\n")
    return "\n".join(parts)


def _compared(ways: list[Passing], size: int) -> list[list[str]]:
    script = {way.where: statistics.median(way.taken) for way in ways if way.name == "script"}
    lines = []
    for way in ways:
        taken, count = statistics.median(way.taken), len(way.taken)
        times = number(taken / script[way.where]) if way.where in script else ""
        lines.append([way.name, way.where, str(count), f"{taken:.2f}", number(size / MIB / taken), times,
                      f"{count - way.wrong} of {count}"])  # fmt: skip
    return lines


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=100, help="how often each start is timed")
    parser.add_argument("--wrappers", type=int, default=10, help="wrappers that wait at once")
    parser.add_argument("--window", type=float, default=10.0, help="seconds that those are watched")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds to wait before that")
    parser.add_argument("--passes", type=int, default=5, help="how often each lets the bytes pass")
    parser.add_argument("--full", action="store_true", help="1 GiB instead of 64 MiB")
    harness.add_common_options(parser)
    options = parser.parse_args()
    with harness.well_behaved():
        skipped: list[str] = ["peers: not asked for"] if options.no_peers else []
        harness.write_result("wrap.md", report(options, skipped), keep=not options.show)


if __name__ == "__main__":
    main()
