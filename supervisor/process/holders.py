"""Who has a file open, as far as ``/proc`` shows: our own processes, and for root everybody's of this PID namespace."""

from __future__ import annotations

import os

from supervisor.process import procfs


def holders(status: os.stat_result, name: str) -> dict[int, str]:
    """Return the other processes that have a file open, each with what it is called; none where there is no ``/proc``.

    Args:
        status: the file's.
        name: the file's own name when they opened it, or what that begins with.
    """
    wanted = status.st_dev, status.st_ino
    found = (pid for pid in procfs.processes() if pid != os.getpid() and _has_open(pid, wanted, name))
    return {pid: procfs.name(pid) or "?" for pid in found}


def _has_open(pid: int, wanted: tuple[int, int], name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        for number in os.listdir(folder):
            link = f"{folder}/{number}"
            # Only what is called so is looked at: stat(2) of a file on a dead server would not return.
            if os.path.basename(os.readlink(link)).startswith(name):
                status = os.stat(link)
                if (status.st_dev, status.st_ino) == wanted:
                    return True
    except OSError:  # another user's, or gone
        return False
    return False
