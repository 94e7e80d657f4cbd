"""``projects``: the directories that agents run in."""

from __future__ import annotations

import os
import sys

import click

from supervisor.cli import output
from supervisor.cli.options import json_option
from supervisor.errors import NotFound, SuperviseError
from supervisor.models import ProjectSummary, RunStatus
from supervisor.process.judge import State
from supervisor.store.store import Store
from supervisor.views import RunView, find_project, known_directories, projects_of, runs_of

_HEADINGS = ("PROJECT", "COMMAND", "RUNS", "RUNNING", "COMPLETED", "FAILED", "CRASHED", "SUCCESS", "LAST RUN")


@click.group
def projects() -> None:
    """List and show projects."""


@projects.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all known projects, the most recently run first."""
    found, troubles = projects_of(known_directories())
    if as_json:
        output.print_json([output.project_as_json(store, summary) for store, summary in found])
    elif found:
        output.print_table(_HEADINGS, (_row(summary) for _, summary in found))
    else:
        click.echo("No projects yet. Start an agent in one: agent-yes-supervise wrap CLI")
    output.print_troubles(troubles)


@projects.command
@click.argument("project", required=False)
@json_option
def show(project: str | None, as_json: bool) -> None:
    """Show PROJECT (by default the current directory): its command, counts, success rate and last run."""
    found = _in_store(project)
    if as_json:
        output.print_json([output.project_as_json(store, summary) for store, summary in found])
        return
    for _, summary in found:
        output.print_fields(_fields(summary))


@projects.command
@click.argument("project")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also if some of its runs may still be running.")
def rm(project: str, yes: bool, force: bool) -> None:
    """Delete PROJECT with all its runs from its store. Its files and agents are left alone."""
    directory = find_project(project)
    alive = [view for view in runs_of([directory], statuses=(RunStatus.RUNNING,)).runs if _may_run(view)]
    if alive and not force:
        raise SuperviseError(f"{len(alive)} of its runs may still be running", "end them first, or use --force")
    doomed = [summary.project for _, summary in _in_store(directory) if summary.project.dir == directory]
    if not doomed:
        raise NotFound(f"the store of {directory} has no project of that directory", "see: projects show")
    if not yes:
        if not sys.stdin.isatty():
            raise SuperviseError("this deletes the project's history", "say so with --yes")
        click.confirm(f"Delete the history of {output.clean(directory)}?", abort=True, err=True)
    with Store(directory, create=False) as store:
        store.delete_project(doomed[0].id)
    click.echo(f"deleted {output.clean(directory)}", err=True)


def _in_store(project: str | None) -> list[tuple[str, ProjectSummary]]:
    directory = find_project(project) if project is not None else os.path.realpath(os.curdir)
    found, troubles = projects_of([directory])
    if troubles:
        raise troubles[0]
    if not found:
        raise NotFound(f"there is no project in {directory}", "start an agent there: agent-yes-supervise wrap CLI")
    return found


def _may_run(view: RunView) -> bool:
    return view.verdict is not None and view.verdict.state is not State.DEAD


def _row(summary: ProjectSummary) -> tuple[str, ...]:
    project, counts = summary.project, summary.counts
    return (
        project.dir,
        project.cmd,
        str(sum(counts.values())),
        *(str(counts.get(status, 0)) for status in RunStatus),
        _percent(summary.success_rate),
        output.ago_text(project.last_run_at),
    )


def _fields(summary: ProjectSummary) -> list[tuple[str, str]]:
    project, counts = summary.project, summary.counts
    return [
        ("project", project.dir),
        ("command", project.cmd),
        ("prompt", project.prompt or ""),
        ("created", output.clock_text(project.created_at)),
        ("last run", output.clock_text(project.last_run_at)),
        ("runs", str(sum(counts.values()))),
        *((status.value, str(counts.get(status, 0))) for status in RunStatus),
        ("success rate", _percent(summary.success_rate)),
    ]


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0%}"
