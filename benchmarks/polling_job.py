"""What many write first: a job that asks psutil every few seconds whether the processes are still there.

Not a benchmark by itself. Looks at the running rows of one store, as `floor` does, but never at an exit: it cannot know
the exit code.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time

import psutil
from apscheduler.schedulers.asyncio import AsyncIOScheduler


async def main(file: str, every: float) -> None:
    """Poll for ever."""
    store = sqlite3.connect(file, isolation_level=None, timeout=30)
    store.execute("PRAGMA synchronous = NORMAL")
    started: dict[int, float] = {}

    async def job() -> None:
        for run_id, pid in store.execute("SELECT id, pid FROM runs WHERE status = 'running'").fetchall():
            try:
                created = psutil.Process(pid).create_time()
            except psutil.NoSuchProcess:
                created = None
            if created is None or created != started.setdefault(run_id, created):
                store.execute(
                    "UPDATE runs SET status = 'crashed', ended_at = ? WHERE id = ?", (time.time_ns() // 10**6, run_id)
                )

    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_job(job, "interval", seconds=every)
    await job()
    scheduler.start()
    print("watching", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
