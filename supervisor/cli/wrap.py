"""``wrap`` as click sees it, for help and completion. Its options come from the table of `supervisor.wrap.options`."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli.completion import complete_directory
from supervisor.wrap.options import OPTIONS, Option, Request

_HELP = """Run an agent, record how it ends, and end as it did.

Everything behind the agent's name reaches it untouched. Without CLI, start the project's own command with its prompt.
"""


class _Value(click.ParamType[Any]):
    """What a word says to an option of the table."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.name = option.metavar or ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._option.read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _type_of(option: Option) -> click.ParamType[Any] | None:
    if option.choices:
        return click.Choice(option.choices)
    return None if option.metavar is None else _Value(option)


def _parameters() -> list[click.Parameter]:
    options = [
        click.Option(
            [option.name],
            is_flag=option.metavar is None,
            default=None,
            type=_type_of(option),
            metavar=option.metavar,
            help=option.help,
            shell_complete=complete_directory if option.metavar == "DIR" else None,
        )
        for option in OPTIONS
    ]
    words = click.Argument(["command"], nargs=-1, type=click.UNPROCESSED, metavar="[--] CLI [ARGS]...")
    return [*options, words]


def request_of(command: tuple[str, ...], **values: object) -> Request:
    """Return what click has parsed in the words of the fast parser."""
    return Request(list(command), values)


@click.pass_context
def _run(context: click.Context, /, **values: Any) -> None:
    from supervisor.wrap.command import run  # noqa: PLC0415  only a run needs it

    context.exit(run(request_of(**values)))


wrap = click.Command(
    "wrap",
    params=_parameters(),
    callback=_run,
    help=_HELP,
    short_help="Run an agent and record how it ends.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
