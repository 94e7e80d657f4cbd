"""Rendering: tables that fit the terminal, JSON with stable keys, and text that cannot speak to the terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from supervisor.models import ProjectSummary, RunStatus
from supervisor.process.judge import State
from supervisor.views import RunView

if TYPE_CHECKING:
    from rich.console import Console

_SPEAKS_TO_TERMINALS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters of ASCII and Latin-1, and those that turn the direction of text."""

_STYLES = {"completed": "green", "failed": "yellow", "crashed": "red", "running": "cyan", "unknown": "magenta"}


def clean(text: str) -> str:
    """Return text of a store without what a terminal would obey."""
    return _SPEAKS_TO_TERMINALS.sub("\N{REPLACEMENT CHARACTER}", text)


def print_json(data: object) -> None:
    """Print data as JSON, one document; characters that a terminal would obey are escaped."""
    text = json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    click.echo(
        _SPEAKS_TO_TERMINALS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    )


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, status_column: int | None = None) -> None:
    """Print a table that fits the terminal; where there is none, its full width and no colour."""
    from rich.table import Table  # noqa: PLC0415  40 ms that only tables need
    from rich.text import Text  # noqa: PLC0415  the same

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for row in rows:
        cells = [Text(clean(cell)) for cell in row]
        if status_column is not None:
            word = row[status_column].split()[0].rstrip(",:?") if row[status_column] else ""
            cells[status_column].stylize(_STYLES.get(word, ""))
        table.add_row(*cells)
    _console().print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    shown = [(name, clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")


def print_troubles(troubles: Iterable[Exception]) -> None:
    """Say on stderr which stores could not be read; the rest is shown all the same."""
    for trouble in troubles:
        click.echo(f"agent-yes-supervise: {clean(str(trouble))}", err=True)


def run_as_json(view: RunView) -> dict[str, object]:
    """Return a run by the seed's column names, followed by what supervision knows of it."""
    run, process, ending = view.detail.run, view.detail.process, view.detail.ending
    return {
        "id": run.id,
        "pid": run.pid,
        "project_id": run.project_id,
        "status": run.status or run.junk.get("status"),
        "exit_code": run.exit_code,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "args": run.args,
        "dir": view.detail.dir,
        "store": view.directory,
        "cli": view.detail.cli,
        "cwd": process.cwd if process else None,
        "owner_pid": process.owner_pid if process else None,
        "cause": ending.cause if ending else None,
        "term_signal": ending.term_signal if ending else None,
        "core_dumped": ending.core_dumped if ending else None,
        "rank": ending.rank.name.lower() if ending else None,
        "settled_by": ending.settled_by if ending else None,
        "detected_at": ending.detected_at if ending else None,
        "evidence": dict(ending.evidence) if ending else None,
        "overwritten": view.detail.overwritten,
        "verdict": view.verdict.state if view.verdict else None,
        "reason": view.verdict.reason if view.verdict else None,
        "junk": {column: _as_json(value) for column, value in run.junk.items()} or None,
    }


def project_as_json(store: str, summary: ProjectSummary) -> dict[str, object]:
    """Return a project by the seed's column names, followed by its counts."""
    project = summary.project
    return {
        "id": project.id,
        "dir": project.dir,
        "cmd": project.cmd,
        "prompt": project.prompt,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
        "last_run_at": project.last_run_at,
        "store": store,
        "runs": sum(summary.counts.values()),
        "counts": {status.value: summary.counts.get(status, 0) for status in RunStatus},
        "success_rate": summary.success_rate,
    }


def run_name(view: RunView) -> str:
    """Return a run's name, as every command takes it."""
    return f"{view.name}#{view.detail.run.id}"


def status_text(view: RunView) -> str:
    """Return a run's status in a few words: for one that should be running, what is known of its process now."""
    run, verdict = view.detail.run, view.verdict
    if run.status is None:
        return f"junk: {run.junk.get('status')}"
    if verdict is None or verdict.state is State.ALIVE:
        return run.status
    if verdict.state is State.DEAD:
        return "running? not settled yet"
    return "unknown"


def command_text(view: RunView) -> str:
    """Return what was started, as it was typed."""
    import shlex  # noqa: PLC0415  small, but not needed by most commands

    run = view.detail.run
    args = f"(junk: {run.junk['args']})" if "args" in run.junk else shlex.join(run.args)
    return f"{view.detail.cli or '?'} {args}".strip()


def pid_text(view: RunView) -> str:
    """Return a run's pid, marked where it is none."""
    run = view.detail.run
    return f"junk: {run.junk['pid']!r}" if "pid" in run.junk else str(run.pid)


def exit_text(view: RunView) -> str:
    """Return the exit code as stored."""
    code = view.detail.run.exit_code
    return "" if code is None else str(code)


def cause_text(view: RunView) -> str:
    """Return why a run ended, or that its owner has overwritten what was settled."""
    ending = view.detail.ending
    if ending is None or view.detail.run.status is RunStatus.RUNNING:
        return ""
    return "(recorded by its owner)" if view.detail.overwritten else str(ending.cause)


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


def ago_text(moment: float | None, now: float | None = None) -> str:
    """Return how long ago a Unix time was."""
    if moment is None:
        return ""
    past = (time.time() if now is None else now) - moment
    return f"in {span_text(-past)}" if past < -1 else f"{span_text(past)} ago"


def span_text(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{max(0.0, seconds):.1f}s" if seconds < 10 else f"{whole}s"
    for name, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{name} {whole % size // part}{small}"
    return ""


def took_text(view: RunView) -> str:
    """Return how long an ended run ran, empty where start or end are not known."""
    started, ended = started_of(view), view.detail.run.ended_at
    return "" if started is None or ended is None or ended < started - 1 else span_text(ended - started)


def _as_json(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else repr(value)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415  see print_table

    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False, markup=False)
    return Console(highlight=False, emoji=False, markup=False, width=10_000, color_system=None)
