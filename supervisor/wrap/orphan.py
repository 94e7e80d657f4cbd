"""The end of an agent that is nobody's child of ours any more: its shim was killed, and only the kernel knows."""

from __future__ import annotations

import signal
import time

from supervisor.process import exits, pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.wrap.pending import PendingSignals

_LOOK_EVERY = 0.05
_WAIT_FOR_STATUS = 1.0
"""Seconds that a zombie's new parent has to reap it: until then some kernels hide its status."""


def status_of(
    descriptor: int, pid: int, *, signals: PendingSignals, meanwhile: Callable[[float], object]
) -> int | None:
    """Wait for a process's end and return its wait(2) status, None where the kernel does not tell.

    Args:
        descriptor: its pidfd.
        pid: its id.
        signals: those that come to us, which it gets.
        meanwhile: called while it lives; takes at most so many seconds.
    """
    while not pidfd.has_fired(descriptor):
        meanwhile(_LOOK_EVERY)
        _pass_on(signals, descriptor)
    end: tuple[int | None, bool, str] | None = None
    deadline = time.monotonic() + _WAIT_FOR_STATUS
    while (end is None or not end[1]) and time.monotonic() < deadline:
        end = exits.examine(descriptor, pid, None)
        time.sleep(0.001)
    return None if end is None else end[0]


def _pass_on(signals: PendingSignals, descriptor: int) -> None:
    while (received := signals.take()) is not None:
        if received.number == signal.SIGCHLD:
            continue
        try:
            signal.pidfd_send_signal(descriptor, received.number)
        except (PermissionError, ProcessLookupError):  # it has become another user's, or has ended
            continue
