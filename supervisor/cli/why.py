"""``why``: how and why a run ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.completion import complete_run
from supervisor.cli.options import json_option
from supervisor.views import find_run

if TYPE_CHECKING:
    from supervisor.why import Account


@click.command
@click.argument("run", shell_complete=complete_run)
@json_option
def why(run: str, as_json: bool) -> None:
    """Tell how and why RUN ended, with the evidence, how sure that is, and what to do next."""
    from supervisor.why import account_of  # noqa: PLC0415  other commands need not wait for it

    view = find_run(run)
    account = account_of(view.detail, view.verdict, name=output.run_name(view))
    if as_json:
        output.print_json({**output.run_as_json(view), "why": asdict(account)})
    else:
        _print(account)


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
