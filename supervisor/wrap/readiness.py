"""Whether a descriptor takes what is written to it: one that is held up (Ctrl-S, a reader that has stopped) blocks."""

from __future__ import annotations

import os


def is_writable(descriptor: int, within: float = 0.0) -> bool:
    """Tell whether a descriptor takes something, waiting for that so many seconds at most."""
    try:
        from select import POLLOUT, poll  # noqa: PLC0415  rarely needed before the agent runs
    except ImportError:  # no descriptor is left to load it
        return True
    waiter = poll()
    waiter.register(descriptor, POLLOUT)
    return bool(waiter.poll(within * 1000))


def write_at_once(descriptor: int, data: bytes, *, within: float) -> None:
    """Write a line or so, unless the descriptor takes nothing for so many seconds, or leads nowhere any more."""
    try:
        if is_writable(descriptor, within):
            os.write(descriptor, data)
    except OSError:
        return
