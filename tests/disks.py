"""Small disks for tests, to be filled or made read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(place: Path, options: str = "size=512k") -> Iterator[Path]:
    """Mount a small disk at a new or empty folder for the block, for those who may."""
    place.mkdir(exist_ok=True)
    if os.geteuid() != 0 or not _mounted(place, options):
        pytest.skip("needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> None:
    """Leave no space on a disk."""
    with (place / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def clear(place: Path) -> None:
    """Give back the space that `fill` has taken."""
    (place / "ballast").unlink()


def _mounted(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
