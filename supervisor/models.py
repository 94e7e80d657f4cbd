"""The nouns of the product as data: projects, runs, stamps, endings. Standard library only, no behaviour.

Times are Unix seconds; they carry a fraction where the store knows one and are whole numbers where it does not.
"""

# ruff: noqa: PLC0414  the nouns that wrap can afford are found here, too

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.nouns import (
    Cause as Cause,
    Circumstances as Circumstances,
    Ending as Ending,
    Rank as Rank,
    Request as Request,
    RunStatus as RunStatus,
)


@dataclass(frozen=True, slots=True)
class Project:
    """A directory that agents run in.

    ``junk`` holds, by column, stored values that are not of the column's kind; the field itself is then None or empty.
    """

    id: int
    dir: str
    cmd: str
    prompt: str | None
    created_at: float | None
    updated_at: float | None
    last_run_at: float | None
    junk: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of an agent CLI.

    ``junk`` holds, by column, stored values that are not of the column's kind; the field itself is then None or empty.
    A pid that is an integer but no possible process id is not junk: judging it is not the store's business.
    """

    id: int
    pid: int | None
    project_id: int | None
    status: RunStatus | None
    exit_code: int | None
    started_at: float | None
    ended_at: float | None
    args: list[str]
    junk: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CrashedRun:
    """A crashed run together with its project."""

    run_id: int
    pid: int | None
    started_at: float | None
    ended_at: float | None
    project_id: int
    dir: str
    cmd: str


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """A project with its newest run and the number of its runs."""

    project: Project
    latest_run: Run | None
    total_runs: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who exactly a process is. A field is None where the writer could not know it.

    ``start_ticks`` counts clock ticks since boot as the writer's time namespace sees them (proc(5), stat field 22).
    ``pid_ns`` and ``time_ns`` are inodes of ``/proc/self/ns``; inode numbers of namespaces are recycled, so
    ``pid_ns_ticks``, the start of the namespace's PID 1, goes with ``pid_ns``. ``pidfd_inode`` is unique per process
    and boot where the kernel has pidfs (Linux 6.9). ``started_at`` is in Unix seconds.
    """

    host: str | None
    boot_id: str | None
    pid_ns: int | None
    pid_ns_ticks: int | None
    time_ns: int | None
    pid: int
    start_ticks: int | None
    pidfd_inode: int | None
    started_at: float | None


@dataclass(frozen=True, slots=True)
class RunProcess:
    """What the supervision tables know of a run's process.

    ``owner_pid`` is None where the agent is its own owner. ``args_added`` are arguments that we gave the agent beside
    its own; ``resumed_from`` is the id of the run that began the series which this one goes on with.
    """

    token: str | None
    cli: str | None
    cwd: str | None
    stamp: Stamp
    stamped_by: str
    owner_pid: int | None
    owner_start_ticks: int | None
    request: Request | None = None
    args_added: tuple[str, ...] = ()
    resumed_from: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a row says while nobody has looked at its process: the row as stored, and its stamp if it has one.

    ``pid`` and ``started_at`` are the stored values, whatever they are: compare-and-set needs them unchanged.
    """

    run_id: int
    pid: object
    started_at: object
    dir: str | None
    cli: str | None
    process: RunProcess | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run with all that the store knows of it. ``ending`` is what was settled, even if the row says otherwise now."""

    run: Run
    dir: str | None
    cli: str | None
    process: RunProcess | None
    ending: Ending | None

    @property
    def overwritten(self) -> bool:
        """Whether the row disagrees with its settled ending, so that its owner has the last word."""
        if self.ending is None:
            return False
        run, ending = self.run, self.ending
        return (run.status, run.exit_code) != (ending.status, ending.exit_code)


@dataclass(frozen=True, slots=True)
class ProjectSummary:
    """A project with the number of its runs by status, as stored."""

    project: Project
    counts: Mapping[str, int]

    @property
    def success_rate(self) -> float | None:
        """Completed runs as a share of the ended ones, 0 to 1; None where none has ended."""
        ended = sum(count for status, count in self.counts.items() if status != RunStatus.RUNNING)
        return self.counts.get(RunStatus.COMPLETED, 0) / ended if ended else None
