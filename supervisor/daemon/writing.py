"""Writing endings into a store, keeping those that could not be written until they can, and taking back wrong ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from supervisor.daemon.bindings import Unwritten, unwritten
from supervisor.daemon.means import Means, Settled
from supervisor.daemon.watch import StoreWatch
from supervisor.models import Claim, Ending
from supervisor.sight import Sight

log = logging.getLogger(__name__)


class EndingWriter:
    """Writes endings into one store. ``kept`` holds, by run id, what a lock or a full disk has kept from it."""

    def __init__(self, watch: StoreWatch, means: Means) -> None:
        self.kept: dict[int, Unwritten] = {}
        self._watch = watch
        self._means = means

    def write(self, endings: list[tuple[Claim, Ending]]) -> list[bool | None]:
        """Write endings in one transaction; tell for each: written, recorded by another, or (None) kept for later."""
        written, now = self._watch.settle(endings), self._means.clock()
        for index, (claim, ending) in enumerate(endings):
            before = self.kept.pop(claim.run_id, None)
            if written is None:
                self.kept[claim.run_id] = unwritten(claim, ending, before=before, now=now)
            elif written[index]:
                self._means.settled.append(Settled(self._watch.directory, claim, ending))
            else:
                log.debug("%s#%s has been recorded by its owner", self._watch.directory, claim.run_id)
        return [None] * len(endings) if written is None else list(written)

    def give_up(self) -> None:
        """Try a last time, and say what remains unwritten."""
        if self.kept:
            self.write([(item.claim, item.ending) for item in self.kept.values()])
        for run_id in self.kept:
            log.warning("%s#%s has ended, but that cannot be written", self._watch.directory, run_id)


def retract(watch: StoreWatch, sights: Iterable[Sight]) -> None:
    """Set back to running what was settled by inference alone, and whose very process is seen alive."""
    for seen in sights:
        seen.close()
        if seen.verdict.line == "F15" and watch.retract(seen.claim):
            log.warning(
                "%s#%s runs after all: pid %s is alive, and %s",
                watch.directory,
                seen.claim.run_id,
                seen.claim.pid,
                seen.verdict.reason,
            )
