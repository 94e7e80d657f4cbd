"""Stored values that become data, those few that `wrap` reads, too; all others are made in `rows`."""

from __future__ import annotations

import json

from supervisor.nouns import Request

MILLISECONDS_ABOVE = 100_000_000_000
"""A stored time above this is in milliseconds, else in seconds: the original uses both (1973 in ms, 5138 in s)."""

_YEAR_2, _YEAR_9999 = -62_104_060_800, 253_370_764_800_000
"""In seconds and in milliseconds: what lies beyond is no time that `datetime` could show."""


def seconds(value: object) -> float | None:
    """Return a stored time in Unix seconds, None for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _YEAR_2 < value < _YEAR_9999:
        return None
    return value / 1000 if value > MILLISECONDS_ABOVE else value


def in_ms(column: str) -> str:
    """Return the SQL of a stored time in milliseconds; indexes serve queries that say it in the same words."""
    return f"CASE WHEN {column} > {MILLISECONDS_ABOVE} THEN {column} ELSE {column} * 1000 END"


def request_from(by: object, order: object, at: object) -> Request | None:
    """Make a `Request` of the columns asked_by, asked_for and asked_at; None where nobody asked."""
    moment = seconds(at)
    return None if moment is None else Request(str(by), str(order), moment)


def evidence_from(stored: object) -> dict[str, object]:
    """Return stored evidence; none where it is no JSON object."""
    try:
        evidence = json.loads(stored) if isinstance(stored, str) else {}
    except (ValueError, RecursionError):
        return {}
    return evidence if isinstance(evidence, dict) else {}
