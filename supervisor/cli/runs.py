"""``runs``: the runs of a project, or of all."""

from __future__ import annotations

import os

import click

from supervisor.cli import output
from supervisor.cli.options import MOMENT, json_option
from supervisor.errors import SuperviseError
from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.store.store import Store
from supervisor.views import Overview, RunView, find_project, find_run, known_directories, runs_of, short_names

_HEADINGS = ("RUN", "STATUS", "EXIT", "CAUSE", "STARTED", "TOOK", "PID", "COMMAND")

_project = click.option("--project", metavar="DIR", help="The runs of that project, not of the current directory.")
_all = click.option("--all", "everywhere", is_flag=True, help="The runs of all known projects.")


@click.group
def runs() -> None:
    """List and show runs."""


@runs.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N runs, the newest.")
@click.option("--status", type=click.Choice([status.value for status in RunStatus]), help="Only runs of that status.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Only runs started since then: 2h, 7d, 2026-05-31.")
@_project
@_all
@json_option
def list_(
    limit: int | None, status: str | None, since: float | None, project: str | None, everywhere: bool, as_json: bool
) -> None:
    """List runs, newest first."""
    statuses = (RunStatus(status),) if status else ()
    directories = _directories(project, everywhere=everywhere)
    overview = runs_of(directories, statuses=statuses, since=since, limit=limit, names=_names(directories))
    _show(overview, as_json=as_json, empty="No such runs here.")


@runs.command
@_project
@_all
@json_option
def active(project: str | None, everywhere: bool, as_json: bool) -> None:
    """List the runs whose row says that they run, and what is known of each process now."""
    directories = _directories(project, everywhere=everywhere)
    overview = runs_of(directories, statuses=(RunStatus.RUNNING,), names=_names(directories))
    _show(overview, as_json=as_json, empty="Nothing runs here.")


@runs.command
@_project
@_all
@json_option
def crashed(project: str | None, everywhere: bool, as_json: bool) -> None:
    """List the crashed runs, newest first."""
    directories = _directories(project, everywhere=everywhere)
    overview = runs_of(directories, statuses=(RunStatus.CRASHED,), names=_names(directories))
    _show(overview, as_json=as_json, empty="Nothing has crashed here.")


@runs.command
@click.argument("run")
@json_option
def show(run: str, as_json: bool) -> None:
    """Show all that is known of RUN: an id here, PROJECT#ID, pid:N, or . for the newest."""
    view = find_run(run)
    if as_json:
        output.print_json(output.run_as_json(view))
    else:
        output.print_fields(_fields(view))


@runs.command
@click.argument("run", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also runs that may still be running.")
def rm(run: tuple[str, ...], force: bool) -> None:
    """Delete runs from their stores. The agents themselves are left alone."""
    views = [find_run(word) for word in run]
    for view in views:
        if not force and view.verdict is not None and view.verdict.state is not State.DEAD:
            raise SuperviseError(f"{output.run_name(view)} may still be running", "end it first, or use --force")
    for view in views:
        with Store(view.directory, create=False) as store:
            store.delete_run(view.detail.run.id)
        click.echo(f"deleted {output.clean(output.run_name(view))}", err=True)


def _directories(project: str | None, *, everywhere: bool) -> list[str]:
    if everywhere and project is not None:
        raise click.UsageError("--project and --all exclude each other")
    if everywhere:
        return known_directories()
    return [find_project(project) if project is not None else os.path.realpath(os.curdir)]


def _names(directories: list[str]) -> dict[str, str]:
    return short_names({*known_directories(), *directories})


def _show(overview: Overview, *, as_json: bool, empty: str) -> None:
    if as_json:
        output.print_json([output.run_as_json(view) for view in overview.runs])
    elif overview.runs:
        output.print_table(_HEADINGS, (_row(view) for view in overview.runs), status_column=1)
    elif not overview.troubles:
        click.echo(f"{empty} Other projects: --all. Start an agent here: agent-yes-supervise wrap CLI")
    output.print_troubles(overview.troubles)
    if overview.troubles and not overview.runs:
        raise click.exceptions.Exit(1)


def _row(view: RunView) -> tuple[str, ...]:
    return (
        output.run_name(view),
        output.status_text(view),
        output.exit_text(view),
        output.cause_text(view),
        output.clock_text(output.started_of(view)),
        output.took_text(view),
        output.pid_text(view),
        output.command_text(view),
    )


def _fields(view: RunView) -> list[tuple[str, str]]:
    run, process, ending, verdict = view.detail.run, view.detail.process, view.detail.ending, view.verdict
    fields = [
        ("run", output.run_name(view)),
        ("project", view.detail.dir or ""),
        ("command", output.command_text(view)),
        ("pid", output.pid_text(view)),
        ("status", output.status_text(view)),
        ("process", f"{verdict.state}: {verdict.reason}" if verdict else ""),
        ("exit code", output.exit_text(view)),
        ("cause", output.cause_text(view)),
        ("started", output.clock_text(output.started_of(view))),
        ("ended", output.clock_text(run.ended_at)),
        ("took", output.took_text(view)),
    ]
    if process is not None:
        fields.append(("directory", process.cwd or ""))
        fields.append(("owner", f"pid {process.owner_pid}" if process.owner_pid else "the agent itself"))
    if ending is not None:
        fields.append(("settled by", f"{ending.settled_by} ({ending.rank.name.lower()})"))
        fields += [(f"evidence {name}", str(value)) for name, value in ending.evidence.items()]
    return fields + [(f"junk {column}", repr(value)) for column, value in run.junk.items()]
