"""Memory cgroups of a test's own, with a small limit, for real OOM kills."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Processes, wait_until
from nursery import say

LIMIT = 20 << 20
"""Bytes that all processes of a group may use together."""

_CGROUPS = Path("/sys/fs/cgroup")

_EATS = f"""
import sys
print(flush=True)
sys.stdin.readline()
eaten = b"x" * {4 * LIMIT}
sys.stdin.readline()
"""


class MemoryGroup:
    """A memory cgroup, of either version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int) -> None:
        """Put a process into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def eater(self, processes: Processes) -> subprocess.Popen[str]:
        """Start a process in it that eats more than the limit once it gets a line."""
        process = processes.python(_EATS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.add(process.pid)
        return process

    def remove(self) -> None:
        """End what is in it, and remove it."""
        if not self.folder.exists():
            return
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        wait_until(self.is_removed)

    def is_removed(self) -> bool:
        """Try to remove it, and tell whether it is gone."""
        try:
            self.folder.rmdir()
        except OSError:  # what is killed takes a moment to leave it
            return False
        return True


def eat(process: subprocess.Popen[str]) -> int:
    """Let an eater eat, and return how it ended: minus the signal's number."""
    say(process, "eat")
    return process.wait(30)


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make one for the block; the test is skipped where that cannot be."""
    group = MemoryGroup(_made())
    try:
        _limit(group.folder)
        yield group
    finally:
        group.remove()


@contextlib.contextmanager
def counted_apart() -> Iterator[None]:
    """Put this process, and what it starts, into a memory cgroup without a limit for the block, where that can be.

    The OOM kills of the tests beside it are then not of its group; else they would explain a SIGKILL of its own.
    """
    home = _own_group()
    folder = home / f"test-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():  # ourselves, and what is just ending
            with contextlib.suppress(OSError):
                (home / "cgroup.procs").write_text(pid)
        with contextlib.suppress(AssertionError):
            wait_until(MemoryGroup(folder).is_removed, 5)


def _own_group() -> Path:
    """Return the folder of this process's memory cgroup; of version 2 the root, which alone may have both."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return _CGROUPS / "memory" / path.strip("/")
    return _CGROUPS


def _made() -> Path:
    name, reasons = f"test-{uuid.uuid4().hex}", []
    for parent in (_CGROUPS / "memory", _CGROUPS):
        folder = parent / name
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        if (folder / "memory.oom_control").exists() or (folder / "memory.events").exists():
            return folder
        folder.rmdir()
        reasons.append(f"{parent}: no memory controller")
    pytest.skip(f"no memory cgroup can be made: {'; '.join(reasons)}")


def _limit(folder: Path) -> None:
    for name, value in (
        ("memory.swappiness", 0),
        ("memory.swap.max", 0),
        ("memory.limit_in_bytes", LIMIT),
        ("memory.memsw.limit_in_bytes", LIMIT),
        ("memory.max", LIMIT),
    ):
        if (folder / name).exists():
            (folder / name).write_text(str(value))
