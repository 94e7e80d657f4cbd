"""The logs of a project, all of them: which there are, and deleting them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.log import folder as folders
from supervisor.log.folder import LogRefused


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log: its project, its file's name, its run's token, its size in bytes, and its last write."""

    directory: str
    name: str
    token: str
    size: int
    written_at: float


def logs_of(directory: str) -> list[LogFile]:
    """Return the logs of the project at ``directory``; none where there is no folder for them."""
    found = []
    with _folder(directory) as folder:
        for name in [] if folder is None else os.listdir(folder):
            token, _, stream = name.partition(".")
            if not folders.is_token(token) or stream not in folders.STREAMS:
                continue  # not ours to delete
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(LogFile(directory, name, token, status.st_size, status.st_mtime))
    return found


def delete(log: LogFile) -> bool:
    """Delete a log; tell whether it was there and could be deleted."""
    with _folder(log.directory) as folder:
        if folder is None:
            return False
        try:
            os.unlink(log.name, dir_fd=folder)
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _folder(directory: str) -> Iterator[int | None]:
    """Open the folder of a project's logs; None where there is none, or none that we would write to."""
    try:
        descriptor = folders.open_logs(directory)
    except (OSError, LogRefused):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
