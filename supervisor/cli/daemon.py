"""``daemon`` and ``scan``: supervising, for good or once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from supervisor.cli.completion import complete_project
from supervisor.cli.daemon_log import log_to
from supervisor.cli.options import json_option

if TYPE_CHECKING:
    from supervisor.daemon.scan import ScanResult


@click.command
@click.option(
    "--sweep-every",
    type=click.FloatRange(min=0.1, max=86400),
    metavar="SECONDS",
    help="How often to look at everything again, as a safety net.  [default: 30, or as configured]",
)
@click.option(
    "--discover/--no-discover",
    default=None,
    help="Also look after stores in the working directories of live processes.  [default: yes, or as configured]",
)
@click.option("--verbose", "-v", is_flag=True, help="Log also what is watched and why.")
@click.option("--log-file", metavar="FILE", help="Log there instead of to stderr; turned over at 1 MiB.")
def daemon(sweep_every: float | None, discover: bool | None, verbose: bool, log_file: str | None) -> None:
    """Supervise all known stores in the foreground, until SIGTERM or Ctrl-C. One per user.

    SIGHUP reads the configuration and everything else anew; what is given here comes before the configuration.
    """
    from supervisor.daemon.serve import serve  # noqa: PLC0415  asyncio and APScheduler: 150 ms
    from supervisor.daemon.settings import Settings  # noqa: PLC0415  only the daemon needs it

    settings = Settings(sweep_every=sweep_every, discovers=discover)
    log_to(logging.DEBUG if verbose else logging.INFO, log_file)
    serve(settings)


@click.command
@click.option("--dir", "directory", metavar="DIR", help="Only that project's store.", shell_complete=complete_project)
@click.option("--no-wait", is_flag=True, help="Report rows that want a second look as pending instead of waiting.")
@json_option
def scan(directory: str | None, no_wait: bool, as_json: bool) -> None:
    """Look once at every running row of all known stores, settle the dead ones, and tell which."""
    from supervisor.cli.spooled import take_spooled  # noqa: PLC0415  only a scan needs it
    from supervisor.daemon.scan import scan as run_scan  # noqa: PLC0415  the same
    from supervisor.views import find_project, known_directories  # noqa: PLC0415  the same

    log_to(logging.WARNING)
    take_spooled()
    result = run_scan([find_project(directory)] if directory else known_directories(), waits=not no_wait)
    _print_as_json(result) if as_json else _print(result)


def _print(result: ScanResult) -> None:
    from supervisor.cli.output import clean  # noqa: PLC0415  only a scan needs it

    for directory, claim, ending in result.settled:
        code = "" if ending.exit_code is None else f" {ending.exit_code}"
        click.echo(
            clean(f"settled {directory}#{claim.run_id} (pid {claim.pid}): {ending.status}{code}, {ending.cause}")
        )
    for directory, claim in result.pending:
        click.echo(clean(f"pending {directory}#{claim.run_id} (pid {claim.pid}): looks dead, wants a second look"))
    for directory, run_id, verdict in result.unknown:
        click.echo(clean(f"unknown {directory}#{run_id}: {verdict.reason}"))
    click.echo(f"{len(result.settled)} settled, {result.alive} running", err=True)


def _print_as_json(result: ScanResult) -> None:
    from supervisor.cli.output import print_json  # noqa: PLC0415  only a scan needs it

    print_json(
        {
            "settled": [
                {
                    "store": directory,
                    "id": claim.run_id,
                    "status": ending.status,
                    "exit_code": ending.exit_code,
                    "cause": ending.cause,
                    "ended_at": ending.ended_at,
                }
                for directory, claim, ending in result.settled
            ],
            "pending": [{"store": directory, "id": claim.run_id} for directory, claim in result.pending],
            "unknown": [
                {"store": directory, "id": run_id, "reason": verdict.reason}
                for directory, run_id, verdict in result.unknown
            ],
            "alive": result.alive,
        }
    )
