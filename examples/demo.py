"""The main job, shown for real on a throw-away home: agents end in every way there is, and each ending is recorded.

Run it by ``make demo``. It exits with 0 only if every ending is what it must be, ends by itself within 30 seconds, and
leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from supervisor.process.abilities import abilities

OURS = (sys.executable, "-m", "supervisor")

WAITS = "until [ -e stop ]; do sleep 0.05; done; exit 3"
"""A shell agent that runs until a file appears."""


class Demo:
    """A home, two projects, a daemon, and what each run's ending must be."""

    def __init__(self, scratch: Path) -> None:
        self.environment = {
            **os.environ,
            "HOME": str(scratch),
            "XDG_STATE_HOME": str(scratch / "state"),
            "XDG_CONFIG_HOME": str(scratch / "config"),
        }
        self.wrapped = scratch / "wrapped"
        self.foreign = scratch / "foreign"
        self.expected: dict[tuple[Path, int], tuple[str, int | None, str | None]] = {}
        self.started: list[subprocess.Popen[bytes]] = []
        for project in (self.wrapped, self.foreign):
            project.mkdir()

    def start(self, *argv: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process that is ended with the demo."""
        process = subprocess.Popen(argv, cwd=cwd or self.wrapped, env=self.environment, stdin=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def run(self, *words: str, cwd: Path | None = None) -> int:
        """Run agent-yes-supervise as a person would, shown with its output."""
        where = f"cd {cwd.name}; " if cwd else ""
        print(f"\n$ {where}agent-yes-supervise {shlex.join(words)}", flush=True)
        return subprocess.run(
            [*OURS, *words], cwd=cwd or self.wrapped, env=self.environment, stdin=subprocess.DEVNULL, check=False
        ).returncode

    def runs(self, project: Path) -> dict[int, dict[str, object]]:
        """Return a project's runs by id, as ``runs list --json`` gives them."""
        answer = subprocess.run(
            [*OURS, "runs", "list", "--json"], cwd=project, env=self.environment, capture_output=True, check=True
        )
        return {run["id"]: run for run in json.loads(answer.stdout)}

    def close(self) -> None:
        """End what still runs."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
            process.wait(10)


def main() -> int:
    """Run the demo and return its exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agent-yes-supervise-demo-") as scratch:
        demo = Demo(Path(scratch).resolve())
        try:
            start_daemon(demo)
            wrapped_agents(demo)
            killed_wrapper(demo)
            foreign_rows(demo)
            show(demo)
            wrong = check(demo)
        finally:
            demo.close()
    say(f"{'All endings are right' if not wrong else f'{wrong} endings are WRONG'}; {time.monotonic() - began:.1f} s.")
    return 1 if wrong else 0


def start_daemon(demo: Demo) -> None:
    """Start the daemon that looks after all stores of this home."""
    say("A daemon looks after every store of this throw-away home.")
    demo.start(*OURS, "daemon", "--no-discover")
    wait_until((Path(demo.environment["XDG_STATE_HOME"]) / "agent-yes-supervise" / "daemon.lock").exists)


def wrapped_agents(demo: Demo) -> None:
    """Run agents under wrap to four different ends."""
    say("Agents under wrap end as they would without it, and the wrapper records how.")
    ends = (
        ("exit 0", 0, ("completed", 0, "exited")),
        ("exit 3", 3, ("failed", 3, "exited")),
        ("kill -SEGV $$", -signal.SIGSEGV, ("crashed", 139, "signalled")),
        ("kill -KILL $$", -signal.SIGKILL, ("crashed", 137, "killed")),
    )
    for number, (script, code, ending) in enumerate(ends, start=1):
        seen = demo.run("wrap", "sh", "-c", script)
        print(f"  ended with {seen}, as the agent did" if seen == code else f"  ended with {seen}, NOT {code}")
        demo.expected[demo.wrapped, number] = ending


def killed_wrapper(demo: Demo) -> None:
    """Kill a wrapper; its agent runs on and ends later, and the daemon records it."""
    say("A wrapper is SIGKILLed. Its agent runs on, and ends with 3 later: the daemon asks the kernel how.")
    wrapper = demo.start(*OURS, "wrap", "sh", "-c", WAITS)
    wait_until(lambda: 5 in demo.runs(demo.wrapped))
    wrapper.kill()
    wrapper.wait()
    time.sleep(1)  # let the daemon see the row while its agent lives, as it would
    (demo.wrapped / "stop").touch()
    known = abilities().exit_status
    demo.expected[demo.wrapped, 5] = ("failed", 3, "exited") if known else ("crashed", None, "lost")
    wait_until(lambda: demo.runs(demo.wrapped)[5]["status"] != "running")


def foreign_rows(demo: Demo) -> None:
    """Write rows the way the original module does, and let their processes live, die, or be dead already."""
    say(
        "Rows that another program writes straight into a store: one process lives, one is killed, one is dead already."
    )
    subprocess.run([*OURS, "wrap", "true"], cwd=demo.foreign, env=demo.environment, check=True)
    demo.expected[demo.foreign, 1] = ("completed", 0, "exited")
    alive, killed, dead = (demo.start("sleep", "60"), demo.start("sleep", "60"), demo.start("true"))
    dead.wait()
    store = sqlite3.connect(demo.foreign / ".agent-yes" / "store.sqlite", isolation_level=None)
    for process in (alive, killed, dead):
        store.execute("insert into runs (pid, project_id, status, args) values (?, 1, 'running', '[]')", [process.pid])
    demo.expected[demo.foreign, 2] = ("running", None, None)
    demo.expected[demo.foreign, 3] = ("crashed", 137, "killed")
    demo.expected[demo.foreign, 4] = ("crashed", None, "lost")
    wait_until(lambda: bool(store.execute("select 1 from run_process where run_id = 3").fetchall()))
    moment = time.perf_counter()
    killed.kill()
    while store.execute("select status from runs where id = 3").fetchone()[0] == "running":
        pass
    print(f"  the killed one was settled {(time.perf_counter() - moment) * 1000:.1f} ms after the kill")
    wait_until(lambda: store.execute("select status from runs where id = 4").fetchone()[0] != "running")
    store.close()


def show(demo: Demo) -> None:
    """Show what a person sees."""
    say("What runs now, and what ended badly:")
    demo.run("ls")
    say("The runs of each project:")
    demo.run("runs", "list")
    demo.run("runs", "list", cwd=demo.foreign)
    say("Why did the agent end that nobody of ours had started?")
    demo.run("why", "3", cwd=demo.foreign)


def check(demo: Demo) -> int:
    """Print each recorded ending beside what it must be; return how many are wrong."""
    say("Each ending, as recorded:")
    wrong = 0
    for project in (demo.wrapped, demo.foreign):
        for number, run in sorted(demo.runs(project).items()):
            recorded = (run["status"], run["exit_code"], run["cause"])
            right = recorded == demo.expected[project, number]
            wrong += not right
            by = run["settled_by"] or "nobody"
            mark = "ok" if right else f"WRONG, must be {demo.expected[project, number]}"
            print(f"  {project.name}#{number}  {run['status']}, {run['exit_code']}, {run['cause']}, by {by}: {mark}")
        missing = [number for where, number in demo.expected if where == project and number not in demo.runs(project)]
        wrong += len(missing)
        for number in missing:
            print(f"  {project.name}#{number} is MISSING")
    return wrong


def say(text: str) -> None:
    """Narrate."""
    print(f"\n== {text}", flush=True)


def wait_until(predicate: Callable[[], bool], timeout: float = 15) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: it has not.
    """
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError("the demo waits in vain; what has happened so far is printed above")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
