"""The oracle: compares every row with the truth, and allows only what a fault has taken for certain.

It knows the endings by waitid(2) and by what it told the agents, and the rules by heart: it shares no code with what it
judges. What it allows:

- A run with an owner who has recorded its end, for certain, says exactly that.
- Else it says what the kernel says, or `lost` where no daemon could know: none had been looking, undisturbed, for
  `LOOK` seconds before the agent was told to end, or that one was ended before it could write.
- A row is missing only where its writer was not told that it is written, or where its store has been cut since.
- An agent that lives has a row that runs. No row is there twice, but a wrapped agent that fell and was started again
  has one for each time: the first says how it fell.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sqlite3
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from chaos.world import FAR, KEY, DaemonLife, Kind, Run, Store, World, now, oom_kills

LOOK = 4.0
"""Seconds after which an undisturbed daemon has seen a new row: it looks every three, on a busy machine."""

EARLY = 1.0
"""Seconds by which an ending may seem to be before its time: clocks are read one after the other."""

_STOPPING = {1, 2, 3, 13, 15}

_OWNER = 3
"""The rank of an owner's word."""

_ROWS = """
SELECT runs.id, runs.pid, runs.status, runs.exit_code, runs.ended_at, runs.args,
       e.cause, e.rank, e.detected_at, e.settled_by, e.status IS runs.status AND e.exit_code IS runs.exit_code
FROM runs LEFT JOIN run_ending AS e ON e.run_id = runs.id
"""
_SEEDS_ROWS = """
SELECT id, pid, status, exit_code, ended_at, args, NULL, NULL, NULL, NULL, 0 FROM runs
"""


class Row(NamedTuple):
    """A row of ``runs`` with its ending."""

    id: int
    pid: object
    status: str
    exit_code: int | None
    ended_at: int | None
    args: str
    cause: str | None
    rank: int | None
    detected_at: int | None
    settled_by: str | None
    agrees: int


class Word(NamedTuple):
    """What a row may say."""

    status: str
    exit_code: int | None
    causes: frozenset[str] | None = None
    """None where nothing has to be said of the cause."""

    def fits(self, row: Row) -> bool:
        """Tell whether a row says so."""
        same = (row.status, row.exit_code) == (self.status, self.exit_code)
        return same and (self.causes is None or not row.agrees or row.cause in self.causes)


LOST = Word("crashed", None, frozenset({"lost", "pid-reused"}))


class Presence(Enum):
    """Whether a row that was written is there now."""

    YES = "yes"
    MAYBE = "maybe"
    NO = "no"


@dataclass(slots=True)
class Findings:
    """What the oracle has found. Each list holds a line a run."""

    judged: int = 0
    unknowable: int = 0
    """Runs that are `lost`, for no daemon could know."""
    taken: int = 0
    """Runs whose row a fault has taken."""
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def kernels_word(run: Run, wait_status: int) -> Word:
    """Return what the kernel's word for a wait(2) status makes of a run (the table of the four statuses)."""
    number = wait_status & 0x7F
    if number:
        status = "failed" if number in _STOPPING else "crashed"
        cause = "stopped" if number in _STOPPING else "killed" if number == 9 else "signalled"
        code = 128 + number
    else:
        code = wait_status >> 8
        status, cause = ("failed" if code else "completed"), "exited"
    if run.kind is Kind.FOREIGN:  # it was its own owner, and has recorded nothing
        return Word("crashed", code, frozenset({cause if number else "unrecorded"}))
    return Word(status, code, frozenset({cause}))


def read_rows(store: Store) -> list[Row]:
    """Return all rows of a store.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    connection = sqlite3.connect(f"file:{store.file}?mode=rw", uri=True, timeout=0.1)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run_ending'").fetchone()
        return [Row(*row) for row in connection.execute(_ROWS if found else _SEEDS_ROWS)]
    finally:
        connection.close()


@functools.lru_cache(maxsize=1 << 16)
def key_of(args: object) -> int | None:
    """Return the number of the run that a row's arguments name, broken as they may be."""
    found = KEY.search(str(args))
    return int(found[1]) if found else None


class Watch:
    """Sees, again and again, that no agent that lives is said to have ended."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: set[int] = set()
        self.looks = 0

    def look(self) -> None:
        """Look at every store that can be read."""
        for store in self._world.stores:
            with contextlib.suppress(sqlite3.Error):
                self.compare(read_rows(store))

    def compare(self, rows: list[Row]) -> None:
        """Compare rows that have just been read with who lives still, and so lived then."""
        self.looks += 1
        for row in rows:
            number = key_of(row.args)
            if row.status == "running" or number is None or number in self._told or number >= len(self._world.runs):
                continue
            run = self._world.runs[number]
            if run.lives and not (run.falls and row.pid != run.pid):
                self._told.add(number)
                self._world.wrong.append(f"{run.key} ({run.kind}) lives, and its row says {_said(row)}")


class Oracle:
    """Judges all runs of a world.

    Args:
        world: the truth.
        rows: what each store says, by its directory; by default, what it says now.
    """

    def __init__(self, world: World, rows: dict[str, list[Row]] | None = None) -> None:
        self._world = world
        self._offset = time.time() - now()
        self.findings = Findings()
        self._by_pid: dict[int, list[Run]] = {}
        self._rows = rows if rows is not None else {str(store.directory): read_rows(store) for store in world.stores}

    def judge_all(self) -> Findings:
        """Judge every run, and the wrappers."""
        by_key: dict[int, list[Row]] = {}
        for directory, rows in self._rows.items():
            for row in rows:
                number = key_of(row.args)
                if number is None or number >= len(self._world.runs):
                    self.findings.wrong.append(f"{directory} has a row that nobody has written: {row}")
                elif str(self._world.runs[number].store.directory) != directory:
                    self.findings.wrong.append(f"{directory} has a row of another store: {row}")
                else:
                    by_key.setdefault(number, []).append(row)
        for run in self._world.runs:
            self._by_pid.setdefault(run.pid, []).append(run)
        for run in self._world.runs:
            self.findings.judged += 1
            self._judge(run, by_key.get(run.number, []))
        return self.findings

    def _judge(self, run: Run, rows: list[Row]) -> None:
        if run.kind is Kind.WRAP:
            self._judge_wrapper(run)
        if run.falls:
            self._judge_fall(run, rows)
        if len(rows) > 1:
            self.findings.doubled.append(self._line(run, f"its rows say {[_said(row) for row in rows]}"))
        elif not rows:
            self._judge_missing(run)
        elif run.kind is Kind.ODD:
            self._judge_odd(run, rows[0])
        elif rows[0].status == "running":
            if not run.lives or (rows[0].exit_code, rows[0].ended_at) != (None, None):
                self.findings.wrong.append(self._line(run, f"its row says {_said(rows[0])}"))
        else:
            self._judge_ended(run, rows[0])

    def _judge_fall(self, run: Run, rows: list[Row]) -> None:
        """Judge the first time of an agent that was started twice, and leave the rows of the second."""
        words = self._kernels_words(run, signal.SIGKILL)
        could_not = run.says("not recorded") and self._world.state_full.overlap(run.started, run.owner_left)
        if run.owner_gone != FAR or could_not or run.store.was_cut(run.started):
            words.append(LOST)
        fell = [row for row in rows if row.pid != run.pid and any(word.fits(row) for word in words)]
        if fell:
            rows.remove(fell[0])
        elif run.up != FAR and self._begin(run) is self.presence(run) is Presence.YES:
            self.findings.missing.append(self._line(run, f"it fell, and its rows say {[_said(row) for row in rows]}"))

    def _judge_missing(self, run: Run) -> None:
        if self.presence(run) is Presence.YES:
            self.findings.missing.append(self._line(run, "its row is gone"))
        elif run.written != FAR:
            self.findings.taken += 1

    def _judge_ended(self, run: Run, row: Row) -> None:
        words = self.words(run, row)
        if run.lives or row.ended_at is None or not any(word.fits(row) for word in words):
            self.findings.wrong.append(self._line(run, f"its row says {_said(row)}, not {words}"))
        elif row.ended_at / 1000 - self._offset < (run.started if run.up == FAR else run.told) - EARLY:
            self.findings.wrong.append(self._line(run, f"it is said to have ended too early: {_said(row)}"))
        elif LOST.fits(row):
            self.findings.unknowable += 1

    def _judge_wrapper(self, run: Run) -> None:
        """A wrapper that was let live has started its agent, and has ended as that did."""
        if run.owner_gone != FAR or run.owner_left == FAR:
            return
        if run.up == FAR:
            self.findings.wrong.append(self._line(run, f"its agent was not started: {run.owner_status}"))
            return
        if run.truth is None:
            return
        wanted = -(run.truth & 0x7F) or run.truth >> 8
        if run.owner_status != wanted:
            self.findings.wrong.append(self._line(run, f"the wrapper ended with {run.owner_status}, not {wanted}"))

    def _judge_odd(self, run: Run, row: Row) -> None:
        """A row whose pid is no agent's cannot be judged, and stays as it is; a daemon's own may be seen to end."""
        if row.status == "running":
            return
        if row.status == "crashed" and row.pid in {life.pid for life in self._world.daemons if life.ended != FAR}:
            self.findings.unknowable += 1
        else:
            self.findings.wrong.append(self._line(run, f"its row says {_said(row)}"))

    def words(self, run: Run, row: Row) -> list[Word]:
        """Return what the row of an ended run may say."""
        truth = run.truth
        hung_up = [kernels_word(run, signal.SIGHUP)] if run.on_terminal and run.owner_gone != FAR else []
        if run.up == FAR:  # its wrapper was killed: before it began, or before it could pass on the first word
            unheard = [kernels_word(run, status) for status in (signal.SIGPIPE, 1 << 8)]
            return [Word("failed", 125, frozenset({"exited"})), LOST, *unheard, *hung_up]
        if truth is None:
            return []
        words = self._kernels_words(run, truth)
        if run.asked:
            words.append(Word("failed", words[0].exit_code, frozenset({"stopped"})))
        if run.kind is Kind.WRAP:
            if run.owner_gone == FAR and self._finish(run) is Presence.YES:
                return words if row.rank == _OWNER else []
            words += hung_up
            return [*words, LOST] if self._excuses_lost(run, row) else words
        if run.word is not None:
            owners = Word(run.word.status, run.word.exit_code)
            if run.word.said and not run.store.was_cut(run.word.connected):
                return [owners]
            words.append(owners)
        if self._excuses_lost(run, row):
            words.append(LOST)
            words += [kernels_word(run, status) for status in self._after(run)]
        return words

    def _kernels_words(self, run: Run, truth: int) -> list[Word]:
        words = [kernels_word(run, truth)]
        if truth == signal.SIGKILL and oom_kills() > self._world.oom_kills:  # somebody else's, at the same moment
            words.append(words[0]._replace(causes=frozenset({"oom-killed"})))
        return words

    def _after(self, run: Run) -> list[int]:
        """Return how those have ended who had a run's pid after it: where nobody knew the run, they pass for it."""
        others = [other.truth for other in self._by_pid.get(run.pid, []) if other.up > run.dead]
        return run.reused_by + [status for status in others if status is not None]

    def presence(self, run: Run) -> Presence:
        """Tell whether the row of a run has to be there."""
        if run.kind is not Kind.WRAP:
            if run.written == FAR:
                return Presence.MAYBE
            return _presence(run.store, run.started, run.written, run.connected)
        if run.up == FAR:
            return Presence.MAYBE
        if run.says("not recorded") and self._world.state_full.overlap(
            run.started, min(run.owner_left, run.owner_gone)
        ):
            return Presence.MAYBE
        return max((self._begin(run), self._finish(run)), key=[*reversed(Presence)].index)

    def _begin(self, run: Run) -> Presence:
        if run.says("kept in"):  # whoever brings it into its store may have done so at any time
            return Presence.MAYBE if run.store.was_cut(run.started) else Presence.YES
        return _presence(run.store, run.started, run.up, run.started)

    def _finish(self, run: Run) -> Presence:
        """Tell whether what a wrapper has recorded at the end has to be there."""
        if run.owner_gone != FAR or run.owner_left == FAR:
            return Presence.NO
        if run.says("not recorded") and self._world.state_full.overlap(run.told, run.owner_left):
            return Presence.MAYBE
        if run.says("kept in"):
            return Presence.MAYBE if run.store.was_cut(run.told) else Presence.YES
        return _presence(run.store, run.told, run.owner_left, run.told)

    def _excuses_lost(self, run: Run, row: Row) -> bool:
        """Tell whether no daemon could know how a run has ended."""
        if run.written == FAR or run.store.was_cut(run.started):
            return True
        if run.kind is Kind.WRAP and run.says("kept in"):
            return True
        settled = FAR if row.detected_at is None else row.detected_at / 1000 - self._offset
        return not any(self._knew(life, run, settled) for life in self._world.daemons)

    def _knew(self, life: DaemonLife, run: Run, settled: float) -> bool:
        """Tell whether a daemon had bound a run for certain before its end, and was there until it was settled."""
        if life.descriptors is not None or life.ended < settled:
            return False
        start, end = max(life.ready, run.written), run.told
        spans = sorted(
            (max(span.start, start), min(span.end, end))
            for span in (*life.stopped.spans, *run.store.troubles.spans)
            if span.overlaps(start, end)
        )
        free = start
        for stopped, continued in spans:
            if stopped - free >= LOOK:
                return True
            free = max(free, continued)
        return end - free >= LOOK

    def _line(self, run: Run, what: str) -> str:
        life = {name: round(getattr(run, name), 2) for name in ("started", "written", "told", "dead", "reaped")}
        owner = {name: round(getattr(run, name), 2) for name in ("owner_gone", "owner_left")}
        cuts = [round(cut.at, 2) for cut in run.store.cuts]
        troubles = [(round(span.start, 2), round(span.end, 2), span.what) for span in run.store.troubles.spans]
        daemons = [(round(one.ready, 2), round(one.ended, 2), one.descriptors) for one in self._world.daemons]
        return (
            f"{run.key} ({run.kind} in {run.store.directory.name}, truth {run.truth}): {what}; {life} {owner}"
            f" word {run.word} cuts {cuts} troubles {troubles} daemons {daemons}"
        )


def _presence(store: Store, started: float, written: float, connected: float) -> Presence:
    """Tell whether what was written between two moments, by a connection opened at a third, is there now."""
    if store.was_cut(min(connected, started), written):
        return Presence.MAYBE
    history = [(started, Presence.YES)]
    for cut in store.cuts:
        if cut.at < written:
            continue
        if cut.taken < started:
            now_there = Presence.NO
        elif cut.taken <= written:
            now_there = Presence.MAYBE
        else:
            now_there = [there for at, there in history if at < cut.taken][-1]
        history.append((cut.at, now_there))
    return history[-1][1]


def _said(row: Row) -> str:
    return json.dumps([row.status, row.exit_code, row.cause, row.rank, row.settled_by], ensure_ascii=True)
