"""``stop`` and ``kill``: ending a run's agent."""

from __future__ import annotations

import click

from supervisor.cli import output
from supervisor.cli.completion import complete_running
from supervisor.cli.spooled import take_spooled
from supervisor.models import RunStatus
from supervisor.views import find_run


@click.command
@click.argument("run", shell_complete=complete_running)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take to end by SIGTERM before SIGKILL.",
)
def stop(run: str, timeout: float) -> None:
    """Ask RUN's agent to end: SIGTERM, then SIGKILL. The ending says who asked."""
    _end(run, "stop", timeout)


@click.command
@click.argument("run", shell_complete=complete_running)
def kill(run: str) -> None:
    """End RUN's agent by SIGKILL at once. The ending says who asked."""
    _end(run, "kill", 0)


def _end(word: str, what: str, timeout: float) -> None:
    from supervisor.stop import Order, asker, stop as end_run  # noqa: PLC0415  other commands need not wait for it

    order = Order(what)
    take_spooled()
    view = find_run(word)
    ended = end_run(view.directory, view.detail.run.id, order, by=asker(), timeout=timeout)
    if ended.called_off:
        click.echo(f"{output.clean(output.run_name(view))} had ended, and is not started again")
        return
    code = "" if ended.exit_code is None else f" with {ended.exit_code}"
    status = "its row has been changed" if ended.status is RunStatus.RUNNING else ended.status or "its row is gone"
    by_force = " (SIGKILL was needed)" if ended.killed and order is Order.STOP else ""
    click.echo(f"{output.clean(output.run_name(view))} ended{by_force}: {status}{code}")
