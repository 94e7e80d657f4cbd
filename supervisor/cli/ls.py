"""``ls``: what runs now, across projects, and what ended badly lately."""

from __future__ import annotations

import time

import click

from supervisor.cli import output
from supervisor.cli.options import json_option
from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.views import Overview, RunView, known_directories, runs_of, short_names

LATELY = 24 * 3600.0
"""Seconds for which an ended run is still shown."""

_HEADINGS = ("RUN", "STATUS", "EXIT", "CAUSE", "PID", "WHEN", "COMMAND")


@click.command
@click.option("--all", "everything", is_flag=True, help="Show also what has ended well lately.")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@json_option
def ls(everything: bool, watch: bool, as_json: bool) -> None:
    """Show what runs now, in all projects, and what ended badly in the last day."""
    while True:
        overview = _overview(everything=everything)
        if watch:
            click.clear()
        _show(overview, as_json=as_json)
        if not watch:
            return
        time.sleep(1)


def _overview(*, everything: bool) -> Overview:
    directories = known_directories()
    names = short_names(directories)
    ended = (RunStatus.FAILED, RunStatus.CRASHED, *((RunStatus.COMPLETED,) if everything else ()))
    running = runs_of(directories, statuses=(RunStatus.RUNNING,), names=names)
    lately = runs_of(directories, statuses=ended, ended_since=time.time() - LATELY, names=names)
    return Overview(running.runs + lately.runs, running.troubles)


def _show(overview: Overview, *, as_json: bool) -> None:
    if as_json:
        output.print_json([output.run_as_json(view) for view in overview.runs])
    elif overview.runs:
        output.print_table(_HEADINGS, (_row(view) for view in overview.runs), status_column=1)
        _explain(overview)
    else:
        click.echo(
            "Nothing runs, and nothing ended badly in the last day. Start an agent: agent-yes-supervise wrap CLI"
        )
    output.print_troubles(overview.troubles)


def _row(view: RunView) -> tuple[str, ...]:
    run = view.detail.run
    when = run.ended_at if run.ended_at is not None else output.started_of(view)
    return (
        output.run_name(view),
        output.status_text(view),
        output.exit_text(view),
        output.cause_text(view),
        output.pid_text(view),
        output.ago_text(when),
        output.command_text(view),
    )


def _explain(overview: Overview) -> None:
    """Say below the table why a running row is in doubt, and what to do about it."""
    for view in overview.runs:
        if view.verdict is not None and view.verdict.state is State.UNKNOWN:
            click.echo(f"{output.clean(output.run_name(view))} is unknown: {view.verdict.reason}", err=True)
    if any(view.verdict is not None and view.verdict.state is State.DEAD for view in overview.runs):
        click.echo(
            "Some runs have ended and are not settled yet: agent-yes-supervise scan, or start the daemon.", err=True
        )
