"""Proof that a row was written in our PID namespace, by looking at who else can reach its store."""

from __future__ import annotations

import os

from supervisor.process import procfs
from supervisor.process.judge import Scene

_SHARED_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse", "virtiofs", "ceph", "glusterfs", "afs", "vboxsf", "prl_fs")


def only_we_reach(directory: str, scene: Scene) -> bool:
    """Tell whether every process that can see the store at ``directory`` is of our own PID namespace.

    That holds in the initial PID namespace with a whole ``/proc`` of its own, on a file system that no other host
    shares, if no process of a child namespace sees the same directory. A namespace that is gone has no live process.
    Costs one small read per process of the machine.
    """
    if not scene.initial_pid_ns or not procfs.is_ours():
        return False
    mount = _mount_of("/proc")
    if mount is None or _hides_processes(mount[1]):
        return False
    store_mount = _mount_of(directory)
    if store_mount is None or store_mount[0].startswith(_SHARED_FILE_SYSTEMS):
        return False
    try:
        place = os.stat(directory)
    except OSError:
        return False
    return not any(_child_sees(pid, directory, place) for pid in procfs.processes())


def _child_sees(pid: int, directory: str, place: os.stat_result) -> bool:
    """Tell whether a process of a child namespace sees the directory; what we may not read counts as seeing it."""
    levels = procfs.status_field(pid, b"NSpid:")
    if levels is None or len(levels.split()) < 2:
        return False
    try:
        seen = os.stat(f"/proc/{pid}/root{directory}")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return False
    except OSError:
        return True
    return (seen.st_dev, seen.st_ino) == (place.st_dev, place.st_ino)


def _hides_processes(options: str) -> bool:
    values = [option.partition("=")[2] for option in options.split(",") if option.startswith("hidepid=")]
    return any(value not in ("0", "off") for value in values)


def _mount_of(path: str) -> tuple[str, str] | None:
    """Return the file system's type and its super options where ``path`` lies (proc(5), mountinfo)."""
    path = os.path.realpath(path)
    best, found = "", None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                place, _, source = line.partition(" - ")
                point = place.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace")
                inside = point in ("/", path) or path.startswith(point + "/")
                if inside and len(point) >= len(best):
                    kind, _, options = source.split(" ", 2)
                    best, found = point, (kind, options.strip())
    except (OSError, ValueError, IndexError):
        return None
    return found
