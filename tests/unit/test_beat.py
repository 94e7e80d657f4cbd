"""The daemon's beat: it comes when the next thing is due, also if that has turned up since the last."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from nursery import linux

from supervisor.daemon.serve import _Daemon

pytestmark = linux


def test_what_an_exit_makes_due_brings_the_beat_forward() -> None:
    """An ending that waits a second for somebody does not wait for the look of every few seconds."""
    daemon = object.__new__(_Daemon)
    told: list[str] = []
    daemon._supervisor = SimpleNamespace(  # type: ignore[assignment]  # all that is asked for
        on_exits=lambda: told.append("exits"), next_due=lambda: 101.0, means=SimpleNamespace(clock=lambda: 100.0)
    )
    daemon._spool = SimpleNamespace(due=None)  # type: ignore[assignment]  # the same

    async def exits() -> float:
        loop = asyncio.get_running_loop()
        daemon._next_beat = loop.call_later(3, lambda: told.append("beat"))
        daemon._on_exits()
        left = daemon._next_beat.when() - loop.time()
        daemon._next_beat.cancel()
        return left

    assert 0.5 < asyncio.run(exits()) <= 1.0
    assert told == ["exits"]


def test_a_hangup_has_every_store_read() -> None:
    """Who asks for everything to be read anew gets also the stores at rest, of which a sweep reads some."""
    daemon = object.__new__(_Daemon)
    told: list[str] = []
    daemon._manager = SimpleNamespace(reloading=lambda: None, ready=lambda _: None)  # type: ignore[assignment]  # the same
    daemon._settings = SimpleNamespace(reload=lambda: False)  # type: ignore[assignment]  # the same
    daemon._supervisor = SimpleNamespace(doubt=lambda: told.append("doubt"))  # type: ignore[assignment]  # the same
    daemon._sweep = lambda: told.append("sweep")  # type: ignore[method-assign]  # the same
    daemon._status = lambda: ""  # type: ignore[method-assign]  # the same
    daemon._reload()
    assert told == ["doubt", "sweep"]
