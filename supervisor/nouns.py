"""The nouns that `wrap` loads, those of a run's end, and so without dataclasses; `models` has them all.

Times are Unix seconds.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from types import MappingProxyType

from supervisor.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class RunStatus(StrEnum):
    """The four statuses of a run, as the store spells them."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CRASHED = "crashed"


class Cause(StrEnum):
    """Why a run ended; a closed set."""

    EXITED = "exited"
    STOPPED = "stopped"
    KILLED = "killed"
    OOM_KILLED = "oom-killed"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed-out"
    STALLED = "stalled"
    LOST = "lost"
    REBOOTED = "rebooted"
    PID_REUSED = "pid-reused"
    UNRECORDED = "unrecorded"
    NOT_STARTED = "not-started"


class Rank(IntEnum):
    """Who says how a run ended. A higher rank may overwrite a lower one, never the reverse."""

    INFERENCE = 1
    KERNEL = 2
    OWNER = 3


class Request(Value):
    """That somebody asked a run to end: who, by which order (``stop``, ``kill``, …), when (Unix seconds)."""

    by: str
    order: str
    at: float


class Circumstances(Value):
    """What may explain an end, beside the exit status.

    ``oom`` is what speaks for an OOM kill (fit for JSON). ``terminal_gone`` and ``session_gone`` name the controlling
    terminal and the login session if they have been closed. ``suspended`` and ``clock_stepped`` are seconds by which
    the machine slept, and the wall clock was set, while the process ran.
    """

    oom: Mapping[str, object] | None = None
    terminal_gone: str | None = None
    session_gone: str | None = None
    shutting_down: bool = False
    suspended: float = 0
    clock_stepped: float = 0


class Ending(Value):
    """How a run ended.

    ``ended_at`` is the moment of death where the kernel or the owner knows it, else of detection; ``detected_at`` is
    always detection. ``evidence`` must be fit for JSON.
    """

    status: RunStatus
    exit_code: int | None
    cause: Cause
    rank: Rank
    ended_at: float
    detected_at: float
    settled_by: str
    term_signal: int | None = None
    core_dumped: bool | None = None
    evidence: Mapping[str, object] = MappingProxyType({})
