"""The registry: which stores this user's daemon looks after.

One small JSON file per store, named by the hash of its project's real path and written by rename, so that any number of
processes may write without a lock. Losing it loses no record: stores make themselves known again at their next write.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from enum import StrEnum

from supervisor import atomic, paths
from supervisor.errors import NotFound, StoreMissing
from supervisor.store.files import FOLDER, store_file
from supervisor.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_FDCWD, _MAX_HANDLE_SZ = -100, 128

_NOT_WORTH_SCANNING = frozenset({"node_modules", ".git", ".venv", "__pycache__"})
_THE_KERNELS_OWN = frozenset({"/proc", "/sys", "/dev"})


class Origin(StrEnum):
    """How a store came to be known. We trust the ``cmd`` of stores that we made or a person added, and no others."""

    CREATED = "created"
    ADDED = "added"
    FOUND = "found"


_STRENGTH = {Origin.FOUND: 0, Origin.CREATED: 1, Origin.ADDED: 2}


class Entry(Value):
    """A known store: its project's real path, how and when (Unix seconds) it became known, and which file it was then.

    Its inode and its handle tell a store that we made from one that somebody has put in its place: the number of an
    inode is given to the next file at once, its handle to none. None where the file system has no handles.
    """

    dir: str
    origin: Origin
    added_at: float
    inode: int | None
    handle: str | None = None

    @property
    def exists(self) -> bool:
        """Whether the store's file is there."""
        return os.path.isfile(store_file(self.dir))

    @property
    def trusted(self) -> bool:
        """Whether a command stored there may be started."""
        return self.origin is not Origin.FOUND and self.inode is not None and self.is_of_file()

    def is_of_file(self) -> bool:
        """Tell whether the store's file is the very one that became known."""
        return self.inode == _inode(self.dir) and (self.handle is None or self.handle == _handle(self.dir))


def entries() -> list[Entry]:
    """Return the known stores, by directory; a file that makes no sense is passed over."""
    folder = paths.registry_dir()
    found = (_read(os.path.join(folder, name)) for name in os.listdir(folder) if name.endswith(".json"))
    return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.dir)


def get(directory: str) -> Entry | None:
    """Return the entry of a directory's store."""
    return _read(paths.registry_file(os.path.realpath(directory)))


def add(directory: str, origin: Origin) -> Entry:
    """Make a store known; a known one keeps the stronger origin, a person's word before all.

    Raises:
        OSError: the registry cannot be written.
    """
    directory = os.path.realpath(directory)
    target, inode = paths.registry_file(directory), _inode(directory)
    while True:
        there, old = os.path.lexists(target), _read(target)
        is_known = old is not None and old.inode == inode and _STRENGTH[origin] <= _STRENGTH[old.origin]
        # A handle takes longer to get, and before a store is trusted it is asked for anyway.
        if old is not None and is_known and (origin is Origin.FOUND or old.is_of_file()):
            return old
        entry = Entry(directory, origin, time.time(), inode, _handle(directory))
        if atomic.write(target, json.dumps(vars(entry)), only_new=not there):
            return entry


def add_by_hand(directory: str) -> Entry:
    """Make a store known because a person says so.

    Raises:
        StoreMissing: there is none.
    """
    if not os.path.isfile(store_file(os.path.realpath(directory))):
        raise StoreMissing(f"there is no store in {directory}", f"give a directory that holds {FOLDER}")
    return add(directory, Origin.ADDED)


def announce(directory: str, created: bool) -> None:
    """Make a store known that is being written to; that this fails is a warning, never a lost record.

    Args:
        directory: its project's directory.
        created: whether we have just made it.
    """
    try:
        add(directory, Origin.CREATED if created else Origin.FOUND)
    except OSError as error:
        _warn("%s is not known to the daemon: the registry cannot be written (%s)", directory, error)


def forget(directory: str) -> None:
    """Take a store from the registry; the store itself stays.

    Raises:
        NotFound: it is not there.
    """
    try:
        os.unlink(paths.registry_file(os.path.realpath(directory)))
    except FileNotFoundError:
        raise NotFound(f"{directory} is not in the registry", "see: agent-yes-supervise stores list") from None


def scan(folder: str) -> Iterator[str]:
    """Yield the projects below a folder that have a store, without following symbolic links."""
    for directory, names, _ in os.walk(folder):
        if FOLDER in names and not os.path.islink(os.path.join(directory, FOLDER)):
            if os.path.isfile(store_file(directory)):
                yield directory
            names.remove(FOLDER)
        names[:] = sorted(
            name
            for name in names
            if name not in _NOT_WORTH_SCANNING and os.path.join(directory, name) not in _THE_KERNELS_OWN
        )


def _read(path: str) -> Entry | None:
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        directory, origin, added_at = raw["dir"], Origin(raw["origin"]), float(raw["added_at"])
        if not os.path.isabs(directory) or b"\0" in os.fsencode(directory):
            raise ValueError(f"{directory!r} is no absolute path")
        inode = raw["inode"] if type(raw["inode"]) is int else None
        return Entry(directory, origin, added_at, inode, raw.get("handle"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        _warn("%s is no registry entry (%s): remove it", path, error)
        return None


def _warn(message: str, *args: object) -> None:
    import logging  # noqa: PLC0415  5 ms, which the caller of a wrapped agent would wait for

    logging.getLogger(__name__).warning(message, *args)


def _inode(directory: str) -> int | None:
    try:
        return os.stat(store_file(directory)).st_ino
    except OSError:
        return None


def _handle(directory: str) -> str | None:
    """Return the handle of a store's file (name_to_handle_at(2)), which no other file ever has.

    The file is not opened: closing it would drop the locks that SQLite holds in this process (sqlite.org/howtocorrupt).
    None where the file system has no handles.
    """
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415  only where trust is given or asked for

    handle = ctypes.create_string_buffer(struct.pack("Ii", _MAX_HANDLE_SZ, 0) + bytes(_MAX_HANDLE_SZ))
    mount = ctypes.c_int()
    try:
        call = ctypes.CDLL(None).name_to_handle_at
    except AttributeError:  # a C library without it
        return None
    if call(_AT_FDCWD, os.fsencode(store_file(directory)), handle, ctypes.byref(mount), 0) != 0:
        return None
    length, kind = struct.unpack_from("Ii", handle)
    return f"{kind}:{handle.raw[8 : 8 + length].hex()}"
