"""What the daemon does periodically, on a loop of the test's own."""

from __future__ import annotations

import asyncio
import time

from supervisor.daemon.jobs import Jobs


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
