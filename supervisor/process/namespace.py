"""Proof that a row was written in our PID namespace, by looking at who else can reach its store."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.process import procfs
from supervisor.process.judge import Scene

_SHARED_FILE_SYSTEMS = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "ocfs2"),
    *("orangefs", "prl_fs", "smb", "vboxsf", "virtiofs", "vmhgfs"),
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/PID/mountinfo`` (proc(5)). ``root`` is the directory of the file system that it shows."""

    number: bytes
    device: bytes
    root: bytes
    point: bytes
    kind: str
    options: str

    @classmethod
    def parse(cls, line: bytes) -> Mount:
        """Make one of a line; `ValueError` for what is none."""
        place, _, source = line.partition(b" - ")
        number, _, device, root, point = place.split(b" ")[:5]
        kind, _, options = source.split(b" ", 2)
        return cls(number, device, _unescape(root), _unescape(point), kind.decode("ascii"), options.decode("latin-1"))

    def place_of(self, inside: bytes) -> bytes | None:
        """Return the path here of what is at ``inside`` in the file system; None where the mount does not show it."""
        return _move(inside, self.root, self.point)


def only_we_reach(directory: str, scene: Scene) -> bool:
    """Tell whether every process that can see the store at ``directory`` is of our own PID namespace.

    That holds in the initial PID namespace with a whole ``/proc`` of its own, on a file system that no other host
    shares, if no process of a child namespace sees the same directory, under whatever name. A namespace that is gone
    has no live process. Costs one small read per process of the machine.
    """
    if not scene.initial_pid_ns or not procfs.is_ours():
        return False
    proc, mount = _mount_of("/proc"), _mount_of(directory)
    if proc is None or _hides_processes(proc.options):
        return False
    if mount is None or _is_shared(mount):
        return False
    try:
        place = os.stat(directory)
    except OSError:
        return False
    inside = _move(os.fsencode(os.path.realpath(directory)), mount.point, mount.root)
    pids = procfs.processes()
    if inside is None or os.getpid() not in pids:
        return False
    return not any(_is_of_child(pid) and _sees(pid, mount.device, inside, place) for pid in pids)


def on_shared_file_system(directory: str) -> bool:
    """Tell whether other hosts may see the directory too; in doubt they do."""
    mount = _mount_of(directory)
    return mount is None or _is_shared(mount)


def hides_processes() -> bool:
    """Tell whether ``/proc`` hides the processes of other users (``hidepid``)."""
    proc = _mount_of("/proc")
    return proc is not None and _hides_processes(proc.options)


def _is_shared(mount: Mount) -> bool:
    return mount.kind.startswith(_SHARED_FILE_SYSTEMS)


def _is_of_child(pid: int) -> bool:
    """Tell whether a process is of a child namespace; one whose status we cannot read may be."""
    levels = procfs.status_field(pid, b"NSpid:")
    return os.path.exists(f"/proc/{pid}") if levels is None else len(levels.split()) > 1


def _sees(pid: int, device: bytes, inside: bytes, place: os.stat_result) -> bool:
    """Tell whether a process sees what is at ``inside`` in that file system; where we may not look, it does."""
    try:
        mounts = list(_mounts(pid))
    except procfs.GONE:
        return False
    except OSError as error:
        return error.errno != errno.EINVAL  # a zombie, which has no mounts any more
    except ValueError:
        return True
    names = {mount.place_of(inside) for mount in mounts if mount.device == device} - {None}
    if all(mount.point != b"/" for mount in mounts):  # chroot(2): the mount that its root lies on is not listed
        parts = inside.split(b"/")
        names.update(b"/" + b"/".join(parts[start:]) for start in range(1, len(parts) + 1))
    for name in names:
        try:
            seen = os.stat(b"/proc/%d/root%s" % (pid, name))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
        except OSError:
            return True
        if (seen.st_dev, seen.st_ino) == (place.st_dev, place.st_ino):
            return True
    return False


def _hides_processes(options: str) -> bool:
    values = [option.partition("=")[2] for option in options.split(",") if option.startswith("hidepid=")]
    return any(value not in ("0", "off") for value in values)


def _mount_of(path: str) -> Mount | None:
    """Return the mount that ``path`` lies on, as the kernel has it: mounts may hide others of longer names."""
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
                number = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
        finally:
            os.close(descriptor)
        return next((mount for mount in _mounts(os.getpid()) if mount.number == number), None)
    except (OSError, ValueError, StopIteration):
        return None


def _mounts(pid: int) -> Iterator[Mount]:
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            yield Mount.parse(line.rstrip(b"\n"))


def _move(path: bytes, start: bytes, target: bytes) -> bytes | None:
    """Return ``path`` with ``target`` in place of the directory ``start``; None where it does not lie there."""
    start, target = start.rstrip(b"/"), target.rstrip(b"/")
    if path != start and not path.startswith(start + b"/"):
        return None
    return target + path[len(start) :] or b"/"


def _unescape(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), path)
