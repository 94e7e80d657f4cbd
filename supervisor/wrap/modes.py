"""What an agent has told the terminal to do, seen in its output, so that it can be undone when the agent cannot."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    Flags = bytearray | memoryview[int]
    """A byte for each mode; two processes may share them."""

_PRIVATE = (1, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026, 2031)
"""Modes (DECSET) that a shell's prompt cannot live with, where they are on."""

_PRIVATE_OFF = (7, 25)
"""The same, where they are off: no wrapping of lines, no cursor."""

_REGION, _KEYPAD, _KEYS, _KITTY = range(len(_PRIVATE) + len(_PRIVATE_OFF), len(_PRIVATE) + len(_PRIVATE_OFF) + 4)
SIZE = _KITTY + 1
"""How many flags there are."""

_PLACES = {number: place for place, number in enumerate((*_PRIVATE, *_PRIVATE_OFF))}
_SCREENS = (47, 1047, 1049)
_DEEPEST = 9

_SEQUENCE = re.compile(rb"\x1b(?:\[([?>=<]?)([0-9;]{0,60})([hlrmu])|([=>c])|(\[!p))")
_LONGEST = 64
"""Bytes of a sequence whose beginning is kept for the next piece."""


class Modes:
    """Follows an agent's output.

    Args:
        flags: where to keep what is seen: `SIZE` zero bytes.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._begun = b""

    def follow(self, data: bytes) -> None:
        """Look at the next piece of output."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        last = data.rfind(b"\x1b")
        if last < 0:
            return
        for match in _SEQUENCE.finditer(data):
            self._obey(match)
        if len(data) - last < _LONGEST and not _SEQUENCE.match(data, last):
            self._begun = data[last:]

    def _obey(self, match: re.Match[bytes]) -> None:
        kind, numbers, final, simple, _ = match.groups()
        flags = self._flags
        if final is None:
            if simple in (b"=", b">"):
                flags[_KEYPAD] = simple == b"="
            else:  # a reset
                for place in range(SIZE):
                    flags[place] = 0
        elif final in b"hl" and kind == b"?":
            self._set(numbers, on=final == b"h")
        elif final == b"r" and not kind:
            flags[_REGION] = bool(numbers.strip(b";"))
        elif final == b"m" and kind == b">" and numbers.startswith(b"4"):
            flags[_KEYS] = numbers[2:] not in (b"", b"0")
        elif final == b"u" and kind == b">":
            flags[_KITTY] = min(flags[_KITTY] + 1, _DEEPEST)
        elif final == b"u" and kind == b"<":
            flags[_KITTY] = max(flags[_KITTY] - int(numbers.partition(b";")[0] or b"1"), 0)

    def _set(self, numbers: bytes, *, on: bool) -> None:
        for number in numbers.split(b";"):
            place = _PLACES.get(int(number or b"0"))
            if place is not None:
                self._flags[place] = on == (place < len(_PRIVATE))


def undoing(flags: Flags) -> bytes:
    """Return what to write so that the terminal is as it was before the agent, nothing where it is."""
    parts = [b"\x1b[?%dl" % number for number in _PRIVATE if flags[_PLACES[number]] and number not in _SCREENS]
    if flags[_KITTY]:
        parts.append(b"\x1b[<%du" % flags[_KITTY])
    if flags[_KEYS]:
        parts.append(b"\x1b[>4m")
    if flags[_KEYPAD]:
        parts.append(b"\x1b>")
    if flags[_REGION]:
        parts.append(b"\x1b7\x1b[r\x1b8")  # it also sends the cursor home
    parts += [b"\x1b[?%dh" % number for number in _PRIVATE_OFF if flags[_PLACES[number]]]
    parts += [b"\x1b[?%dl" % number for number in _SCREENS if flags[_PLACES[number]]]
    return b"".join([*parts, b"\x1b[m"]) if parts else b""
