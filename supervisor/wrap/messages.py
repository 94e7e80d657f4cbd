"""The wrapper's own lines to the person, among what the agent writes."""

from __future__ import annotations

from supervisor.wrap.readiness import write_at_once

_SAY_WITHIN = 1.0
"""Seconds that stderr may take to be ready for a line: a reader that has stopped must not hold us up."""

_MARKS = dict.fromkeys(
    (*range(32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    "\N{REPLACEMENT CHARACTER}",
)
"""For what a terminal would obey, what breaks a line and what turns its direction."""


def say(message: str) -> None:
    """Write a line of our own to stderr, which is the agent's too; that it cannot be written is nothing.

    Names and stored text may hold what breaks a line or what a terminal would obey: it is taken out.
    """
    line = f"agent-yes-supervise: {message.translate(_MARKS)}\n"
    write_at_once(2, line.encode(errors="backslashreplace"), within=_SAY_WITHIN)
