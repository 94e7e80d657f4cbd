"""What the daemon does periodically, on a loop of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from supervisor.daemon.jobs import NIGHTLY_AT, AtNight, Jobs


@pytest.fixture
def central_europe() -> Iterator[None]:
    """Give the test a local time with summer and winter, by a rule that needs no tz database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(("month", "day", "hours"), [(3, 28, 23), (10, 24, 25), (6, 2, 24)])
def test_the_night_is_by_the_clock_on_the_wall(month: int, day: int, hours: int) -> None:
    """From one night to the next the hour stays the same, though that night is an hour longer or shorter."""
    trigger, noon = AtNight(), datetime(2026, month, day - 1, 12).astimezone()
    first = trigger.get_next_fire_time(None, noon)
    second = trigger.get_next_fire_time(first, first)
    assert [at.replace(tzinfo=None) for at in (first, second)] == [
        datetime(2026, month, day, NIGHTLY_AT),
        datetime(2026, month, day + 1, NIGHTLY_AT),
    ]
    assert second - first == timedelta(hours=hours)
    late = first + timedelta(days=3)
    assert trigger.get_next_fire_time(first, late) > late


@pytest.mark.usefixtures("central_europe")
def test_jobs_wherever_we_are() -> None:
    """A TZ that is a rule, and the name of no zone, stops no daemon."""

    async def start() -> None:
        Jobs(lambda: None, lambda: None, sweep_every=60).stop()

    asyncio.run(start())


def test_a_sweep_that_is_due_at_the_stop_is_left_out() -> None:
    """A sweep that has come due just when the daemon stops does not open again what has been closed."""
    sweeps: list[float] = []

    async def stop_when_a_sweep_is_due() -> int:
        jobs = Jobs(lambda: sweeps.append(time.monotonic()), lambda: None, sweep_every=0.05)
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        before = 0

        def stop() -> None:
            nonlocal before
            before = len(sweeps)
            jobs.stop()
            stopped.set()

        loop.call_later(0.1, loop.call_soon, stop)  # right behind what the scheduler then asks for
        loop.call_soon(time.sleep, 0.15)  # both come due while the loop is busy, the sweep first
        await stopped.wait()
        await asyncio.sleep(0.01)
        return before

    assert asyncio.run(stop_when_a_sweep_is_due()) == len(sweeps)
