"""The spool's folder: a file each for a run's beginning, its end, and what became known after that, named by its token.

A file is written once, durably and whole (a draft, fsync, rename), and never changed: who has brought it into its store
may remove it, whatever others write meanwhile. Nothing is read that is not this user's own plain file.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from supervisor import paths
from supervisor.spool.content import encode, encode_settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.models import Claim, Ending
    from supervisor.store.recording import NewRun

ASIDE = "aside"
"""The folder, within the spool's, of what makes no sense."""

BEGUN, ENDED = "-begun.json", "-ended.json"
"""How names end: both kinds hold the whole run, the second its ending too."""

ADDED = "-added-"
"""What stands behind the token in the names of further files: the run and its ending with more evidence than before."""

SETTLED = "settled-"
"""How the names of files begin that hold only the ending of a row, which somebody else than its owner knows."""

LARGEST = 64 << 20
"""Bytes of a file that are read at most: more than any command line can be."""

DRAFTS_LIVE_FOR = 3600.0
"""Seconds after which a draft is what a killed wrapper has left."""


RESERVED = 32 << 10
"""Bytes that `reserve` sets aside: more than most runs with their endings take."""


class Unusable(Exception):
    """A file of the spool that must not, or cannot, be read."""


def keep(run: NewRun, ending: Ending | None = None, *, added: bool = False) -> str:
    """Keep a run, with its ending if it has one; return the folder. On return it outlives a power cut.

    Args:
        run: the run.
        ending: its ending.
        added: whether the ending has been recorded or kept already, with less evidence.

    Raises:
        OSError: it cannot be kept.
    """
    kind = BEGUN if ending is None else ENDED
    return _write(run.token + (f"{ADDED}{time.time_ns()}.json" if added else kind), encode(run, ending))


def reserve() -> None:
    """Set space aside for what this process may have to keep when the disk is full. Nothing is left of it at the end.

    Raises:
        OSError: there is none, or the file system knows no nameless files.
    """
    global _reserve  # noqa: PLW0603  one for this process
    if _reserve is None and hasattr(os, "O_TMPFILE"):
        _reserve = os.open(paths.spool_dir(), os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(_reserve, 0, RESERVED)
        except OSError:
            _release()
            raise


_reserve: int | None = None


def keep_settled(directory: str, claim: Claim, ending: Ending) -> str:
    """Keep the ending of a row of a project's store, in place of one kept before; return the file's name.

    Raises:
        OSError: it cannot be kept.
        TypeError: the row holds what cannot be kept.
    """
    name = settled_name(directory, claim)
    _write(name, encode_settled(directory, claim, ending))
    return name


def settled_name(directory: str, claim: Claim) -> str:
    """Return the name of the file that keeps the ending of a row."""
    return f"{SETTLED}{paths.digest(f'{directory}#{claim.run_id} {claim.pid!r} {claim.started_at!r}')}.json"


def remove(name: str) -> None:
    """Remove a file; another may have done so.

    Raises:
        OSError: it cannot be removed.
    """
    try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
        os.unlink(os.path.join(paths.spool_dir(), name))
    except FileNotFoundError:
        pass


def folder() -> str:
    """Return the spool's folder."""
    return paths.spool_dir()


def waiting() -> list[str]:
    """Return the names of what the spool holds, a run's beginning before its end; one listdir(3).

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(name for name in os.listdir(paths.spool_dir()) if name != ASIDE and not _is_fresh_draft(name))


def read(name: str) -> bytes:
    """Return what a file holds.

    Raises:
        FileNotFoundError: another process has brought it into its store.
        OSError: it cannot be read now.
        Unusable: it is not this user's own file, or too large.
    """
    spool = _Folder()
    try:
        return spool.read(name)
    finally:
        spool.close()


def put_aside(name: str) -> str:
    """Move a file out of the way and return where it is now; a draft that nobody finishes is removed instead.

    Raises:
        OSError: it cannot be moved.
    """
    if name.startswith("."):
        remove(name)
        return ""
    place = os.path.join(folder(), ASIDE, f"{name}.{time.time_ns()}")
    os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
    os.rename(os.path.join(folder(), name), place)
    return place


def _write(name: str, content: bytes) -> str:
    """Write a file and return its folder; on a full disk, into the space that has been reserved."""
    spool = _Folder()
    try:
        try:
            spool.write(name, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _release():
                raise
            spool.write(name, content)
    finally:
        spool.close()
    return spool.path


def _release() -> bool:
    """Give back what has been reserved; tell whether there was anything."""
    global _reserve
    descriptor, _reserve = _reserve, None
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _is_fresh_draft(name: str) -> bool:
    if not name.startswith("."):
        return False
    try:
        return time.time() - os.lstat(os.path.join(paths.spool_dir(), name)).st_mtime < DRAFTS_LIVE_FOR
    except FileNotFoundError:
        return True


class _Folder:
    """The spool's folder, held open, so that no name can be led elsewhere meanwhile.

    Raises:
        PermissionError: it is another user's, or others may write to it.
    """

    def __init__(self) -> None:
        self.path = paths.spool_dir()
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self.close()
            raise PermissionError(errno.EPERM, "the spool is not this user's alone", self.path)

    def close(self) -> None:
        os.close(self._descriptor)

    def write(self, name: str, content: bytes) -> None:
        draft = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600, dir_fd=self._descriptor)
        try:
            try:
                os.fchmod(descriptor, 0o600)  # whatever the umask is: we must read it again
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(draft, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except OSError:
            os.unlink(draft, dir_fd=self._descriptor)
            raise
        os.fsync(self._descriptor)

    def read(self, name: str) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES, errno.ENXIO):
                raise Unusable(f"it cannot be opened: {error.strerror}") from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("it is no plain file")
            if status.st_uid != os.geteuid():
                raise Unusable(f"it belongs to another user (uid {status.st_uid})")
            if status.st_size > LARGEST:
                raise Unusable(f"it is larger than {LARGEST >> 20} MiB")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(LARGEST)
        finally:
            os.close(descriptor)
