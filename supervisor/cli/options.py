"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

DEFAULT_LIMIT = 50
"""Ended runs that a list shows unless it is told otherwise."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

limit_option = click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    metavar="N",
    help="Only the newest N runs; 0 for all.",
)

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Moment(click.ParamType[float]):
    """A moment in the past as Unix seconds: ``90s``, ``15m``, ``2h``, ``7d``, ``3w`` ago, or an ISO date and time."""

    name = "TIME"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn the word into Unix seconds."""
        if isinstance(value, int | float):
            return value
        span = _SPAN.fullmatch(value)
        if span:
            return time.time() - float(span[1]) * _UNITS[span[2]]
        try:
            return datetime.fromisoformat(value).astimezone().timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is no time; give 2h, 7d, or 2026-05-31T12:00", param, ctx)


MOMENT = Moment()
