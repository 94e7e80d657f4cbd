"""A log as lines that a person can read."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

from supervisor.log import folder
from supervisor.log.reader import LogReader
from supervisor.log.screen import Screen

_ANY_WIDTH = 1 << 30
"""The width for what was written to no terminal: no line of it is ever wrapped."""

_A_LINE = 4096
_AT_LEAST = 256 * 1024


class LogLines:
    """Renders one stream of a run.

    Args:
        reader: its log.
        tell: takes each line.
    """

    def __init__(self, reader: LogReader, tell: Callable[[str], object]) -> None:
        self.reader = reader
        self._screen = Screen(tell, columns=_ANY_WIDTH)
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def advance(self) -> bool:
        """Read and render a piece; tell whether there was one."""
        data = self.reader.read()
        self._screen.feed(self._decode(data))
        return bool(data)

    def settle(self) -> None:
        """Tell what can be told before the end."""
        self._screen.settle()

    def skip_to_last(self, lines: int) -> None:
        """Leave out what certainly does not belong to so many last lines; nobody waits for megabytes to be rendered."""
        self.advance()  # the beginning says how wide the terminal is
        self.reader.skip_to(max(self.reader.size - max(_AT_LEAST, lines * _A_LINE), self.reader.offset))

    def finish(self) -> None:
        """Tell the rest."""
        while self.advance():
            pass
        self._screen.finish()


def readers_of(directory: str, token: str) -> dict[str, LogReader]:
    """Return a reader for each log of a run, by stream; they are to be closed.

    Raises:
        OSError: one cannot be read.
        LogRefused: one must not be read.
    """
    found = {stream: folder.open_for_reading(directory, token, stream) for stream in (folder.OUTPUT, folder.ERRORS)}
    return {stream: LogReader(descriptor) for stream, descriptor in found.items() if descriptor is not None}


def last_lines(directory: str, token: str, number: int) -> dict[str, list[str]]:
    """Return the last lines of each log of a run, by stream, without blank ones."""
    last = {}
    for stream, reader in readers_of(directory, token).items():
        kept: deque[str] = deque(maxlen=number)
        lines = LogLines(reader, kept.append)
        lines.skip_to_last(number)
        lines.finish()
        reader.close()
        last[stream] = [line for line in kept if line.strip()]
    return last
