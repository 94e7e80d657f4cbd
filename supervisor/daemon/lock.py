"""One daemon per user: a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from datetime import datetime

from supervisor import __version__, paths
from supervisor.errors import DaemonRunning

log = logging.getLogger(__name__)

_TRIES = 5


class DaemonLock:
    """Held as long as the object lives and is not closed.

    The file says who holds it, or has held it last; only flock(2) counts. That it cannot be written is a warning.
    ``since`` is when it was taken, in Unix seconds.

    Raises:
        DaemonRunning: another daemon of this user holds it.
    """

    def __init__(self) -> None:
        path = paths.daemon_lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _taken(self._descriptor):
            holder = _holder(os.pread(self._descriptor, 4096, 0))
            os.close(self._descriptor)
            raise DaemonRunning(f"a daemon is running already{holder}", "one looks after all your stores") from None
        self.since = time.time()
        content = json.dumps({"pid": os.getpid(), "since": self.since, "version": __version__}).encode()
        try:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
        except OSError as error:
            log.warning("what this daemon is cannot be told to other commands: %s", error)
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let another daemon begin. The content stays, so that the next one has room for its own on a full disk."""
        os.close(self._descriptor)


def _taken(descriptor: int) -> bool:
    """Take the lock; tell whether it is ours. Who only asks whether it is held has it for microseconds."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False


def _holder(content: bytes) -> str:
    try:
        said = json.loads(content)
        since = datetime.fromtimestamp(said["since"]).astimezone().isoformat(" ", "seconds")
        return f": pid {int(said['pid'])}, since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return ""
