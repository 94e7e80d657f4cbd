"""The report of a bug of ours: versions and the traceback, in a file of its own."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import tempfile
import time
import traceback

from supervisor import __version__, paths


def report(words: list[str]) -> str:
    """Write what a maintainer needs of the exception that is being handled; return the file's path.

    The words of the command line are in it, but nothing of the environment.
    """
    lines = [
        f"agent-yes-supervise {__version__}, Python {sys.version}",
        f"{platform.platform()}, SQLite {sqlite3.sqlite_version}",
        f"command: {words}",
        "",
        traceback.format_exc(),
    ]
    try:
        folder = paths.log_dir()
    except OSError:
        folder = tempfile.gettempdir()
    path = os.path.join(folder, f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log")
    with open(path, "x", encoding="utf-8", errors="backslashreplace", opener=_private) as file:
        file.write("\n".join(lines))
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
