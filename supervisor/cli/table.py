"""Tables that fit the terminal. Where there is none, nothing is cut and nothing coloured."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence

import click

from supervisor.cli.output import clean

_STYLES = {"completed": "green", "failed": "yellow", "crashed": "red", "running": "cyan"}
_DOUBTFUL = "magenta"

_GAP = "  "
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

_NARROW = 100
"""Columns of a terminal below which what can be spared is left out."""

_LEGIBLE = 8
"""Columns that a cut cell keeps as long as there is room."""

_LONGEST = 10_000
"""Characters of a cell that are shown anywhere."""


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    status: str | None = None,
    tails: Sequence[str] = (),
    numbers: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table; on a terminal without its empty columns.

    Args:
        headings: of the columns; the last column is cut where room is short.
        rows: the cells, at least one row.
        status: the column that is coloured by its first word.
        tails: columns that are cut as well, at their beginning: names and paths.
        numbers: columns that are aligned to the right.
        spare: columns that a narrow terminal does not show.
    """
    from rich.cells import cell_len  # noqa: PLC0415  only tables need it

    cells = zip(*([clean(cell[:_LONGEST]) for cell in row] for row in rows), strict=True)
    columns = dict(zip(headings, cells, strict=True))
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if room is not None:
        left_out = spare if room < _NARROW else ()
        columns = {name: column for name, column in columns.items() if any(column) and name not in left_out}
    widths = {name: max(map(cell_len, (name, *column))) for name, column in columns.items()}
    if room is not None:
        _shrink(widths, room, first=(*tails, headings[-1]))

    def fitted(cell: str, name: str) -> str:
        return _fitted(cell, widths[name], keeps_end=name in tails, right=name in numbers)

    lines = [styled(_GAP.join(fitted(name, name) for name in columns).rstrip(), bold=True)]
    for row in zip(*columns.values(), strict=True):
        texts = {name: fitted(cell, name) for name, cell in zip(columns, row, strict=True)}
        if status is not None:
            texts[status] = styled(texts[status], fg=_STYLES.get(texts[status].split(" ")[0], _DOUBTFUL))
        lines.append(_GAP.join(texts.values()).rstrip())
    click.echo("\n".join(lines))


def _shrink(widths: dict[str, int], room: int, *, first: Sequence[str]) -> None:
    """Take from the widest columns what there is no room for: first from those that bear it, then from all."""
    excess = sum(widths.values()) + len(_GAP) * (len(widths) - 1) - room
    for names, least in ([name for name in widths if name in first], _LEGIBLE), (list(widths), 1):
        while excess > 0 and (widest := max(names, key=widths.__getitem__)) and widths[widest] > least:
            widths[widest] -= 1
            excess -= 1


def _fitted(text: str, width: int, *, keeps_end: bool, right: bool) -> str:
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415  see print_table

    if cell_len(text) > width:
        if keeps_end:
            text = _ELLIPSIS + set_cell_size(text[::-1], width - 1)[::-1]
        else:
            text = set_cell_size(text, width - 1) + _ELLIPSIS
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding


def styled(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """Return text in colour, where it goes to a terminal and a person may want that."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return click.style(text, fg=fg, bold=bold) if coloured else text
