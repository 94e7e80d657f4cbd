"""The record of a wrapped run: begun before the agent, finished after it, and never in its way.

The agent comes first: whatever goes wrong here becomes one line on stderr.
"""

from __future__ import annotations

import os
import sqlite3
import time

from supervisor.errors import StoreBusy, StoreError
from supervisor.store import connection as connections, recording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.models import Ending

FIRST_WAIT = 0.25
"""Seconds that an agent's start may wait for a locked store."""

LATER_WAIT = 0.05
RETRY_EVERY = 0.25
GIVE_UP_AFTER = connections.BUSY_TIMEOUT


class Record:
    """One run's record in its store.

    Args:
        run: what to record.
        warn: takes the one line that says what is not recorded.
    """

    def __init__(self, run: recording.NewRun, warn: Callable[[str], None]) -> None:
        self._run = run
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._began_trying = time.monotonic()
        self._warned = False
        self.created = False
        self.begun = False
        self.pending = False
        """Whether the beginning still waits for a lock."""

    def begin(self) -> None:
        """Record the beginning, waiting for the store at most `FIRST_WAIT`."""
        self._try_to_begin(FIRST_WAIT)

    def begin_later(self) -> None:
        """Try again what a lock has kept from being recorded; give up with a line after `GIVE_UP_AFTER`."""
        self._try_to_begin(LATER_WAIT)
        if self.pending and time.monotonic() - self._began_trying > GIVE_UP_AFTER:
            self.pending = False
            self._say(StoreBusy(f"{connections.store_file(self._run.directory)} stays locked by another process"))

    def finish(self, ending: Ending) -> None:
        """Record the ending, and with it the beginning if that could not be recorded."""
        try:
            if self._connection is not None and self._file != self._file_now():
                self.close()  # the store we began in is gone: the run goes whole into the one that stands there now
            if self._connection is None:
                self._open(connections.BUSY_TIMEOUT)
            assert self._connection is not None  # noqa: S101  _open has set it, or raised
            self._connection.execute(f"PRAGMA busy_timeout = {connections.BUSY_TIMEOUT * 1000:.0f}")
            recording.finish_run(self._connection, self._run, ending)
        except Exception as error:  # noqa: BLE001  no trouble of ours may change how the agent's end is seen
            self._say(error)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try_to_begin(self, timeout: float) -> None:
        try:
            deadline = time.monotonic() + timeout
            if self._connection is None:
                self._open(timeout)
            assert self._connection is not None  # noqa: S101  _open has set it, or raised
            left = max(1, int((deadline - time.monotonic()) * 1000))
            self._connection.execute(f"PRAGMA busy_timeout = {left}")
            recording.begin_run(self._connection, self._run)
        except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from starting
            self.pending = _is_lock(error)
            if not self.pending:
                self._say(error)
        else:
            self.begun, self.pending = True, False

    def _open(self, timeout: float) -> None:
        path = connections.store_file(self._run.directory)
        created = not os.path.lexists(path)
        self._connection, _ = connections.open_for_writing(self._run.directory, timeout=timeout)
        self.created = self.created or created
        self._file = self._file_now()

    def _file_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(connections.store_file(self._run.directory))
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _say(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        if isinstance(error, sqlite3.Error):
            error = connections.translate(self._run.directory, error)
        what = "how this run ends" if self.begun else "this run"
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        self._warn(f"{what} is not recorded: {reason}")


def _is_lock(error: Exception) -> bool:
    return isinstance(error, StoreBusy) or (isinstance(error, sqlite3.Error) and connections.is_lock(error))
