"""The supervisor: the running rows of all stores, and the one place where the kernel's exits come in.

It is a plain state machine, driven by two calls: `tick` looks for new rows, `on_exits` takes what the kernel tells;
both do what has come due. The daemon calls them from its loop, `scan` from a few lines of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator

from supervisor.daemon.means import Key, Means, OwnerKey
from supervisor.daemon.store_runs import StoreRuns
from supervisor.daemon.turns import Turns
from supervisor.models import Claim, Ending
from supervisor.process.exits import Exit

log = logging.getLogger(__name__)

MOST_ROUNDS = 100
"""How often a wake-up takes exits that have come meanwhile, before it logs them and lets the loop go on."""

MOST_AT_REST = 10
"""Stores at rest that one sweep reads at most, in turn: each costs the opening of a connection."""


class Supervisor:
    """Supervises the running rows of the stores it follows."""

    def __init__(self, means: Means | None = None) -> None:
        self.means = means or Means()
        self.stores: dict[str, StoreRuns] = {}
        self._waiting: set[str] = set()
        """Where something is to be done although nothing changes: the others cost a wake-up nothing."""
        self._at_rest = Turns(lambda: [name for name, store in self.stores.items() if store.is_at_rest])
        self._broken: dict[str, str] = {}

    @property
    def alive(self) -> int:
        """The number of runs whose process lives."""
        return sum(store.alive for store in self.stores.values())

    @property
    def polls(self) -> bool:
        """Whether there are processes whose end no pidfd tells: each tick asks after them."""
        return any(self.stores[directory].polled for directory in self._waiting)

    def follow(self, directories: Iterable[str]) -> None:
        """Look after the stores of exactly these projects from now on."""
        wanted, known = set(directories), set(self.stores)
        for directory in known - wanted:
            with self._guarded(directory):
                self.stores.pop(directory).close()
        for directory in sorted(wanted - known):
            with self._guarded(directory):
                self.stores[directory] = StoreRuns(directory, self.means)

    def tick(self, *, only: Collection[str] | None = None, sweep: bool = False) -> None:
        """Look at the stores that have changed and at processes without pidfd, and do what has come due.

        Args:
            only: the projects whose stores may have changed; by default any may.
            sweep: ask anew about every process, and read every store, changed or not; of those at rest `MOST_AT_REST`.
        """
        self.means.oom_kills.refresh()
        step = self.means.steps.observe()
        if step:
            log.warning("the clock was set by %+.1f s; no row is judged by its time across that", step)
        if sweep:
            self.means.exits.rearm()
        turn = self._at_rest.take(MOST_AT_REST) if sweep else ()
        for directory in list(self.stores) if sweep or only is None else self._waiting.union(only):
            store = self.stores.get(directory)
            if store is None:
                continue
            with self._guarded(directory):
                changed = store.watch.changed()
                if changed:
                    self.means.on_change(directory)
                swept = sweep and (not store.is_at_rest or directory in turn)
                if changed or swept:
                    store.reconcile(sweep=swept)
                elif directory not in self._waiting:
                    continue
                store.poll()
                store.do_what_is_due()
        self.means.tell()

    def doubt(self) -> None:
        """Have the next sweep read every store, also those at rest."""
        for store in self.stores.values():
            store.watch.doubt()

    def on_exits(self) -> None:
        """Take the exits that the kernel tells of: settle at once what can be, one transaction a store."""
        for _ in range(MOST_ROUNDS):
            exits = self.means.exits.take()
            if not exits:
                break
            self._settle(exits)
        for directory in tuple(self._waiting):
            with self._guarded(directory):
                self.stores[directory].do_what_is_due()
        self.means.tell()

    def _settle(self, exits: list[Exit]) -> None:
        moment = self.means.moment()
        endings: dict[str, list[tuple[Claim, Ending]]] = {}
        for ended in exits:
            run = ended.key.run if isinstance(ended.key, OwnerKey) else ended.key
            assert isinstance(run, Key)  # noqa: S101  nothing else is watched
            store = self.stores.get(run.directory)
            if store is None:
                continue
            with self._guarded(run.directory):
                if run is ended.key:
                    endings.setdefault(run.directory, []).extend(store.note_exit(run.run_id, ended, moment))
                else:
                    store.note_owner_exit(run.run_id)
        for directory, ended_here in endings.items():
            with self._guarded(directory):
                self.stores[directory].settle(ended_here)

    def next_due(self) -> float | None:
        """Return when, on the clock, something comes due; None when nothing waits."""
        dues = (self.stores[directory].next_due() for directory in self._waiting)
        return min((due for due in dues if due is not None), default=None)

    def close(self) -> None:
        """Let go of all processes and stores."""
        self.follow(())
        self.means.tell()
        self.means.exits.close()

    @contextlib.contextmanager
    def _guarded(self, directory: str) -> Iterator[None]:
        """Let no store keep the daemon from the others, whatever is wrong with it; log what is, once."""
        try:
            yield
        except Exception as error:
            if self._broken.get(directory) != repr(error):
                self._broken[directory] = repr(error)
                log.exception("%s cannot be looked after", directory)
        finally:
            store = self.stores.get(directory)
            if store is not None and (store.is_doubtful or store.polled or store.watch.wants_a_look):
                self._waiting.add(directory)
            else:
                self._waiting.discard(directory)
