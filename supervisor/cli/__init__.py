"""The command line. `main` sends ``wrap`` straight to its own light path; every other command is click's."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line of this process and return its exit code."""
    words = sys.argv[1:]
    if words[:1] == ["wrap"]:
        from supervisor.wrap.options import asks_for_help  # noqa: PLC0415  each path loads only its own

        if not asks_for_help(words[1:]):
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is an agent, Ctrl-C ends us like any program
            from supervisor.wrap.command import run_words  # noqa: PLC0415  the same

            return run_words(words[1:])
    from supervisor.cli.app import run  # noqa: PLC0415  the same

    return run(words)
