"""The systemd user unit, rendered from the readable one that the package ships. Pure, but for reading that."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from supervisor import __version__

UNIT = "agent-yes-supervise.service"

GRADUAL_RESTARTS = 254
"""The first version of systemd with RestartSteps= and RestartMaxDelaySec=; others warn of what they do not know."""

_HEADING = f"""\
# Written by `agent-yes-supervise service install`, version {__version__}, which writes it anew the next time.
# For changes of your own: systemctl --user edit {UNIT}
"""

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def shipped() -> str:
    """Return the unit as the package ships it; in a checkout it stands in the folder ``systemd``."""
    packaged = resources.files("supervisor.service") / UNIT
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    checkout = os.path.join(os.path.dirname(__file__), "..", "..", "systemd", UNIT)
    with open(checkout, encoding="utf-8") as file:
        return file.read()


def render(unit: str, *, command: Sequence[str], environment: Mapping[str, str], version: int) -> str:
    """Return the unit with a user's own command and environment.

    Args:
        unit: as shipped.
        command: what runs the daemon; its first word is an absolute path.
        environment: what the daemon is to have of the user's.
        version: systemd's.
    """
    lines = [line for line in unit.splitlines() if not line.startswith("#")]
    rendered = []
    for line in lines:
        name = line.partition("=")[0]
        if name == "ExecStart":
            program, *words = command
            # systemd expands no variables in the program's path, but in its arguments it does.
            rendered.append(f"ExecStart={' '.join([_quoted(program), *(_quoted(word, '$') for word in words)])}")
        elif name == "Environment":
            rendered += [f"Environment={_quoted(f'{key}={value}')}" for key, value in environment.items()]
        else:
            rendered.append(line)
        if name == "RestartSec" and version >= GRADUAL_RESTARTS:
            rendered += ["RestartSteps=6", "RestartMaxDelaySec=60"]
    return "\n".join([_HEADING.rstrip(), *rendered]) + "\n"


def _quoted(word: str, doubled: str = "") -> str:
    """Return a word as systemd reads it back (systemd.syntax(7)); ``%`` would be a specifier."""
    for character in f"%{doubled}":
        word = word.replace(character, character * 2)
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
