"""Reading a log while it may be written."""

from __future__ import annotations

import os
import re
import time

from supervisor.log.writer import BUSY, CAP, GAP_LENGTH, gap_with, head_of

_PIECE = 256 * 1024
_BUSY_FOR = 1.0
"""Seconds after which a mark that says that the latest part is being moved is a killed writer's."""

_NUMBER = re.compile(re.escape(gap_with(b"#")).replace(rb"\#", rb"(\d{%d})" % len(BUSY)))


class LogReader:
    """Reads a log piece by piece, from its beginning; the mark of what is left out stands in its place.

    Args:
        descriptor: its file; closed by `close`.
        cap: what its writer was given.
    """

    def __init__(self, descriptor: int, *, cap: int = CAP) -> None:
        self._descriptor = descriptor
        self._head = head_of(cap)
        self.offset = 0
        """Where the next piece begins in the file."""
        self._left_out = self._look_at_gap()

    @property
    def size(self) -> int:
        """Bytes that the file holds."""
        return os.fstat(self._descriptor).st_size

    def skip_to(self, offset: int) -> None:
        """Go on at an offset of the file."""
        self.offset = max(0, offset)

    def read(self) -> bytes:
        """Return the next piece, empty if there is nothing more for now."""
        while True:
            self._follow_the_cut()
            data = os.pread(self._descriptor, _PIECE, self.offset)
            if self._look_at_gap() == self._left_out:
                self.offset += len(data)
                return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _follow_the_cut(self) -> None:
        """Stay where we are in what the agent wrote, though bytes before that may have been left out since."""
        left_out = self._look_at_gap()
        before, self._left_out = self._left_out, left_out
        if left_out == before or self.offset <= self._head:
            return
        behind = self.offset - (self._head + GAP_LENGTH if before else self._head) + before
        self.offset = self._head + max(0, GAP_LENGTH + behind - left_out)

    def _look_at_gap(self) -> int:
        """Return how many bytes are left out; while their number changes, wait."""
        deadline = time.monotonic() + _BUSY_FOR
        while True:
            mark = os.pread(self._descriptor, GAP_LENGTH, self._head)
            if mark != gap_with(BUSY) or time.monotonic() > deadline:
                number = _NUMBER.fullmatch(mark)
                return int(number[1]) if number else 0
            time.sleep(0.005)
