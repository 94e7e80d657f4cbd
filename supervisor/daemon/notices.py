"""Which stores are to be looked at, and when: what the kernel tells of, what nobody tells of, and the rest in turn."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from supervisor.daemon.turns import Turns
from supervisor.process.inotify import FolderWatch
from supervisor.process.namespace import on_shared_file_system
from supervisor.store.files import store_file

log = logging.getLogger(__name__)

UNTOLD_EVERY = 0.5
"""Seconds between looks at stores of which nothing tells that they have changed: a few stat(2) calls each."""

TOLD_EVERY = 5.0
"""The same where the kernel tells of every change and the look is only a safety net: each wakes an idle processor."""

MOST_IN_TURN = 100
"""Stores that one such look takes at most, lest it grows with their number; the next goes on from there."""


class Notices:
    """Notices of changes in the folders of stores, and in others that only wake.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._folders = _folder_watch()
        self._projects: dict[str, str] = {}
        """By the folder of a store, its project."""
        self._wakers: frozenset[str] = frozenset()
        self._untold: set[str] = set()
        """Folders that are not there, or that other hosts write to without a word."""
        self._shared: dict[int, bool] = {}
        """By the number of a file system, whether other hosts write to it: a mount's kind is dear to ask."""
        self._news: set[str] = set()
        self._turns = Turns(lambda: list(self._projects.values()))
        self._next_turn = clock()

    def fileno(self) -> int | None:
        """Return the descriptor that turns readable when `take` has something to tell, None where nothing does."""
        return None if self._folders is None else self._folders.fileno()

    @property
    def interval(self) -> float:
        """Seconds until the next look, if nothing is told before."""
        return UNTOLD_EVERY if self._untold else max(0.0, self._next_turn - self._clock())

    def follow(self, directories: Iterable[str], wakers: Iterable[str]) -> None:
        """Watch the stores of exactly these projects, and the folders ``wakers``, from now on."""
        before = {*self._projects, *self._wakers}
        self._projects = {os.path.dirname(store_file(directory)): directory for directory in directories}
        self._wakers = frozenset(wakers)
        wanted = {*self._projects, *self._wakers}
        if self._folders is not None:
            for folder in before - wanted:
                self._folders.remove(folder)
        self._shared.clear()
        self._untold = {folder for folder in wanted if not self._is_told(folder)}

    def take(self) -> bool:
        """Take what the kernel tells; return whether anything has changed."""
        told = self._folders.take() if self._folders is not None else set()
        self._note(told)
        self._untold |= {folder for folder in told if not self._is_told(folder)}  # it may have gone, or been replaced
        return bool(told)

    def due(self) -> set[str]:
        """Return the projects whose stores are to be looked at now."""
        self._note(self._untold)
        self._untold = {folder for folder in self._untold if not self._is_told(folder)}
        now = self._clock()
        if now >= self._next_turn:
            self._next_turn = now + TOLD_EVERY
            self._news |= self._turns.take(MOST_IN_TURN)
        news, self._news = self._news, set()
        return news

    def close(self) -> None:
        """Give back the descriptor."""
        if self._folders is not None:
            self._folders.close()

    def _note(self, folders: Iterable[str]) -> None:
        self._news.update(self._projects[folder] for folder in folders if folder in self._projects)

    def _is_told(self, folder: str) -> bool:
        """Watch a folder, and tell whether no change in it stays unsaid."""
        if self._folders is None:
            return False
        try:
            self._folders.add(folder)
            device = os.stat(folder).st_dev
        except OSError:
            return False
        if device not in self._shared:
            self._shared[device] = on_shared_file_system(folder)
        return not self._shared[device]


def _folder_watch() -> FolderWatch | None:
    try:
        return FolderWatch()
    except OSError as error:
        log.info("changes of stores do not wake us, they are looked for: %s", error)
        return None
