"""The supervisor: the running rows of all stores, and the one place where the kernel's exits come in.

It is a plain state machine, driven by two calls: `tick` looks for new rows, `on_exits` takes what the kernel tells;
both do what has come due. The daemon calls them from its loop, `scan` from a few lines of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from supervisor.daemon.store_runs import Key, Means, OwnerKey, StoreRuns
from supervisor.models import Claim, Ending


class Supervisor:
    """Supervises the running rows of the stores it follows."""

    def __init__(self, means: Means | None = None) -> None:
        self.means = means or Means()
        self.stores: dict[str, StoreRuns] = {}

    @property
    def alive(self) -> int:
        """The number of runs whose process lives."""
        return sum(store.alive for store in self.stores.values())

    def follow(self, directories: Iterable[str]) -> None:
        """Look after the stores of exactly these projects from now on."""
        wanted = set(directories)
        for directory in self.stores.keys() - wanted:
            self.stores.pop(directory).close()
        for directory in sorted(wanted - self.stores.keys()):
            self.stores[directory] = StoreRuns(directory, self.means)

    def tick(self, *, sweep: bool = False) -> None:
        """Look at the stores that have changed and at processes without pidfd, and do what has come due.

        Args:
            sweep: look at every store, changed or not, and ask anew about every process.
        """
        if sweep:
            self.means.exits.rearm()
        for store in self.stores.values():
            if store.watch.changed() or sweep:
                store.reconcile()
            store.poll()
            store.do_what_is_due()

    def on_exits(self) -> None:
        """Take the exits that the kernel tells of: settle at once what can be, one transaction a store."""
        detected_at = time.time()
        endings: dict[str, list[tuple[Claim, Ending]]] = {}
        for ended in self.means.exits.take():
            if isinstance(ended.key, OwnerKey):
                directory, run_id = ended.key.run
                self.stores[directory].note_owner_exit(run_id)
            elif isinstance(ended.key, Key):
                directory, run_id = ended.key
                found = self.stores[directory].note_exit(run_id, ended, detected_at)
                endings.setdefault(directory, []).extend(found)
        for directory, batch in endings.items():
            self.stores[directory].settle(batch)
        for store in self.stores.values():
            store.do_what_is_due()

    def next_due(self) -> float | None:
        """Return when, on the clock, something comes due; None when nothing waits."""
        dues = (store.next_due() for store in self.stores.values())
        return min((due for due in dues if due is not None), default=None)

    def close(self) -> None:
        """Let go of all processes and stores."""
        self.follow(())
        self.means.exits.close()
