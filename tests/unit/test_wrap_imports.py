"""What wrap imports, and when: the agent waits for every module that is loaded before its exec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from kit import run_ours

import supervisor

PROBE = """
import json, os, sys

sys.path[:0] = json.loads(sys.argv[1])
told = int(sys.argv[2])
from supervisor.cli import main
from supervisor.wrap import command, launch

def loaded(wrapped):
    def probe(*args, **options):
        os.write(told, json.dumps(sorted(sys.modules)).encode() + b"\\n")
        return wrapped(*args, **options)
    return probe

launch.wait_for, launch.end_as = loaded(launch.wait_for), loaded(launch.end_as)
sys.argv[1:] = ["wrap", *sys.argv[3:]]
main()
"""
"""Tells which modules are loaded when the agent may exec and when all is done; without site, which loads its own."""

COSTLY = ("dataclasses", "typing", "click", "psutil", "platformdirs", "pathlib", "contextlib", "tempfile", "subprocess")
LATER = ("supervisor.process.tree", "supervisor.process.leftovers", "supervisor.wrap.leftovers", "termios", "select")
NEVER = ("apscheduler", "asyncio", "supervisor.daemon", "rich", "click", "psutil")
FOR_OTHERS = ("dataclasses", "inspect", "logging", "platformdirs", "typing", "supervisor.models")
"""What other commands load: half as much again as all that is needed, in time and in memory."""

FOR_LOGS = ("supervisor.log", "supervisor.wrap.capture", "supervisor.wrap.relay", "ctypes", "mmap")


@pytest.fixture
def modules(project: Path, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Return the modules that are loaded at the exec and at the end of a run that is recorded in a known store."""
    run_ours("wrap", "true")
    folders = [str(Path(module.__file__ or "").parent.parent) for module in (supervisor, platformdirs)]
    told = tmp_path / "told"
    with told.open("w") as file:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROBE, json.dumps(folders), str(file.fileno()), "sh", "-c", "exit 3"],
            pass_fds=(file.fileno(),),
            check=False,
        )
    assert ended.returncode == 3
    at_exec, at_end = told.read_text().splitlines()
    return json.loads(at_exec), json.loads(at_end)


def in_or_below(names: tuple[str, ...], loaded: list[str]) -> set[str]:
    """Return what is loaded of these packages."""
    return {module for module in loaded for name in names if f"{module}.".startswith(f"{name}.")}


def test_before_the_exec(modules: tuple[list[str], list[str]]) -> None:
    """Until the agent's exec nothing is loaded that costs milliseconds, and the row is written by then."""
    at_exec, _ = modules
    assert "supervisor.store.recording" in at_exec
    assert (
        in_or_below((*COSTLY, *LATER, *NEVER, "supervisor.spool", "supervisor.registry", "hashlib"), at_exec) == set()
    )


def test_whole_life(modules: tuple[list[str], list[str]]) -> None:
    """In its whole life wrap loads nothing of the daemon, APScheduler, the command line's tools or its data."""
    _, at_end = modules
    assert "supervisor.ending" in at_end
    assert in_or_below((*NEVER, *FOR_OTHERS, *FOR_LOGS, "supervisor.registry"), at_end) == set()
