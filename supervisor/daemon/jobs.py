"""What the daemon does periodically. The only place that knows APScheduler."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

NIGHTLY_AT = 3
"""The hour, by local time, at which old records and logs are deleted."""

CATCHES_UP_AFTER = 300.0
"""Seconds after the daemon's start at which it makes up for a night that it has missed."""


class Jobs:
    """The periodic jobs on the running asyncio loop.

    A job that the machine slept through runs once when it wakes: APScheduler's own default drops it after a second.

    Args:
        sweep: looks at everything again; runs on the loop.
        prune: deletes what is old; runs in a thread, for it may take minutes.
        sweep_every: seconds between sweeps.
        prune_in: seconds until the first pruning, None to wait for the night.
    """

    def __init__(
        self,
        sweep: Callable[[], None],
        prune: Callable[[], None],
        *,
        sweep_every: float,
        prune_in: float | None = None,
    ) -> None:
        self._stopped = False
        self._scheduler = AsyncIOScheduler(
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
        )

        async def run_sweep() -> None:
            # A plain function would run in a thread, and a store's connection belongs to the loop's.
            if not self._stopped:  # it may have been due just then
                sweep()

        self._scheduler.add_job(run_sweep, "interval", seconds=sweep_every, id="sweep")
        first = {} if prune_in is None else {"next_run_time": datetime.now(UTC) + timedelta(seconds=prune_in)}
        here = datetime.now().astimezone().tzinfo
        self._scheduler.add_job(prune, "cron", hour=NIGHTLY_AT, timezone=here, id="prune", **first)
        self._scheduler.start()

    def sweep_every(self, seconds: float) -> None:
        """Sweep at another pace from now on."""
        self._scheduler.reschedule_job("sweep", trigger="interval", seconds=seconds)

    def stop(self) -> None:
        """Begin nothing more; a pruning that is under way is not waited for here."""
        self._stopped = True
        self._scheduler.shutdown(wait=False)
