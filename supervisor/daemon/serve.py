"""The daemon's process: the lock, the loop, and the few things that wake it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal

from supervisor import paths, registry
from supervisor.daemon.discover import discover
from supervisor.daemon.jobs import SWEEP_EVERY, start_jobs
from supervisor.daemon.lock import DaemonLock
from supervisor.daemon.means import Means
from supervisor.daemon.supervisor import Supervisor
from supervisor.daemon.watch import Changes

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between looks for new rows and stores: a few stat(2) calls each."""


def serve(*, sweep_every: float = SWEEP_EVERY, discovers: bool = True) -> None:
    """Supervise all known stores until SIGTERM or SIGINT.

    Args:
        sweep_every: seconds between sweeps.
        discovers: whether sweeps also look for stores in the working directories of live processes.

    Raises:
        DaemonRunning: this user has a daemon already.
    """
    lock = DaemonLock()
    try:
        asyncio.run(_Daemon(sweep_every, discovers).run())
    finally:
        lock.close()


class _Daemon:
    def __init__(self, sweep_every: float, discovers: bool) -> None:
        self._sweep_every = sweep_every
        self._discovers = discovers
        self._supervisor = Supervisor(Means(fd_limit=_raise_fd_limit()))
        self._registry_changed = Changes(paths.registry_dir())
        self._next_beat: asyncio.Handle | None = None

    async def run(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        descriptor = self._supervisor.means.exits.fileno()
        loop.add_reader(descriptor, self._supervisor.on_exits)
        log.info("supervising; this is pid %s", os.getpid())
        self._sweep()
        stop_jobs = start_jobs(self._sweep, sweep_every=self._sweep_every)
        self._next_beat = loop.call_soon(self._beat)
        try:
            await stop.wait()
        finally:
            self._next_beat.cancel()
            stop_jobs()
            loop.remove_reader(descriptor)
            watched = self._supervisor.alive
            self._supervisor.close()
            log.info("stopped; %s running agents are left alone", watched)

    def _beat(self) -> None:
        """Tick, and come again when the next thing is due."""
        try:
            if self._registry_changed():
                self._follow_registry()
            self._supervisor.tick()
        finally:
            due = self._supervisor.next_due()
            wait = TICK if due is None else min(TICK, max(0.01, due - self._supervisor.means.clock()))
            self._next_beat = asyncio.get_running_loop().call_later(wait, self._beat)

    def _sweep(self) -> None:
        if self._discovers:
            discover(set(self._supervisor.stores))
        self._follow_registry()
        self._supervisor.tick(sweep=True)

    def _follow_registry(self) -> None:
        try:
            self._supervisor.follow(entry.dir for entry in registry.entries())
        except OSError as error:
            log.warning("the registry cannot be read: %s", error)


def _raise_fd_limit() -> int:
    """Raise the limit of descriptors as far as we may, and return it: each watched run takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports a hard limit that it does not grant
        return soft
    return hard
