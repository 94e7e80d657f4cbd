"""What wrap imports, and when: the agent waits for every module that is loaded before its exec."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from kit import run_ours

import supervisor
from supervisor.spool import files

PROBE = """
import json, os, sys

sys.path[:0] = json.loads(sys.argv[1])
told = int(sys.argv[2])
from supervisor.cli import main
from supervisor.wrap import child, signals

def loaded(wrapped):
    def probe(*args, **options):
        os.write(told, json.dumps(sorted(sys.modules)).encode() + b"\\n")
        return wrapped(*args, **options)
    return probe

child.Child.release = loaded(child.Child.release)
signals.end_as = loaded(signals.end_as)
sys.argv[1:] = ["wrap", *sys.argv[3:]]
main()
"""
"""Tells which modules are loaded when the agent may exec and when all is done; without site, which loads its own."""

COSTLY = ("dataclasses", "typing", "click", "psutil", "platformdirs", "pathlib", "contextlib", "tempfile", "subprocess")
LATER = ("supervisor.process.tree", "supervisor.process.leftovers", "supervisor.wrap.leftovers", "termios", "select")
NEVER = ("apscheduler", "asyncio", "supervisor.daemon", "rich", "click", "psutil")
FOR_OTHERS = ("dataclasses", "inspect", "logging", "platformdirs", "typing", "supervisor.models")
"""What other commands load: half as much again as all that is needed, in time and in memory."""

FOR_ENDS = (
    *("supervisor.config", "supervisor.ending", "supervisor.nouns", "supervisor.wrap.restarts"),
    *("supervisor.wrap.limits", "supervisor.wrap.transcripts", "supervisor.process.lasting", "random", "shlex", "uuid"),
)
FOR_LOGS = ("supervisor.log", "supervisor.wrap.capture", "supervisor.wrap.relay", "ctypes", "mmap")


Modules = tuple[list[str], list[str]]


@pytest.fixture
def modules_of(project: Path, tmp_path: Path) -> Callable[..., Modules]:
    """Return what tells which modules are loaded at the exec and at the end of a run recorded in a known store."""
    run_ours("wrap", "true")
    return lambda *words: probed(tmp_path, *words)


@pytest.fixture
def modules(modules_of: Callable[..., Modules]) -> Modules:
    """Return the same of an agent that ends at once."""
    return modules_of("sh", "-c", "exit 3")


def probed(tmp_path: Path, *words: str) -> Modules:
    """Run a wrapper that tells its modules; its agent ends with code 3."""
    folders = [str(Path(module.__file__ or "").parent.parent) for module in (supervisor, platformdirs)]
    told = tmp_path / "told"
    with told.open("w") as file:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROBE, json.dumps(folders), str(file.fileno()), *words],
            pass_fds=(file.fileno(),),
            check=False,
        )
    assert ended.returncode == 3
    at_exec, at_end = told.read_text().splitlines()
    return json.loads(at_exec), json.loads(at_end)


def in_or_below(names: tuple[str, ...], loaded: list[str]) -> set[str]:
    """Return what is loaded of these packages."""
    return {module for module in loaded for name in names if f"{module}.".startswith(f"{name}.")}


def test_before_the_exec(modules: Modules) -> None:
    """Until the agent's exec nothing is loaded that costs milliseconds, and the row is written by then."""
    at_exec, _ = modules
    assert "supervisor.store.recording" in at_exec
    assert (
        in_or_below((*COSTLY, *LATER, *NEVER, "supervisor.spool", "supervisor.registry", "hashlib"), at_exec) == set()
    )


def test_before_the_exec_with_more_asked(project: Path, modules_of: Callable[..., Modules]) -> None:
    """Nor is there for what is needed when the agent has ended, or its time is over, and settings that are none."""
    (project / "claude").write_text("#!/bin/sh\nexit 3\n")
    (project / "claude").chmod(0o700)
    at_exec, _ = modules_of("--restart", "on-crash", "--timeout", "1m", "./claude")
    assert "supervisor.wrap.sessions" in at_exec
    found = in_or_below((*COSTLY, *LATER, *NEVER, *FOR_ENDS, "supervisor.spool", "supervisor.registry"), at_exec)
    assert found == set()


def test_whole_life(modules: Modules) -> None:
    """In its whole life wrap loads nothing of the daemon, APScheduler, the command line's tools or its data."""
    _, at_end = modules
    assert "supervisor.ending" in at_end
    assert in_or_below((*NEVER, *FOR_OTHERS, *FOR_LOGS, "supervisor.registry"), at_end) == set()


def test_whole_life_with_a_spool(project: Path, modules_of: Callable[..., Modules]) -> None:
    """Nor does it where it brings into its store what others have left in the spool."""
    store, away = project / ".agent-yes", project / "away"
    store.rename(away)
    store.touch()
    run_ours("wrap", "true")
    (kept,) = files.waiting()
    store.unlink()
    away.rename(store)
    until_taken = f"until [ ! -e '{files.folder()}/{kept}' ]; do sleep 0.01; done; exit 3"
    _, at_end = modules_of("timeout", "10", "sh", "-c", until_taken)
    assert (
        in_or_below((*NEVER, *FOR_OTHERS, *FOR_LOGS, "supervisor.registry", "supervisor.spool.applying"), at_end)
        == set()
    )
