"""Waking early when a folder's files change: inotify(7), by ctypes, for the standard library has none.

It only wakes; whether anything has changed is decided by looking. Network and shared file systems tell nothing, and a
full queue drops events: the regular look finds what is missed.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_MASK = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF (sys/inotify.h)."""

_MOVE_SELF, _OVERFLOW, _IGNORED = 0x800, 0x4000, 0x8000

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
        self._folders: dict[int, set[str]] = {}
        """By the kernel's number for a folder, its names: a bind mount gives it several."""
        self._numbers: dict[str, int] = {}

    def fileno(self) -> int:
        """Return the descriptor that turns readable when `take` has something to tell."""
        return self._descriptor

    def add(self, folder: str) -> None:
        """Watch a folder; one that is watched already stays watched, another in its place is watched instead.

        Raises:
            OSError: it is not there, or max_user_watches is reached.
        """
        number = self._checked(self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK), folder)
        before = self._numbers.get(folder)
        if before == number:
            return
        if before is not None:  # another folder stands there now; of the old one there may still be something to tell
            self._libc.inotify_rm_watch(self._descriptor, before)
        self._numbers[folder] = number
        self._folders.setdefault(number, set()).add(folder)

    def remove(self, folder: str) -> None:
        """Stop watching a folder; an unknown one is no error."""
        number = self._numbers.pop(folder, None)
        if number is None:
            return
        self._folders[number].discard(folder)
        if not self._folders[number]:
            del self._folders[number]
            self._libc.inotify_rm_watch(self._descriptor, number)  # in vain for a folder that is gone

    def take(self) -> set[str]:
        """Return the folders in which something may have changed since the last call, without waiting."""
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
                if mask & _OVERFLOW:  # what was dropped may have been of any folder
                    changed.update(self._numbers)
                changed |= self._folders.get(number, set())
                if mask & _MOVE_SELF:
                    self._libc.inotify_rm_watch(self._descriptor, number)
                if mask & (_MOVE_SELF | _IGNORED):  # what its names lead to now, if anything, is not watched
                    for name in self._folders.pop(number, set()):
                        if self._numbers.get(name) == number:
                            del self._numbers[name]

    def close(self) -> None:
        """Close the instance."""
        os.close(self._descriptor)

    def _checked(self, result: int, folder: str | None = None) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
        return result
