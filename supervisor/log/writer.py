"""Writing a log whose size is bounded: its beginning and its latest part are kept, what lies between is left out.

The file is what the agent wrote, byte for byte, until it is full. From then on a mark stands behind the first half,
with the number of bytes left out, and behind it the latest ones.
"""

from __future__ import annotations

import os

CAP = 10 * 1024 * 1024
"""Bytes that a log takes at most."""

_PIECE = 1024 * 1024
_GAP = b"\r\n[%s bytes left out]\r\n"
_DIGITS = 20
GAP_LENGTH = len(_GAP) - 2 + _DIGITS
"""Bytes of the mark."""

BUSY = b" " * _DIGITS
"""Stands in the mark for the number while the latest part is moved, so that a reader waits."""


def head_of(cap: int) -> int:
    """Return how many bytes of the beginning are kept."""
    return cap // 2


def gap_with(number: bytes) -> bytes:
    """Return the mark with a number of digits, or `BUSY`."""
    return _GAP % number


def size_mark(lines: int, columns: int) -> bytes:
    """Return what a log says where the terminal's size is set: a control sequence that terminals pass over."""
    return b"\x1b]7749;%d;%d\x07" % (lines, columns)


class LogWriter:
    """Writes one log.

    Args:
        descriptor: its file, new and empty; closed by `close`.
        cap: bytes that it may take.
    """

    def __init__(self, descriptor: int, *, cap: int = CAP) -> None:
        self._descriptor = descriptor
        self._cap = cap
        self._size = 0
        self._left_out = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append what the agent wrote.

        Raises:
            OSError: it cannot be written; what fitted has been.
        """
        while True:
            room = self._cap - self._size
            if len(data) <= room:
                self._append(data)
                return
            self._append(data[:room])
            data = data[room:]
            self._make_room()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, data: bytes | memoryview) -> None:
        while data:
            written = os.write(self._descriptor, data)
            self._size += written
            data = data[written:]

    def _make_room(self) -> None:
        """Keep the latest quarter of the full file and leave out what stands between the first half and it."""
        head = head_of(self._cap)
        begins = head + (GAP_LENGTH if self._left_out else 0)
        keep = self._cap // 4 - GAP_LENGTH
        source, target = self._cap - keep, head + GAP_LENGTH
        number = b"%0*d" % (_DIGITS, self._left_out + source - begins)
        os.pwrite(self._descriptor, gap_with(BUSY), head)
        done = 0
        while done < keep:
            piece = os.pread(self._descriptor, min(_PIECE, keep - done), source + done)
            if not piece:  # somebody has cut the file off
                break
            os.pwrite(self._descriptor, piece, target + done)
            done += len(piece)
        os.ftruncate(self._descriptor, target + keep)
        os.pwrite(self._descriptor, gap_with(number), head)
        os.lseek(self._descriptor, target + keep, os.SEEK_SET)
        self._left_out += source - begins
        self._size = target + keep
