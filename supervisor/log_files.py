"""The log files of agents, in their project's ``.agent-yes/logs/``: which there are, and deleting them.

Nothing is followed through a symbolic link: an agent can write to its project's folder, and a cloned repository can
bring one.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.store.connection import FOLDER

LOGS = "logs"

NAME = re.compile(r"([0-9a-f]{32}|[0-9]{1,19})\..+")
"""A log is named by its run's token or id. What is named otherwise is not ours to delete."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log: its project, its file's name, its run's token or id, its size in bytes, and its last write."""

    directory: str
    name: str
    run: str
    size: int
    written_at: float


def logs_of(directory: str) -> list[LogFile]:
    """Return the logs of the project at ``directory``; none where there is no folder for them."""
    found = []
    with _folder(directory) as folder:
        for name in [] if folder is None else os.listdir(folder):
            match = NAME.fullmatch(name)
            if match is None:
                continue
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(LogFile(directory, name, match[1], status.st_size, status.st_mtime))
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
    """Open the folder of a project's logs; None where there is none, or where it is not a folder but a link."""
    descriptors: list[int] = []
    try:
        try:
            descriptors.append(os.open(os.path.join(directory, FOLDER), _FLAGS))
            descriptors.append(os.open(LOGS, _FLAGS, dir_fd=descriptors[0]))
        except OSError:
            yield None
        else:
            yield descriptors[1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
