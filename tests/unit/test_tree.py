"""The processes below an agent."""

from __future__ import annotations

import signal

from kit import Processes
from nursery import linux

from supervisor.process import tree
from supervisor.process.procfs import Stat, read_stat


def stats(**parents: int) -> dict[int, Stat]:
    """Return a table of processes, each given as ``pN=its parent``."""
    return {int(name[1:]): Stat(state="S", ppid=parent, start_ticks=1) for name, parent in parents.items()}


def test_parents_first() -> None:
    """All descendants are found, each behind its parent, and nobody else."""
    assert list(tree.below(10, stats(p30=20, p20=10, p5=30, p10=1, p40=1, p21=10))) == [20, 21, 30, 5]


def test_circle() -> None:
    """A table that was read while pids changed hands, and runs in a circle, has an end."""
    assert list(tree.below(10, stats(p10=30, p20=10, p30=20))) == [20, 30]


@linux
def test_another_that_has_the_pid(processes: Processes) -> None:
    """A process that has got the pid of one of the family meanwhile is not signalled; the very one is."""
    process = processes.living()
    start = read_stat(process.pid).start_ticks
    tree.signal_family([(process.pid, start - 1)], signal.SIGKILL)
    assert process.poll() is None
    tree.signal_family([(process.pid, start)], signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
