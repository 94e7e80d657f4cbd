"""SQLite files of others: the sessions that opencode and kilo keep. Only ever read."""

from __future__ import annotations

import os
import sqlite3
import urllib.parse

_WAIT = 0.25
"""Seconds that a restart waits for a file that is locked."""

_STEPS = 2_000_000
"""Steps of SQLite's machine (some tenths of a second) that a look may take."""


def opencode_sessions(file: str, directory: str, since: float) -> list[tuple[str, float]]:
    """Return id and birth of the sessions in a directory that changed at or after ``since``, at most two.

    Times are Unix seconds; the file's are milliseconds. Sessions of subagents do not count. Source: opencode 1.18.

    Raises:
        OSError: the file is not there, or not a file.
        sqlite3.Error: it is locked, or not what we know.
    """
    if not os.path.isfile(file):
        raise FileNotFoundError(file)
    connection = sqlite3.connect(f"file:{urllib.parse.quote(file)}?mode=ro", uri=True, timeout=_WAIT)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.set_progress_handler(lambda: 1, _STEPS)
        rows = connection.execute(
            "SELECT id, time_created FROM session"
            " WHERE directory = ? AND time_updated >= ? AND parent_id IS NULL LIMIT 2",
            (directory, since * 1000),
        ).fetchall()
    finally:
        connection.close()
    return [(str(number), created / 1000) for number, created in rows if isinstance(created, int | float)]
