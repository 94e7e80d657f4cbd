"""The running rows of one store: each bound to its process, doubted, dying or about to be written.

A row's way: first sight → bound → (its process ends) → dying, while its owner may record it → settled. A row that looks
dead at first sight is a suspect until a second look; a row that cannot be judged is unknown, and looked at again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from supervisor import sight
from supervisor.daemon.bindings import (
    REAP_GRACE,
    RETRY,
    Bound,
    Dying,
    Suspect,
    Waiting,
    bind,
    confirms,
    due,
    inferred,
    polled_exit,
    same_row,
    suspected,
    watch_end,
    watch_owner,
)
from supervisor.daemon.means import Key, Means, OwnerKey
from supervisor.daemon.watch import StoreWatch
from supervisor.daemon.writing import EndingWriter, retract
from supervisor.models import Claim, Ending
from supervisor.process import exits, facts
from supervisor.process.exits import Exit
from supervisor.process.judge import State, Verdict
from supervisor.process.stamp import stamp_of
from supervisor.sight import Sight

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns
    from supervisor.process.surroundings import Moment

log = logging.getLogger(__name__)


class StoreRuns:
    """The running rows of one store, from first sight to settled."""

    def __init__(self, directory: str, means: Means) -> None:
        self.watch = StoreWatch(directory)
        self.unknown: dict[int, Verdict] = {}
        self._means = means
        self._matched = False
        self._bound: dict[int, Bound] = {}
        self.polled: set[int] = set()
        """Bound to a process that has no pidfd, and is asked after at each tick."""
        self._dying: dict[int, Dying] = {}
        self._suspects: dict[int, Suspect] = {}
        self._writer = EndingWriter(self.watch, means)
        self._aside: dict[int, Claim] = {}
        """Rows that cannot be judged, nor watched; looked at again by each sweep."""
        self._unkept: dict[int, StampColumns] = {}
        """Stamps that could not be written yet."""
        self._late: dict[int, Bound] = {}
        """Settled as lost; their zombies may still tell the exit status at the reap."""

    @property
    def is_doubtful(self) -> bool:
        """Whether a dead-looking row waits for its second look, or an ending for its owner or its store."""
        return bool(self._dying or self._suspects or self._writer.kept)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is known to run, and nothing to be expected of the store as it is."""
        return self.watch.is_at_rest and not (self._known() or self._late or self._unkept)

    def waiting(self) -> list[Claim]:
        """Return the rows that look dead and are not settled yet."""
        waits = {*self._dying, *self._suspects, *self._writer.kept}
        return [claim for run_id, claim in self._known().items() if run_id in waits]

    @property
    def alive(self) -> int:
        """The number of runs whose process lives."""
        return len(self._bound.keys() - self._dying.keys() - self.unknown.keys())

    def reconcile(self, *, sweep: bool = False) -> None:
        """Bring what is known into line with what the store says runs, and judge what is new.

        Args:
            sweep: judge also anew what could not be judged, and first set back to running what was settled by
                inference alone, and whose very process is seen alive.
        """
        if sweep and (boot_id := self._means.scene.boot_id):
            retract(self.watch, self._see(self.watch.inferred(boot_id, facts.exists)))
        rows = self.watch.rows()
        if rows is None:
            return
        self._writer.hurry(self._means.clock())
        for run_id in [run_id for run_id, claim in self._known().items() if not same_row(claim, rows.get(run_id))]:
            self.forget(run_id)
        if sweep:
            self._aside.clear()
        known = self._known()
        claims = self.watch.claims([run_id for run_id in rows if run_id not in known])
        if claims is not None:
            self._first_sight([claim for claim in claims if not self._take_up(claim)], running=len(rows))
            self._means.parking.drop_store(self.watch.directory)
        if self._unkept and self.watch.keep_stamps(list(self._unkept.items()), by=self._means.settled_by):
            self._unkept.clear()
        if not rows:
            self.watch.rest()

    def note_exit(self, run_id: int, ended: Exit, moment: Moment) -> list[tuple[Claim, Ending]]:
        """Take the exit of a run's process, seen at a moment; return the ending if it is to be settled at once.

        Otherwise it waits for its owner to record it, or for its exit status to show.
        """
        now = self._means.clock()
        bound, dying, late = self._bound.get(run_id), self._dying.get(run_id), self._late.get(run_id)
        if not ended.final and (dying or late):
            return []  # a sweep has asked again, and it is still a zombie
        if late is not None:
            del self._late[run_id]
            self._release(run_id)
            return [] if ended.status is None else [(late.claim, self._ending(late, ended, moment))]
        if bound is None:
            return []
        if dying is not None:
            dying.exit = ended
            dying.due = now + bound.grace(ended.status, now - dying.since)
            return []
        grace = max(bound.grace(ended.status, 0), 0 if ended.final else REAP_GRACE)
        if grace == 0:
            return [(bound.claim, self._ending(bound, ended, moment))]
        self._dying[run_id] = Dying(bound, ended, now, moment.at, now + grace)
        watch_owner(self._means.exits, OwnerKey(self._key(run_id)), bound)
        return []

    def note_owner_exit(self, run_id: int) -> None:
        """Take the end of the process that a dying run has waited for: nobody is left to record it."""
        self._means.exits.forget(OwnerKey(self._key(run_id)))
        dying, now = self._dying.get(run_id), self._means.clock()
        if dying is not None:
            dying.due = now if dying.exit.final else max(now, dying.since + REAP_GRACE)

    def poll(self) -> None:
        """Ask after the processes that have no pidfd."""
        endings = []
        for run_id in self.polled - self._dying.keys():
            end = polled_exit(self._bound[run_id].process)
            if end is not None:
                ended = Exit(self._key(run_id), end[0], final=True, source=end[1])
                endings += self.note_exit(run_id, ended, self._means.moment())
        self.settle(endings)

    def next_due(self) -> float | None:
        """Return when, on the clock, something of this store comes due; None when nothing waits."""
        waiting: list[Waiting] = [*self._dying.values(), *self._suspects.values(), *self._writer.kept.values()]
        return min((item.due for item in waiting), default=None)

    def do_what_is_due(self) -> None:
        """Settle whose owner had its time, write what could not be written, take the second looks."""
        if not self.is_doubtful:
            return
        now, moment, endings = self._means.clock(), self._means.moment(), []
        for run_id in due(self._dying, now):
            dying = self._dying[run_id]
            left = dying.bound.grace(dying.exit.status, now - dying.since)
            if left > 0:
                dying.due = now + left
            else:
                endings.append((dying.bound.claim, self._ending(dying.bound, dying.exit, moment, dying.detected_at)))
        again = [self._writer.kept[run_id] for run_id in due(self._writer.kept, now)]
        endings += [(item.claim, item.ending) for item in again]
        self.settle(endings)
        if due(self._suspects, now):
            self._look_again(now)

    def settle(self, endings: list[tuple[Claim, Ending]]) -> None:
        """Write endings, in one transaction; what cannot be written now is kept and tried again."""
        if not endings:
            return
        for (claim, _), written in zip(endings, self._writer.write(endings), strict=True):
            dying = self._dying.get(claim.run_id)
            if dying is not None and not dying.exit.final and written is not False:
                self._late[claim.run_id] = dying.bound
            self._let_go(claim.run_id)
        if not (self._bound or self._suspects or self._writer.kept or self._aside):
            self.watch.rest()

    def forget(self, run_id: int) -> None:
        """Let go of all that is known of a run."""
        self._writer.kept.pop(run_id, None)
        self._let_go(run_id)

    def _let_go(self, run_id: int) -> None:
        """Let go of a run's process."""
        self._bound.pop(run_id, None)
        self.polled.discard(run_id)
        self._dying.pop(run_id, None)
        self._unkept.pop(run_id, None)
        self.unknown.pop(run_id, None)
        self._aside.pop(run_id, None)
        suspect = self._suspects.pop(run_id, None)
        if suspect is not None:
            suspect.sight.close()
        if run_id not in self._late:
            self._release(run_id)
        self._means.exits.forget(OwnerKey(self._key(run_id)))

    def _release(self, run_id: int) -> None:
        # Until an ending is written, its parked pidfd is all that the next daemon would have to know it by.
        self._means.release(self._key(run_id), parked=run_id not in self._writer.kept)

    def close(self) -> None:
        """Let go of all runs and of the store, after a last try to write what could not be written."""
        self._writer.give_up()
        for run_id in (*self._late, *self._known()):
            self._late.pop(run_id, None)
            self.forget(run_id)
        self.watch.rest()

    def _key(self, run_id: int) -> Key:
        return Key(self.watch.directory, run_id)

    def _known(self) -> dict[int, Claim]:
        """Return the rows in hand, as they were when they came there."""
        return {
            **{run_id: suspect.sight.claim for run_id, suspect in self._suspects.items()},
            **{run_id: item.claim for run_id, item in self._writer.kept.items()},
            **{run_id: bound.claim for run_id, bound in self._bound.items()},
            **self._aside,
        }

    def _see(self, claims: Iterable[Claim]) -> list[Sight]:
        store, scene = self.watch.store, self._means.scene
        look, steps = self._means.look_within_limit, self._means.steps
        sights = sight.see(store, claims, matched_before=self._matched, scene=scene, look=look, steps=steps)
        self._matched = self._matched or any(seen.matched for seen in sights)
        return sights

    def _first_sight(self, claims: list[Claim], *, running: int) -> None:
        sights, now = self._see(claims) if claims else [], self._means.clock()
        for seen in sights:
            if seen.verdict.bind:
                self._bind(seen)
            if seen.verdict.state is State.UNKNOWN:
                self._note_unknown(seen)
            else:
                self.unknown.pop(seen.claim.run_id, None)
            if not seen.verdict.bind and seen.verdict.certain:
                seen.close()
        dead = [seen for seen in sights if seen.verdict.state is State.DEAD]
        self._suspects |= suspected([seen for seen in dead if not seen.verdict.certain], running=running, now=now)
        certain, by = [seen for seen in dead if seen.verdict.certain], self._means.settled_by
        self.settle([(seen.claim, inferred(seen.verdict, settled_by=by)) for seen in certain])

    def _take_up(self, claim: Claim) -> bool:
        """Go on with a row as the daemon before us had bound it; tell whether it had."""
        taken = self._means.parking.take_up(self._key(claim.run_id), claim)
        if taken is not None:
            self._matched = self._matched or taken[0].line in ("F15", "F17")
            self._watch(*taken, "taken up again")
        return taken is not None

    def _bind(self, seen: Sight) -> None:
        run_id, bound = seen.claim.run_id, bind(seen)
        if seen.claim.process is None and bound.identified:
            self._unkept[run_id] = stamp_of(bound.process.pid, seen.descriptor)
        if self._watch(bound, seen.descriptor, seen.verdict.reason) and seen.descriptor is not None:
            self._means.parking.park(self._key(run_id), bound, seen.descriptor)

    def _watch(self, bound: Bound, descriptor: int | None, reason: str) -> bool:
        """Wait for a run's process; tell whether its end will be told, or must be asked after."""
        key = self._key(bound.claim.run_id)
        self._bound[key.run_id] = bound
        self._late.pop(key.run_id, None)
        self._means.oom_kills.follow(bound.surroundings.memory)
        log.debug("watching %s#%s: %s, %s", *key, bound.process, reason)
        if descriptor is not None:
            told = watch_end(self._means.exits, key, descriptor, bound.process)
        else:  # a process may have ended before its pid was watched
            told = self._means.exits.watch_pid(key, bound.process.pid) and bound.process.lives
        if not told:
            self.polled.add(key.run_id)
        return told

    def _note_unknown(self, seen: Sight) -> None:
        run_id, verdict = seen.claim.run_id, seen.verdict
        if run_id not in self.unknown or self.unknown[run_id].line != verdict.line:
            log.info("cannot judge %s#%s: %s (%s)", self.watch.directory, run_id, verdict.reason, verdict.line)
        self.unknown[run_id] = verdict
        if not verdict.bind:
            self._aside[run_id] = seen.claim

    def _ending(self, bound: Bound, ended: Exit, moment: Moment, detected_at: float | None = None) -> Ending:
        return bound.ending(ended, moment, detected_at=detected_at or moment.at, settled_by=self._means.settled_by)

    def _look_again(self, now: float) -> None:
        """Take the second looks that are due. A row that has changed, or is not dead after all, is judged as new."""
        those = due(self._suspects, now)
        rows = self.watch.rows()
        if rows is None:
            for run_id in those:
                self._suspects[run_id].due = now + RETRY
            return
        known = self._known()
        again = rows.keys() != known.keys() or not all(same_row(known[run_id], row) for run_id, row in rows.items())
        suspects = {run_id: self._suspects.pop(run_id) for run_id in those}
        unchanged = [known[run_id] for run_id in those if same_row(known[run_id], rows.get(run_id))]
        sights, moment, endings = self._see(unchanged), self._means.moment(), []
        for seen in sights:
            first = suspects[seen.claim.run_id]
            if confirms(first.sight.verdict, seen.verdict):
                endings += self._confirm(first, seen, moment)
            else:
                again = True
            seen.close()
        for suspect in suspects.values():
            suspect.sight.close()
        self.settle(endings)
        if again:
            self.reconcile()

    def _confirm(self, suspect: Suspect, second: Sight, moment: Moment) -> list[tuple[Claim, Ending]]:
        """Return the ending of what two looks have shown dead.

        The exit status of a zombie that the first look saw is the run's, if the process was; its owner then still has
        the rest of its time.
        """
        if second.verdict.certain:
            return [(second.claim, inferred(second.verdict, settled_by=self._means.settled_by))]
        first, now = suspect.sight, self._means.clock()
        bound, status, source = bind(first, moment.nothing), None, second.verdict.reason
        if first.verdict.identified and first.descriptor is not None:
            end = exits.examine(first.descriptor, bound.process.pid, bound.process.start_ticks)
            if end is not None:
                status, _, source = end
        ended = Exit(self._key(second.claim.run_id), status, final=True, source=source)
        grace = bound.grace(status, now - suspect.since)
        if grace > 0:
            self._bound[second.claim.run_id] = bound
            self._dying[second.claim.run_id] = Dying(bound, ended, suspect.since, time.time(), now + grace)
            watch_owner(self._means.exits, OwnerKey(self._key(second.claim.run_id)), bound)
            return []
        return [(second.claim, self._ending(bound, ended, moment))]
