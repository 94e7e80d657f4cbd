"""What the runs of all stores share: the clock, the eyes, the kernel's exits, and who is told."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor.clock_steps import ClockSteps
from supervisor.daemon.parking import Parking
from supervisor.models import Claim, Ending
from supervisor.process import facts
from supervisor.process.exits import ExitWatcher
from supervisor.process.judge import Facts, Scene
from supervisor.process.kqueue import exit_watcher
from supervisor.process.surroundings import Moment, OomKills

log = logging.getLogger(__name__)

FD_RESERVE = 64
"""Descriptors kept free for stores and logs; runs beyond them are polled."""


class Key(NamedTuple):
    """A run across stores."""

    directory: str
    run_id: int


class OwnerKey(NamedTuple):
    """The owner of a dying run, as something to watch."""

    run: Key


class Settled(NamedTuple):
    """A run that has been settled, for those who want to tell."""

    directory: str
    claim: Claim
    ending: Ending


@dataclass(slots=True)
class Means:
    """What the runs of all stores share.

    ``fd_limit`` is the number of descriptors that this process may have; ``clock`` is monotonic, in seconds.
    ``on_change`` is told the directory of a store that others have written to.
    """

    settled_by: str = "daemon"
    fd_limit: int = 1024
    clock: Callable[[], float] = time.monotonic
    look: Callable[[int], tuple[Facts, int | None]] = facts.look
    on_settled: Callable[[Settled], None] = lambda _: None
    on_change: Callable[[str], None] = lambda _: None
    exits: ExitWatcher = field(default_factory=exit_watcher)
    parking: Parking = field(default_factory=Parking)
    scene: Scene = field(default_factory=facts.scene)
    oom_kills: OomKills = field(default_factory=OomKills)
    steps: ClockSteps = field(default_factory=ClockSteps)
    settled: list[Settled] = field(default_factory=list)
    """Written, and not told yet: that waits until all that has ended is written."""

    def look_within_limit(self, pid: int) -> tuple[Facts, int | None]:
        """Look at a process, and keep its pidfd if descriptors are not running out."""
        seen, descriptor = self.look(pid)
        if descriptor is not None and descriptor >= self.fd_limit - FD_RESERVE:
            os.close(descriptor)
            descriptor = None
        return seen, descriptor

    def release(self, run: Key, *, parked: bool) -> None:
        """Wait for a run's process no longer, and let go of its pidfd; of the parked one, too, if asked."""
        if parked:
            self.parking.remove(run)
        else:
            self.parking.closing(run)
        self.exits.forget(run)

    def moment(self) -> Moment:
        """Begin the moment at which processes have just been seen to have ended."""
        return Moment(self.oom_kills)

    def tell(self) -> None:
        """Log which runs have been settled, and why, and tell who wants to know."""
        told, self.settled = self.settled, []
        for settled in told:
            self._tell(settled)

    def _tell(self, settled: Settled) -> None:
        claim, ending = settled.claim, settled.ending
        code = "" if ending.exit_code is None else f" with {ending.exit_code}"
        evidence = ", ".join(f"{name}: {value}" for name, value in ending.evidence.items())
        log.info(
            "settled %s#%s (%s, pid %s): %s%s, %s; %s",
            settled.directory,
            claim.run_id,
            claim.cli,
            claim.pid,
            ending.status,
            code,
            ending.cause,
            evidence,
        )
        self.on_settled(settled)
