"""``runs``: the runs of a project, or of all."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from supervisor.cli import output, texts
from supervisor.cli.completion import complete_project, complete_run
from supervisor.cli.listing import print_runs
from supervisor.cli.options import MOMENT, json_option, limit_option
from supervisor.cli.spooled import take_spooled
from supervisor.errors import SuperviseError
from supervisor.log import folder
from supervisor.masking import is_masked
from supervisor.models import RunStatus
from supervisor.store.store import Store
from supervisor.views import (
    TIMEOUT,
    RunView,
    environment_of,
    find_project,
    find_run,
    here,
    known_directories,
    runs_of,
    short_names,
    usable,
)

_HEADINGS = ("RUN", "STATUS", "EXIT", "CAUSE", "STARTED", "TOOK", "PID", "COMMAND")
_MORE = "There are more runs than these: --limit N shows the newest N, --limit 0 all"

_project = click.option(
    "--project",
    metavar="DIR",
    help="The runs of that project, not of the current directory.",
    shell_complete=complete_project,
)
_all = click.option("--all", "everywhere", is_flag=True, help="The runs of all known projects.")


@click.group
def runs() -> None:
    """List, show and delete runs."""
    take_spooled()


@runs.command("list")
@limit_option
@click.option(
    "--status",
    type=click.Choice([status.value for status in RunStatus]),
    multiple=True,
    help="Only runs of that status; may be given more than once.",
)
@click.option("--since", type=MOMENT, metavar="TIME", help="Only runs started since then: 2h, 7d, 2026-05-31.")
@_project
@_all
@json_option
def list_(
    limit: int, status: tuple[str, ...], since: float | None, project: str | None, everywhere: bool, as_json: bool
) -> None:
    """List runs, newest first."""
    what = "run matches" if status or since is not None else "runs yet"
    _list(what, project, everywhere, as_json, statuses=[RunStatus(word) for word in status], since=since, limit=limit)


@runs.command(short_help="List the runs that should be running.")
@_project
@_all
@json_option
def active(project: str | None, everywhere: bool, as_json: bool) -> None:
    """List the runs whose row says that they run, and what is known of each process now."""
    _list("run is active", project, everywhere, as_json, statuses=[RunStatus.RUNNING])


@runs.command
@limit_option
@_project
@_all
@json_option
def crashed(limit: int, project: str | None, everywhere: bool, as_json: bool) -> None:
    """List the crashed runs, newest first."""
    _list("run has crashed", project, everywhere, as_json, statuses=[RunStatus.CRASHED], limit=limit)


@runs.command(short_help="Show all that is known of a run.")
@click.argument("run", shell_complete=complete_run)
@json_option
def show(run: str, as_json: bool) -> None:
    """Show all that is known of RUN: an id here, PROJECT#ID, pid:N, or . for the newest."""
    view = find_run(run)
    environment = environment_of(view)
    if as_json:
        output.print_json({**output.run_as_json(view), "environment": environment or None})
    else:
        output.print_fields([*_fields(view), *((f"with {name}", value) for name, value in environment.items())])


@runs.command
@click.argument("run", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--force", is_flag=True, help="Also runs that may still be running.")
def rm(run: tuple[str, ...], force: bool) -> None:
    """Delete runs from their stores, and their logs. The agents themselves are left alone."""
    views = {view.key: view for view in map(find_run, run)}
    for view in views.values():
        if view.may_run and not force:
            raise SuperviseError(f"{output.run_name(view)} may still be running", "end it first, or use --force")
    for view in views.values():
        with usable(Store(view.directory, create=False, timeout=TIMEOUT)) as store:
            store.delete_run(view.detail.run.id)
        _remove_logs(view)
        click.echo(f"deleted {output.clean(output.run_name(view))}", err=True)


def _remove_logs(view: RunView) -> None:
    process = view.detail.process
    if process is not None and process.token is not None and folder.is_token(process.token):
        try:
            folder.remove(view.directory, process.token)
        except (OSError, SuperviseError) as error:
            output.print_troubles([error])


def _list(
    what: str,
    project: str | None,
    everywhere: bool,
    as_json: bool,
    *,
    statuses: Sequence[RunStatus],
    since: float | None = None,
    limit: int = 0,
) -> None:
    directories = _directories(project, everywhere=everywhere)
    names = short_names({*known_directories(), *directories})
    overview = runs_of(directories, statuses=statuses, since=since, limit=limit or None, names=names)
    place = "in any known project" if everywhere else f"in {output.clean(directories[0])}"
    elsewhere = "" if everywhere else " In all projects: --all."
    empty = f"No {what} {place}.{elsewhere} Start an agent: agent-yes-supervise wrap CLI"
    print_runs(overview, _HEADINGS, map(_row, overview.runs), as_json=as_json, empty=empty, more=_MORE)


def _directories(project: str | None, *, everywhere: bool) -> list[str]:
    if everywhere and project is not None:
        raise click.UsageError("--project and --all exclude each other")
    if everywhere:
        return known_directories()
    return [here() if project is None else find_project(project)]


def _row(view: RunView) -> tuple[str, ...]:
    return (
        output.run_name(view),
        texts.status_text(view),
        texts.exit_text(view),
        texts.cause_text(view),
        texts.ago_text(texts.started_of(view)),
        texts.took_text(view),
        texts.pid_text(view),
        texts.command_text(view),
    )


def _fields(view: RunView) -> list[tuple[str, str]]:
    run, process, ending, verdict = view.detail.run, view.detail.process, view.detail.ending, view.verdict
    fields = [
        ("run", output.run_name(view)),
        ("project", view.detail.dir or ""),
        ("store of", view.directory if view.directory != view.detail.dir else ""),
        ("command", texts.command_text(view)),
        ("secrets", "masked: it cannot be started again from this record" if is_masked(run.args) else ""),
        ("pid", texts.pid_text(view)),
        ("status", texts.status_text(view)),
        ("process", f"{verdict.state}: {verdict.reason}" if verdict else ""),
        ("exit code", texts.exit_text(view)),
        ("cause", texts.cause_text(view)),
        ("signal", texts.signal_text(view)),
        ("settled", texts.settled_text(view)),
        ("started", texts.when_text(texts.started_of(view))),
        ("ended", texts.when_text(run.ended_at)),
        ("took", texts.took_text(view)),
    ]
    if process is not None:
        goes_on = "" if process.resumed_from is None else f"run {process.resumed_from}, which had ended badly"
        fields.append(("goes on with", goes_on))
        fields.append(("added", shlex.join(process.args_added)))
        fields.append(("directory", process.cwd or ""))
        fields.append(("owner", f"pid {process.owner_pid}" if process.owner_pid else "the agent itself"))
    if ending is not None:
        fields.append(("settled by", f"{ending.settled_by} ({ending.rank.name.lower()})"))
    return fields + texts.evidence_fields(view) + [(f"junk {name}", repr(value)) for name, value in run.junk.items()]
