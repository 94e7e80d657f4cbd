"""The first sight of running rows: what each claims, a look at its process, and the verdict."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.clock_steps import ClockSteps
from supervisor.models import Claim, Stamp
from supervisor.process import facts, judge, namespace, signature
from supervisor.process.judge import Facts, Scene, Start, State, Verdict
from supervisor.store.store import Store
from supervisor.store.values import MILLISECONDS_ABOVE, seconds

log = logging.getLogger(__name__)

_WHOLE_SECONDS, _MILLISECONDS = 1.0, 0.002

_ASKS_FOR_LOOKS = frozenset({"F18", "F20", "F22"})
"""Lines that a look at the process itself (its arguments, program, directory, environment) can change."""

_LONGEST_AGO = 10 * 365 * 86400.0
"""Seconds: a start before that is no start, but another number read as one."""

CLOSE = 60.0
"""Seconds between a row's start and its process's within which they show that both are of one PID namespace.

A process much older than the row may be it, but the pids of a container's rows are low, and its host's low ones are all
taken by old processes.
"""


@dataclass(slots=True)
class Sight:
    """A row's claim with the verdict on it; ``facts`` and ``descriptor`` (a pidfd) where its process was looked at.

    ``looks`` says whether the process looks like the agent, where that was asked; ``matched``, that row and process fit
    so well that the store's rows must be of our PID namespace.
    """

    claim: Claim
    verdict: Verdict
    facts: Facts | None = None
    descriptor: int | None = None
    looks: bool | None = None
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
    steps: ClockSteps | None = None,
) -> list[Sight]:
    """Judge rows of one store from what can be seen now.

    Args:
        store: where they stand.
        claims: the rows.
        matched_before: whether a row of this store was matched with its process before, in this boot and namespace.
        scene: where we judge from; by default, here.
        look: looks at a process.
        steps: what is known of steps of the clock; by default, what a daemon has kept.
    """
    see_one = _FirstSight(store, scene or facts.scene(), look, steps or ClockSteps())
    sights = []
    for claim in claims:
        try:
            sights.append(see_one(claim))
        except Exception:  # the guard of each run: no row may end the daemon or spoil a list
            log.exception("%s#%s cannot be judged", store.directory, claim.run_id)
            sights.append(Sight(claim, Verdict(State.UNKNOWN, "-", "it cannot be judged: see the log")))
    unproven = [sight for sight in sights if _wants_proof(sight)]
    if unproven:
        matched = matched_before or any(sight.matched for sight in sights)
        if (matched and not namespace.on_shared_file_system(store.directory)) or namespace.only_we_reach(
            store.directory, see_one.scene
        ):
            for sight in unproven:
                sight.verdict = see_one.judge(sight.claim, sight.facts, proven=True, looks=sight.looks)
    return sights


def stamp_in_force(claim: Claim) -> Stamp | None:
    """Return a row's stamp, unless the row's pid has been changed since it was stamped."""
    stamp = claim.process.stamp if claim.process else None
    return stamp if stamp is not None and stamp.pid == claim.pid else None


class _FirstSight:
    """Sees rows of one store, one by one."""

    def __init__(
        self, store: Store, scene: Scene, look: Callable[[int], tuple[Facts, int | None]], steps: ClockSteps
    ) -> None:
        self.scene = scene
        self._store = store
        self._look = look
        self._steps = steps

    def __call__(self, claim: Claim) -> Sight:
        stamp = stamp_in_force(claim)
        screened = judge.screen(claim.pid, stamp, self.scene)
        if screened is not None:
            return Sight(claim, screened)
        assert isinstance(claim.pid, int)  # noqa: S101  screened
        seen, descriptor = self._look(claim.pid)
        try:
            return self._judged(claim, seen, descriptor, proven=stamp is not None and _is_of(self.scene, stamp))
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _judged(self, claim: Claim, seen: Facts, descriptor: int | None, *, proven: bool) -> Sight:
        looks = None
        verdict = self.judge(claim, seen, proven=proven)
        if verdict.line in _ASKS_FOR_LOOKS:
            looks = self._looks(claim, seen.pid)
            verdict = self.judge(claim, seen, proven=proven, looks=looks)
        matched = verdict.line in ("F15", "F17")
        if verdict.line == "F19":
            matched = _is_close(self._start(claim), seen)
        return Sight(claim, verdict, seen, descriptor, looks, matched)

    def judge(self, claim: Claim, seen: Facts | None, *, proven: bool, looks: bool | None = None) -> Verdict:
        """Judge what was seen."""
        assert seen is not None  # noqa: S101  only rows that were looked at come here
        start = None if seen.exists is False else self._start(claim)  # of one that is not there it says nothing
        return judge.judge(stamp_in_force(claim), start, seen, self.scene, namespace_proven=proven, signature=looks)

    def _looks(self, claim: Claim, pid: int) -> bool | None:
        token = claim.process.token if claim.process and stamp_in_force(claim) else None
        looks = signature.looks_of(pid, self._store.path)
        return signature.is_the_agent(looks, cli=claim.cli, directory=claim.dir, token=token)

    def _start(self, claim: Claim) -> Start | None:
        stored = claim.started_at
        moment = None if self._store.start_says_nothing(stored) else seconds(stored)
        if moment is None:
            return None
        in_ms = isinstance(stored, int | float) and stored > MILLISECONDS_ABOVE
        coarse = not in_ms and moment == int(moment)
        now = time.time()
        return Start(
            moment,
            _WHOLE_SECONDS if coarse else _MILLISECONDS,
            unambiguous=type(stored) is int and now - _LONGEST_AGO < moment <= now + _WHOLE_SECONDS,
            clock_stepped=self._steps.stepped_since(moment),
        )


def _is_of(scene: Scene, stamp: Stamp) -> bool:
    """Tell whether a stamp is known to be of our boot and PID namespace."""
    ours = (scene.boot_id, scene.pid_ns)
    return None not in ours and (stamp.boot_id, stamp.pid_ns) == ours


def _is_close(start: Start | None, seen: Facts) -> bool:
    if start is None or seen.created is None:
        return False
    return start.at - seen.created < CLOSE


def _wants_proof(sight: Sight) -> bool:
    """Tell whether the proof that the row is of our PID namespace could change the verdict."""
    if sight.verdict.line == "F8" or (sight.verdict.line == "F22" and sight.looks is False):
        return True
    stat = sight.facts.stat if sight.facts else None
    return stat is not None and stat.is_dead and sight.verdict.line not in ("F13", "F16")
