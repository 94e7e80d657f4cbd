"""``service``: the daemon as a service of this user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import json_option

if TYPE_CHECKING:
    from supervisor.service.manager import Plan, ServiceState

LINGER = "loginctl enable-linger"


@click.group
def service() -> None:
    """Have the daemon always: install it as a service of yours, ask after it, remove it."""


@service.command
@click.option("--dry-run", is_flag=True, help="Only print what would be written and run.")
def install(dry_run: bool) -> None:
    """Install the daemon as a service, start it, and check that it runs. Again, to update it.

    Run it from the shell in which your agents are found: the service gets its PATH.
    """
    from supervisor.cli.output import print_fields  # noqa: PLC0415  only this needs it
    from supervisor.service.manager import this_manager  # noqa: PLC0415  the same

    manager = this_manager()
    if dry_run:
        _print_plan(manager.plan())
        return
    plan = manager.install()
    print_fields([("wrote", plan.path), *(("ran", " ".join(command)) for command in plan.commands)])
    print_fields([*_fields(manager.state()), ("undo", "agent-yes-supervise service uninstall")])


@service.command
def uninstall() -> None:
    """Stop the daemon and remove the service. Stores stay, agents run on."""
    from supervisor.cli.output import print_fields  # noqa: PLC0415  only this needs it
    from supervisor.service.manager import this_manager  # noqa: PLC0415  the same

    done = this_manager().uninstall()
    print_fields(("did", step) for step in done)
    click.echo("The service is gone; stores and logs stay." if done else "No service is installed.", err=True)


@service.command
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether the service is installed and runs, and what it does. Exits with 1 if it does not run."""
    from dataclasses import asdict  # noqa: PLC0415  only this needs it

    from supervisor.cli.output import print_fields, print_json  # noqa: PLC0415  the same
    from supervisor.service.manager import this_manager  # noqa: PLC0415  the same

    state = this_manager().state()
    print_json(asdict(state)) if as_json else print_fields(_fields(state))
    ctx.exit(0 if state.running else 1)


@service.command
@click.option("--follow", "-f", is_flag=True, help="Go on as it is written, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=100, show_default=True, help="How many.")
def logs(follow: bool, lines: int) -> None:
    """Show what the service has logged: what was settled, and why, one line a run."""
    from supervisor.service.manager import this_manager  # noqa: PLC0415  only this needs it

    command = this_manager().logs_command(lines=lines, follow=follow)
    os.execvp(command[0], command)


def _print_plan(plan: Plan) -> None:
    from supervisor.cli.output import clean  # noqa: PLC0415  only this needs it

    click.echo(clean(f"would write {plan.path}:"), err=True)
    click.echo(plan.text, nl=False)
    for command in plan.commands:
        click.echo(clean(f"would run {' '.join(command)}"), err=True)


def _fields(state: ServiceState) -> list[tuple[str, str]]:
    from datetime import datetime  # noqa: PLC0415  only this needs it

    installed = state.file or "no; to install it: agent-yes-supervise service install"
    if state.file and not state.up_to_date:
        installed += " (out of date; to update it: agent-yes-supervise service install)"
    fields = [("installed", installed)]
    if state.file:
        fields.append(("enabled", "yes" if state.enabled else "no; to enable it: agent-yes-supervise service install"))
    since = "" if state.since is None else datetime.fromtimestamp(state.since).astimezone().isoformat(" ", "seconds")
    running = f"pid {state.pid}{since and f', since {since}'}" if state.running else f"no ({state.text})"
    fields += [("running", running), ("does", state.text if state.running else "")]
    if state.lingers is not None:
        fields.append(("lingers", "yes" if state.lingers else f"no: it ends with your last session; {LINGER} keeps it"))
    return fields
