"""The person's terminal: its settings, its size, and whether we are in its foreground."""

from __future__ import annotations

import os
import signal
import struct
import termios
from fcntl import ioctl

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Settings = list[Any]
    """As `termios.tcgetattr` gives them."""


class Terminal:
    """The terminal that we were started on, given back as we found it.

    Args:
        keys: the descriptor that keys come from.
        screen: the one that the screen is written by.

    Raises:
        OSError: it has been closed.
    """

    def __init__(self, keys: int, screen: int) -> None:
        self._keys = keys
        self._screen = screen
        try:
            self.settings = termios.tcgetattr(keys)
            """What it was set to when we took it last."""
        except termios.error as error:
            raise OSError(*error.args) from error
        self.is_taken = False

    @property
    def is_ours(self) -> bool:
        """Whether we are in the foreground: else it is another's, and must be left alone."""
        try:
            return os.tcgetpgrp(self._keys) == os.getpgrp()
        except OSError:  # not our controlling terminal, so nobody takes it from us
            return True

    def take(self) -> None:
        """Let it pass every byte on, if it is ours."""
        if not self.is_ours:
            return
        try:
            settings = termios.tcgetattr(self._keys)
            if not is_raw(settings):
                self.settings = settings
            termios.tcsetattr(self._keys, termios.TCSADRAIN, raw(self.settings))
            self.is_taken = True
        except termios.error:  # it has been closed
            return

    def give_back(self) -> None:
        """Set it to what it was, if we have taken it."""
        if self.is_taken and self.is_ours:
            put_back(self._keys, self.settings)
        self.is_taken = False

    def size(self) -> bytes:
        """Return its size as TIOCGWINSZ gives it."""
        try:
            return ioctl(self._screen, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return bytes(8)


class Size:
    """The size of the person's terminal, which the agent's is to have, too.

    Args:
        outer: the person's.
        changed: is told the lines and columns.
    """

    def __init__(self, outer: Terminal, changed: Callable[[int, int], object]) -> None:
        self._outer = outer
        self._changed = changed
        self._size = b""

    def follow(self, inner: int) -> bool:
        """Give the agent's terminal the person's size; tell whether that has changed it, and so told its group.

        Args:
            inner: the master of the agent's.
        """
        size = self._outer.size()
        if size == self._size or not any(size):
            return False
        self._size = size
        try:
            ioctl(inner, termios.TIOCSWINSZ, size)
        except OSError:  # it has been closed
            return False
        self.tell()
        return True

    def tell(self) -> None:
        """Tell what it is, if that is known."""
        lines, columns, _, _ = struct.unpack("HHHH", self._size or bytes(8))
        if lines and columns:
            self._changed(lines, columns)


def interrupts_in(typed: bytes, terminal: int) -> list[int]:
    """Return the signals that a terminal makes of keys, those that ask a program to end."""
    *_, flags, _, _, keys = termios.tcgetattr(terminal)
    asked = ((signal.SIGINT, termios.VINTR), (signal.SIGQUIT, termios.VQUIT))
    return [number for number, key in asked if flags & termios.ISIG and keys[key] in typed]


def is_same(first: int, second: int) -> bool:
    """Tell whether the second of two descriptors leads to the terminal of the first."""
    return os.isatty(second) and os.fstat(first).st_rdev == os.fstat(second).st_rdev


def put_back(descriptor: int, settings: Settings) -> None:
    """Set a terminal, if it is still there."""
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)
    except termios.error:
        return


def raw(settings: Settings) -> Settings:
    """Return settings by which every byte passes at once and unchanged, both ways (cfmakeraw(3))."""
    changed = [*settings[:_CC], list(settings[_CC])]
    changed[_IFLAG] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
    )
    changed[_IFLAG] &= ~(termios.ICRNL | termios.IXON | termios.IXANY | termios.IXOFF)
    changed[_OFLAG] &= ~termios.OPOST
    changed[_CFLAG] = changed[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    changed[_CC][termios.VMIN], changed[_CC][termios.VTIME] = 1, 0
    return changed


def is_raw(settings: Settings) -> bool:
    """Tell whether these are settings of ours: line editors of shells leave signals on."""
    return not settings[_LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
