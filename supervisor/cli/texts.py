"""How a run reads, in words: its status, what was started, when, and how it ended. None of it is clean yet."""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from datetime import datetime

from supervisor.cli.output import plain
from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.views import RunView

_SHORT = 24
"""Characters of junk that are shown in a table."""


def status_text(view: RunView) -> str:
    """Return a run's status in a word: for one that should be running, what is known of its process now."""
    run, verdict = view.detail.run, view.verdict
    if run.status is None:
        return f"junk: {_short(run.junk.get('status'))}"
    if verdict is None or verdict.state is State.ALIVE:
        return run.status
    return verdict.state


def command_text(view: RunView) -> str:
    """Return what was started, as it was typed."""
    run = view.detail.run
    args = f"(junk: {run.junk['args']})" if "args" in run.junk else shlex.join(run.args)
    return f"{view.detail.cli or '?'} {args}".strip()


def pid_text(view: RunView) -> str:
    """Return a run's pid, marked where it is none."""
    run = view.detail.run
    return f"junk: {_short(run.junk['pid'])}" if "pid" in run.junk else str(run.pid)


def exit_text(view: RunView) -> str:
    """Return the exit code as stored."""
    run = view.detail.run
    if "exit_code" in run.junk:
        return f"junk: {_short(run.junk['exit_code'])}"
    return "" if run.exit_code is None else str(run.exit_code)


def cause_text(view: RunView) -> str:
    """Return why a run ended, or that its owner has overwritten what was settled."""
    ending = view.detail.ending
    if ending is None or view.detail.run.status is RunStatus.RUNNING:
        return ""
    return "overwritten" if view.detail.overwritten else ending.cause


def settled_text(view: RunView) -> str:
    """Return what was settled of a run whose owner has overwritten it, empty where nothing was."""
    ending = view.detail.ending
    if ending is None or not view.detail.overwritten:
        return ""
    code = "" if ending.exit_code is None else f" with {ending.exit_code}"
    return f"{ending.status}{code}, {ending.cause}; then its owner recorded the above"


def signal_text(view: RunView) -> str:
    """Return the signal that ended a run, with its name, empty where none did."""
    ending = view.detail.ending
    if ending is None or ending.term_signal is None:
        return ""
    try:
        name = signal.Signals(ending.term_signal).name
    except ValueError:
        name = str(ending.term_signal)
    return f"{name}, core dumped" if ending.core_dumped else name


def evidence_fields(view: RunView) -> list[tuple[str, str]]:
    """Return what shows how a run ended, as names and values."""
    ending = view.detail.ending
    evidence = ending.evidence if ending else {}
    return [
        (f"evidence {name}", value if isinstance(value, str) else _as_text(value)) for name, value in evidence.items()
    ]


def started_of(view: RunView) -> float | None:
    """Return when a run started, from its stamp where that knows better than the row."""
    process = view.detail.process
    return (process.stamp.started_at if process else None) or view.detail.run.started_at


def clock_text(moment: float | None) -> str:
    """Return a Unix time as local date and time, empty for none."""
    if moment is None:
        return ""
    try:
        return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"junk: {moment}"


def when_text(moment: float | None) -> str:
    """Return a Unix time as local date and time, and how long ago that was."""
    return "" if moment is None else f"{clock_text(moment)} ({ago_text(moment)})"


def ago_text(moment: float | None, now: float | None = None) -> str:
    """Return how long ago a Unix time was."""
    if moment is None:
        return ""
    past = (time.time() if now is None else now) - moment
    if -1 < past < 1:
        return "now"
    return f"{span_text(past // 1)} ago" if past > 0 else f"in {span_text(-past // 1)}"


def span_text(seconds: float) -> str:
    """Return a duration in its two largest units, a short one to a tenth where it has a fraction."""
    if not math.isfinite(seconds):
        return "?"
    seconds = max(0.0, seconds)
    if seconds < 9.95 and seconds % 1:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for name, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{name} {whole % size // part}{small}"
    return f"{whole}s"


def took_text(view: RunView) -> str:
    """Return how long an ended run ran, empty where start or end are not known."""
    started, ended = started_of(view), view.detail.run.ended_at
    if started is None or ended is None or ended < started - 1:
        return ""
    return span_text(ended - started if started % 1 else ended // 1 - started)  # rows know whole seconds only


def percent_text(rate: float | None) -> str:
    """Return a share in per cent, rounded down: 100% is said of all only."""
    return "" if rate is None else f"{math.floor(rate * 100 + 1e-9)}%"


def _as_text(value: object) -> str:
    return repr(value) if isinstance(value, bytes) else json.dumps(plain(value), ensure_ascii=False)


def _short(value: object) -> str:
    text = _as_text(value)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def counted_text(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"
