"""Programs that outlive by design whoever has started them: ending them would end what belongs to others too."""

from __future__ import annotations

import os

from supervisor.process import procfs

_WITH_WORD = {
    "codex": ("app-server", "pid-update-loop"),
    "cline": ("--cline-hub-daemon",),
    "agent-yes-supervise": ("daemon",),
    "ays": ("daemon",),
}
"""Daemons by program and argument: agents share them, go on with a turn in them, and come back to them."""

_ALWAYS = frozenset(
    {
        *("tmux", "screen", "SCREEN", "zellij", "dtach", "abduco"),  # in these there may be a person's own shells
        *("ssh-agent", "gpg-agent", "keyboxd", "dirmngr", "scdaemon", "dbus-daemon", "systemd"),  # the user's own
    }
)


def outlives_agents(pid: int) -> bool:
    """Tell whether a process is such a program."""
    argv = procfs.read_argv(pid)
    return argv is not None and is_lasting(argv)


def is_lasting(argv: tuple[str, ...]) -> bool:
    """Tell whether a command line is that of such a program, itself or as the script of an interpreter. Pure."""
    names = [_program(word) for word in argv[:2]]
    if names[0] in _ALWAYS or argv[0].startswith("tmux: "):
        return True
    return any(word in argv[1:] for name in names for word in _WITH_WORD.get(name, ()))


def _program(word: str) -> str:
    return os.path.basename(word).removesuffix(".js").removesuffix(".exe")
