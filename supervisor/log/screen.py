"""What a terminal would show of an agent's output: control sequences rendered away, line by line.

As much of a terminal as programs use to draw (ECMA-48, xterm's ctlseqs): the cursor, erasing, inserting, scrolling, and
the alternate screen, whose last picture is kept where it was left. Colours and all else is passed over.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

MOST_LINES, MOST_COLUMNS = 2000, 10_000

_TOKEN = re.compile(
    r"[^\x00-\x1f\x7f-\x9f]+"
    r"|\x1b\[(?P<numbers>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b\](?:7749;(?P<lines>\d{1,5});(?P<columns>\d{1,5})|[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1b[P_^X][^\x1b]*\x1b\\"
    r"|\x1b[ -/]*(?P<escape>[0-OQ-WYZ\\`-~])"
    r"|[\x00-\x1f\x7f-\x9f]"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,65536}\x1b?|[P_^X][^\x1b]{0,65536}\x1b?|[ -/]*)\Z")
_MOVES = {"A": (0, -1), "B": (0, 1), "C": (1, 0), "D": (-1, 0), "E": (0, 1), "F": (0, -1), "a": (1, 0), "e": (0, 1)}
"""Where the cursor goes, to the right and down, by the end of the sequence."""

_SCREENS = ("?47", "?1047", "?1049")


class _Row:
    """A line of the screen: a text for each column, empty behind a wide character; and whether it has been told."""

    __slots__ = ("cells", "told")

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.told = False

    def __str__(self) -> str:
        return "".join(self.cells).rstrip()


class Screen:
    """Takes output and tells lines when they leave the top of the screen, so that they cannot change any more.

    Args:
        tell: takes each line.
        lines: the screen's height.
        columns: its width.
    """

    def __init__(self, tell: Callable[[str], object], *, lines: int = 24, columns: int = 80) -> None:
        self._tell = tell
        self._lines, self._columns = lines, columns
        self._rows: list[_Row] = []
        self._x = self._y = 0
        self._top, self._bottom = 0, lines - 1
        self._saved = (0, 0)
        self._main: tuple[list[_Row], int, int] | None = None
        self._begun = ""
        self._is_terminal = False
        """Until a size says that this was a terminal's, an end of line alone begins a new one."""

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        text, at = self._begun + text, 0
        self._begun = ""
        while match := _TOKEN.match(text, at):
            token = match[0]
            if token == "\x1b":  # noqa: S105  no secret
                if _BEGUN.match(text, at):
                    self._begun = text[at:]
                    return
            elif token[0] >= " " and not "\x7f" <= token[0] <= "\x9f":
                self._put(token)
            elif len(token) == 1:
                self._control(token)
            elif match["final"]:
                if not match["between"]:
                    self._command(match["final"], match["numbers"])
            elif match["lines"]:
                self._resize(int(match["lines"]), int(match["columns"]))
            elif match["escape"]:
                self._escape(match["escape"])
            at = match.end()

    def settle(self) -> None:
        """Tell the lines above the cursor that have not been told yet: for who cannot wait until they leave."""
        if self._main is None:
            for row in self._rows[: self._y]:
                self._tell_row(row)

    def finish(self) -> None:
        """Tell what is on the screen."""
        if self._main is not None:
            self._leave_alternate()
        while self._rows and not str(self._rows[-1]):
            self._rows.pop()
        for row in self._rows:
            self._tell_row(row)
        self._rows, self._x, self._y = [], 0, 0

    def _tell_row(self, row: _Row) -> None:
        if not row.told:
            row.told = True
            self._tell(str(row))

    def _row(self, number: int) -> _Row:
        while len(self._rows) <= number:
            self._rows.append(_Row())
        return self._rows[number]

    def _put(self, text: str) -> None:
        cells: list[str] | str = text if text.isascii() else _cells(text)
        while cells:
            if cells[0] and unicodedata.combining(cells[0][0]) and self._x:
                row = self._row(self._y).cells
                if row:
                    row[min(self._x, len(row)) - 1] += cells[0]
                cells = cells[1:]
                continue
            if self._x >= self._columns:
                self._x = 0
                self._feed_line()
            part = cells[: self._columns - self._x]
            row = self._row(self._y).cells
            if len(row) < self._x:
                row.extend(" " * (self._x - len(row)))
            if self._x and row[self._x : self._x + 1] == [""]:  # half a wide character is none
                row[self._x - 1] = " "
            row[self._x : self._x + len(part)] = part
            self._x += len(part)
            if row[self._x : self._x + 1] == [""]:
                row[self._x] = " "
            cells = cells[len(part) :]

    def _control(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character in "\n\x0b\x0c\x84":
            self._feed_line()
        elif character == "\x85":
            self._x = 0
            self._feed_line()
        elif character == "\b":
            self._x = max(0, min(self._x, self._columns - 1) - 1)
        elif character == "\t":
            self._x = min(self._columns - 1, (self._x // 8 + 1) * 8)

    def _escape(self, final: str) -> None:
        if final in "DE":
            self._x = 0 if final == "E" else self._x
            self._feed_line()
        elif final == "M":
            if self._y == self._top:
                self._scroll_down(1)
            else:
                self._y = max(0, self._y - 1)
        elif final == "7":
            self._saved = self._x, self._y
        elif final == "8":
            self._x, self._y = self._saved
        elif final == "c":
            self._rows, self._x, self._y = [], 0, 0
            self._top, self._bottom = 0, self._lines - 1

    def _command(self, final: str, numbers: str) -> None:
        if final in "hl":
            if any(f"?{number}" in _SCREENS for number in numbers[1:].split(";")) and numbers[0] == "?":
                (self._enter_alternate if final == "h" else self._leave_alternate)()
        elif not numbers or numbers.replace(";", "0").isdecimal():
            given = [int(number[:5] or 0) for number in numbers.split(";")]
            first, second = given[0], given[1] if len(given) > 1 else 0
            if not self._move(final, max(1, first), max(1, second)):
                self._edit(final, first, max(1, first), second)

    def _move(self, final: str, count: int, second: int) -> bool:
        x, y = min(self._x, self._columns - 1), self._y
        if final in _MOVES:
            right, down = _MOVES[final]
            self._go(0 if final in "EF" else x + right * count, y + down * count)
        elif final in "G`":
            self._go(count - 1, y)
        elif final == "d":
            self._go(x, count - 1)
        elif final in "Hf":
            self._go(second - 1, count - 1)
        elif final == "s":
            self._saved = self._x, y
        elif final == "u":
            self._x, self._y = self._saved
        else:
            return False
        return True

    def _edit(self, final: str, first: int, count: int, second: int) -> None:
        row, x = self._row(self._y).cells, min(self._x, self._columns - 1)
        if final == "J":
            self._erase_screen(first)
        elif final == "K":
            self._erase_line(first)
        elif final in "SLTMr":
            self._scroll(final, count, second)
        elif final == "X":
            end = min(len(row), x + count)
            row[x:end] = " " * max(0, end - x)
        elif final == "P":
            del row[x : x + count]
        elif final == "@" and x < len(row):
            row[x:x] = " " * min(count, self._columns)
            del row[self._columns :]

    def _scroll(self, final: str, count: int, second: int) -> None:
        if final == "S":
            self._scroll_up(count)
        elif final == "T":
            self._scroll_down(count)
        elif final == "r":
            top, bottom = count - 1, min(second or self._lines, self._lines) - 1
            self._top, self._bottom = (top, bottom) if top < bottom else (0, self._lines - 1)
            self._x = self._y = 0
        elif self._top <= self._y <= self._bottom:
            top, self._top = self._top, self._y
            (self._scroll_down if final == "L" else self._drop_lines)(count)
            self._top = top

    def _go(self, x: int, y: int) -> None:
        self._x = max(0, min(x, self._columns - 1))
        self._y = max(0, min(y, self._lines - 1))

    def _feed_line(self) -> None:
        if not self._is_terminal:
            self._x = 0
        if self._y == self._bottom:
            self._scroll_up(1)
        else:
            self._y = min(self._y + 1, self._lines - 1)
        self._row(self._y)

    def _scroll_up(self, count: int) -> None:
        for _ in range(min(count, self._lines)):
            self._row(self._bottom)
            row = self._rows.pop(self._top)
            self._rows.insert(self._bottom, _Row())
            if self._top == 0 and self._main is None:
                self._tell_row(row)

    def _drop_lines(self, count: int) -> None:
        for _ in range(min(count, self._lines)):
            self._row(self._bottom)
            del self._rows[self._top]
            self._rows.insert(self._bottom, _Row())

    def _scroll_down(self, count: int) -> None:
        for _ in range(min(count, self._lines)):
            self._row(self._bottom)
            del self._rows[self._bottom]
            self._rows.insert(self._top, _Row())

    def _erase_screen(self, how: int) -> None:
        if how == 0:
            self._erase_line(0)
            del self._rows[self._y + 1 :]
        elif how == 1:
            self._erase_line(1)
            self._rows[: self._y] = [_Row() for _ in range(self._y)]
        elif how == 2:
            self._rows = []

    def _erase_line(self, how: int) -> None:
        row, x = self._row(self._y).cells, min(self._x, self._columns - 1)
        if how == 0:
            del row[x:]
        elif how == 1:
            row[: x + 1] = " " * min(len(row), x + 1)
        elif how == 2:
            row.clear()

    def _enter_alternate(self) -> None:
        if self._main is None:
            self._main = self._rows, self._x, self._y
            self._rows, self._x, self._y = [], 0, 0

    def _leave_alternate(self) -> None:
        if self._main is None:
            return
        picture = [str(row) for row in self._rows]
        self._rows, self._x, self._y = self._main
        self._main = None
        self._top, self._bottom = 0, self._lines - 1
        while picture and not picture[-1]:
            picture.pop()
        for line in picture:
            self._put(line)
            self._x = 0
            self._feed_line()

    def _resize(self, lines: int, columns: int) -> None:
        if not lines or not columns:
            return
        self._is_terminal = True
        self._lines, self._columns = min(lines, MOST_LINES), min(columns, MOST_COLUMNS)
        while len(self._rows) > self._lines:
            if self._y < len(self._rows) - 1 and not str(self._rows[-1]):
                self._rows.pop()
                continue
            row = self._rows.pop(0)
            self._y = max(0, self._y - 1)
            if self._main is None:
                self._tell_row(row)
        self._top, self._bottom = 0, self._lines - 1
        self._go(self._x, self._y)


def _cells(text: str) -> list[str]:
    """Return a text column by column: a wide character takes two, one that joins what is before it takes none."""
    cells: list[str] = []
    for character in text:
        if character.isascii():
            cells.append(character)
        elif unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
            if cells:
                cells[-1 if cells[-1] else -2] += character
            elif unicodedata.combining(character):
                cells.append(character)
        elif unicodedata.east_asian_width(character) in "WF":
            cells += [character, ""]
        else:
            cells.append(character)
    return cells
