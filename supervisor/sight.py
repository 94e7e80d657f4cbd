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
_MATCHED = frozenset({"F15", "F19"})
"""Verdicts that show a row to be of our PID namespace, and with it the other rows of its store."""


@dataclass(slots=True)
class Sight:
    """A row's claim with the verdict on it; ``facts`` and ``descriptor`` (a pidfd) where its process was looked at."""

    claim: Claim
    verdict: Verdict
    facts: Facts | None = None
    descriptor: int | None = None

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
        matched = matched_before or any(sight.verdict.line in _MATCHED for sight in sights)
        if matched or namespace.only_we_reach(store.directory, scene):
            for sight in unproven:
                sight.verdict = _judge(store, sight.claim, sight.facts, scene, proven=True)
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
    seen, descriptor = look(claim.pid)
    proven = stamp is not None and None not in (stamp.pid_ns, stamp.boot_id)  # equal to ours: F2, F3
    return Sight(claim, _judge(store, claim, seen, scene, proven=proven), seen, descriptor)


def _judge(store: Store, claim: Claim, seen: Facts | None, scene: Scene, *, proven: bool) -> Verdict:
    assert seen is not None  # noqa: S101  only rows that were looked at come here
    return judge.judge(stamp_in_force(claim), _start(store, claim), seen, scene, namespace_proven=proven)


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
