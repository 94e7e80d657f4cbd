"""``projects``: the directories that agents run in."""

from __future__ import annotations

import sys

import click

from supervisor.cli import output, texts
from supervisor.cli.completion import complete_project
from supervisor.cli.options import json_option
from supervisor.cli.spooled import take_spooled
from supervisor.cli.table import print_table
from supervisor.errors import SuperviseError
from supervisor.models import RunStatus
from supervisor.store.store import Store
from supervisor.views import (
    TIMEOUT,
    ProjectView,
    find_project_view,
    known_directories,
    projects_of,
    runs_of,
    usable,
)

_COUNTS = ("RUNS", "RUNNING", "COMPLETED", "FAILED", "CRASHED")
_HEADINGS = ("PROJECT", *_COUNTS, "SUCCESS", "LAST RUN", "STORE OF", "COMMAND")


@click.group
def projects() -> None:
    """List, show and delete projects."""
    take_spooled()


@projects.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all known projects, the most recently run first."""
    found, troubles = projects_of(known_directories())
    if troubles and not found:
        output.print_troubles(troubles)
        raise click.exceptions.Exit(1)
    if as_json:
        output.print_json([output.project_as_json(view) for view in found])
    elif found:
        print_table(
            _HEADINGS,
            map(_row, found),
            tails=("PROJECT", "STORE OF"),
            numbers=(*_COUNTS, "SUCCESS"),
            spare=("STORE OF", "COMMAND"),
        )
        output.print_unsettled(sum(view.unsettled for view in found))
    else:
        click.echo("No projects are known yet. Start an agent in one: agent-yes-supervise wrap CLI", err=True)
    output.print_troubles(troubles)


@projects.command(short_help="Show a project: its command, counts, success rate.")
@click.argument("project", required=False, shell_complete=complete_project)
@json_option
def show(project: str | None, as_json: bool) -> None:
    """Show PROJECT (by default the current directory): its command, counts, success rate and last run."""
    view = find_project_view(project)
    if as_json:
        output.print_json(output.project_as_json(view))
    else:
        output.print_fields(_fields(view))
        output.print_unsettled(view.unsettled)


@projects.command(short_help="Delete a project and the record of its runs.")
@click.argument("project", shell_complete=complete_project)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also if some of its runs may still be running.")
def rm(project: str, yes: bool, force: bool) -> None:
    """Delete PROJECT with all its runs from its store. Its files and agents are left alone."""
    view = find_project_view(project)
    alive = _alive(view)
    if alive and not force:
        which = "one of its runs" if alive == 1 else f"{alive} of its runs"
        raise SuperviseError(f"{which} may still be running", "end them first, or use --force")
    if not yes:
        _ask(view)
    with usable(Store(view.directory, create=False, timeout=TIMEOUT)) as store:
        store.delete_project(view.summary.project.id)
    click.echo(f"deleted {output.clean(view.summary.project.dir)}", err=True)


def _ask(view: ProjectView) -> None:
    runs = sum(view.summary.counts.values())
    what = f"{output.clean(view.summary.project.dir)} with the record of {runs} run{'' if runs == 1 else 's'}"
    if not sys.stdin.isatty():
        raise SuperviseError(f"this deletes {what}", "say so with --yes")
    if not click.confirm(f"Delete {what}?", err=True):
        raise SuperviseError("nothing has been deleted")


def _alive(view: ProjectView) -> int:
    running = runs_of([view.directory], statuses=(RunStatus.RUNNING,)).runs
    return sum(run.may_run and run.detail.run.project_id == view.summary.project.id for run in running)


def _row(view: ProjectView) -> tuple[str, ...]:
    project, counts = view.summary.project, view.summary.counts
    return (
        project.dir,
        str(sum(counts.values())),
        *(str(counts.get(status, 0)) for status in RunStatus),
        texts.percent_text(view.summary.success_rate),
        texts.ago_text(project.last_run_at),
        _store_of(view),
        project.cmd,
    )


def _store_of(view: ProjectView) -> str:
    """Return whose store keeps a project, empty where it is its own: a directory may have been moved or copied."""
    return "" if view.summary.project.dir == view.directory else view.directory


def _fields(view: ProjectView) -> list[tuple[str, str]]:
    project, counts = view.summary.project, view.summary.counts
    junk = sum(counts.values()) - sum(counts.get(status, 0) for status in RunStatus)
    return [
        ("project", project.dir),
        ("store of", _store_of(view)),
        ("command", project.cmd),
        ("prompt", project.prompt or ""),
        ("created", texts.when_text(project.created_at)),
        ("last run", texts.when_text(project.last_run_at)),
        ("runs", str(sum(counts.values()))),
        *((status.value, str(counts.get(status, 0))) for status in RunStatus),
        ("junk status", str(junk or "")),
        ("success rate", texts.percent_text(view.summary.success_rate)),
        *((f"junk {column}", repr(value)) for column, value in project.junk.items()),
    ]
