"""Waking early when a folder's files change: inotify(7), by ctypes, for the standard library has none.

It only wakes; whether anything has changed is decided by looking. Network and shared file systems tell nothing, and a
full queue drops events: the regular look finds what is missed.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_MASK = 0x2 | 0x100 | 0x200 | 0x80 | 0x400 | 0x4000
"""IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_DELETE_SELF | IN_Q_OVERFLOW (sys/inotify.h)."""

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")


class FolderWatch:
    """Watches folders; its descriptor turns readable when something in one of them changes."""

    def __init__(self) -> None:
        """Open an inotify instance.

        Raises:
            OSError: there is none to be had (another platform, max_user_instances reached).
        """
        if sys.platform != "linux":
            raise OSError("no inotify on this platform")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(self._libc.inotify_init1(_FLAGS))
        self._folders: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def fileno(self) -> int:
        """Return the descriptor that turns readable when `take` has something to tell."""
        return self._descriptor

    def add(self, folder: str) -> None:
        """Watch a folder; one that is watched already stays watched.

        Raises:
            OSError: it is not there, or max_user_watches is reached.
        """
        if folder in self._numbers:
            return
        number = self._checked(self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK))
        self._folders[number], self._numbers[folder] = folder, number

    def remove(self, folder: str) -> None:
        """Stop watching a folder; an unknown one is no error."""
        number = self._numbers.pop(folder, None)
        if number is not None:
            self._folders.pop(number, None)
            self._libc.inotify_rm_watch(self._descriptor, number)

    def take(self) -> set[str]:
        """Return the folders in which something has changed since the last call, without waiting."""
        changed: set[str] = set()
        while True:
            try:
                events = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return changed
            position = 0
            while position < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, position)
                position += _EVENT.size + length
                folder = self._folders.get(number)
                if folder is None:
                    continue
                changed.add(folder)
                if mask & 0x8000:  # IN_IGNORED: the folder itself is gone, and with it the watch
                    del self._folders[number], self._numbers[folder]

    def close(self) -> None:
        """Close the instance."""
        os.close(self._descriptor)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
