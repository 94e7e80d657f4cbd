"""The table of verdicts, line by line, from scripted facts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest

from supervisor.models import Cause, Stamp
from supervisor.process.judge import Facts, Scene, Start, State, Verdict, judge, screen
from supervisor.process.procfs import Stat

PID, BORN = 4242, 1_700_000_000.0
SCENE = Scene(
    host="here",
    boot_id="boot",
    pid_ns=1,
    pid_ns_ticks=10,
    time_ns=2,
    own_pid=77,
    pid_max=32768,
    initial_pid_ns=True,
)
STAMP = Stamp(
    host="here",
    boot_id="boot",
    pid_ns=1,
    pid_ns_ticks=10,
    time_ns=2,
    pid=PID,
    start_ticks=500,
    pidfd_inode=900,
    started_at=BORN,
)
NOTHING_KNOWN = Stamp(None, None, None, None, None, PID, None, None, None)
RUNNING = Stat(state="S", ppid=1, start_ticks=500)
ZOMBIE = Stat(state="Z", ppid=1, start_ticks=500, threads=1)
LEADERLESS = Stat(state="Z", ppid=1, start_ticks=500, threads=2)
LIVING = Facts(PID, True, RUNNING, BORN, 900)
STRANGER = Facts(PID, True, Stat(state="S", ppid=1, start_ticks=501), BORN, 901)
GONE = Facts(PID, False, None, None, None)
SILENT = Facts(PID, None, None, None, None)
HIDDEN = Facts(PID, True, None, None, 900)

WHOLE, FINE = 1.0, 0.002
JUNK_PIDS = [
    *(None, True, False, 1.5, float(PID), "x", "12", "", b"12", 0, -1, -PID),
    *(2**31, 2**40, math.nan, math.inf),
]


def started(seconds_before_birth: float, granularity: float = WHOLE) -> Start:
    """Return the start of a row that says it began so long before its process was created."""
    return Start(BORN - seconds_before_birth, granularity)


@dataclass(frozen=True)
class Case:
    """A row, what is known and seen of its process, and the line that must decide."""

    line: str
    what: str
    state: State
    pid: object = PID
    stamp: Stamp | None = None
    start: Start | None = None
    facts: Facts = LIVING
    scene: Scene = SCENE
    proven: bool = True
    cause: Cause | None = None
    bind: bool = False
    identified: bool = False
    certain: bool = True

    def verdict(self) -> Verdict:
        """Judge as every caller does."""
        screened = screen(self.pid, self.stamp, self.scene)
        if screened is not None:
            return screened
        return judge(self.stamp, self.start, self.facts, self.scene, namespace_proven=self.proven)


def alive(line: str, what: str, *, identified: bool = True, **given: Any) -> Case:
    """A process to bind."""
    return Case(line, what, State.ALIVE, bind=True, identified=identified, **given)


def unknown(line: str, what: str, *, bind: bool = False, **given: Any) -> Case:
    """Nobody can tell."""
    return Case(line, what, State.UNKNOWN, bind=bind, **given)


def dead(line: str, what: str, cause: Cause, *, certain: bool = True, **given: Any) -> Case:
    """A death, with its cause."""
    return Case(line, what, State.DEAD, cause=cause, certain=certain, **given)


def zombie(what: str, *, identified: bool, **given: Any) -> Case:
    """A process that nobody has reaped yet."""
    return dead("F13", what, Cause.LOST, certain=False, identified=identified, **{"facts": DEFUNCT, **given})


def stamp(**changes: Any) -> Stamp:
    """Return the stamp with other fields."""
    return replace(STAMP, **changes)


def scene(**changes: Any) -> Scene:
    """Return our place with other fields."""
    return replace(SCENE, **changes)


def seen(facts: Facts, **changes: Any) -> Facts:
    """Return facts with other fields."""
    return replace(facts, **changes)


DEFUNCT = seen(LIVING, stat=ZOMBIE)
BY_TICKS = stamp(pidfd_inode=None)
CHILD = scene(initial_pid_ns=False)
LATE = started(121.01)

CASES = [
    unknown("F1", "another host", stamp=stamp(host="there")),
    unknown("F1", "another host and boot", stamp=stamp(host="there", boot_id="old"), facts=GONE),
    unknown("F1", "another boot of who knows which host", stamp=stamp(host=None, boot_id="old"), facts=GONE),
    unknown("F1", "another boot, our own name unknown", stamp=stamp(boot_id="old"), scene=scene(host=None)),
    unknown("F1", "before F6", stamp=stamp(host="there", pid=77), pid=77),
    dead("F2", "rebooted", Cause.REBOOTED, stamp=stamp(boot_id="old")),
    dead("F2", "rebooted, in another namespace", Cause.REBOOTED, stamp=stamp(boot_id="old", pid_ns=9)),
    dead("F2", "rebooted, pid taken by ourselves", Cause.REBOOTED, stamp=stamp(boot_id="old", pid=77), pid=77),
    dead("F2", "rebooted, however little is proven", Cause.REBOOTED, stamp=stamp(boot_id="old"), proven=False),
    unknown("F3", "another namespace", stamp=stamp(pid_ns=9), facts=GONE),
    unknown("F3", "another namespace with a recycled inode", stamp=stamp(pid_ns_ticks=11), facts=GONE),
    unknown("F3", "before F5", stamp=stamp(pid_ns=9, pid=40_000), pid=40_000),
    unknown("F3", "before F16", stamp=stamp(pid_ns=9), facts=STRANGER),
    *(unknown("F4", f"pid {pid!r}", pid=pid, facts=GONE) for pid in JUNK_PIDS),
    unknown("F5", "pid above the largest", pid=32769, facts=GONE),
    unknown("F5", "pid that is a time", pid=1_700_000_000, facts=GONE),
    unknown("F6", "our own pid", pid=77, start=started(0)),
    unknown("F6", "init", pid=1, start=started(0)),
    alive("F19", "pid 1 of a container", pid=1, start=started(0), scene=CHILD, facts=seen(LIVING, pid=1)),
    unknown("F6", "our own pid in a container", pid=77, start=started(0), scene=CHILD),
    alive("F18", "the largest pid", pid=32768, facts=seen(LIVING, pid=32768)),
    dead("F7", "gone", Cause.LOST, facts=GONE, certain=False),
    dead("F7", "gone, stamped", Cause.LOST, facts=GONE, certain=False, stamp=STAMP),
    unknown("F8", "gone, but from where", facts=GONE, proven=False),
    unknown("F8", "gone, stamp without a namespace", facts=GONE, proven=False, stamp=stamp(pid_ns=None)),
    alive("F19", "F9, a thread's id: its process decides", facts=seen(LIVING, pid=4000), start=started(0)),
    alive("F19", "F9, a stamp is not of the thread's process", facts=seen(STRANGER, pid=4000), start=started(0),
          stamp=STAMP),
    unknown("F10", "ending at this moment", facts=SILENT),
    unknown("F10", "ending at this moment, stamped", facts=SILENT, stamp=STAMP),
    alive("F15", "F11, no pidfd, ticks decide", facts=seen(LIVING, pidfd_inode=None), stamp=STAMP),
    alive("F19", "F11, no pidfd, no stamp", facts=seen(LIVING, pidfd_inode=None), start=started(0)),
    alive("F12", "hidden", facts=HIDDEN, identified=False),
    alive("F12", "hidden, nothing proven", facts=HIDDEN, identified=False, proven=False, start=LATE),
    alive("F12", "hidden, the very inode", facts=HIDDEN, stamp=STAMP),
    alive("F12", "hidden, before F16", facts=seen(HIDDEN, pidfd_inode=901), stamp=STAMP, identified=False),
    zombie("zombie of the stamp (F15)", identified=True, stamp=STAMP, start=LATE),
    zombie("zombie of the stamp by ticks (F15)", identified=True, stamp=BY_TICKS),
    zombie("zombie without a start (F18)", identified=True),
    zombie("zombie as old as the row (F19)", identified=True, start=started(3)),
    zombie("zombie a little younger (F20)", identified=False, start=started(60)),
    zombie("zombie much younger (F22)", identified=False, start=LATE),
    zombie("zombie of another process, before F16", identified=False, stamp=stamp(pidfd_inode=901), start=started(0)),
    zombie("X is as dead as Z", identified=True, facts=seen(LIVING, stat=Stat(state="X", ppid=1, start_ticks=500))),
    alive("F15", "F13 wants the namespace", stamp=STAMP, facts=DEFUNCT, proven=False),
    alive("F14", "leader gone", facts=seen(LIVING, stat=LEADERLESS)),
    alive("F14", "leader gone, as old as the row", facts=seen(LIVING, stat=LEADERLESS), start=started(0)),
    alive("F14", "leader gone, much younger", facts=seen(LIVING, stat=LEADERLESS), start=LATE, identified=False),
    alive("F14", "leader gone, before F16", facts=seen(STRANGER, stat=LEADERLESS), stamp=STAMP, identified=False),
    alive("F15", "same inode", stamp=STAMP, start=LATE),
    alive("F15", "same inode beats other ticks", stamp=stamp(start_ticks=1)),
    alive("F15", "same ticks", stamp=BY_TICKS, start=LATE),
    alive("F15", "same ticks, nothing proven", stamp=BY_TICKS, proven=False),
    dead("F16", "other inode", Cause.PID_REUSED, stamp=STAMP, facts=STRANGER),
    dead("F16", "other inode, same ticks", Cause.PID_REUSED, stamp=stamp(pidfd_inode=901)),
    dead("F16", "other ticks", Cause.PID_REUSED, stamp=BY_TICKS, facts=STRANGER, start=started(0)),
    alive("F19", "F16 wants the boot", stamp=stamp(boot_id=None), facts=STRANGER, start=started(0)),
    alive("F19", "F16 wants the namespace", stamp=stamp(pid_ns=None), facts=STRANGER, start=started(0)),
    alive("F19", "F16 by ticks wants the time namespace", stamp=stamp(pidfd_inode=None, time_ns=3), facts=STRANGER,
          start=started(0)),
    unknown("F22", "F15 by ticks wants the time namespace", stamp=stamp(pidfd_inode=None, time_ns=3), start=LATE,
            bind=True),
    alive("F18", "no start", start=None),
    alive("F18", "no start, nothing proven", start=None, proven=False),
    alive("F18", "birth unknown", start=started(0), facts=seen(LIVING, created=None)),
    alive("F19", "at the start", start=started(0)),
    alive("F19", "long before the start", start=started(-12 * 86400)),
    alive("F19", "2.99 s after whole seconds", start=started(2.99)),
    alive("F19", "2.001 s after milliseconds", start=started(2.001, FINE)),
    alive("F20", "3.01 s after whole seconds", start=started(3.01)),
    alive("F20", "2.003 s after milliseconds", start=started(2.003, FINE)),
    alive("F20", "120 s after", start=started(120)),
    unknown("F22", "120.01 s after", start=started(120.01), bind=True),
    unknown("F22", "12 days after", start=started(12 * 86400), bind=True),
    unknown("F22", "12 days after, nothing proven", start=started(12 * 86400), bind=True, proven=False),
    unknown("F23", "a start before the boot", start=Start(0, WHOLE), bind=True),
    unknown("F23", "a start that is no number", start=Start(math.nan, WHOLE), bind=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{case.line} {case.what}" for case in CASES])
def test_line(case: Case) -> None:
    """The first line of the table that applies decides, with its cause, and whether to bind and to trust the exit."""
    verdict = case.verdict()
    line = "F22" if case.line == "F23" else case.line
    assert (verdict.line, verdict.state, verdict.cause) == (line, case.state, case.cause)
    assert (verdict.bind, verdict.identified, verdict.certain) == (case.bind, case.identified, case.certain)
    assert verdict.reason


@pytest.mark.parametrize("pid", JUNK_PIDS, ids=repr)
def test_stamp_does_not_lend_sense_to_a_junk_pid(pid: object) -> None:
    """A junk pid is judged as one even where the stamp, for whatever reason, has the same."""
    verdict = screen(pid, stamp(pid=pid, boot_id="old"), SCENE)
    assert verdict is not None
    assert verdict.state is (State.DEAD if type(pid) is int else State.UNKNOWN)


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_ns", "pid_ns_ticks"])
def test_stamp_of_another_pid_is_ignored_by_the_screen(field: str) -> None:
    """A stamp does not speak for a row whose pid has been changed since."""
    foreign = stamp(**{field: 99})
    assert screen(PID, foreign, SCENE) is not None
    assert screen(PID, replace(foreign, pid=4000), SCENE) is None


def test_stamp_of_another_pid_is_ignored_by_the_judge() -> None:
    """A stamp of another pid neither confirms a process nor kills its run."""
    other = stamp(pid=4000)
    assert judge(other, started(0), STRANGER, SCENE, namespace_proven=True).line == "F19"
    assert judge(other, LATE, LIVING, SCENE, namespace_proven=True).line == "F22"


@pytest.mark.parametrize("facts", [LIVING, STRANGER], ids=["same", "other"])
@pytest.mark.parametrize("field", ["host", "boot_id", "pid_ns", "pid_ns_ticks", "time_ns", "start_ticks"])
@pytest.mark.parametrize("side", ["stamp", "scene"])
def test_unknown_fields_never_differ(field: str, side: str, facts: Facts) -> None:
    """What a stamp or we ourselves do not know is no difference: nobody is dead or elsewhere for it."""
    if side == "scene" and field == "start_ticks":
        facts = seen(facts, stat=None)
    ours = scene(**{field: None}) if side == "scene" and field != "start_ticks" else SCENE
    theirs = stamp(pidfd_inode=None, **{field: None} if side == "stamp" else {})
    assert screen(PID, theirs, ours) is None
    verdict = judge(theirs, started(0), facts, ours, namespace_proven=True)
    known = field in ("host", "pid_ns_ticks")
    assert verdict.state is (State.DEAD if known and facts is STRANGER else State.ALIVE)


@pytest.mark.parametrize("field", ["boot_id", "pid_ns"])
def test_two_unknown_fields_are_not_equal(field: str) -> None:
    """Where neither the stamp nor we know the boot or the namespace, another process proves nothing."""
    verdict = judge(stamp(**{field: None}), started(0), STRANGER, scene(**{field: None}), namespace_proven=True)
    assert verdict.line == "F19"


def test_stamp_that_knows_nothing_says_nothing() -> None:
    """An empty stamp is as good as none."""
    assert screen(PID, NOTHING_KNOWN, SCENE) is None
    for facts in (LIVING, STRANGER, GONE, SILENT, HIDDEN, DEFUNCT):
        for start in (None, started(0), LATE):
            with_stamp = judge(NOTHING_KNOWN, start, facts, SCENE, namespace_proven=True)
            assert with_stamp == judge(None, start, facts, SCENE, namespace_proven=True)


def test_one_side_without_inode_falls_back_to_ticks() -> None:
    """Where only one of stamp and look has a pidfd's inode, the start ticks decide."""
    for theirs, found in ((BY_TICKS, LIVING), (STAMP, seen(LIVING, pidfd_inode=None))):
        assert judge(theirs, None, found, SCENE, namespace_proven=False).line == "F15"
    for theirs, found in ((BY_TICKS, STRANGER), (STAMP, seen(STRANGER, pidfd_inode=None))):
        assert judge(theirs, None, found, SCENE, namespace_proven=False).line == "F16"


@pytest.mark.parametrize("granularity", [WHOLE, FINE])
@pytest.mark.parametrize("jitter", [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 1.99])
def test_a_birth_that_jitters_is_the_same(granularity: float, jitter: float) -> None:
    """A start and a birth that are told a second or two apart are one: osquery/osquery#6911, r-lib/ps#206."""
    verdict = judge(None, started(jitter, granularity), LIVING, SCENE, namespace_proven=True, signature=False)
    assert (verdict.line, verdict.state) == ("F19", State.ALIVE)


def test_time_alone_never_kills() -> None:
    """No start of a row makes a living process dead without a stamp that differs."""
    for theirs in (None, STAMP, BY_TICKS, NOTHING_KNOWN):
        for offset in (-1e12, -1e6, -121, -3, 0, 3, 119, 121, 1e6, 1e12, math.inf, -math.inf, math.nan):
            verdict = judge(theirs, started(offset), LIVING, SCENE, namespace_proven=True)
            assert verdict.state is not State.DEAD
