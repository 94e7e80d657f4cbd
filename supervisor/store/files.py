"""A store's folder and files: where they are, whether they may be trusted, and how they are made."""

from __future__ import annotations

import os
import stat

from supervisor.errors import StoreRefused

FOLDER = ".agent-yes"
FILE = "store.sqlite"

_BESIDE = ("-wal", "-shm", "-journal")


def store_file(directory: str) -> str:
    """Return the path of the store of the project at ``directory``."""
    return os.path.join(directory, FOLDER, FILE)


def vetted(directory: str) -> bool:
    """Tell whether the store is there; refuse one that is not what it should be.

    Raises:
        StoreRefused: a part of it is a symbolic link, no plain file, or a stranger's.
        OSError: it cannot be looked at.
    """
    trusted = {os.geteuid(), 0}
    if os.geteuid() == 0:
        trusted.add(os.stat(directory).st_uid)
    for path, is_kind, kind in (
        (os.path.join(directory, FOLDER), stat.S_ISDIR, "a folder"),
        (store_file(directory), stat.S_ISREG, "a file"),
    ):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(status.st_mode):
            raise StoreRefused(f"{path} is a symbolic link", "replace it by the real thing if you trust it")
        if not is_kind(status.st_mode):
            raise StoreRefused(f"{path} is not {kind}", "move it away")
        if status.st_uid not in trusted:
            raise StoreRefused(f"{path} belongs to another user (uid {status.st_uid})", "take ownership, or leave it")
    for path in (f"{store_file(directory)}{suffix}" for suffix in _BESIDE):
        if os.path.islink(path):  # SQLite would write to where it leads
            raise StoreRefused(f"{path} is a symbolic link", "remove it if you trust the store")
    return True


def share_rights(directory: str) -> None:
    """Make what SQLite keeps beside a store as writable for its owner as the store.

    SQLite makes those files with the rights of the store, and never looks at them again: who reads a store while it is
    read-only leaves a read-only ``-shm``, which forbids all writing even when the store itself may be written again
    (os_unix.c, unixOpenSharedMemory).

    Raises:
        OSError: the store is gone.
    """
    path = store_file(directory)
    store = os.lstat(path)
    for beside in (f"{path}{suffix}" for suffix in _BESIDE) if store.st_mode & stat.S_IWUSR else ():
        try:
            status = os.lstat(beside)
            if stat.S_ISREG(status.st_mode) and status.st_uid == store.st_uid and not status.st_mode & stat.S_IWUSR:
                os.chmod(beside, stat.S_IMODE(store.st_mode))
        except OSError:  # there is none, or it is not ours to change: SQLite will tell
            continue


def make_files(directory: str) -> None:
    """Make the folder (0700), its .gitignore and the empty database (0600); the latter passes its rights on."""
    folder = os.path.join(directory, FOLDER)
    try:  # noqa: SIM105  contextlib costs a wrapped agent 3 ms
        os.mkdir(folder, 0o700)
    except FileExistsError:  # another process was first
        pass
    for name, make in ((".gitignore", _ignore_everything), (FILE, _make_empty)):
        try:
            make(os.path.join(folder, name))
        except FileExistsError:
            continue


def _ignore_everything(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, b"*\n")
    finally:
        os.close(descriptor)


def _make_empty(path: str) -> None:
    """Make an empty file without a descriptor: closing one would drop the locks of a thread that opens it meanwhile."""
    try:
        os.mknod(path, 0o600)
    except FileExistsError:
        raise
    except OSError:  # macOS, and file systems that have no mknod
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def identity(directory: str) -> tuple[int, int] | None:
    """Return what tells the store that stands there now from others: its device and inode; None where there is none."""
    try:
        status = os.stat(store_file(directory))
    except OSError:
        return None
    return status.st_dev, status.st_ino
