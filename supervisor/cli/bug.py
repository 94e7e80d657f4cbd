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
from supervisor.masking import masked


def report(words: list[str]) -> str:
    """Write what a maintainer needs of the exception that is being handled; return the file's path.

    The words of the command line are in it, but nothing of the environment. Where no file can be written, all of it
    goes to stderr.
    """
    text = "\n".join(
        (
            f"agent-yes-supervise {__version__}, Python {sys.version}",
            f"{platform.platform()}, SQLite {sqlite3.sqlite_version}",
            f"command: {masked(words, os.environ)}",
            "",
            traceback.format_exc(),
        )
    )
    for folder in (paths.log_dir, tempfile.gettempdir):
        try:
            return _write(folder(), text)
        except (OSError, ImportError):  # a broken installation is a bug too
            continue
    sys.stderr.write(text)
    return "the lines above"


def _write(folder: str, text: str) -> str:
    descriptor, path = tempfile.mkstemp(".log", f"bug-{time.strftime('%Y%m%d-%H%M%S')}-", folder)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path
