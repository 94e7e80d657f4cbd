"""``python -m chaos``: the attack. Exit code 1 if anything was wrong, lost or doubled, or if anything broke."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from chaos import apart
from chaos.play import Play

_REST = 240.0
"""Seconds for all but playing and settling; by default all of it then takes less than ten minutes."""


def main() -> int:
    """Play, and report."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="of faults; settling and judging come after them")
    parser.add_argument("--seed", type=int, help="what decides everything; by default another each time")
    parser.add_argument("--stores", type=int, default=6)
    parser.add_argument(
        "--rate", type=float, default=1.0, help="how much happens, 1 is about 12 agents and a fault a second"
    )
    parser.add_argument("--burst", type=int, default=1000, help="agents that exit at once, now and then")
    parser.add_argument("--settle", type=float, default=120.0, help="seconds that everything may take to be settled")
    parser.add_argument(
        "--spoil", action="store_true", help="spoil three rows before they are judged, to see that it is seen"
    )
    parser.add_argument("--keep", type=Path, help="a folder to make for everything, and to keep")
    parser.add_argument(
        "--figures",
        type=Path,
        help="a file that a line of JSON is added to; `python -m chaos.table FILE` makes a page of the lines",
    )
    parser.add_argument("--if-possible", action="store_true", help="pass where namespaces cannot be made")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = SystemRandom().randrange(1 << 32)
    if not apart.is_apart():
        if not apart.is_possible():
            print("not attacked: that needs namespaces, so root or user namespaces", flush=True)
            return 0 if options.if_possible else 1
        print(f"seed {options.seed}", flush=True)
        again = [*sys.argv[1:], "--seed", str(options.seed)]
        return apart.run("chaos", again, options.seconds + options.settle + _REST)
    with tempfile.TemporaryDirectory(prefix="ays-chaos-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        if options.keep is not None:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        with apart.own_disk(folder, keep=options.keep is not None):
            return Play(options, folder).run()


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
