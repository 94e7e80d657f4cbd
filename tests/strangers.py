"""Processes that nobody would take for an agent, unless a test makes them look like one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from kit import Processes, wait_until

from supervisor.process import procfs


def stranger(processes: Processes, folder: Path, name: str = "tool", **options: Any) -> subprocess.Popen[str]:
    """Start a program of some name that works in some folder, and waits: a copy of sleep(1)."""
    found = shutil.which("sleep")
    assert found is not None
    folder.mkdir(exist_ok=True)
    program = folder / name
    if not program.exists():
        shutil.copy(found, program)
    process = processes.start(str(program), "3600", **{"cwd": folder, **options})
    wait_until(lambda: procfs.read_argv(process.pid))  # exec(2) closes descriptors before the new arguments show
    return process
