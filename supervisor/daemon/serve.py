"""The daemon's process: the lock, the loop, and the few things that wake it."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import os
import resource
import signal
import time

from supervisor import __version__, paths, registry
from supervisor.daemon import presence
from supervisor.daemon.discover import discover
from supervisor.daemon.durability import Syncer
from supervisor.daemon.jobs import Jobs
from supervisor.daemon.lock import DaemonLock
from supervisor.daemon.means import Means, Settled
from supervisor.daemon.nightly import Nightly
from supervisor.daemon.notices import Notices
from supervisor.daemon.parking import Parking
from supervisor.daemon.presence import Presence
from supervisor.daemon.service_manager import ServiceManager
from supervisor.daemon.settings import Settings
from supervisor.daemon.spooled import SpoolWatch
from supervisor.daemon.supervisor import Supervisor
from supervisor.daemon.terminal import Terminal
from supervisor.daemon.watch import Changes
from supervisor.process.abilities import Abilities, abilities

log = logging.getLogger(__name__)

POLLS_EVERY = 0.5
"""Seconds between looks at processes of which no pidfd tells."""

SETTLES = 0.01
"""Seconds that a burst of changes may last before it is looked at, once."""


def serve(settings: Settings) -> None:
    """Supervise all known stores until SIGTERM or SIGINT. SIGHUP reads the configuration again.

    Raises:
        DaemonRunning: this user has a daemon already.
    """
    lock = DaemonLock()
    faulthandler.enable()  # the watchdog's SIGABRT then shows where it hangs
    found = abilities()  # forks, so before anything is opened
    try:
        asyncio.run(_Daemon(settings, lock.since, ServiceManager()).run(found))
    finally:
        presence.withdraw()
        lock.close()


class _Daemon:
    def __init__(self, settings: Settings, since: float, manager: ServiceManager) -> None:
        self._settings = settings
        self._since = since
        self._manager = manager
        self._parking = Parking(manager)
        self._said: tuple[int, int] | None = None
        """The counts that other commands have been told."""
        self._is_mute = False
        self._nightly = Nightly(settings)
        self._terminal = Terminal()
        self._jobs: Jobs | None = None
        self._syncer = Syncer()
        means = Means(
            fd_limit=_raise_fd_limit(),
            on_settled=self._on_settled,
            on_change=self._on_changed,
            parking=self._parking,
        )
        self._supervisor = Supervisor(means)
        self._settled = 0
        self._registry_changed = Changes(paths.registry_dir())
        self._spool = SpoolWatch(self._supervisor.means.clock)
        self._next_beat: asyncio.TimerHandle | None = None
        self._notices = Notices()

    async def run(self, found: Abilities) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, stop)
        descriptor = self._supervisor.means.exits.fileno()
        loop.add_reader(descriptor, self._on_exits)
        told = self._notices.fileno()
        if told is not None:
            loop.add_reader(told, self._on_change)
        log.info("supervising; this is pid %s", os.getpid())
        log.info("%s", found)
        self._sweep()
        self._jobs = Jobs(
            self._sweep,
            self._nightly.prune,
            sweep_every=self._settings.sweep_every,
            prune_in=self._nightly.catches_up_in(),
        )
        self._beat_in(0)
        self._manager.ready(self._status())
        try:
            await stop.wait()
        finally:
            self._manager.stopping()
            if self._next_beat is not None:
                self._next_beat.cancel()
            self._jobs.stop()
            self._nightly.stop()
            loop.remove_reader(descriptor)
            if told is not None:
                loop.remove_reader(told)
            self._notices.close()
            watched = self._supervisor.alive
            self._parking.leave()
            self._supervisor.close()
            await self._syncer.close()
            log.info("stopped; %s running agents are left alone", watched)

    def _reload(self) -> None:
        """Read the configuration and everything else anew, as SIGHUP asks."""
        log.info("reading everything anew")
        self._manager.reloading()
        try:
            if self._settings.reload() and self._jobs is not None:
                self._jobs.sweep_every(self._settings.sweep_every)
            self._supervisor.doubt()
            self._sweep()
        finally:
            self._manager.ready(self._status())

    def _on_hangup(self, stop: asyncio.Event) -> None:
        if self._terminal.is_gone:
            stop.set()
        elif not stop.is_set():
            self._reload()

    def _beat(self) -> None:
        """Tick, and come again when the next thing is due."""
        changed = self._notices.due()
        try:
            self._spool.take()
            if self._registry_changed():
                self._follow_registry()
            self._supervisor.tick(only=changed)
            if self._manager.is_there:
                self._manager.beat(self._status())
                self._parking.flush()
        finally:
            wanted = math.inf if self._manager.beat_every is None else self._manager.beat_every
            polls = POLLS_EVERY if self._supervisor.polls else math.inf
            self._beat_in(min(self._notices.interval, polls, self._left(), wanted))

    def _beat_in(self, seconds: float) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._next_beat = asyncio.get_running_loop().call_later(seconds, self._beat)

    def _beat_within(self, seconds: float) -> None:
        if self._next_beat is not None and self._next_beat.when() > asyncio.get_running_loop().time() + seconds:
            self._beat_in(seconds)

    def _left(self) -> float:
        """Return the seconds until something comes due."""
        due = min((due for due in (self._supervisor.next_due(), self._spool.due) if due is not None), default=None)
        return math.inf if due is None else max(0.01, due - self._supervisor.means.clock())

    def _on_exits(self) -> None:
        self._supervisor.on_exits()
        self._beat_within(self._left())

    def _on_change(self) -> None:
        """Look soon at what has changed: a folder tells of each write, and a commit is several."""
        if self._notices.take():
            self._beat_within(SETTLES)

    def _sweep(self) -> None:
        if self._settings.discovers:
            discover(set(self._supervisor.stores))
        self._follow_registry()
        self._supervisor.tick(sweep=True)
        self._beat_within(self._left())
        self._say()

    def _say(self) -> None:
        """Tell other commands what we do, where that has changed."""
        counts = self._supervisor.alive, len(self._supervisor.stores)
        if counts == self._said:
            return
        try:
            presence.publish(Presence(os.getpid(), self._since, __version__, *counts, time.time()))
            self._said, self._is_mute = counts, False
        except OSError as error:
            if not self._is_mute:
                log.warning("what this daemon does cannot be told to other commands: %s", error)
            self._is_mute = True

    def _on_changed(self, directory: str) -> None:
        self._syncer.note(directory)
        self._spool.hurry(directory)

    def _on_settled(self, settled: Settled) -> None:
        self._settled += 1
        self._syncer.note(settled.directory)

    def _status(self) -> str:
        """Return what a person wants to know of us in one line."""
        stores = len(self._supervisor.stores)
        in_stores = f"{stores} store{'' if stores == 1 else 's'}"
        return f"{self._supervisor.alive} running in {in_stores}; {self._settled} settled since the start"

    def _follow_registry(self) -> None:
        try:
            self._supervisor.follow(entry.dir for entry in registry.entries())
            self._parking.drop_others(self._supervisor.stores)
        except OSError as error:
            log.warning("the registry cannot be read: %s", error)
        self._notices.follow(self._supervisor.stores, (paths.registry_dir(), paths.spool_dir()))


def _raise_fd_limit() -> int:
    """Raise the limit of descriptors as far as we may, and return it: each watched run takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports a hard limit that it does not grant
        return soft
    return hard
