"""The way without a log: the agent has the person's own terminal and streams. A `Capture` of nothing."""

from __future__ import annotations

import os

from supervisor.wrap.screen import Screen
from supervisor.wrap.signals import wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Direct:
    """Lets an agent have what we have; its methods are those of `supervisor.wrap.capture.Capture`."""

    leaders = ()
    last_output = 0.0

    def __init__(self) -> None:
        self.heard: dict[int, float] = {}
        self._screen = Screen()
        self._status = 0

    def fork(self) -> int:
        """Fork as os.fork does."""
        return os.fork()

    def open(self, directory: str, token: str) -> None:
        """Make no logs."""

    def wait_for(self, agent: int, /, *, after: float, attend: Callable[[], float | None]) -> int:
        """Wait for the agent's end."""
        self._status = wait_for(agent, after=after, attend=attend, heard=self.heard)
        return self._status

    def drain(self) -> None:
        """Put the terminal right."""
        self._screen.put_right(self._status)

    def finish(self) -> None:
        """Do nothing: what the agent has written is shown."""

    def close(self, *, patiently: bool) -> None:
        """Do nothing: nothing has been opened."""
