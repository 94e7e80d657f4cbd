"""``stores``: the registry."""

from __future__ import annotations

import click

from supervisor import registry
from supervisor.cli import output
from supervisor.cli.options import json_option
from supervisor.registry import Entry


@click.group
def stores() -> None:
    """List, add and forget the stores that the daemon looks after."""


@stores.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the known stores."""
    entries = registry.entries()
    if as_json:
        output.print_json([_as_json(entry) for entry in entries])
    elif entries:
        rows = (
            (entry.dir, entry.origin, output.ago_text(entry.added_at), "" if entry.exists else "missing")
            for entry in entries
        )
        output.print_table(("STORE OF", "KNOWN BY", "SINCE", "TROUBLE"), rows)
    else:
        click.echo("No stores are known yet. Add one: agent-yes-supervise stores add DIR, or start an agent with wrap")


@stores.command
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--scan", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Add all stores below DIR.")
def add(directory: str | None, scan: str | None) -> None:
    """Add the store of DIRECTORY, and with it trust the command stored there; or find stores with --scan."""
    if (directory is None) == (scan is None):
        raise click.UsageError("give either a directory or --scan DIR")
    if directory is not None:
        click.echo(f"added {output.clean(registry.add_by_hand(directory).dir)}")
        return
    found = [registry.add(project, registry.Origin.FOUND) for project in registry.scan(scan or "")]
    for entry in found:
        click.echo(f"added {output.clean(entry.dir)}")
    if not found:
        click.echo(f"There is no store below {output.clean(scan or '')}.")


@stores.command
@click.argument("directory")
def forget(directory: str) -> None:
    """Take the store of DIRECTORY from the registry; the store itself stays."""
    registry.forget(directory)
    click.echo(f"forgot {output.clean(directory)}")


def _as_json(entry: Entry) -> dict[str, object]:
    return {
        "dir": entry.dir,
        "origin": entry.origin,
        "added_at": entry.added_at,
        "exists": entry.exists,
        "trusted": entry.trusted,
    }
