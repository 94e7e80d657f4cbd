"""What the daemon does periodically. The only place that knows APScheduler."""

from __future__ import annotations

from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler

SWEEP_EVERY = 30.0
"""Seconds between sweeps, by default."""


def start_jobs(sweep: Callable[[], None], *, sweep_every: float) -> Callable[[], None]:
    """Start the periodic jobs on the running asyncio loop; return what stops them.

    A job that the machine slept through runs once when it wakes: APScheduler's own default drops it after a second.
    """
    scheduler = AsyncIOScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )

    async def run_sweep() -> None:
        # A plain function would run in a thread, and a store's connection belongs to the loop's.
        sweep()

    scheduler.add_job(run_sweep, "interval", seconds=sweep_every, id="sweep")
    scheduler.start()
    return lambda: scheduler.shutdown(wait=False)
