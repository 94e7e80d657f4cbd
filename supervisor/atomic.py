"""Small files that are written whole or not at all, so that whoever reads one needs no lock."""

from __future__ import annotations

import errno
import os
import time

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What link(2) answers on vfat, exfat and some of FUSE."""


def write(path: str, text: str, *, mode: int = 0o600, only_new: bool = False) -> bool:
    """Put a file with a text in its place by rename; with ``only_new``, leave one that is there, and return False.

    Raises:
        OSError: it cannot be written; then all is as it was.
    """
    draft = f"{path}.{os.getpid()}.{time.monotonic_ns()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, mode)
        if only_new and _has_links(draft, path):
            os.unlink(draft)
        else:
            os.replace(draft, path)
    except BaseException as error:  # a full disk: leave no draft behind
        try:  # noqa: SIM105  contextlib costs a wrapped agent's caller 2 ms
            os.unlink(draft)
        except OSError:
            pass
        if only_new and isinstance(error, FileExistsError):
            return False
        raise
    return True


def _has_links(draft: str, path: str) -> bool:
    """Give a draft its name too, which is an error if there is such a file; tell whether this file system has links."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True
