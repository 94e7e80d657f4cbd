"""The processes below an agent, and a signal to all of them. Linux only; elsewhere there are none.

An agent is often a launcher with the agent proper below it, and some launchers ignore what should end both.
"""

from __future__ import annotations

import os
import signal

from supervisor.process import lasting, pidfd, procfs
from supervisor.process.token import token_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.process.procfs import Stat


def family_of(agent: int) -> list[tuple[int, int]]:
    """Return pid and start of all that stand below an agent, parents first.

    What outlives agents by design is spared, with all below it, and so is the agent of another run: its own wrapper
    passes on what that gets.
    """
    seen = stats()
    tokens = {agent: token_of(agent)}
    spared: set[int] = set()
    family = []
    for pid in below(agent, seen):
        stat = seen[pid]
        tokens[pid] = token_of(pid)
        if stat.ppid in spared or _is_another_run(tokens[pid], tokens[stat.ppid]) or lasting.outlives_agents(pid):
            spared.add(pid)
        elif not stat.is_dead:
            family.append((pid, stat.start_ticks))
    return family


def signal_family(family: Iterable[tuple[int, int]], number: int) -> None:
    """Send a signal to those of a family that are still there, whoever is their parent now."""
    for pid, start_ticks in family:
        _send(pid, start_ticks, number)


def below(root: int, seen: Mapping[int, Stat]) -> Iterable[int]:
    """Return the descendants of a process, each behind its parent."""
    children: dict[int, list[int]] = {}
    for pid, stat in seen.items():
        children.setdefault(stat.ppid, []).append(pid)
    found = [root]
    for pid in found:
        # What was read one by one may not fit together, and then even run in a circle.
        found.extend(child for child in children.get(pid, ()) if child not in found)
    return found[1:]


def stats() -> dict[int, Stat]:
    """Return what the kernel says of each process that is to be seen."""
    found = {}
    for pid in procfs.processes():
        try:
            found[pid] = procfs.read_stat(pid)
        except (OSError, ValueError):
            continue
    return found


def _is_another_run(token: str | None, parents: str | None) -> bool:
    return token is not None and parents is not None and token != parents


def _send(pid: int, start_ticks: int, number: int) -> None:
    """Send a signal to the very process that was seen, one descriptor at a time: there may be few."""
    try:
        descriptor = pidfd.open_pidfd(pid)
    except (OSError, OverflowError):
        return
    try:
        if procfs.read_stat(pid).start_ticks == start_ticks:
            signal.pidfd_send_signal(descriptor, number)
    except (OSError, ValueError, AttributeError):  # gone, another user's, or a Python without the call
        return
    finally:
        os.close(descriptor)
