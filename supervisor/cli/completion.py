"""``completion``, and what a shell asks at each Tab: click finds the place in the command line, we the candidates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from supervisor.cli.output import clean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from supervisor.candidates import Candidate

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

VARIABLE = "_AGENT_YES_SUPERVISE_COMPLETE"
"""The environment variable by which click knows that it is a shell that asks."""

PROGRAMS = ("agent-yes-supervise", "ays")
"""The names under which we are installed."""

_HINTS = {
    "bash": 'in ~/.bashrc:  eval "$(agent-yes-supervise completion bash)"',
    "zsh": 'in ~/.zshrc, behind compinit:  eval "$(agent-yes-supervise completion zsh)"',
    "fish": "agent-yes-supervise completion fish >~/.config/fish/conf.d/agent-yes-supervise.fish",
}

_HELP = "Print the script that completes our commands, runs and projects in SHELL.\n\n\b\n" + "\n".join(
    f"{shell + ':':<6}{hint}" for shell, hint in _HINTS.items()
)


@click.command(help=_HELP, short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(list(_HINTS)))
def completion(shell: str) -> None:
    """Print the script for a shell."""
    from supervisor.cli.shells import SCRIPTS  # noqa: PLC0415  only who sets it up needs it

    click.echo(SCRIPTS[shell], nl=False)


def is_asked() -> bool:
    """Tell whether a shell asks for candidates; click then answers it."""
    return VARIABLE in os.environ


def complete_run(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Complete a run."""
    from supervisor import candidates  # noqa: PLC0415  a shell's question needs it

    return _items(candidates.runs(typed))


def complete_running(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Complete a run that may be running."""
    from supervisor import candidates  # noqa: PLC0415  the same

    return _items(candidates.runs(typed, only_running=True))


def complete_project(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Complete a project, or else any directory."""
    from supervisor import candidates  # noqa: PLC0415  the same

    return _items(candidates.projects(typed)) or complete_directory(_context, _parameter, typed)


def complete_store(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Complete a registered store by its directory, or a project's short name."""
    from supervisor import candidates  # noqa: PLC0415  the same

    return _items(candidates.stores(typed) if typed.startswith("/") else candidates.projects(typed))


def complete_directory(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Let the shell complete a directory."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415  the same

    return [CompletionItem(typed, type="dir")]


def _items(found: Iterable[Candidate]) -> list[CompletionItem[str]]:
    """Return candidates for the shell; one that would speak to the terminal, or break the line, is left out."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415  the same

    return [CompletionItem(word, help=clean(says) or None) for word, says in found if clean(word) == word]
