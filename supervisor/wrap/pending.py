"""The signals that wait for the wrapper, as something that poll(2) can wait for together with its streams."""

from __future__ import annotations

import os
import signal
import sys

from supervisor.wrap.signals import Received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_EVERY = 0.05
"""Seconds between two looks where no descriptor tells of signals."""

_SIGINFO = 128
"""The size of ``struct signalfd_siginfo``: number, errno, code and pid are its first four fields."""


class PendingSignals:
    """Every signal, all of them blocked, one by one: signalfd(2), or a look now and then where that is missing."""

    def __init__(self) -> None:
        self.descriptor = _signalfd(signal.valid_signals())

    def take(self) -> Received | None:
        """Take one that has come, None if none has."""
        if self.descriptor is not None:
            try:
                info = os.read(self.descriptor, _SIGINFO)
            except BlockingIOError:
                return None
            number, _, code, sender = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (0, 4, 8, 12))
            return Received(number, code - (1 << 32) if code >> 31 else code, sender)
        if not signal.sigpending():
            return None
        return Received(signal.sigwait(signal.valid_signals()), 0, 0)

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _signalfd(numbers: Iterable[int]) -> int | None:
    """Open a signalfd, close-on-exec and non-blocking; None where there are none."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415  the agent runs by now

        bits = sum(1 << (number - 1) for number in numbers)
        mask = bits.to_bytes(128, sys.byteorder)  # as large as any C library's sigset_t
        descriptor: int = ctypes.CDLL(None).signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC)
    except (ImportError, OSError, AttributeError):
        return None
    return descriptor if descriptor >= 0 else None
