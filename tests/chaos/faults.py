"""The faults, and how often each is done."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from chaos.process_faults import ProcessFaults
from chaos.store_faults import StoreFaults
from chaos.world import World


class Faults:
    """Does a fault, whichever, at each call of `strike`.

    Args:
        world: counts them.
        random: decides everything.
        processes: what can be done to processes.
        stores: what can be done to stores.
    """

    def __init__(self, world: World, random: Random, processes: ProcessFaults, stores: StoreFaults) -> None:
        self._world, self._random, self._processes, self._stores = world, random, processes, stores
        self._kinds: list[tuple[int, Callable[[], str | None]]] = [
            (8, processes.kill_daemon),
            (4, processes.restart_daemon),
            (4, processes.hold_daemon),
            (2, processes.starve_daemon),
            (3, processes.hang_up_daemon),
            (10, processes.kill_wrapper),
            (5, processes.hold_wrapper),
            (4, processes.end_by_wrapper),
            (5, processes.order_end),
            (6, processes.hold_agent),
            (4, processes.kill_writer),
            (3, processes.hold_writer),
            (5, processes.reuse_pid),
            (6, stores.lock_store),
            (3, stores.forbid_writing),
            (4, stores.move_project),
            (3, stores.swap_store),
            (3, stores.restore_store),
            (4, stores.delete_store),
            (3, stores.truncate_store),
            (3, stores.junk_store),
            (2, stores.bring_code),
            (2, stores.link_store),
            (4, stores.fill_store_disk),
            (2, stores.fill_state_disk),
            (2, stores.litter),
        ]

    def strike(self) -> None:
        """Do a fault that can be done now."""
        weights, kinds = zip(*self._kinds, strict=True)
        (fault,) = self._random.choices(kinds, weights)
        name = fault()
        if name is not None:
            self._world.count(name)

    def end_all(self) -> None:
        """End all that goes on."""
        self._stores.end_all()
        self._processes.end_all()
