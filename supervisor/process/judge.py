"""The verdict on a run's process: pure functions of what the row says, its stamp, and the facts.

The lines are numbered F1 to F23, and the first that applies decides. Three rules stand above them:

- after the first sight only the pidfd speaks (`supervisor.process.exits`);
- wall-clock time never kills: it may confirm *alive*, alone it yields at most *unknown*;
- "no such pid" is a fact only in the PID namespace that the row was written in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisor.models import Cause, Stamp
from supervisor.process.procfs import Stat

EARLY = 2.0
"""Seconds that a process may seem to start after its row says so and still be it: clocks jitter (osquery#6911)."""

BEFORE_SPAWN = 120.0
"""Seconds by which a row may be written before its process starts: npx, a container pull."""

_PID_LIMIT = 1 << 31
_ITS_OWN = frozenset({"F15", "F17", "F18", "F19"})
"""Lines that make a zombie's exit status the row's."""

TIES = {
    "F12": "a process with its pid exists, but is hidden from us",
    "F14": "its process lives on in other threads than the first",
    "F15": "it is the very process that was recorded",
    "F17": "its process looks like the run's agent",
    "F18": "a process with its pid exists; the row's start says nothing",
    "F19": "its process is as old as the row says",
    "F20": "its process started soon after the row was written",
}
"""Why a process is taken for a run's, by the line that decided it."""


class State(StrEnum):
    """What is known about an agent now."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state with its reason and the line that decided it.

    ``cause`` is given with *dead*. ``bind`` says that the process we looked at is to be watched as this run's;
    ``identified``, that its exit status is this run's. ``certain`` is false for a *dead* that wants a second look.
    """

    state: State
    line: str
    reason: str
    cause: Cause | None = None
    bind: bool = False
    identified: bool = False
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Start:
    """When a row says that its run started: Unix seconds, and how coarse that is, in seconds.

    ``unambiguous`` says that the value can be read in one way only; ``clock_stepped``, that the clock is known to have
    been set since.
    """

    at: float
    granularity: float
    unambiguous: bool = True
    clock_stepped: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Where we judge from: our own stamp's fields, the largest pid, and whether this is the initial PID namespace."""

    host: str | None
    boot_id: str | None
    pid_ns: int | None
    pid_ns_ticks: int | None
    time_ns: int | None
    own_pid: int
    pid_max: int
    initial_pid_ns: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look at a process showed, gathered in the order pidfd, stat, poll.

    ``exists`` is None where the kernel would not say. ``created`` is in Unix seconds. ``pid`` is the process's own id
    where the one asked for was a thread's.
    """

    pid: int
    exists: bool | None
    stat: Stat | None
    created: float | None
    pidfd_inode: int | None


def screen(pid: object, stamp: Stamp | None, scene: Scene) -> Verdict | None:
    """Judge what needs no look at the process, F1 to F6; None means: look, then `judge`.

    No pid that this has not passed may reach kill(2), pidfd_open(2) or psutil: some take None, True or -1 for others.
    """
    if stamp is not None and type(pid) is int and stamp.pid == pid:
        if _differ(stamp.host, scene.host):
            return _unknown("F1", "it was started on another host")
        if _differ(stamp.boot_id, scene.boot_id):
            if stamp.host is None or scene.host is None:
                return _unknown("F1", "it was started on another host, or before the machine has rebooted")
            return Verdict(State.DEAD, "F2", "the machine has rebooted since", Cause.REBOOTED)
        if _differ(stamp.pid_ns, scene.pid_ns) or _differ(stamp.pid_ns_ticks, scene.pid_ns_ticks):
            return _unknown("F3", "it was started in another PID namespace")
    if type(pid) is not int or not 0 < pid < _PID_LIMIT:
        return _unknown("F4", "its pid is no process id")
    if pid > scene.pid_max:
        return _unknown("F5", f"its pid is above this system's largest, {scene.pid_max}")
    if pid == scene.own_pid or (pid == 1 and scene.initial_pid_ns):
        return _unknown("F6", "its pid is that of init or of ourselves")
    return None


def judge(
    stamp: Stamp | None,
    start: Start | None,
    facts: Facts,
    scene: Scene,
    *,
    namespace_proven: bool,
    signature: bool | None = None,
) -> Verdict:
    """Judge a row at first sight from a look at its process, F7 to F23.

    Args:
        stamp: who the process was when it was bound, if the row's pid still is the stamp's.
        start: what the row says; None where that is unusable.
        facts: the look.
        scene: where we are; `screen` has passed it.
        namespace_proven: whether the row is known to be of our PID namespace.
        signature: whether the process looks like the run's agent, None where that is not known.
    """
    if facts.exists is False:
        if namespace_proven:
            return Verdict(State.DEAD, "F7", "there is no such process", Cause.LOST, certain=False)
        return _unknown("F8", "there is no such process here, but it may be in another PID namespace")
    if facts.exists is None:
        return _unknown("F10", "the kernel does not say whether it exists; it may be ending")
    if facts.stat is None:
        same = _same_process(stamp, facts, scene)
        return _alive("F12", identified=same is True)
    named = _judge_identity(stamp, start, facts, scene, signature)
    if named.line == "F21" and not namespace_proven:
        named = _unproven_reuse(named.reason)
    if facts.stat.is_dead and namespace_proven:
        identified = named.line in _ITS_OWN
        return Verdict(State.DEAD, "F13", "its process is a zombie", Cause.LOST, identified=identified, certain=False)
    if facts.stat.state == "Z" and not facts.stat.is_dead:
        return _alive("F14", identified=named.identified)
    return named


def _judge_identity(
    stamp: Stamp | None, start: Start | None, facts: Facts, scene: Scene, signature: bool | None
) -> Verdict:
    """Judge by whether the process is the row's, F15 to F22, in a proven namespace.

    How long before the row's start it was created does not matter (F23).
    """
    same, created = _same_process(stamp, facts, scene), facts.created
    if same is True:
        return _alive("F15")
    if same is False:
        return Verdict(State.DEAD, "F16", "its pid belongs to another process now", Cause.PID_REUSED)
    if signature is True:
        return _alive("F17")
    if start is None or created is None:
        return _alive("F18")
    if created <= start.at + start.granularity + EARLY:
        return _alive("F19")
    if created <= start.at + BEFORE_SPAWN:
        return _alive("F20")
    reason = f"the process with its pid started {created - start.at:.0f} s after the row says"
    if signature is False and start.unambiguous and not start.clock_stepped:
        reason += ", and certainly is no agent"
        return Verdict(State.DEAD, "F21", reason, Cause.PID_REUSED, certain=False)
    return _unproven_reuse(reason)


def _unproven_reuse(reason: str) -> Verdict:
    return Verdict(State.UNKNOWN, "F22", reason, bind=True)


def _same_process(stamp: Stamp | None, facts: Facts, scene: Scene) -> bool | None:
    """Tell whether the process is the stamped one, None where the stamp cannot say.

    Inodes and ticks count within one boot, and a pid that is another's here may still be the process's elsewhere.
    """
    if stamp is None or stamp.pid != facts.pid:
        return None
    if not (_known_equal(stamp.boot_id, scene.boot_id) and _known_equal(stamp.pid_ns, scene.pid_ns)):
        return None
    if stamp.pidfd_inode is not None and facts.pidfd_inode is not None:
        return stamp.pidfd_inode == facts.pidfd_inode
    if stamp.start_ticks is None or facts.stat is None or stamp.time_ns != scene.time_ns:
        return None
    return stamp.start_ticks == facts.stat.start_ticks


def _known_equal(stamped: object, ours: object) -> bool:
    return stamped is not None and stamped == ours


def _differ(stamped: object, ours: object) -> bool:
    return stamped is not None and ours is not None and stamped != ours


def _alive(line: str, *, identified: bool = True) -> Verdict:
    return Verdict(State.ALIVE, line, TIES[line], bind=True, identified=identified)


def _unknown(line: str, reason: str) -> Verdict:
    return Verdict(State.UNKNOWN, line, reason)
