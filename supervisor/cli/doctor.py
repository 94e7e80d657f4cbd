"""``doctor``: what works on this machine and what does not."""

from __future__ import annotations

import click

from supervisor.cli import output
from supervisor.cli.options import json_option
from supervisor.cli.table import styled

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(short_help="Tell what works on this machine and what does not.")
@json_option
def doctor(as_json: bool) -> None:
    """Tell what works on this machine and what does not, each with its remedy; exit with 1 if something fails."""
    from supervisor.doctor.checkup import check_all  # noqa: PLC0415  only this command needs it
    from supervisor.doctor.finding import Level  # noqa: PLC0415  the same

    found = []
    for finding in check_all():
        found.append(finding)
        if not as_json:
            level = styled(f"{finding.level:<4}", fg=_COLOURS[finding.level])
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            click.echo(f"{level}  {output.clean(f'{finding.check:<11}  {finding.text}{remedy}')}")
    if as_json:
        output.print_json(
            [{"check": one.check, "level": one.level, "text": one.text, "remedy": one.remedy or None} for one in found]
        )
    if any(finding.level is Level.FAIL for finding in found):
        raise click.exceptions.Exit(1)
