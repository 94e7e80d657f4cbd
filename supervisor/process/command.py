"""What a command line runs: its program, and the script where that is an interpreter. Pure."""

from __future__ import annotations

import itertools
import os

_INTERPRETERS = frozenset({"python", "node", "bun", "deno", "ruby", "perl", "php"})
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})
_NOT_IN_NAMES = frozenset(" \t\n;()=")
"""What shows that a word is a piece of program, or the value of an option."""

_OUR_NAMES = frozenset({"agent-yes-supervise", "ays", "supervisor"})


def program_of(argv: tuple[str, ...]) -> str:
    """Return the name of a command line's program, empty where it has none; some show a title of their own instead."""
    return os.path.basename(argv[0].partition(" ")[0].rstrip(":")) if argv else ""


def is_wrap(argv: tuple[str, ...]) -> bool:
    """Tell whether a command line is that of our own ``wrap``."""
    words = argv[:6]  # an interpreter and its options may stand before our name
    return any(os.path.basename(word) in _OUR_NAMES and after == "wrap" for word, after in itertools.pairwise(words))


def script_of(argv: tuple[str, ...]) -> str:
    """Return the name of the script or module that an interpreter runs, empty where there is none.

    No other argument is ever returned: there may be secrets in them.
    """
    program = program_of(argv)
    if program in _SHELLS:
        words = argv[1:2]  # behind -c stands a program, not its name
    elif program.rstrip("0123456789.") in _INTERPRETERS:
        words = argv[1:]
    else:
        words = ()
    script = next((word for word in words if not word.startswith("-")), "")
    return "" if set(script) & _NOT_IN_NAMES else os.path.basename(script)
