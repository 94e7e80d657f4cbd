"""A channel: bytes on their way from one descriptor to another, never more of them than a buffer."""

from __future__ import annotations

import os
import select
import stat

from supervisor.wrap.readiness import is_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container


PIECE = 256 * 1024
"""Bytes that are read at once, and kept at most while they cannot be written."""

TERMINAL_PIECE = 16 * 1024
"""The same from a terminal, which never gives as much at once: a small buffer is a fast one."""

_SURE = 4096
"""Bytes that a pipe or a terminal that poll(2) calls writable takes without blocking (PIPE_BUF, pipe(7))."""


class Channel:
    """Passes bytes on unchanged.

    ``ended`` tells that nothing more comes, ``broken`` that nothing more can be written. What is not written yet
    keeps more from being read, so that a slow reader holds up the writer and not our memory.

    Args:
        source: where to read; poll(2) is to say that there is something.
        target: where to write, of which it may be that it blocks: see `own_description`.
        seen: takes every piece that is read.
        piece: how much to read at once.
    """

    __slots__ = ("_pending", "_piece", "_seen", "_sure", "broken", "ended", "source", "target")

    def __init__(
        self, source: int, target: int, seen: Callable[[bytes], None] | None = None, *, piece: int = PIECE
    ) -> None:
        self.source = source
        self.target = target
        self.ended = self.broken = False
        self._seen = seen
        self._piece = piece
        self._pending = memoryview(b"")
        self._sure = _never_blocks(target)

    @property
    def is_full(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._pending)

    def read(self) -> bool:
        """Read a piece and write what can be written of it; tell whether there was one."""
        try:
            data = os.read(self.source, self._piece)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the other side of the terminal is closed
            data = b""
        if not data:
            self.ended = True
            return False
        if self._seen is not None:
            self._seen(data)
        if not self.broken:
            self._pending = memoryview(data)
            if self._sure:
                self.write()
        return True

    def write(self) -> None:
        """Write what waits, as much as can be without blocking."""
        try:
            while self._pending:
                written = os.write(self.target, self._pending if self._sure else self._pending[:_SURE])
                self._pending = self._pending[written:]
                if not self._sure:
                    return
        except BlockingIOError:
            return
        except OSError:
            self.drop()

    def move(self, ready: Container[int]) -> None:
        """Read or write, if what it waits for is among the descriptors that are ready."""
        if self.is_full:
            if self.target in ready:
                self.write()
        elif self.source in ready:
            self.read()

    def move_at_once(self, most: int) -> None:
        """Pass on all that is there and is taken at once, but no more than about so many bytes."""
        for _ in range(max(1, most // self._piece)):
            self._write_at_once()
            if self.is_full or self.broken or not self.read():
                return
        self._write_at_once()

    def _write_at_once(self) -> None:
        while self._pending and (self._sure or is_writable(self.target)):
            self.write()
            if self._sure:
                return

    def drop(self) -> None:
        """Give up writing."""
        self.broken = True
        self._pending = memoryview(b"")


class Waiter:
    """Waits for several descriptors at once; which ones may change from time to time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._asked: dict[int, int] = {}

    def wait(self, wanted: dict[int, int], timeout: float | None) -> list[tuple[int, int]]:
        """Return what poll(2) says of descriptors, by what events each is asked for."""
        if wanted != self._asked:
            for descriptor in self._asked.keys() - wanted.keys():
                self._poll.unregister(descriptor)
            for descriptor, events in wanted.items():
                if self._asked.get(descriptor) != events:
                    self._poll.register(descriptor, events)
            self._asked = dict(wanted)
        return self._poll.poll(None if timeout is None else timeout * 1000)


def wanted_of(channels: list[Channel]) -> dict[int, int]:
    """Return for which events channels wait."""
    wanted: dict[int, int] = {}
    for channel in channels:
        if channel.is_full:
            wanted[channel.target] = wanted.get(channel.target, 0) | select.POLLOUT
        elif not channel.ended:
            wanted[channel.source] = wanted.get(channel.source, 0) | select.POLLIN
    return wanted


def own_description(descriptor: int, flags: int) -> int:
    """Open what a descriptor leads to once more, non-blocking; return it itself where that is not possible, or needed.

    The one we were given is shared with the shell and with others, who would not expect it to stop blocking.
    """
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return descriptor
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    # The controlling terminal may be opened by who may not open its device: after su, or in another container.
    for path in (f"/dev/fd/{descriptor}", *(["/dev/tty"] if _is_controlling(descriptor) else [])):
        try:
            return os.open(path, flags)
        except OSError:
            continue
    return descriptor


def _never_blocks(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return not os.get_blocking(descriptor) or stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor))


def _is_controlling(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) >= 0
    except OSError:
        return False
