"""A supervisor that a test drives by hand: a real store, a clock that stands still, and looks that may be scripted."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kit import Original, rows

from supervisor.daemon.means import Means, Settled
from supervisor.daemon.store_runs import StoreRuns
from supervisor.daemon.supervisor import Supervisor
from supervisor.process import facts
from supervisor.process.judge import Facts
from supervisor.process.procfs import read_stat
from supervisor.process.stamp import stamp_of
from supervisor.process.surroundings import OomKills
from supervisor.store import recording
from supervisor.store.supervision import SupervisedStore

NOBODY = 4_000_000
"""Pids from here on are nobody's: the stage's largest pid is above them, and looks at them are scripted."""

Look = Callable[[int], tuple[Facts, int | None]]


def absent(pid: int) -> Facts:
    """Return the look of a process that is not there."""
    return Facts(pid, False, None, None, None)


class Stage:
    """One store, in the directory given, and the supervisor that follows it.

    ``looks`` are what looks show, by pid; others are real. ``now`` is the clock.
    """

    def __init__(self, directory: Path, *, look: Look = facts.look, **means: Any) -> None:
        self.directory = directory
        self.now = 1000.0
        self.looks: dict[int, Facts | Exception] = {}
        self.looked: list[int] = []
        self.told: list[Settled] = []
        self.original = Original(directory)
        self._pidfds_before = pidfds()
        self._look_really = look
        scene = dataclasses.replace(facts.scene(), pid_max=1 << 22)
        # Other tests' OOM kills, which the machine counts too, would explain a zombie of which nothing more is known.
        oom_kills = OomKills(vmstat=os.devnull)
        defaults = {"scene": scene, "clock": lambda: self.now, "on_settled": self.told.append, "oom_kills": oom_kills}
        means = {**defaults, **means}
        self.supervisor = Supervisor(Means(look=self._look, **means))
        self.supervisor.follow([str(directory)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.original.close()
        self.supervisor.close()

    @property
    def runs(self) -> StoreRuns:
        """The store's runs, as the supervisor knows them."""
        return self.supervisor.stores[str(self.directory)]

    def run(
        self,
        pid: object,
        *,
        stamped: bool = False,
        owner: tuple[int, int | None] | None = None,
        started_at: object = None,
        **changed: object,
    ) -> int:
        """Insert a running row as the original does; with a stamp if asked for, or if there is an owner or a change.

        Args:
            pid: its process; one that is not there gets a stamp of this boot and namespace without a start.
            stamped: whether to add a stamp.
            owner: the owner's pid and start.
            started_at: the row's start, now by default.
            changed: fields of the stamp that are to be otherwise.
        """
        run_id = self.original.create_run(pid, started_at=started_at)
        if stamped or owner or changed:
            assert isinstance(pid, int)
            stamp = stamp_of(pid)
            stamp.update(changed)  # type: ignore[typeddict-item]  # the caller's names are the columns'
            with SupervisedStore(str(self.directory)) as store, store.transaction() as connection:
                recording.insert_process(connection, run_id, stamp, by="test", owner=owner)
        return run_id

    def is_open(self) -> bool:
        """Tell whether the supervisor has a connection to the store now."""
        return self.runs.watch.store.is_open

    def pidfds(self) -> int:
        """Return how many pidfds have been opened since the beginning, and are."""
        return pidfds() - self._pidfds_before

    def gone(self, number: int = 0) -> int:
        """Insert a row of a process that is known to have been here, and is gone."""
        self.looks[NOBODY + number] = absent(NOBODY + number)
        return self.run(NOBODY + number, stamped=True)

    def pass_(self, seconds: float) -> None:
        """Let time pass, then tick."""
        self.now += seconds
        self.supervisor.tick()

    def tick(self, *, sweep: bool = False) -> None:
        """Look at what has changed, or at everything."""
        self.supervisor.tick(sweep=sweep)

    def exits(self) -> None:
        """Wait for the kernel's word of an exit, and take it."""
        assert select.select([self.supervisor.means.exits], [], [], 10)[0], "no exit"
        self.supervisor.on_exits()

    def row(self, run_id: int) -> tuple[str, int | None]:
        """Return a run's status and exit code."""
        status, code, _ = self.original.row(run_id)
        return status, code

    def ending(self, run_id: int) -> tuple[str, int | None, str, int] | None:
        """Return a settled run's status, exit code, cause and rank; None for one that we have not settled."""
        columns = "status, exit_code, cause, rank"
        found = rows(self.directory, f"SELECT {columns} FROM run_ending WHERE run_id = ?", [run_id])
        return found[0] if found else None

    def _look(self, pid: int) -> tuple[Facts, int | None]:
        self.looked.append(pid)
        scripted = self.looks.get(pid)
        if isinstance(scripted, Exception):
            raise scripted
        return (scripted, None) if scripted is not None else self._look_really(pid)


def identity(pid: int) -> tuple[int, int]:
    """Return a live process's pid and start."""
    return pid, read_stat(pid).start_ticks


def pidfds() -> int:
    """Return how many pidfds this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found += "pidfd" in os.readlink(f"/proc/self/fd/{name}")
    return found
