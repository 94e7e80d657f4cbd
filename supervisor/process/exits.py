"""Waiting for processes to end: one epoll over their pidfds, and their exit statuses as exactly as the kernel knows.

Linux only. The epoll's own descriptor goes into the caller's event loop; nothing here blocks.
"""

from __future__ import annotations

import os
import select
from collections.abc import Hashable
from dataclasses import dataclass

from supervisor.process import facts, pidfd, procfs


@dataclass(frozen=True, slots=True)
class Exit:
    """A watched process has ended.

    ``status`` is a wait(2) status, None where it is not known; ``final`` is false while it may still become known, at
    the reap: another `Exit` with the same key follows then.
    """

    key: Hashable
    status: int | None
    final: bool
    source: str


@dataclass(slots=True)
class _Watch:
    key: Hashable
    descriptor: int
    pid: int
    start_ticks: int | None
    told: bool = False


class ExitWatcher:
    """Watches processes by pidfd and tells which have ended. Descriptors given to it are closed by it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._descriptors: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def fileno(self) -> int:
        """Return the descriptor that turns readable when `take` has something to tell."""
        return self._epoll.fileno()

    def watch(self, key: Hashable, descriptor: int, pid: int, start_ticks: int | None) -> None:
        """Watch a process; ``start_ticks`` verifies what ``/proc`` says of its pid later."""
        self.forget(key)
        # One shot: a zombie stays readable until it is reaped, which may be never.
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        self._watches[descriptor] = _Watch(key, descriptor, pid, start_ticks)
        self._descriptors[key] = descriptor

    def watch_pid(self, key: Hashable, pid: int) -> bool:  # noqa: ARG002  for those who can
        """Watch a process that has no pidfd; tell whether that is possible. Here it is not: it must be polled."""
        return False

    def forget(self, key: Hashable) -> None:
        """Stop watching a process and close its pidfd; an unknown key is no error."""
        descriptor = self._descriptors.pop(key, None)
        if descriptor is None:
            return
        del self._watches[descriptor]
        self._epoll.unregister(descriptor)  # before the close: descriptor numbers are given out again
        os.close(descriptor)

    def take(self) -> list[Exit]:
        """Return the processes that have ended since the last call, without waiting."""
        exits = []
        for descriptor, events in self._epoll.poll(0, max(1, len(self._watches))):
            watch = self._watches.get(descriptor)
            if watch is not None:
                ended = self._examine(watch, reaped=bool(events & select.EPOLLHUP))
                if ended is not None:
                    exits.append(ended)
        return exits

    def rearm(self) -> None:
        """Ask anew about every process, for a sweep: what has ended without a final `Exit` is told once more."""
        for descriptor, watch in self._watches.items():
            if not watch.told:
                self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def close(self) -> None:
        """Forget all and close the epoll."""
        for key in list(self._descriptors):
            self.forget(key)
        self._epoll.close()

    def _examine(self, watch: _Watch, *, reaped: bool) -> Exit | None:
        ended = examine(watch.descriptor, watch.pid, watch.start_ticks, reaped=reaped)
        if ended is not None and ended[1]:
            status, _, source = ended
            watch.told = True
            return Exit(watch.key, status, True, source)
        # Only HUP, the reap, can bring news now; asking for IN again would spin.
        self._epoll.modify(watch.descriptor, select.EPOLLONESHOT)
        return None if ended is None else Exit(watch.key, ended[0], False, ended[2])


def examine(
    descriptor: int, pid: int, start_ticks: int | None, *, reaped: bool = False
) -> tuple[int | None, bool, str] | None:
    """Ask how a process whose pidfd has fired ended: its status, whether that is final, and who says so.

    None means that it has not ended: its leader thread has, but others live (such a pidfd should not fire).
    """
    status = pidfd.exit_status(descriptor)
    if status is not None:
        return status, True, "pidfd exit info"
    if reaped:
        return None, True, "reaped, kernel without exit info"
    visible = procfs.exit_status_visible(pid)  # before the stat, which shows that the pid had not changed hands
    try:
        stat = procfs.read_stat(pid)
    except procfs.GONE:
        gone = facts.exists(pid) is False  # hidepid=2 lets a zombie look gone
        return _after_the_reap(descriptor) if gone else (None, False, "zombie, hidden from us")
    except (OSError, ValueError):
        return None, False, "zombie, hidden from us"
    if start_ticks is not None and stat.start_ticks != start_ticks:
        return _after_the_reap(descriptor)
    if not stat.is_dead:
        return None
    if stat.exit_status or visible:
        return stat.exit_status, True, "zombie's exit status"
    return None, False, "zombie, exit status hidden from us"


def _after_the_reap(descriptor: int) -> tuple[int | None, bool, str]:
    """Ask again: the reap came between our two questions. Kernels before 6.15 have no answer."""
    status = pidfd.exit_status(descriptor)
    return status, True, "pidfd exit info" if status is not None else "reaped, kernel without exit info"
