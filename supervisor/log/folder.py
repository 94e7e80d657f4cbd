"""Where a run's logs are, and opening them safely.

A log is named by its run's token, which is known before the store is touched and never given out twice. Everything is
opened relative to folders that were looked at when opened, and never through a symbolic link: an agent can write to
its project's folder, and a cloned repository can bring one.
"""

from __future__ import annotations

import os
import stat

from supervisor.errors import SuperviseError
from supervisor.store.files import FOLDER

LOGS = "logs"

OUTPUT, ERRORS = STREAMS = "log", "err.log"
"""The streams, by the end of their file's name: stdout or the terminal, and stderr where it is logged apart."""

_TOKEN_DIGITS = frozenset("0123456789abcdef")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LogRefused(SuperviseError):
    """A folder or file that logs must not be written to or read from."""


def file_of(directory: str, token: str, stream: str) -> str:
    """Return the path of a run's log, to be shown; it may not be there."""
    return os.path.join(directory, FOLDER, LOGS, f"{token}.{stream}")


def create(directory: str, token: str, stream: str) -> int:
    """Make a run's log, for the user's eyes only, and return a descriptor to write and read it.

    Args:
        directory: the project's physical directory, whose ``.agent-yes`` is there.
        token: the run's.
        stream: `OUTPUT` or `ERRORS`.

    Raises:
        OSError: it cannot be made, or is there already.
        LogRefused: a folder on the way is a link, or another user's.
    """
    folder = open_logs(directory, make=True)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(_name(token, stream), flags, 0o600, dir_fd=folder)
    finally:
        os.close(folder)


def open_for_reading(directory: str, token: str, stream: str) -> int | None:
    """Return a descriptor to read a run's log, None where there is none.

    Raises:
        OSError: it cannot be read.
        LogRefused: it is no regular file of the user's, or lies behind a link.
    """
    try:
        folder = open_logs(directory)
    except FileNotFoundError:
        return None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for a writer
        descriptor = os.open(_name(token, stream), flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in _trusted(directory):
        os.close(descriptor)
        raise LogRefused(f"{file_of(directory, token, stream)} is not a file of yours", "remove it")
    return descriptor


def open_logs(directory: str, *, make: bool = False) -> int:
    """Return a descriptor of the folder of a project's logs.

    Args:
        directory: the project's physical directory.
        make: whether it is made where it is missing.

    Raises:
        OSError: it is not there, or cannot be made.
        LogRefused: a folder on the way is a link, or another user's.
    """
    trusted = _trusted(directory)
    path = os.path.join(directory, FOLDER)
    above = _open_folder(path, path, trusted)
    try:
        path = os.path.join(path, LOGS)
        if make:
            try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
                os.mkdir(LOGS, 0o700, dir_fd=above)
            except FileExistsError:
                pass
        return _open_folder(LOGS, path, trusted, above)
    finally:
        os.close(above)


def remove(directory: str, token: str) -> None:
    """Delete a run's logs; that there are none is no error.

    Raises:
        OSError: one cannot be deleted.
        LogRefused: a folder on the way is a link, or another user's.
    """
    try:
        folder = open_logs(directory)
    except FileNotFoundError:
        return
    try:
        for stream in (OUTPUT, ERRORS):
            try:
                os.unlink(_name(token, stream), dir_fd=folder)
            except FileNotFoundError:
                continue
    finally:
        os.close(folder)


def is_token(token: str) -> bool:
    """Tell whether a stored token can be part of a file's name."""
    return len(token) == 32 and _TOKEN_DIGITS.issuperset(token)


def _name(token: str, stream: str) -> str:
    if not is_token(token):
        raise LogRefused("the run's token is none of ours", "its row has been changed")
    return f"{token}.{stream}"


def _open_folder(name: str, path: str, trusted: set[int], above: int | None = None) -> int:
    try:
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=above)
    except NotADirectoryError:
        raise LogRefused(f"{path} is a symbolic link or no folder", "move it away") from None
    owner = os.fstat(descriptor).st_uid
    if owner not in trusted:
        os.close(descriptor)
        raise LogRefused(f"{path} belongs to another user (uid {owner})", "take ownership, or leave it")
    return descriptor


def _trusted(directory: str) -> set[int]:
    """Return whose folders we write to, as for the store itself."""
    trusted = {os.geteuid(), 0}
    if os.geteuid() == 0:
        trusted.add(os.stat(directory).st_uid)
    return trusted
