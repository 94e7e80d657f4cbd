"""Programs that outlive by design whoever has started them: ending them would end what belongs to others too."""

from __future__ import annotations

from supervisor.process import command, procfs

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
    program = command.program_of(argv)
    script = command.script_of(argv).removesuffix(".js")
    if program in _ALWAYS:
        return True
    return any(word in argv[1:] for name in (program.removesuffix(".exe"), script) for word in _WITH_WORD.get(name, ()))
