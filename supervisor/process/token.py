"""The token that ties a process to the run that it belongs to: a variable in its environment.

Children inherit it, and an agent that is wrapped within another's run has another one, so that a process belongs to
the innermost run. Only a process that clears its environment loses it.
"""

from __future__ import annotations

from supervisor.process import procfs

VARIABLE = "AGENT_YES_RUN"
"""The environment variable that carries a run's token to its agent and all that the agent starts."""

_ENTRY = f"{VARIABLE}=".encode()


def token_of(pid: int) -> str | None:
    """Return the token that a process was started with, None where it has none, is gone, or hides its environment."""
    environment = procfs.read_environment(pid)
    if environment is None:
        return None
    for entry in environment:
        if entry.startswith(_ENTRY):
            return entry.removeprefix(_ENTRY).decode("ascii", "replace")
    return None
