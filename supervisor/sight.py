"""The first sight of running rows: what each claims, a look at its process, and the verdict."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.models import Claim, Stamp
from supervisor.process import facts, judge, namespace
from supervisor.process.judge import Facts, Scene, Start, State, Verdict
from supervisor.store.rows import MILLISECONDS_ABOVE, seconds
from supervisor.store.store import Store

log = logging.getLogger(__name__)

_WHOLE_SECONDS, _MILLISECONDS = 1.0, 0.002

CLOSE = 60.0
"""Seconds between a row's start and its process's within which they show that both are of one PID namespace.

A process much older than the row may be it, but the pids of a container's rows are low, and its host's low ones are all
taken by old processes.
"""


@dataclass(slots=True)
class Sight:
    """A row's claim with the verdict on it; ``facts`` and ``descriptor`` (a pidfd) where its process was looked at.

    ``matched`` says that row and process fit so well that the store's rows must be of our PID namespace.
    """

    claim: Claim
    verdict: Verdict
    facts: Facts | None = None
    descriptor: int | None = None
    matched: bool = False

    def close(self) -> None:
        """Close the pidfd, for those who do not go on to watch it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def see(
    store: Store,
    claims: Iterable[Claim],
    *,
    matched_before: bool = False,
    scene: Scene | None = None,
    look: Callable[[int], tuple[Facts, int | None]] = facts.look,
) -> list[Sight]:
    """Judge rows of one store from what can be seen now.

    Args:
        store: where they stand.
        claims: the rows.
        matched_before: whether a row of this store was matched with its process before, in this boot and namespace.
        scene: where we judge from; by default, here.
        look: looks at a process.
    """
    scene = scene or facts.scene()
    sights = []
    for claim in claims:
        try:
            sights.append(_see_one(store, claim, scene, look))
        except Exception:  # the guard of each run: no row may end the daemon or spoil a list
            log.exception("%s#%s cannot be judged", store.directory, claim.run_id)
            sights.append(Sight(claim, Verdict(State.UNKNOWN, "-", "it cannot be judged: see the log")))
    unproven = [sight for sight in sights if sight.verdict.line == "F8" or _is_unproven_zombie(sight)]
    if unproven:
        matched = matched_before or any(sight.matched for sight in sights)
        if (matched and not namespace.on_shared_file_system(store.directory)) or namespace.only_we_reach(
            store.directory, scene
        ):
            for sight in unproven:
                sight.verdict = _judge_proven(store, sight, scene)
    return sights


def stamp_in_force(claim: Claim) -> Stamp | None:
    """Return a row's stamp, unless the row's pid has been changed since it was stamped."""
    stamp = claim.process.stamp if claim.process else None
    return stamp if stamp is not None and stamp.pid == claim.pid else None


def _see_one(store: Store, claim: Claim, scene: Scene, look: Callable[[int], tuple[Facts, int | None]]) -> Sight:
    stamp = stamp_in_force(claim)
    screened = judge.screen(claim.pid, stamp, scene)
    if screened is not None:
        return Sight(claim, screened)
    assert isinstance(claim.pid, int)  # noqa: S101  screened
    start = _start(store, claim)
    seen, descriptor = look(claim.pid)
    proven = stamp is not None and _is_of(scene, stamp)
    verdict = judge.judge(stamp, start, seen, scene, namespace_proven=proven)
    return Sight(claim, verdict, seen, descriptor, verdict.line == "F15" or _is_close(verdict, start, seen))


def _judge_proven(store: Store, sight: Sight, scene: Scene) -> Verdict:
    assert sight.facts is not None  # noqa: S101  only rows that were looked at come here
    stamp, start = stamp_in_force(sight.claim), _start(store, sight.claim)
    return judge.judge(stamp, start, sight.facts, scene, namespace_proven=True)


def _is_of(scene: Scene, stamp: Stamp) -> bool:
    """Tell whether a stamp is known to be of our boot and PID namespace."""
    ours = (scene.boot_id, scene.pid_ns)
    return None not in ours and (stamp.boot_id, stamp.pid_ns) == ours


def _is_close(verdict: Verdict, start: Start | None, seen: Facts) -> bool:
    if verdict.line != "F19" or start is None or seen.created is None:
        return False
    return start.at - seen.created < CLOSE


def _is_unproven_zombie(sight: Sight) -> bool:
    stat = sight.facts.stat if sight.facts else None
    return stat is not None and stat.is_dead and sight.verdict.line not in ("F13", "F16")


def _start(store: Store, claim: Claim) -> Start | None:
    moment = None if store.start_says_nothing(claim.started_at) else seconds(claim.started_at)
    if moment is None:
        return None
    in_ms = isinstance(claim.started_at, int | float) and claim.started_at > MILLISECONDS_ABOVE
    coarse = not in_ms and moment == int(moment)
    return Start(moment, _WHOLE_SECONDS if coarse else _MILLISECONDS)
