"""``wrap`` as click sees it, for help and completion. Its options come from the table of `supervisor.wrap.options`."""

from __future__ import annotations

import click

from supervisor.cli.completion import complete_directory
from supervisor.wrap.options import OPTIONS, Request

_HELP = """Run an agent, record how it ends, and end as it did.

Everything behind the agent's name reaches it untouched. Without CLI, start the project's own command with its prompt.
"""


def _parameters() -> list[click.Parameter]:
    options = [
        click.Option(
            [option.name],
            is_flag=option.metavar is None,
            default=None,
            metavar=option.metavar,
            help=option.help,
            shell_complete=complete_directory if option.metavar == "DIR" else None,
        )
        for option in OPTIONS
    ]
    words = click.Argument(["command"], nargs=-1, type=click.UNPROCESSED, metavar="[--] CLI [ARGS]...")
    return [*options, words]


def request_of(
    *,
    command: tuple[str, ...],
    project: str | None,
    prompt: str | None,
    default: bool | None,
    log: bool | None,
    reap: bool | None,
) -> Request:
    """Return what click has parsed in the words of the fast parser."""
    return Request(
        command=list(command),
        project=project,
        prompt=prompt,
        default=bool(default),
        log=bool(log),
        reap=bool(reap),
    )


@click.pass_context
def _run(context: click.Context, /, **values: object) -> None:
    from supervisor.wrap.command import run  # noqa: PLC0415  only a run needs it

    context.exit(run(request_of(**values)))  # type: ignore[arg-type]  # click's values, typed by the table


wrap = click.Command(
    "wrap",
    params=_parameters(),
    callback=_run,
    help=_HELP,
    short_help="Run an agent and record how it ends.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
