"""Writing endings into a store, keeping those that could not be written until they can, and taking back wrong ones."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

from supervisor.daemon.bindings import RETRY, Unwritten, unwritten
from supervisor.daemon.means import Means, Settled
from supervisor.daemon.watch import StoreWatch
from supervisor.models import Claim, Ending
from supervisor.sight import Sight
from supervisor.spool import files

log = logging.getLogger(__name__)


class EndingWriter:
    """Writes endings into one store. ``kept`` holds, by run id, what a lock or a full disk has kept from it.

    What a second try does not write either is kept in the spool, too: nobody else knows it, should we be killed.
    """

    def __init__(self, watch: StoreWatch, means: Means) -> None:
        self.kept: dict[int, Unwritten] = {}
        self._spooled: dict[int, tuple[str, Ending]] = {}
        self._watch = watch
        self._means = means

    def write(self, endings: list[tuple[Claim, Ending]]) -> list[bool | None]:
        """Write endings in one transaction; tell for each: written, recorded by another, or (None) kept for later."""
        written, now = self._watch.settle(endings), self._means.clock()
        for index, (claim, ending) in enumerate(endings):
            before = self.kept.pop(claim.run_id, None)
            if written is None:
                self.kept[claim.run_id] = unwritten(claim, ending, before=before, now=now)
                if before is not None:
                    self._spool(claim, ending)
                continue
            if claim.run_id in self._spooled:
                self._unspool(claim.run_id)
            if written[index]:
                self._means.settled.append(Settled(self._watch.directory, claim, ending))
            else:
                log.debug("%s#%s has been recorded by its owner", self._watch.directory, claim.run_id)
        return [None] * len(endings) if written is None else list(written)

    def give_up(self) -> None:
        """Try a last time, and say what remains unwritten."""
        if self.kept:
            self.write([(item.claim, item.ending) for item in self.kept.values()])
        for run_id in self.kept:
            later = "; it is kept in the spool until it can be" if run_id in self._spooled else ""
            log.warning("%s#%s has ended, but that cannot be written%s", self._watch.directory, run_id, later)

    def hurry(self, now: float) -> None:
        """Try again soon: the store has changed, so it may be written now."""
        for item in self.kept.values():
            item.due = min(item.due, now + RETRY)

    def _spool(self, claim: Claim, ending: Ending) -> None:
        if self._spooled.get(claim.run_id, ("", None))[1] == ending:
            return
        try:
            self._spooled[claim.run_id] = files.keep_settled(self._watch.directory, claim, ending), ending
        except (OSError, TypeError) as error:
            log.debug("%s#%s cannot be kept in the spool: %s", self._watch.directory, claim.run_id, error)

    def _unspool(self, run_id: int) -> None:
        name, _ = self._spooled.pop(run_id)
        with contextlib.suppress(OSError):  # it changes nothing any more
            files.remove(name)


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
