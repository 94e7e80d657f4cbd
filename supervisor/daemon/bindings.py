"""What the daemon keeps in memory of a run: its binding to a process, and endings that wait."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from supervisor.ending import ending_of, ending_without_status, explained
from supervisor.models import Cause, Claim, Ending, Rank
from supervisor.process import facts, pidfd, procfs
from supervisor.process.exits import Exit, ExitWatcher
from supervisor.process.judge import State, Verdict
from supervisor.process.surroundings import Moment, Surroundings, surroundings_of
from supervisor.sight import Sight

log = logging.getLogger(__name__)

OWNER_GRACE = 3.0
"""Seconds that a living owner has to record the ending before the kernel's word is written for it."""

STOPPED_OWNER_GRACE = 30.0
"""The same for an owner that is stopped, by Ctrl-Z or a debugger."""

UNKNOWN_WRITER_GRACE = 1.0
"""Seconds that the parent of a foreign run has to record what may have been a plain exit 0."""

REAP_GRACE = 1.0
"""Seconds to wait for the reap of a zombie whose exit status is hidden from us until then."""

SECOND_LOOK = 2.0
"""Seconds between the two looks of which both must show a row dead that was never bound."""

REUSED_LOOK = 5.0
"""The same where the only sign is that a stranger has the row's pid."""

MASS_LOOK = 10.0
"""The same when more than `MASS` rows and more than half of a store look dead at once: is /proc in trouble?"""

MASS = 5

RETRY = 0.25
LONGEST_RETRY = 30.0
"""Seconds until a write is tried again that a lock, a full disk or missing rights have kept from the store.

It doubles from the one to the other."""

_REUSED = "F21"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process by pid and start, as far as the start is known."""

    pid: int
    start_ticks: int | None

    @property
    def lives(self) -> bool:
        """Whether it still lives; in doubt it does."""
        return facts.is_alive(self.pid, self.start_ticks)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal holds it."""
        try:
            return procfs.read_stat(self.pid).is_stopped
        except (OSError, ValueError):
            return False


@dataclass(slots=True)
class Bound:
    """A running row tied to the process that was seen for it.

    ``cause`` is why the run ended if no exit status tells.
    """

    claim: Claim
    process: Identity
    identified: bool
    line: str
    owner: Identity | None
    parent: Identity | None
    cause: Cause
    surroundings: Surroundings

    @property
    def own_owner(self) -> bool:
        """Whether the agent itself should have recorded its end, as far as we know."""
        return self.owner is None

    def grace(self, status: int | None, waited: float) -> float:
        """Return how many more seconds the owner has to record the ending itself.

        Args:
            status: the wait(2) status, None where it is not known.
            waited: seconds since the death was noticed.
        """
        if self.owner is not None:
            if not self.owner.lives:
                return 0
            allowed = STOPPED_OWNER_GRACE if self.owner.is_stopped else OWNER_GRACE
            return max(0, allowed - waited)
        if status in (0, None) and self.parent is not None and self.parent.lives:
            return max(0, UNKNOWN_WRITER_GRACE - waited)
        return 0

    def ending(self, ended: Exit, moment: Moment, *, detected_at: float, settled_by: str) -> Ending:
        """Return how the run ended, from the exit of its process and what surrounded it."""
        status, evidence = ended.status, {"source": ended.source, "bound": self.line}
        if status is None or not self.identified:
            ending = ending_without_status(
                self.cause, detected_at=detected_at, settled_by=settled_by, evidence=evidence
            )
        else:
            ending = ending_of(
                status,
                rank=Rank.KERNEL,
                ended_at=detected_at,
                detected_at=detected_at,
                settled_by=settled_by,
                own_owner=self.own_owner,
                evidence=evidence,
            )
        killed = status is not None and os.WIFSIGNALED(status)
        return explained(ending, moment.circumstances(self.surroundings, killed=killed))


@dataclass(slots=True)
class Dying:
    """A bound run whose process has ended, while its owner may still record it or its status may still show."""

    bound: Bound
    exit: Exit
    since: float
    detected_at: float
    due: float


@dataclass(slots=True)
class Suspect:
    """A row that looked dead at first sight and wants a second look. The sight keeps the pidfd of a zombie."""

    sight: Sight
    since: float
    due: float


@dataclass(slots=True)
class Unwritten:
    """An ending that could not be written yet, and how long the next try waits, seconds."""

    claim: Claim
    ending: Ending
    wait: float
    due: float


Waiting = Dying | Suspect | Unwritten
"""What comes due."""


def bind(sight: Sight, surroundings: Surroundings | None = None) -> Bound:
    """Tie a row to the process that was seen for it; by default it is looked at what surrounds that now."""
    assert sight.facts is not None  # noqa: S101  only what was seen is bound
    process, stat = sight.claim.process, sight.facts.stat
    owner = parent = None
    if process is not None and process.owner_pid is not None:
        owner = Identity(process.owner_pid, process.owner_start_ticks)
    if owner is None and stat is not None and stat.ppid > 1:
        parent = Identity(stat.ppid, _start_of(stat.ppid))
    return Bound(
        claim=sight.claim,
        process=Identity(sight.facts.pid, stat.start_ticks if stat else None),
        identified=sight.verdict.identified,
        line=sight.verdict.line,
        owner=owner,
        parent=parent,
        cause=sight.verdict.cause or Cause.LOST,
        surroundings=surroundings or surroundings_of(sight.facts.pid, stat.tty if stat else 0),
    )


def inferred(verdict: Verdict, *, settled_by: str) -> Ending:
    """Return the ending of a run that a verdict alone shows dead."""
    assert verdict.cause is not None  # noqa: S101  a dead one has a cause
    evidence = {"line": verdict.line, "reason": verdict.reason}
    return ending_without_status(verdict.cause, detected_at=time.time(), settled_by=settled_by, evidence=evidence)


def suspected(doubtful: list[Sight], *, running: int, now: float) -> dict[int, Suspect]:
    """Return rows that look dead at first sight, by run id, each with the time of its second look.

    Args:
        doubtful: what was seen of them at one look.
        running: the number of running rows in their store.
        now: the clock.
    """
    mass = len(doubtful) > MASS and len(doubtful) * 2 > running
    found = {}
    for seen in doubtful:
        wait = MASS_LOOK if mass else REUSED_LOOK if seen.verdict.line == _REUSED else SECOND_LOOK
        found[seen.claim.run_id] = Suspect(seen, now, now + wait)
    return found


def confirms(first: Verdict, second: Verdict) -> bool:
    """Tell whether a second look confirms a first that showed a row dead.

    A stranger with the row's pid must have been there at both.
    """
    return second.state is State.DEAD and (second.line != _REUSED or first.line == _REUSED)


def unwritten(claim: Claim, ending: Ending, *, before: Unwritten | None, now: float) -> Unwritten:
    """Return an ending that could not be written, with when to try again; ``before`` is what it was at the last try."""
    wait = RETRY if before is None else min(before.wait * 2, LONGEST_RETRY)
    return Unwritten(claim, ending, wait, now + wait)


def watch_end(exits: ExitWatcher, key: Hashable, descriptor: int, process: Identity) -> bool:
    """Give a pidfd to be waited for; tell whether the kernel had room for it."""
    try:
        exits.watch(key, descriptor, process.pid, process.start_ticks)
    except OSError as error:
        os.close(descriptor)
        log.debug("cannot wait for pid %s: %s", process.pid, error)
        return False
    return True


def watch_owner(exits: ExitWatcher, key: Hashable, bound: Bound) -> None:
    """Watch the owner of a dying run: if it ends without a word, nobody is left to wait for."""
    owner = bound.owner or bound.parent
    if owner is None:
        return
    try:
        descriptor = pidfd.open_pidfd(owner.pid)
    except (OSError, OverflowError):  # the store may say that anything is the owner
        return  # the grace runs out all the same
    if owner.lives:
        watch_end(exits, key, descriptor, owner)
    else:
        os.close(descriptor)


def due(waiting: Mapping[int, Waiting], now: float) -> list[int]:
    """Return the runs whose time has come."""
    return [run_id for run_id, item in waiting.items() if item.due <= now]


def same_row(known: Claim, row: tuple[object, object] | None) -> bool:
    """Tell whether a running row is still the one we know: a resumed run may keep its row and change its pid."""
    return row is not None and (known.pid, known.started_at) == row


def polled_exit(process: Identity) -> tuple[int | None, str] | None:
    """Ask after a process that has no pidfd: None while it lives, else its status where a zombie shows it."""
    if process.lives:
        return None
    try:
        stat = procfs.read_stat(process.pid)
    except (OSError, ValueError):
        return None, "gone, no pidfd"
    same = stat.start_ticks == process.start_ticks
    if same and (stat.exit_status or procfs.exit_status_visible(process.pid)):
        return stat.exit_status, "zombie's exit status"
    return None, "gone, no pidfd"


def _start_of(pid: int) -> int | None:
    try:
        return procfs.read_stat(pid).start_ticks
    except (OSError, ValueError):
        return None
