"""``python -m chaos.table FILE``: the figures of plays, as ``--figures`` has kept them, as a page for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_COLUMNS = ("seconds", "faults", "runs judged", "wrong", "lost", "doubled", "daemons", "ended unasked", "tracebacks")
_MORE = ("not knowable", "taken by a fault", "settled after, s", "load, cores")

_HEAD = """# The attack

`make chaos`, with different seeds. Every run is judged by an oracle that stands outside (`tests/chaos/oracle.py`); a
play fails for a single run that is wrong, lost or doubled, for a daemon that ends unasked, and for a traceback in any
log.

- *wrong*: the row says anything else than how the agent ended, or said that it had ended while it lived.
- *lost*: the row of a run that was recorded is gone, though no fault has taken it.
- *not knowable*: recorded as ended with the status unknown, rightly: no daemon could know. Most are of the bursts: a
  thousand agents that end at once while the daemon is killed, stopped or short of descriptors.
- *taken by a fault*: the row went with a store that was deleted, damaged or put back as it had been.
- *settled after*: seconds from the end of the faults until no run was left unsettled.
- *load, cores*: the machine's average of the last five minutes, to which others may have added, and its processors.
"""


def read(file: Path) -> list[dict[str, Any]]:
    """Return the figures of each play that a file holds."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def page(plays: list[dict[str, Any]]) -> str:
    """Return the page."""
    head = ["seed", *_COLUMNS, *_MORE]
    lines = [_HEAD, _row(head), _row(["---"] * len(head))]
    lines += [_row([play["seed"], *(play[name] for name in (*_COLUMNS, *_MORE))]) for play in plays]
    sums = [sum(play[name] for play in plays) for name in (*_COLUMNS, *_MORE[:-2])]
    lines += [_row(["all", *(round(number) for number in sums), "", ""]), "", "## Faults by kind", ""]
    seeds = [play["seed"] for play in plays]
    lines += [_row(["fault", *seeds, "all"]), _row(["---"] * (len(seeds) + 2))]
    for kind in sorted({kind for play in plays for kind in play["by kind"]}):
        counts = [play["by kind"].get(kind, 0) for play in plays]
        lines.append(_row([kind, *counts, sum(counts)]))
    return "\n".join(lines) + "\n"


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    print(page(read(Path(sys.argv[1]))), end="")
