"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good a finding is: nothing to do, worth knowing, or something does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check-up: which check, how good, what it is, and what to do if that is not good."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, text)


def warn(check: str, text: str, remedy: str) -> Finding:
    """Return something that works less well than it could."""
    return Finding(check, Level.WARN, text, remedy)


def fail(check: str, text: str, remedy: str) -> Finding:
    """Return something that does not work."""
    return Finding(check, Level.FAIL, text, remedy)
