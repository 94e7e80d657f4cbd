"""``why``: how and why a run ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.completion import complete_run
from supervisor.cli.options import json_option
from supervisor.cli.spooled import take_spooled
from supervisor.errors import SuperviseError
from supervisor.log.folder import ERRORS, OUTPUT, is_token
from supervisor.views import RunView, find_run

if TYPE_CHECKING:
    from supervisor.why import Account

_LAST_LINES = 10
_HEADINGS = {OUTPUT: "last output", ERRORS: "last errors"}
"""How the logs of a run are called, by stream."""


@click.command
@click.argument("run", shell_complete=complete_run)
@json_option
def why(run: str, as_json: bool) -> None:
    """Tell how and why RUN ended, with the evidence, how sure that is, and what to do next."""
    from supervisor.why import account_of  # noqa: PLC0415  other commands need not wait for it

    take_spooled()
    view = find_run(run)
    account = account_of(view.detail, view.verdict, name=output.run_name(view))
    if as_json:
        found = _last_lines(view)
        last = {name.replace(" ", "_"): found.get(name) for name in _HEADINGS.values()}
        output.print_json({**output.run_as_json(view), "why": {**asdict(account), **last}})
    else:
        _print(account)
        for name, lines in _last_lines(view).items():
            click.echo(f"\n{name}:")
            for line in lines:
                click.echo(f"  {output.clean(line)}")


def _last_lines(view: RunView) -> dict[str, list[str]]:
    """Return what the agent wrote last, as far as that was logged and can be read."""
    from supervisor.log.lines import last_lines  # noqa: PLC0415  most runs have no log

    process = view.detail.process
    if process is None or process.token is None or not is_token(process.token):
        return {}
    try:
        found = last_lines(view.directory, process.token, _LAST_LINES)
    except (OSError, SuperviseError):
        return {}
    return {_HEADINGS[stream]: lines for stream, lines in found.items() if lines}


def _print(account: Account) -> None:
    click.echo(output.clean(account.what))
    click.echo()
    fields = [("when", account.when), ("exit", account.exit), ("cause", account.cause)]
    fields += [("evidence" if first else "", line) for first, line in _marked(account.evidence)]
    fields.append(("how sure", account.sure))
    fields += [("next" if first else "", line) for first, line in _marked(account.next)]
    output.print_fields(fields)


def _marked(lines: list[str]) -> list[tuple[bool, str]]:
    return [(index == 0, line) for index, line in enumerate(lines)]
