"""``stores``: the registry."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from supervisor import registry
from supervisor.cli import output, texts
from supervisor.cli.completion import complete_directory, complete_store
from supervisor.cli.options import json_option
from supervisor.cli.table import print_table
from supervisor.errors import NotFound, StoreError, SuperviseError
from supervisor.registry import Entry, Origin
from supervisor.views import find_project, here, trouble_of

if TYPE_CHECKING:
    from supervisor.store.repair import Repaired

_HEADINGS = ("STORE OF", "KNOWN BY", "SINCE", "TRUSTED", "TROUBLE")


@click.group
def stores() -> None:
    """List, add, forget and repair the stores that the daemon looks after."""


@stores.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the known stores, and which of them cannot be read."""
    found = [(entry, trouble_of(entry.dir)) for entry in registry.entries()]
    if as_json:
        output.print_json([_as_json(entry, trouble) for entry, trouble in found])
    elif found:
        print_table(_HEADINGS, (_row(entry, trouble) for entry, trouble in found), tails=("STORE OF",))
    else:
        hint = "Add one: agent-yes-supervise stores add DIR. An agent under wrap makes its own known."
        click.echo(f"No stores are known yet. {hint}", err=True)


@stores.command(short_help="Add a store and trust it, or find stores.")
@click.argument("directory", required=False, shell_complete=complete_directory)
@click.option("--scan", metavar="DIR", help="Add all stores below DIR.", shell_complete=complete_directory)
def add(directory: str | None, scan: str | None) -> None:
    """Add the store of DIRECTORY, and with it trust the command stored there; or find stores with --scan."""
    if (directory is None) == (scan is None):
        raise click.UsageError("give either a directory or --scan DIR")
    if scan is not None:
        _add_below(scan)
    elif directory is not None:
        trouble = trouble_of(directory)
        if trouble is not None:
            raise trouble
        click.echo(f"added {output.clean(registry.add_by_hand(directory).dir)}", err=True)


@stores.command(short_help="Take a store from the registry.")
@click.argument("directory", shell_complete=complete_store)
def forget(directory: str) -> None:
    """Take the store of DIRECTORY from the registry. The store stays; a run that begins there makes it known again."""
    found = directory if registry.get(directory) else find_project(directory)
    registry.forget(found)
    click.echo(f"forgot {output.clean(os.path.realpath(found))}", err=True)


@stores.command("repair", short_help="Save what can be read of a damaged store.")
@click.argument("directory", required=False, shell_complete=complete_store)
@click.option("--yes", is_flag=True, help="Do it; without this, only tell what could be saved.")
@json_option
def repair_(directory: str | None, yes: bool, as_json: bool) -> None:
    """Put a new store with what can be read in the place of the damaged one of DIRECTORY, by default the current one.

    The damaged file is kept beside it. Nobody may have the store open; the daemon and agents under wrap let go by
    themselves.
    """
    from supervisor.store.repair import repair  # noqa: PLC0415  other commands need not wait for it

    found = find_project(directory) if directory is not None else here()
    entry = registry.get(found)
    is_trusted = entry is not None and entry.trusted

    def on_done(done: Repaired) -> None:
        if entry is not None and is_trusted and done.aside is not None:
            registry.add(found, entry.origin)  # the new file is as trusted as the old one was
        if as_json:
            output.print_json({"dir": found, "damage": done.damage, "aside": done.aside, **asdict(done.salvaged)})
        else:
            _print_repaired(found, done)

    repair(found, dry=not yes, tell=lambda line: output.print_troubles([SuperviseError(line)]), on_done=on_done)


def _print_repaired(directory: str, done: Repaired) -> None:
    saved, did = done.salvaged, "saved" if done.aside else "can be saved"
    runs = texts.counted_text(saved.runs, "run")
    partial = f", {saved.partial} of them without arguments" if saved.partial else ""
    click.echo(output.clean(f"{directory} is damaged: {done.damage}"))
    click.echo(f"{did}: {texts.counted_text(saved.projects, 'project')}, {runs}{partial}")
    if saved.lost:
        click.echo(f"lost: {texts.counted_text(saved.lost, 'run')} of which only the id is known")
    if saved.others:
        click.echo(output.clean(f"not taken over: tables that are not ours ({', '.join(saved.others)})"))
    if done.aside:
        click.echo(output.clean(f"the damaged file is kept: {done.aside}"))
    else:
        again = f"agent-yes-supervise stores repair --yes {shlex.quote(directory)}"
        click.echo(output.clean(f"Nothing has been changed yet. To do it: {again}"), err=True)


def _add_below(folder: str) -> None:
    if not os.path.isdir(folder):
        raise NotFound(f"there is no directory {folder}", "check the path")
    found = new = 0
    for directory in registry.scan(os.path.realpath(folder)):
        found += 1
        if registry.get(directory) is None:
            new += 1
            click.echo(f"added {output.clean(registry.add(directory, Origin.FOUND).dir)}", err=True)
    stores = "1 store" if found == 1 else f"{found} stores"
    click.echo(f"{stores} below {output.clean(os.path.realpath(folder))}, {new} of them new", err=True)


def _row(entry: Entry, trouble: StoreError | None) -> tuple[str, ...]:
    return (
        entry.dir,
        entry.origin,
        texts.ago_text(entry.added_at),
        "yes" if entry.trusted else "no",
        trouble.message if trouble else "",
    )


def _as_json(entry: Entry, trouble: StoreError | None) -> dict[str, object]:
    return {
        "dir": entry.dir,
        "origin": entry.origin,
        "added_at": entry.added_at,
        "exists": entry.exists,
        "trusted": entry.trusted,
        "trouble": trouble.message if trouble else None,
    }
