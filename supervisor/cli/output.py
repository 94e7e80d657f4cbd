"""Printing: tables that fit the terminal, JSON with stable keys, and text that cannot speak to the terminal."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.views import Overview, ProjectView, RunView

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
    from rich.measure import Measurement

_SPEAKS_TO_TERMINALS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of ASCII and Latin-1, those that break lines or turn the direction of text, and what is none."""

_SHOWN_AS = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": " "}
"""Prompts have lines and tabs; everything else that is taken out leaves a mark."""

_STYLES = {"completed": "green", "failed": "yellow", "crashed": "red", "running": "cyan"}
_DOUBTFUL = "magenta"

_WIDEST = 10_000
"""Columns of a table that goes to no terminal."""

_NARROW = 100
"""Columns of a terminal below which what can be spared is left out."""

_DEEPEST = 20
"""Levels of nested JSON of a store that are shown."""


def clean(text: str) -> str:
    """Return text of a store without what a terminal would obey."""
    return _SPEAKS_TO_TERMINALS.sub(lambda match: _SHOWN_AS.get(match[0], "\N{REPLACEMENT CHARACTER}"), text)


def plain(value: object, depth: int = 0) -> object:
    """Return data as strict JSON has it: what a store holds may be infinite, or nested without end."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list | tuple) and depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {name: plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return value


def print_json(data: object) -> None:
    """Print data as JSON, one document; characters that a terminal would obey, or stdout cannot show, are escaped."""
    in_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(plain(data), ensure_ascii=not in_unicode, indent=2 if sys.stdout.isatty() else None)
    click.echo(
        _SPEAKS_TO_TERMINALS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    )


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    status: str | None = None,
    tails: Sequence[str] = (),
    numbers: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table that fits the terminal, without empty columns; where there is none, all of it and no colour.

    Args:
        headings: of the columns; the last column is the first to be cut where room is short.
        rows: the cells.
        status: the column that is coloured by its first word.
        tails: columns that are cut as well, at their beginning: names and paths.
        numbers: columns that are aligned to the right.
        spare: columns that a narrow terminal does not show.
    """
    from rich.table import Table  # noqa: PLC0415  40 ms that only tables need
    from rich.text import Text  # noqa: PLC0415  the same

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = dict(zip(headings, zip(*rows, strict=True), strict=True))
    if sys.stdout.isatty():
        left_out = spare if console.width < _NARROW else ()
        columns = {name: cells for name, cells in columns.items() if any(cells) and name not in left_out}
    cut = (*tails, next(reversed(columns)))
    for name in columns:
        justify: JustifyMethod = "right" if name in numbers else "left"
        table.add_column(name, no_wrap=name not in cut, overflow="ellipsis", justify=justify)

    def shown(name: str, cell: str) -> Text | _Tail:
        text = clean(cell)
        if name in tails:
            return _Tail(text)
        style = _STYLES.get(text.split(" ")[0], _DOUBTFUL) if name == status else ""
        return Text(text[: console.width + 1], style, no_wrap=True, overflow="ellipsis")

    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(shown, columns, row))
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


class _Tail:
    """Text of which the end is kept where it does not fit."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.cells import cell_len, chop_cells  # noqa: PLC0415  see print_table
        from rich.text import Text  # noqa: PLC0415  the same

        text, width = self._text, options.max_width
        if cell_len(text) > width:
            text = "…" + chop_cells(text[::-1], max(width - 1, 1))[0][::-1]
        yield Text(text, no_wrap=True, overflow="crop")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len  # noqa: PLC0415  see print_table
        from rich.measure import Measurement  # noqa: PLC0415  the same

        return Measurement(1, min(max(cell_len(self._text), 1), options.max_width))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    shown = [(clean(name), clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")


def print_runs(
    overview: Overview,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    as_json: bool,
    empty: str,
    more: str = "",
) -> None:
    """Print runs, and on stderr what a reader must know of them: doubts, what was left out, unreadable stores.

    Args:
        overview: the runs.
        headings: of the table's columns.
        rows: the table's cells.
        as_json: whether to print JSON and no table.
        empty: what to say where there is no run.
        more: what to say where some have been left out.

    Raises:
        click.exceptions.Exit: there is nothing to show because of the trouble.
    """
    if overview.troubles and not overview.runs:
        print_troubles(overview.troubles)
        raise click.exceptions.Exit(1)
    if as_json:
        print_json([run_as_json(view) for view in overview.runs])
    elif overview.runs:
        print_table(headings, rows, status="STATUS", tails=("RUN",), numbers=("EXIT", "PID"), spare=("PID",))
    else:
        click.echo(empty, err=True)
    if not as_json:
        _print_doubts(overview.runs)
    if overview.more:
        click.echo(more, err=True)
    print_troubles(overview.troubles)


def _print_doubts(views: Sequence[RunView]) -> None:
    """Say why running rows are in doubt, and what to do about it."""
    doubts: dict[str, list[str]] = {}
    for view in views:
        if view.verdict is not None and view.verdict.state is State.UNKNOWN:
            doubts.setdefault(view.verdict.reason, []).append(clean(run_name(view)))
    for reason, names in doubts.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        click.echo(f"unknown: {', '.join(names[:3])}{more}: {clean(reason)}", err=True)
    print_unsettled(sum(view.verdict is not None and view.verdict.state is State.DEAD for view in views))


def print_unsettled(number: int) -> None:
    """Say how many running rows are of dead processes, and what to do about it."""
    if number:
        are = "is" if number == 1 else "are"
        click.echo(f"Of the running, {number} {are} dead and not settled yet: agent-yes-supervise scan", err=True)


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
        "status": run.status or _as_json(run.junk.get("status")),
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


def project_as_json(view: ProjectView) -> dict[str, object]:
    """Return a project by the seed's column names, followed by its counts; ``unsettled`` rows are dead, not running."""
    summary, project = view.summary, view.summary.project
    return {
        "id": project.id,
        "dir": project.dir,
        "cmd": project.cmd,
        "prompt": project.prompt,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
        "last_run_at": project.last_run_at,
        "store": view.directory,
        "runs": sum(summary.counts.values()),
        "counts": {status.value: summary.counts.get(status, 0) for status in RunStatus},
        "unsettled": view.unsettled,
        "success_rate": summary.success_rate,
        "junk": {column: _as_json(value) for column, value in project.junk.items()} or None,
    }


def run_name(view: RunView) -> str:
    """Return a run's name, as every command takes it."""
    return f"{view.name}#{view.detail.run.id}"


def _as_json(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else repr(value)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415  see print_table

    if not sys.stdout.isatty():
        return Console(highlight=False, emoji=False, markup=False, width=_WIDEST, color_system=None)
    return Console(
        highlight=False, emoji=False, markup=False, color_system=None if os.environ.get("NO_COLOR") else "auto"
    )
