"""Descriptors that name a process for good, and the exit status that the kernel keeps for them.

Linux 5.3 opens them, 6.9 gives each process an inode of its own, 6.15 tells anyone the exit status after the reap.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

_SYSCALL_PIDFD_OPEN = 434
"""The number on every architecture of ours (alpha and MIPS differ)."""

_GET_INFO = 0xC040FF0B
"""``_IOWR(0xFF, 11, 64)``: the size that every kernel with the call knows; later fields moved between versions."""

_MASK_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")
"""``struct pidfd_info``: the mask at byte 0, exit_code at byte 60 (include/uapi/linux/pidfd.h)."""


def open_pidfd(pid: int) -> int:
    """Open a pidfd, close-on-exec.

    Raises:
        OSError: ESRCH (no such process), ENOENT or EINVAL (a thread, or dying), ENOSYS (no pidfds here), and others
            that say nothing about the process.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no pidfds on this platform")
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _open_by_syscall(pid)


def exit_status(pidfd: int) -> int | None:
    """Return the wait(2) status of a reaped process, None where the kernel does not tell (yet, or at all).

    A zombie has no exit status here before it is reaped. No error says anything about life or death.
    """
    import fcntl  # noqa: PLC0415  the wrapper never asks: it is the parent

    request = bytearray(_INFO.pack(_MASK_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:
        return None
    mask, status = _INFO.unpack(request)
    return status if mask & _MASK_EXIT else None


def has_fired(pidfd: int) -> bool:
    """Tell whether the process has ended (poll(2)), reaped or not."""
    import select  # noqa: PLC0415  the wrapper never asks

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def inode(pidfd: int) -> int | None:
    """Return the number that no other process of this boot has, None on kernels without pidfs (before 6.9).

    Without pidfs all pidfds share the one anonymous inode, on the same device as an eventfd; None also where no
    descriptor is free to compare with.
    """
    try:
        status = os.fstat(pidfd)
        if status.st_dev == _anonymous_device():
            return None
    except OSError:
        return None
    return status.st_ino


_anonymous: int | None = None


def _anonymous_device() -> int:
    global _anonymous  # noqa: PLW0603  a constant of the running kernel
    if _anonymous is None:
        descriptor = os.eventfd(0)
        _anonymous = os.fstat(descriptor).st_dev
        os.close(descriptor)
    return _anonymous


def _open_by_syscall(pid: int) -> int:
    """Open one where Python was built without `os.pidfd_open` (astral-sh/python-build-standalone#193)."""
    import ctypes  # noqa: PLC0415  rarely needed

    if not -1 << 31 <= pid < 1 << 31:
        raise OverflowError(pid)  # as os.pidfd_open does; ctypes would cut it down to another process's id
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(_SYSCALL_PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor
