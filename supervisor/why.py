"""Why a run ended: a short, honest account for a person, made of what is recorded. Pure."""

from __future__ import annotations

import itertools
import reprlib
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from supervisor.agents import continuation
from supervisor.masking import is_masked
from supervisor.models import Cause, Ending, Rank, RunDetail, RunStatus
from supervisor.process.judge import TIES, State, Verdict

_SURE = {
    Rank.OWNER: "certain: recorded by the run's owner, which waited for it",
    Rank.KERNEL: "certain: the kernel's own word on this very process",
    Rank.INFERENCE: "inferred: the process is gone, and nobody saw how it ended",
}


_MOST_PIECES, _LONGEST_PIECE = 50, 500
"""Pieces of evidence that are told, and characters of each."""


@dataclass(frozen=True, slots=True)
class Account:
    """What can be said of a run's end, each part in a sentence or two, ready for a person.

    ``what`` is never empty; the others are where there is nothing to say.
    """

    what: str
    when: str = ""
    exit: str = ""
    cause: str = ""
    evidence: list[str] = field(default_factory=list)
    sure: str = ""
    next: list[str] = field(default_factory=list)


def account_of(detail: RunDetail, verdict: Verdict | None, *, name: str) -> Account:
    """Return the account of a run.

    Args:
        detail: all that the store knows of it.
        verdict: what is known of its process now, for a run whose row says ``running``.
        name: how a person names it.
    """
    who = f"{name} ({_shown('', detail.cli or 'an unknown command')})"
    if detail.run.status is RunStatus.RUNNING:
        return _of_running(detail, verdict, who, name)
    if detail.ending is None or detail.overwritten:
        return _of_owners_word(detail, who)
    return _of_ending(detail, detail.ending, who)


def signal_text(number: int) -> str:
    """Return a signal by name and meaning: ``SIGSEGV, signal 11 (Segmentation fault)``."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a real-time signal" if 31 < number < signal.NSIG else "an unknown signal"
    meaning = signal.strsignal(number) if 0 < number < signal.NSIG else None
    return f"{name}, signal {number}" + (f" ({meaning})" if meaning else "")


def _of_running(detail: RunDetail, verdict: Verdict | None, who: str, name: str) -> Account:
    pid = detail.run.pid if "pid" not in detail.run.junk else _shown("", repr(detail.run.junk["pid"]))
    if verdict is None or verdict.state is State.ALIVE:
        sure = f"pid {pid}: {verdict.reason}" if verdict else ""
        return Account(f"{who} has not ended: it runs.", sure=sure)
    if verdict.state is State.DEAD:
        return Account(
            f"{who} has ended, and that is not recorded yet.",
            evidence=[f"pid {pid}: {verdict.reason}"],
            next=["settle it: agent-yes-supervise scan, or start the daemon"],
        )
    return Account(
        f"Unknown; checked: {verdict.reason}.",
        evidence=[f"pid {pid}"],
        sure="it may run or not; it is never called crashed by itself",
        next=[f"look where it was started; if it is gone: agent-yes-supervise runs rm --force {shlex.quote(name)}"],
    )


def _of_owners_word(detail: RunDetail, who: str) -> Account:
    run = detail.run
    code = "without an exit code" if run.exit_code is None else f"with exit code {run.exit_code}"
    evidence = [_shown(f"its row holds junk for {column}", repr(value)) for column, value in run.junk.items()]
    if detail.ending is not None:
        was = detail.ending
        evidence.append(f"before that, {was.settled_by} had settled it: {was.status}, {was.cause}")
    if run.status is None:
        return Account(f"{who}: nobody can say whether it has ended; its row holds no status.", evidence=evidence)
    return Account(
        f"{who} ended: {run.status}, {code}.",
        when=_moment(run.ended_at),
        cause="Its owner recorded this, and no more.",
        evidence=evidence,
        sure="as sure as its owner was",
        next=list(_next_steps(detail, None)),
    )


def _of_ending(detail: RunDetail, ending: Ending, who: str) -> Account:
    return Account(
        what=f"{who} {_STATUS_WORDS[ending.status]}: {_SHORT[ending.cause]}.",
        when=_when(ending),
        exit=_exit(ending),
        cause=_cause(ending),
        evidence=[*_series(detail), *_evidence(ending)],
        sure=_sure(ending),
        next=list(_next_steps(detail, ending)),
    )


_STATUS_WORDS = {
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CRASHED: "crashed",
    RunStatus.RUNNING: "runs",
}

_SHORT = {
    Cause.EXITED: "it exited by itself",
    Cause.STOPPED: "it was stopped",
    Cause.KILLED: "it was killed",
    Cause.OOM_KILLED: "out of memory",
    Cause.SIGNALLED: "a signal ended it",
    Cause.TIMED_OUT: "it ran longer than it was allowed to",
    Cause.STALLED: "it did nothing for longer than it was allowed to",
    Cause.LOST: "it is gone, nobody knows how",
    Cause.REBOOTED: "the machine was rebooted",
    Cause.PID_REUSED: "it is gone; another process has its pid",
    Cause.UNRECORDED: "it exited without recording that",
    Cause.NOT_STARTED: "it could not be started",
}

_CAUSES = {
    Cause.EXITED: "The agent ended itself.",
    Cause.STOPPED: "It was told to end by a signal; nothing shows who sent it.",
    Cause.KILLED: "Somebody or something sent SIGKILL, which no process can refuse; the kernel does not tell who.",
    Cause.OOM_KILLED: "The kernel ran out of memory and killed it.",
    Cause.SIGNALLED: "The agent did what the kernel forbids, or something sent it this signal.",
    Cause.TIMED_OUT: "Its --timeout ran out.",
    Cause.STALLED: "Its --idle-timeout ran out.",
    Cause.LOST: "Its process is gone, and its exit status can no longer be known.",
    Cause.REBOOTED: "It ran when the machine went down.",
    Cause.PID_REUSED: "It ended while nobody watched, and its process id has been given to another process.",
    Cause.UNRECORDED: "The process that wrote this run's row was to record its end, and ended without doing so.",
    Cause.NOT_STARTED: "The command was not found, or may not be executed.",
}


_WHO_STOPPED = {
    "asked_by": "Somebody asked it to end; the evidence says who.",
    "shutdown": "The machine was being shut down.",
    "terminal_gone": "Its terminal was closed.",
    "session_gone": "Its login session ended.",
}
"""Who stopped a run, by the name of the evidence; the first that is there."""


def _cause(ending: Ending) -> str:
    if ending.cause is Cause.OOM_KILLED and not _is_certain(ending.evidence.get("oom")):
        return "Something sent SIGKILL, probably the kernel: the machine had run out of memory."
    if ending.cause is Cause.STOPPED:
        who = next((text for name, text in _WHO_STOPPED.items() if name in ending.evidence), None)
        if who is None and ending.term_signal == signal.SIGPIPE:
            who = "It wrote to where nobody read any more."
        return who or _CAUSES[ending.cause]
    return _CAUSES[ending.cause]


def _is_certain(oom: object) -> bool:
    return isinstance(oom, dict) and oom.get("certain") is True


def _exit(ending: Ending) -> str:
    if ending.term_signal is not None:
        core = " and dumped core" if ending.core_dumped else ""
        code = "" if ending.exit_code is None else f"; a shell shows {ending.exit_code}"
        return f"ended by {signal_text(ending.term_signal)}{core}{code}"
    return "exit status unknown" if ending.exit_code is None else f"exit code {ending.exit_code}"


def _when(ending: Ending) -> str:
    late = ending.detected_at - ending.ended_at
    if ending.rank is Rank.INFERENCE:
        return f"noticed {_moment(ending.detected_at)}; it ended before that"
    known = "known at once" if late < 0.05 else f"known {late:.1f} s later"
    return f"{_moment(ending.ended_at)}, {known}"


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        whole, milliseconds = divmod(round(seconds * 1000), 1000)
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole)) + f".{milliseconds:03d}"
    except (ValueError, OverflowError, OSError):
        return f"at {seconds}"


def _sure(ending: Ending) -> str:
    sure = _SURE[ending.rank]
    if ending.cause is Cause.OOM_KILLED and not _is_certain(ending.evidence.get("oom")):
        return f"{sure}; that memory was the reason is only probable: the machine's counter rose, not its own group's"
    return sure


def _evidence(ending: Ending) -> Iterator[str]:
    """Yield each recorded piece of evidence as a sentence; pieces of unknown names, and junk, as they are."""
    for name, value in itertools.islice(ending.evidence.items(), _MOST_PIECES):
        sentence = _SENTENCES.get(name)
        if sentence is not None and isinstance(value, str | int | float):
            yield _shown("", sentence.format(value=value))
        elif name == "bound" and value in TIES:
            yield f"the process was known by this: {TIES[value]}"
        elif name == "oom" and isinstance(value, dict) and value.keys() >= {"counter", "before", "after"}:
            yield _shown("", "{counter} rose from {before} to {after} while it died".format(**value))
        elif name == "restarts_at" and isinstance(value, int | float):
            called_off = ending.evidence.get("called_off") is True
            yield f"it was to be started again at {_moment(value)}" + (", which was called off" if called_off else "")
        elif name == "called_off":
            continue
        elif name == "left" and isinstance(value, list) and all(map(_is_leftover, value)):
            left = ", ".join(f"{one['pid']} {one['name']} ({one['fate']})" for one in value)
            yield _shown("", f"it left processes behind: {left}")
        else:
            yield _shown(name, value)
    more = len(ending.evidence) - _MOST_PIECES
    if more > 0:
        yield f"and {more} more pieces: see --json"
    yield _shown("", f"settled by {ending.settled_by}")


def _series(detail: RunDetail) -> Iterator[str]:
    if detail.process is not None and detail.process.resumed_from is not None:
        yield f"it went on with run {detail.process.resumed_from}, which had ended badly"


def _is_leftover(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= {"pid", "name", "fate"}


def _shown(name: str, value: object) -> str:
    """Return a value in at most so many characters: a store may hold books."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if len(text) <= _LONGEST_PIECE else text[: _LONGEST_PIECE - 1] + "…"
    return f"{name}: {text}" if name else text


_SENTENCES = {
    "source": "its end was read from: {value}",
    "line": "judged by line {value} of the table of verdicts",
    "reason": "{value}",
    "terminal_gone": "its terminal, {value}, has been closed",
    "session_gone": "its login session, {value}, has ended",
    "shutdown": "the machine was being shut down",
    "suspended_seconds": "the machine slept for {value} s while it ran",
    "clock_stepped_seconds": "the clock was set by {value} s while it ran: times may be off by that",
    "asked_by": "it was asked to end by {value}",
    "asked_for": "the request was: {value}",
    "left_more": "and {value} more",
    "error": "the system said: {value}",
}


def _next_steps(detail: RunDetail, ending: Ending | None) -> Iterator[str]:
    cause = ending.cause if ending else None
    if cause is Cause.OOM_KILLED:
        yield "run fewer agents at once, or give them more memory (free -h; systemctl --user status shows limits)"
    elif cause is Cause.KILLED and ending is not None:
        when = int(ending.ended_at)
        yield f"look who it was: journalctl --since @{when - 60} --until @{when + 60} | grep -iE 'kill|oom'"
    elif cause is Cause.SIGNALLED and ending is not None and ending.core_dumped:
        yield "look at the core dump: coredumpctl info, or the file named core in its directory"
    elif cause in (Cause.LOST, Cause.PID_REUSED):
        yield "keep the daemon running, or start agents under wrap: then their exit codes are known"
    elif cause is Cause.NOT_STARTED:
        yield "check the command's name, and that it is on PATH and executable"
    if cause is not Cause.NOT_STARTED and detail.run.status is not RunStatus.COMPLETED:
        yield from _start_again(detail)


def _start_again(detail: RunDetail) -> Iterator[str]:
    if detail.cli is None or detail.dir is None:
        return
    guard = "-- " if detail.cli.startswith("-") else ""
    cwd, added = (detail.process.cwd, detail.process.args_added) if detail.process else (None, ())
    project = f"--project {shlex.quote(detail.dir)} " if cwd not in (None, "", detail.dir) else ""
    where = f"cd {shlex.quote(cwd or detail.dir)}"
    wrap = f"{where} && agent-yes-supervise wrap {project}{guard}{shlex.quote(detail.cli)}"
    words = continuation(detail.cli, added, detail.run.args)
    if words is not None:
        yield f"go on with its conversation: {wrap} {shlex.join(words)}"
    elif is_masked(detail.run.args):
        yield "start it again by hand: its arguments held secrets, which are not stored"
    elif "args" not in detail.run.junk:
        yield f"start it again: {' '.join([wrap, *map(shlex.quote, detail.run.args)])}"
