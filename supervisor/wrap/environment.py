"""The agent's environment: what it is given of ours, and what of that is recorded."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED = (
    *("PATH", "SHELL", "CI"),
    *("TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ"),
    *("NODE_VERSION", "NVM_BIN", "PYENV_VERSION", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV"),
)
"""The variables whose values are recorded: what explains why another run went otherwise, and never holds a secret."""

_LONGEST = 8192


def inherited() -> dict[str, str]:
    """Return the environment that we were started with: in the C locale Python sets LC_CTYPE (PEP 538)."""
    environment = dict(os.environ)
    if environment.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return environment
    try:
        with open("/proc/self/environ", "rb") as file:
            started_with = file.read().split(b"\0")
    except OSError:  # macOS
        return environment
    del environment["LC_CTYPE"]
    for entry in started_with:
        name, _, value = entry.partition(b"=")
        if name == b"LC_CTYPE":
            environment["LC_CTYPE"] = os.fsdecode(value)
    return environment


def to_record(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment is recorded."""
    return {name: environment[name][:_LONGEST] for name in RECORDED if name in environment}
