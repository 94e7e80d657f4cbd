"""What has happened, as the harness did or saw it: runs, daemons, troubles of stores. The oracle knows no more.

All moments are of `now`.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

now = time.monotonic

FAR = float("inf")

Later = Callable[[float, Callable[[], object]], None]
"""Takes in how many seconds something is to be done, and what."""

KEY = re.compile(r"chaos-(\d+)\b")
"""How a row names its run, in its arguments: ids start anew in a store that is made anew."""


class Kind(StrEnum):
    """Who has recorded a run."""

    WRAP = "wrap"
    API = "api"
    FOREIGN = "foreign"
    ODD = "odd"
    """A foreign row whose pid is no agent's."""


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment to another; one that goes on has no end yet."""

    start: float
    end: float = FAR
    what: str = ""

    def overlaps(self, start: float, end: float) -> bool:
        """Tell whether it touches the time between two moments."""
        return self.start <= end and start <= self.end


@dataclass(slots=True)
class Spans:
    """Times at which something was so, in order; the last may go on."""

    spans: list[Span] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it is so now."""
        return bool(self.spans) and self.spans[-1].end == FAR

    def begin(self, what: str = "") -> None:
        """It is so from now on."""
        self.spans.append(Span(now(), what=what))

    def end(self) -> None:
        """It is so no longer."""
        last = self.spans.pop()
        self.spans.append(Span(last.start, now(), last.what))

    def overlap(self, start: float, end: float) -> bool:
        """Tell whether it was so at any time between two moments."""
        return any(span.overlaps(start, end) for span in self.spans)


@dataclass(frozen=True, slots=True)
class Cut:
    """At ``at`` a store's content became what it had been at ``taken``; a new one has no past.

    What was written between ``taken`` and ``at`` is gone on purpose.
    """

    at: float
    taken: float = -FAR


@dataclass(slots=True)
class Store:
    """A project's directory and what was done to its store."""

    directory: Path
    troubles: Spans = field(default_factory=Spans)
    """When it could not be read, written or found by everyone as usual."""
    cuts: list[Cut] = field(default_factory=list)
    small: bool = False
    """Whether it lies on a small file system of its own."""
    spared: bool = False
    """Whether nothing is ever taken from it."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.directory.name

    @property
    def folder(self) -> Path:
        """The store's folder."""
        return self.directory / ".agent-yes"

    @property
    def file(self) -> Path:
        """The database."""
        return self.folder / "store.sqlite"

    def was_cut(self, start: float, end: float = FAR) -> bool:
        """Tell whether content was taken away on purpose between two moments."""
        return any(start <= cut.at <= end for cut in self.cuts)


@dataclass(slots=True)
class DaemonLife:
    """One process of the daemon. ``descriptors`` is its limit, where that is too low to watch every run by a pidfd."""

    pid: int
    log: Path
    started: float
    ready: float = FAR
    ended: float = FAR
    asked: bool = False
    descriptors: int | None = None
    stopped: Spans = field(default_factory=Spans)


@dataclass(slots=True)
class Word:
    """What an owner has said of the end: ``said`` is false until the store has taken it for certain."""

    status: str
    exit_code: int | None
    said: bool = False
    connected: float = 0.0
    """When the connection was opened by which it was said."""


@dataclass(slots=True)
class Run:
    """One agent, and what is known of it and its row."""

    number: int
    kind: Kind
    store: Store
    started: float
    pid: int = 0
    pidfd: int = -1
    up: float = FAR
    """When its agent was seen to run."""
    written: float = FAR
    """When its row was written for certain (wrap: or kept in the spool)."""
    connected: float = 0.0
    """When the connection was opened by which it was written."""
    row_id: int = 0
    refused: bool = False
    """Its writer was told that the row was not written."""
    told: float = FAR
    """When its agent was told to end, the earliest moment of its death."""
    dead: float = FAR
    """When it was seen dead."""
    reaped: float = FAR
    fate: int | None = None
    """The wait(2) status that it was told to end with."""
    status: int | None = None
    """The wait(2) status that waitid(2) gave, where it was a child of ours."""
    owner_gone: float = FAR
    """When its wrapper or writer was killed."""
    owner_left: float = FAR
    """When its wrapper ended by itself."""
    owner_status: int | None = None
    asked: bool = False
    """A person has asked it to end."""
    on_terminal: bool = False
    """Its wrapper and its agent each have a terminal of their own; the agent's hangs up with its wrapper."""
    falls: bool = False
    """Its wrapper starts it twice: at first it is killed at once. What else is said here is of the second time."""
    word: Word | None = None
    reused_by: list[int] = field(default_factory=list)
    """wait(2) statuses of the strangers who had its pid after it."""
    errors: Path | None = None
    """What its wrapper has said."""

    @property
    def key(self) -> str:
        """How its row names it."""
        return f"chaos-{self.number}"

    @property
    def truth(self) -> int | None:
        """How the agent ended, as a wait(2) status; None while it lives."""
        return self.fate if self.status is None else self.status

    @property
    def lives(self) -> bool:
        """Whether the agent lives now, as the kernel says."""
        return self.pidfd >= 0 and self.dead == FAR and not has_fired(self.pidfd)

    def says(self, text: str) -> bool:
        """Tell whether the wrapper has said that on stderr."""
        return self.errors is not None and text in self.errors.read_text(errors="replace")


def oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory since the boot, whosoever they were."""
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@dataclass(slots=True)
class World:
    """Everything."""

    scratch: Path
    stores: list[Store] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    daemons: list[DaemonLife] = field(default_factory=list)
    state_full: Spans = field(default_factory=Spans)
    """When the disk of the user-level files was full."""
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong while it happened."""
    faults: dict[str, int] = field(default_factory=dict)
    oom_kills: int = field(default_factory=oom_kills)
    """The machine's count when it all began."""

    def count(self, fault: str) -> None:
        """Count a fault that was done."""
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def new_run(self, kind: Kind, store: Store) -> Run:
        """Begin a run."""
        run = Run(len(self.runs), kind, store, now())
        self.runs.append(run)
        return run


def has_fired(pidfd: int) -> bool:
    """Tell whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def python_path() -> str:
    """Return where Python finds the package under test and this one, before all else."""
    ours = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]
    return os.pathsep.join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])


def environment(scratch: Path) -> dict[str, str]:
    """Return the environment of everything that is started."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(scratch / "home"),
        "XDG_STATE_HOME": str(scratch / "state"),
        "XDG_CONFIG_HOME": str(scratch / "home" / "config"),
        "PYTHONPATH": python_path(),
        "LANG": "C.UTF-8",
    }
