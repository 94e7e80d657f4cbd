"""An ordinary user for tests that run as root: a home and a project of its own, and our command as that user."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import rows

UID, OTHER_UID = 65534, 65533
"""The user, and another one who is not root either."""

_AS_THE_USER = """
import importlib, os, pkgutil, sys
import supervisor, asyncio, concurrent.futures.thread, encodings.ascii, fcntl, platformdirs.unix, resource, select
import apscheduler.executors.asyncio, apscheduler.jobstores.memory, apscheduler.triggers.interval
for found in pkgutil.walk_packages(supervisor.__path__, "supervisor."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from supervisor.cli.app import run
"""
"""Imports all there is before it becomes the user, who may not be allowed to read where Python is installed."""

_RUNS = f"""
os.setgroups([]), os.setresgid({UID}, {UID}, {UID}), os.setresuid({UID}, {UID}, {UID})
sys.exit(run(sys.argv[1:]))
"""


class OrdinaryUser:
    """A user's folder with a home and a project, and how to run our command there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project, self.home = folder, folder / "project", folder / "home"
        for made in (self.folder, self.project, self.home):
            made.mkdir()

    def give(self) -> None:
        """Make all that is there the user's own."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, UID, UID)

    def command(self, *, first: str = "") -> tuple[str, ...]:
        """Return our command as that user; ``first`` is Python to run before it."""
        return sys.executable, "-c", f"{_AS_THE_USER}{first}{_RUNS}"

    @property
    def options(self) -> dict[str, Any]:
        """The directory and the environment for the command, as `subprocess.Popen` takes them."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": os.pathsep.join(sys.path)}
        return {"cwd": self.project, "env": env}

    def run(self, *args: str, prefix: tuple[str, ...] = (), timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run our command to its end; ``prefix`` stands before it."""
        argv = [*prefix, *self.command(), *args]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL, **self.options
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the project's store."""
        return rows(self.project, sql)


@contextlib.contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Make one for the block. pytest's own folders are root's alone."""
    folder = Path("/var/tmp") / f"ordinary-{uuid.uuid4().hex}"  # noqa: S108  removed below
    try:
        yield OrdinaryUser(folder)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
