"""Speaking with the service manager that has started us (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).

Without one, everything here does nothing. Only the loop speaks, so that a loop that hangs falls silent.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections.abc import Callable, MutableMapping

PATIENCE = 0.1
"""Seconds to wait for a service manager that does not read; what matters is told again by the next beat."""

_FIRST_DESCRIPTOR = 3
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})


class ServiceManager:
    """The service manager, as far as there is one.

    ``beat_every`` is how often, in seconds, it wants to hear `beat` at the latest; None where it does not wait for
    that. ``inherited`` are the descriptors that it has kept for us, with their names. What it has put into the
    environment is taken out: it is not meant for our children.
    """

    def __init__(
        self, environ: MutableMapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(PATIENCE)
        self.beat_every = _watchdog(environ)
        self.inherited = _inherited(environ)
        self._clock = clock
        self._next_beat = 0.0
        self._status = ""

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Tell that the daemon supervises, after its start or a reload."""
        self._status = status
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that everything is read anew; `ready` ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Tell that the daemon is about to end."""
        self.tell("STOPPING=1")

    def beat(self, status: str) -> None:
        """Tell that the loop goes round, as often as is wanted, and what it does, when that has changed."""
        if self.beat_every is not None and self._clock() >= self._next_beat and self.tell("WATCHDOG=1"):
            self._next_beat = self._clock() + self.beat_every
        if status != self._status and self.tell(f"STATUS={status}"):
            self._status = status

    def tell(self, *fields: str, descriptor: int | None = None) -> bool:
        """Send one message, with a descriptor to keep if there is one.

        Returns:
            False if the manager does not read now, and it is worth trying again later.
        """
        if self._socket is None:
            return True
        kept = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._socket.sendmsg(["\n".join(fields).encode()], kept, 0, self._address)
        except TimeoutError:
            return False
        except OSError as error:  # whatever becomes of the manager, supervising goes on
            return error.errno not in _FULL
        return True


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Return how often to beat: three times within what the manager allows."""
    allowed, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(allowed) / 1e6 / 3


def _inherited(environ: MutableMapping[str, str]) -> list[tuple[str, int]]:
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return list(zip(names, descriptors, strict=False))
