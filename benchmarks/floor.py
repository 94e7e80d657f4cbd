"""The floor: the least that can turn a death into a row with the same means. Not a benchmark by itself.

asyncio waits on pidfds, and an exit is one UPDATE, committed in WAL mode at NORMAL. It judges nothing, keeps no
evidence, asks for no exit status and waits for no owner: it is told that everything is killed.

It looks for running rows when a line comes on standard input, and answers with one when it watches them all.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import sys
import time

_UPDATE = "UPDATE runs SET status = 'crashed', exit_code = 137, ended_at = ? WHERE id = ? AND status = 'running'"


class Floor:
    """Watches the running rows of one store.

    Args:
        file: the store.
        batched: whether the deaths that one turn of the loop brings are committed together.
    """

    def __init__(self, file: str, *, batched: bool) -> None:
        self._store = sqlite3.connect(file, isolation_level=None, timeout=30)
        self._store.execute("PRAGMA synchronous = NORMAL")
        self._batched = batched
        self._ended: list[int] = []
        self._watched: set[int] = set()
        self._loop = asyncio.get_running_loop()

    def look(self) -> None:
        """Watch the rows that are new."""
        for run_id, pid in self._store.execute("SELECT id, pid FROM runs WHERE status = 'running'").fetchall():
            if run_id not in self._watched:
                self._watched.add(run_id)
                pidfd = os.pidfd_open(pid)
                self._loop.add_reader(pidfd, self._died, run_id, pidfd)

    def _died(self, run_id: int, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        if not self._batched:
            self._store.execute(_UPDATE, (time.time_ns() // 1_000_000, run_id))
            return
        if not self._ended:
            self._loop.call_soon(self._commit)
        self._ended.append(run_id)

    def _commit(self) -> None:
        now, ended, self._ended = time.time_ns() // 1_000_000, self._ended, []
        self._store.execute("BEGIN IMMEDIATE")
        self._store.executemany(_UPDATE, [(now, run_id) for run_id in ended])
        self._store.execute("COMMIT")


async def main(file: str, batched: bool) -> None:
    """Serve until standard input ends."""
    floor, done = Floor(file, batched=batched), asyncio.Event()

    def asked() -> None:
        if not os.read(0, 4096):
            done.set()
            return
        floor.look()
        os.write(1, b"watching\n")

    asyncio.get_running_loop().add_reader(0, asked)
    await done.wait()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], "--batched" in sys.argv))
