"""``config``: the person's settings."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from supervisor import paths
from supervisor.cli import output
from supervisor.cli.options import json_option

_COMMENT = """\
# Settings of agent-yes-supervise. Each has a default, shown here behind a #; take that away to change one.
# A running daemon reads this file again at SIGHUP.

"""


@click.group
def config() -> None:
    """Show, check and edit the settings."""


@config.command
def path() -> None:
    """Print where the settings lie; the file need not be there."""
    click.echo(paths.config_file())


@config.command
@json_option
def show(as_json: bool) -> None:
    """Show all settings as they are in force, the defaults included."""
    from supervisor.config import as_toml, load  # noqa: PLC0415  other commands need not wait for it

    settings = load()
    if as_json:
        output.print_json(asdict(settings))
    else:
        click.echo(as_toml(settings), nl=False)


@config.command(short_help="Say what is wrong in the settings, line by line.")
def check() -> None:
    """Say what is wrong in the settings, line by line; exit with 1 if anything is."""
    from supervisor.config import ConfigError, load  # noqa: PLC0415  the same

    file = paths.config_file()
    try:
        load(file)
    except ConfigError as error:
        for line, message, remedy in error.problems:
            click.echo(output.clean(f"{file}:{line}: {message}; {remedy}" if line else f"{file}: {message}; {remedy}"))
        raise click.exceptions.Exit(1) from None
    if os.path.lexists(file):
        click.echo(f"{output.clean(file)} is fine", err=True)
    else:
        click.echo(f"there is no {output.clean(file)}: all settings have their defaults", err=True)


@config.command(short_help="Open the settings in an editor, then check them.")
@click.pass_context
def edit(context: click.Context) -> None:
    """Open the settings in $VISUAL or $EDITOR, then check them. A new file begins with all defaults as comments."""
    from supervisor.config import Config, as_toml  # noqa: PLC0415  the same

    file = paths.config_file()
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    try:
        with open(file, "x", encoding="utf-8") as new:
            new.write(_COMMENT + _commented(as_toml(Config())))
    except FileExistsError:
        pass
    click.edit(filename=file)
    context.invoke(check)


def _commented(text: str) -> str:
    """Return a file that sets nothing: tables stay, keys become comments."""
    lines = (line if not line or line.startswith("[") else f"# {line}" for line in text.splitlines())
    return "\n".join(lines) + "\n"
