"""Parking without a daemon: names that fit, and orders that a service manager does not take at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from nursery import Nursery, linux
from stage import Stage

from supervisor.daemon.bindings import RETRY, Bound, Identity
from supervisor.daemon.parking import LONGEST_NAME, Parking, name_of
from supervisor.daemon.service_manager import ServiceManager
from supervisor.models import Cause, Claim
from supervisor.process.surroundings import Surroundings, clocks

pytestmark = linux


class Busy(ServiceManager):
    """A manager that takes nothing until it is ``free``; ``told`` is what it has taken."""

    def __init__(self) -> None:
        super().__init__({})
        self.free = False
        self.told: list[tuple[str, int | None]] = []

    @property
    def is_there(self) -> bool:
        """It listens, if late."""
        return True

    def tell(self, *fields: str, descriptor: int | None = None) -> bool:
        """Take a message, if it is free."""
        if self.free:
            self.told.append((fields[0], descriptor))
        return self.free


def bound(run_id: int = 1, pid: int = 4711, start: int = 123456, directory: str = "/project") -> Bound:
    """Return a binding of a foreign run with a parent."""
    claim = Claim(run_id, pid, 1763900000, directory, "claude", None)
    place = Surroundings(None, None, 0, clocks())
    return Bound(claim, Identity(pid, start), True, "F19", None, Identity(pid - 1, start), Cause.LOST, place)


@pytest.mark.parametrize("directory", ["/project", "/" + "ä:\n" * 1000])
def test_names_fit(directory: str) -> None:
    """A hundred million runs, the largest pid and three years of uptime fit into a name, whatever the directory."""
    name = name_of((directory, 99_999_999), bound(99_999_999, (1 << 22) - 1, 10**10, directory))
    assert name is not None
    assert len(name) <= LONGEST_NAME
    assert name.isascii()
    assert name.isprintable()
    assert ":" not in name


def test_a_name_that_would_be_too_long_is_none() -> None:
    """What does not fit is not parked, and is supervised all the same."""
    assert name_of(("/project", 10**40), bound(10**40)) is None


def test_what_is_let_go_before_it_was_told_is_never_told() -> None:
    """A descriptor that has been closed meanwhile, or is another's by now, must not reach the manager."""
    manager, run = Busy(), ("/project", 1)
    parking = Parking(manager)
    first, second, third = (os.open(os.devnull, os.O_RDONLY) for _ in range(3))
    parking.park(run, bound(), first)
    parking.flush()
    parking.remove(run)
    parking.park(run, bound(), second)
    manager.free = True
    parking.flush()
    assert manager.told == [("FDSTORE=1", second)]
    manager.told.clear()
    manager.free = False
    parking.remove(run)
    parking.park(run, bound(), third)
    parking.remove(run)
    manager.free = True
    parking.flush()
    assert manager.told == [("FDSTOREREMOVE=1", None)]
    for descriptor in (first, second, third):
        os.close(descriptor)


def test_what_cannot_be_written_stays_parked(project: Path, nursery: Nursery) -> None:
    """The pidfd of a run whose ending a lock keeps from its store stays for the next daemon, until it is written."""
    manager = Busy()
    manager.free = True
    parking = Parking(manager)
    with Stage(project, parking=parking) as stage:
        agent = nursery.born()
        run = stage.run(agent, stamped=True)
        stage.tick()
        parking.flush()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        parking.flush()
        assert [what for what, _ in manager.told] == ["FDSTORE=1"]
        stage.original.connection.execute("rollback")
        stage.pass_(RETRY)
        parking.flush()
        assert stage.row(run) == ("crashed", 137)
        assert [what for what, _ in manager.told] == ["FDSTORE=1", "FDSTOREREMOVE=1"]


def test_a_pidfd_that_is_closed_unheard_is_never_told(project: Path, nursery: Nursery) -> None:
    """Where the manager has not heard of it before it is closed, a descriptor of that number may be another's."""
    manager = Busy()
    parking = Parking(manager)
    with Stage(project, parking=parking) as stage:
        agent = nursery.born()
        stage.run(agent, stamped=True)
        stage.tick()
        parking.flush()
        stage.original.connection.execute("begin immediate")
        nursery.end(agent, -signal.SIGKILL)
        stage.exits()
        manager.free = True
        parking.flush()
        stage.original.connection.execute("rollback")
        assert manager.told == []
