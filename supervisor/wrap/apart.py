"""Work whose modules the wrapper is not to keep: it lives as long as its agent, and there may be fifty of them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def do_apart(work: Callable[[], object]) -> None:
    """Do work in a process of its own, which takes along what it has loaded, and wait for it.

    It is done here where no process is to be had. The work must not use the store's connection, which is ours.
    """
    try:
        pid = os.fork()
    except OSError:
        work()
        return
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
