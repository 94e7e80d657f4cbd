"""Kills wrappers at random instants beside a real daemon, and holds what is recorded against what has happened.

A program of its own: it adopts whatever loses its parent (PR_SET_CHILD_SUBREAPER), so that it knows how each agent
really ended. It prints what is wrong, and what it has seen, as JSON. Needs a home, and a folder that it makes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import COMMAND, Original, wait_until

from supervisor import registry
from supervisor.process import procfs
from supervisor.spool import files
from supervisor.store.files import store_file

AT_ONCE = 4
"""Wrappers that live at a time."""

PHASES = {"starts": 0.3, "forked": 0.08, "runs": 0.06, "ends": 0.15}
"""The parts of a wrapper's life in which it is killed, by what is seen from outside, and seconds that each may last."""

CALLS = "calls"
"""A way of its own: the wrapper is killed at one of the calls that it makes and returns from."""

KINDS = ("new", "known", "found")
"""Stores: made by the wrapper, known to the daemon, made by another and not known to it."""

ENDS = ("0", "3", "-9", "-15")
"""How agents end: exit codes and signals."""

SETTLED_WITHIN = 30.0

_AGENT = """
echo $$ >"$1/began"; echo began; sleep 0.04; echo ends; echo ends >"$1/ends"
case $2 in -*) kill "$2" $$;; *) exit "$2";; esac
"""

_COUNTS = """
import os, sys
from supervisor.cli import main
from supervisor.wrap import command, launch

own, calls, last, launch_it = os.getpid(), 0, int(sys.argv.pop(1)), command.launch

def count(*_):
    global calls
    calls += 1
    if calls == last and os.getpid() == own:
        os.kill(own, 9)

def counted(*args, **options):
    sys.setprofile(count)
    launch_it(*args, **options)

if not last:
    launch.end_as = lambda _status: (print(calls, flush=True), os._exit(0))
command.launch = counted
main()
"""
"""Kills itself at the call of that number since it began to launch the agent; without one, prints how many it makes."""

_ROW = """
SELECT runs.pid, runs.status, runs.exit_code, cause, rank, settled_by FROM runs
LEFT JOIN run_ending ON run_ending.run_id = runs.id WHERE args LIKE ?
"""
_PR_SET_CHILD_SUBREAPER = 36


def _agent(name: str, notes: Path, how: str) -> tuple[str, ...]:
    return "sh", "-c", _AGENT, name, str(notes), how


def calls_of_a_life(project: Path, log: list[str]) -> int:
    """Return how many calls a wrapper makes and returns from."""
    notes = project / "notes"
    notes.mkdir(parents=True)
    words = ("wrap", *log, "--project", str(project), *_agent("counted", notes, "0"))
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS, "0", *words], stdout=subprocess.PIPE, text=True, check=True, timeout=20
    )
    return int(done.stdout.split()[-1])


class Children:
    """What we have started or adopted, and how it has ended."""

    def __init__(self) -> None:
        assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self.ended: dict[int, int] = {}

    def start(self, *argv: str, out: Path) -> int:
        """Start a program that writes to a file, and return its pid."""
        actions = [(os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)

    def reap(self) -> None:
        """Reap all that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self.ended[found[0]] = found[1]


class Life:
    """One wrapper and its agent, from the start to the end of both."""

    def __init__(self, number: int, plan: random.Random, folder: Path, *, calls: int, log: bool) -> None:
        self.phase = (*PHASES, CALLS)[number % (len(PHASES) + 1)]
        self.kind = plan.choice(KINDS)
        self.how = plan.choice(ENDS)
        self.name = f"life-{number:04}"
        self.project = folder / ("known" if self.kind == "known" else self.name)
        self.wrong: list[str] = []
        self.began: tuple[int, int] | None = None
        self.pid = 0
        self._command: tuple[str, ...] = COMMAND
        self._delay = math.inf
        if self.phase == CALLS:
            self._command = (sys.executable, "-c", _COUNTS, str(plan.randint(1, calls)))
        else:
            self._delay = plan.uniform(0, PHASES[self.phase])
        self._notes = folder / f"{self.name}.notes"
        self._notes.mkdir()
        self._log = ["--log"] if log else []
        self._since: float | None = None
        self._was_killed = False
        self._looked = 0.0
        self.project.mkdir(exist_ok=True)
        if self.kind == "found":
            Original(self.project).close()

    def begin(self, children: Children) -> None:
        """Start the wrapper."""
        words = ("wrap", *self._log, "--project", str(self.project), *_agent(self.name, self._notes, self.how))
        self.pid = children.start(*self._command, *words, out=self._notes / "out")

    def step(self, children: Children) -> bool:
        """Look; kill the wrapper if it is time; tell whether this life is over."""
        if self.began is None:
            self._look_for_agent()
        if self.pid not in children.ended:
            self._kill_in_time()
            return False
        now = time.monotonic()
        if now - self._looked > 0.02:
            self._looked = now
            self._never_dead_while_it_lives(children)
        return not self.agent_lives(children) and not self._may_begin(children)

    def agent_lives(self, children: Children) -> bool:
        """Tell whether the agent runs."""
        if self.began is None or self.began[0] in children.ended:
            return False
        try:
            found = procfs.read_stat(self.began[0])
        except (OSError, ValueError):
            return False
        return found.start_ticks == self.began[1] and not found.is_dead

    def rows(self) -> list[Any]:
        """Return the rows of this life's run."""
        try:
            connection = sqlite3.connect(f"file:{store_file(str(self.project))}?mode=ro", uri=True)
            with contextlib.closing(connection):
                return connection.execute(_ROW, [f"%{self.name}%"]).fetchall()
        except sqlite3.Error:  # there is none, or nothing in it yet
            return []

    def end(self, children: Children) -> None:
        """End what is left of it."""
        for pid in filter(None, (self.pid, self.began[0] if self.agent_lives(children) and self.began else 0)):
            if pid not in children.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def judge(self, children: Children) -> str:
        """Hold the row against the truth; return by whom and how exactly the end is recorded."""
        self._look_for_agent()
        said, found = (self._notes / "out").read_text(), self.rows()
        if any(line not in ("began", "ends") for line in said.splitlines()):
            self.wrong.append(f"says {said!r}")
        if len(found) > 1:
            self.wrong.append(f"has {len(found)} rows: {found}")
        if not found:
            if self.began:
                self.wrong.append("is not recorded, but its agent began")
            return "nothing"
        pid, status, code, cause, rank, by = found[0]
        if self.began is None:
            if status not in ("failed", "crashed") or code not in (None, 125):
                self.wrong.append(f"is recorded as {found[0]}, but its agent never began")
            return "never began"
        if pid != self.began[0]:
            self.wrong.append(f"is recorded with another pid than {self.began[0]}: {found[0]}")
        if (status, code) == self._truth(children):
            return "exact, by wrap" if by == "wrap" else "exact, by the daemon"
        if (status, code, cause, rank) != ("crashed", None, "lost", 1):
            self.wrong.append(f"ended as {self._truth(children)}, but is recorded as {found[0]}")
        return "lost"

    def _kill_in_time(self) -> None:
        now = time.monotonic()
        if self._since is None and self._is_in_its_phase():
            self._since = now
        if self._since is not None and not self._was_killed and now - self._since >= self._delay:
            os.kill(self.pid, signal.SIGKILL)
            self._was_killed = True

    def _is_in_its_phase(self) -> bool:
        if self.phase == "forked":
            return bool(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())
        if self.phase == "runs":
            return self.began is not None
        return self.phase == "starts" or (self._notes / "ends").exists()

    def _look_for_agent(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._notes / "began").read_text())
            self.began = pid, -1
            self.began = pid, procfs.read_stat(pid).start_ticks

    def _may_begin(self, children: Children) -> bool:
        """Tell whether the row's process, which has not said that it began, lives."""
        if self.began is not None:
            return False
        return any(os.path.exists(f"/proc/{row[0]}") and row[0] not in children.ended for row in self.rows())

    def _never_dead_while_it_lives(self, children: Children) -> None:
        for row in self.rows():
            if row[1] != "running" and self.agent_lives(children):
                self.wrong.append(f"is recorded as {row} while its agent lives")

    def _truth(self, children: Children) -> tuple[str, int]:
        """Return status and exit code of the agent: as we have reaped it, else as it would end when its parent did."""
        assert self.began is not None
        status = children.ended.get(self.began[0])
        number = int(self.how) if status is None else os.waitstatus_to_exitcode(status)
        if number >= 0:
            return ("failed" if number else "completed"), number
        return ("crashed" if number == -signal.SIGKILL else "failed"), 128 - number


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--instants", type=int, default=40)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--log", action="store_true")
    options = parser.parse_args()
    folder, plan = options.folder, random.Random(options.seed)  # noqa: S311  no secret
    (folder / "known").mkdir(parents=True)
    Original(folder / "known").close()
    registry.announce(str(folder / "known"), created=False)
    calls = calls_of_a_life(folder / "counted", ["--log"] * options.log)
    children = Children()
    daemon = children.start(*COMMAND, "daemon", "--no-discover", out=folder / "daemon.log")
    lives = [Life(number, plan, folder, calls=calls, log=options.log) for number in range(options.instants)]
    try:
        wait_until(lambda: "supervising" in (folder / "daemon.log").read_text())
        live(lives, children)
        ended = time.monotonic()
        stuck = settle(lives, children)
        took = time.monotonic() - ended
        seen = Counter(f"{life.phase}: {life.judge(children)}" for life in lives)
    finally:
        os.kill(daemon, signal.SIGKILL)
        for life in lives:
            life.end(children)
    wrong = [f"{life.name} ({life.kind}, {life.phase}) {what}" for life in lives for what in life.wrong]
    wrong += [f"{life.name} ({life.kind}, {life.phase}) is stuck" for life in stuck]
    wrong += [f"{name} is left in the spool" for name in files.waiting()]
    found = {"seed": options.seed, "wrong": wrong, "seen": dict(sorted(seen.items())), "settled_in": round(took, 1)}
    print(json.dumps(found))
    sys.exit(bool(wrong))


def live(lives: Sequence[Life], children: Children) -> None:
    """Let all begin and end, some at a time."""
    waiting, living = list(lives[::-1]), list[Life]()
    while waiting or living:
        while waiting and len(living) < AT_ONCE:
            living.append(waiting.pop())
            living[-1].begin(children)
        children.reap()
        living = [life for life in living if not life.step(children)]
        time.sleep(0.0003)


def settle(lives: Sequence[Life], children: Children) -> list[Life]:
    """Wait until no row says that a run goes on, and return those of which one still does."""
    stuck, deadline = list(lives), time.monotonic() + SETTLED_WITHIN
    while stuck and time.monotonic() < deadline:
        children.reap()
        stuck = [life for life in stuck if any(row[1] == "running" for row in life.rows())]
        time.sleep(0.02)
    return stuck


if __name__ == "__main__":
    main()
