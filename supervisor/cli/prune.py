"""``prune``: deleting old records and logs."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.completion import complete_project
from supervisor.cli.options import MOMENT, json_option
from supervisor.cli.texts import counted_text
from supervisor.views import find_project, known_directories

if TYPE_CHECKING:
    from supervisor.retention import Pruned


@click.command(short_help="Delete the records of old runs, and old logs.")
@click.option("--yes", is_flag=True, help="Do it; without this, only tell what would be deleted.")
@click.option(
    "--older-than",
    type=MOMENT,
    metavar="TIME",
    help="Runs and logs that ended before then: 30d, 12w, 2026-05-31.  [default: as configured: 90 and 14 days]",
)
@click.option("--project", metavar="DIR", help="Only in that project's store.", shell_complete=complete_project)
@json_option
def prune(yes: bool, older_than: float | None, project: str | None, as_json: bool) -> None:
    """Delete the records of old runs and old logs from all known stores; without --yes, tell what that would be.

    The newest run of each project stays, and all that may be running.
    """
    from supervisor.config import load  # noqa: PLC0415  other commands need not wait for it
    from supervisor.retention import Limits, prune as run_prune  # noqa: PLC0415  the same

    limits = Limits.of(load().retention, time.time())
    if older_than is not None:
        limits = replace(limits, runs_before=older_than, logs_before=older_than)
    done = run_prune([find_project(project)] if project else known_directories(), limits, dry=not yes)
    found = [pruned for pruned in done.pruned.values() if not pruned.nothing]
    if as_json:
        output.print_json([asdict(pruned) for pruned in found])
    else:
        for pruned in found:
            click.echo(f"{'deleted' if yes else 'would delete'} {_text(pruned)}")
        _print_sum(found, done=yes)
    output.print_troubles(done.troubles)
    if done.troubles:
        raise click.exceptions.Exit(1)


def _print_sum(found: list[Pruned], *, done: bool) -> None:
    if not found:
        click.echo("There is nothing old to delete.", err=True)
    elif not done:
        click.echo(
            "Nothing has been deleted yet: agent-yes-supervise prune --yes with the same options does it.", err=True
        )


def _text(pruned: Pruned) -> str:
    parts = [
        counted_text(pruned.runs, "run") if pruned.runs else "",
        f"{counted_text(pruned.logs, 'log')} ({pruned.log_bytes / (1 << 20):.1f} MiB)" if pruned.logs else "",
        counted_text(pruned.orphans, "row") + " of runs that are gone" if pruned.orphans else "",
    ]
    return output.clean(f"in {pruned.directory}: {', '.join(filter(None, parts))}")
