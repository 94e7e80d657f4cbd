"""``ls``: what runs now, across projects, and what ended badly lately."""

from __future__ import annotations

import time

import click

from supervisor.cli import output, texts
from supervisor.cli.listing import print_runs
from supervisor.cli.options import DEFAULT_LIMIT, json_option
from supervisor.cli.spooled import take_spooled
from supervisor.models import RunStatus
from supervisor.views import Overview, RunView, known_directories, running_and_ended, short_names

LATELY = 24 * 3600.0
"""Seconds for which an ended run is still shown."""

_HEADINGS = ("RUN", "STATUS", "EXIT", "CAUSE", "PID", "SINCE", "COMMAND")
_MORE = "More have ended in the last day: agent-yes-supervise runs list --all --since 1d"
_NOTHING = "Nothing runs, and nothing ended badly in the last day. Start an agent: agent-yes-supervise wrap CLI"
_NOTHING_AT_ALL = "Nothing runs, and nothing ended in the last day. Start an agent: agent-yes-supervise wrap CLI"


@click.command(short_help="Show what runs now, and what ended badly lately.")
@click.option("--all", "everything", is_flag=True, help="Show also what has ended well in the last day.")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@json_option
def ls(everything: bool, watch: bool, as_json: bool) -> None:
    """Show what runs now, in all projects, and what ended badly in the last day."""
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    while True:
        take_spooled()
        overview = _overview(everything=everything)
        if watch:
            click.clear()
        empty = _NOTHING_AT_ALL if everything else _NOTHING
        print_runs(overview, _HEADINGS, map(_row, overview.runs), as_json=as_json, empty=empty, more=_MORE)
        output.print_old_daemon()
        if not watch:
            return
        time.sleep(1)


def _overview(*, everything: bool) -> Overview:
    names = short_names(known_directories())
    statuses = (RunStatus.FAILED, RunStatus.CRASHED, *((RunStatus.COMPLETED,) if everything else ()))
    found = running_and_ended(names, statuses=statuses, ended_since=time.time() - LATELY)
    running = [view for view in found.runs if view.detail.run.status is RunStatus.RUNNING]
    ended = [view for view in found.runs if view.detail.run.status is not RunStatus.RUNNING]
    ended.sort(key=lambda view: view.detail.run.ended_at or 0, reverse=True)
    shown = {view.key: view for view in running + ended[:DEFAULT_LIMIT]}  # one may have ended in between
    return Overview(list(shown.values()), found.troubles, len(ended) > DEFAULT_LIMIT)


def _row(view: RunView) -> tuple[str, ...]:
    run = view.detail.run
    return (
        output.run_name(view),
        texts.status_text(view),
        texts.exit_text(view),
        texts.cause_text(view),
        texts.pid_text(view),
        texts.ago_text(run.ended_at if run.ended_at is not None else texts.started_of(view)),
        texts.command_text(view),
    )
