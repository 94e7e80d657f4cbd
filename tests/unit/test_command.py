"""What a command line runs."""

from __future__ import annotations

import pytest

from supervisor.process.command import program_of, script_of


@pytest.mark.parametrize(
    ("argv", "program", "script"),
    [
        (("/usr/bin/node", "--max-old-space-size=1", "/x/server.js", "--key", "secret"), "node", "server.js"),
        (("python3.11", "-m", "http.server", "8000"), "python3.11", "http.server"),
        (("python3", "-c", "import os; print(1)"), "python3", ""),
        (("node", "--require", "a=secret", "b.js"), "node", ""),
        (("sh", "/x/run", "secret"), "sh", "run"),
        (("sh", "-c", "secret"), "sh", ""),
        (("server", "secret"), "server", ""),
        (("tmux: server",), "tmux", ""),
        (("nginx: master process /x",), "nginx", ""),
        (("postgres", ""), "postgres", ""),
        (("",), "", ""),
        ((), "", ""),
    ],
)
def test_names(argv: tuple[str, ...], program: str, script: str) -> None:
    """A program is named, and the script of an interpreter, but no other argument: there may be secrets."""
    assert (program_of(argv), script_of(argv)) == (program, script)
