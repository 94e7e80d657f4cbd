"""Lists of runs, with what a reader must know of them: doubts, what has been left out, stores that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from supervisor.cli.output import clean, print_json, print_troubles, print_unsettled, run_as_json, run_name
from supervisor.cli.table import print_table
from supervisor.process.judge import State
from supervisor.views import Overview, RunView


def print_runs(
    overview: Overview,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    as_json: bool,
    empty: str,
    more: str = "",
) -> None:
    """Print runs, and the rest on stderr.

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
