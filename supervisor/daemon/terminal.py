"""Whether SIGHUP means that our terminal is gone: it also asks a daemon to read its configuration again."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The controlling terminal that this process was started with, if it had one and was to end with it.

    Who starts a daemon under nohup does not want that.
    """

    def __init__(self) -> None:
        self._matters = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_there()

    @property
    def is_gone(self) -> bool:
        """Whether it has been closed since."""
        return self._matters and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
