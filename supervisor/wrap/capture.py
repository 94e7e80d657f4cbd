"""Capturing what an agent writes: which way, and the copy that goes to its log.

Where stdin and stdout are both a terminal the agent gets one of its own behind a relay; elsewhere each redirected
stream goes through a pipe. Loaded only for a run that is logged.
"""

from __future__ import annotations

import os
import time

from supervisor.errors import SuperviseError
from supervisor.log import folder
from supervisor.log.writer import LogWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Capture(Protocol):
        """One way of capturing, in the order in which its methods are called."""

        heard: dict[int, float]
        """When each signal came to the wrapper last, on the monotonic clock."""

        @property
        def leaders(self) -> tuple[int, ...]:
            """Pids of processes of ours that have led a session or group of the agent's."""

        @property
        def last_output(self) -> float:
            """When the agent last wrote something that we saw, on the monotonic clock; 0 if it has not."""

        def fork(self) -> int:
            """Fork as os.fork does; in the child, which becomes the agent, its streams are what is captured."""

        def open(self, directory: str, token: str) -> None:
            """Make the run's logs; without them the agent goes on all the same."""

        def wait_for(self, agent: int, /, *, after: float, attend: Callable[[], float | None]) -> int:
            """Wait for the agent's end, as `supervisor.wrap.signals.wait_for` does, and pass on what it writes."""

        def drain(self) -> None:
            """Pass on what the agent has left unread, as far as it is taken soon, and put its terminal right."""

        def finish(self) -> None:
            """When the ending is recorded, show on a terminal what it has not taken yet, and put it right then."""

        def close(self, *, patiently: bool) -> None:
            """Do what may be done last, before the wrapper ends.

            ``patiently``, because the agent is started again, only when all that it has written is taken: not before
            that, unless somebody wants us to end.
            """


def capture_for(warn: Callable[[str], None]) -> Capture | None:
    """Return the way to capture what our agent will write, None where there is nothing to capture, and a line says so.

    Args:
        warn: takes a line about what is not logged.
    """
    warn = _once(warn)
    try:
        if os.isatty(0) and os.isatty(1):
            from supervisor.wrap.relay import Relay  # noqa: PLC0415  each way loads its own

            return Relay(warn)
        from supervisor.wrap.tee import Tee, redirected  # noqa: PLC0415  the same

        if redirected():
            return Tee(warn)
    except OSError as error:
        warn(f"this run is not logged: no terminal or pipe is to be had ({error.strerror})")
        return None
    warn("this run is not logged: it writes to a terminal, but its input is none")
    return None


def _once(warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return what takes lines but passes none on twice: two streams may fail for one reason."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            warn(line)

    return tell


class Copy:
    """The copy of a stream that goes to its log; that it cannot be written is told once, by ``warn`` in `close`."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._log: LogWriter | None = None
        self._trouble = ""
        self.taken_at = 0.0
        """When it took something of the agent's last, on the monotonic clock."""

    def open(self, directory: str, token: str, stream: str) -> None:
        """Make the log."""
        try:
            self._log = LogWriter(folder.create(directory, token, stream))
        except (OSError, SuperviseError) as error:
            self._trouble = f"this run is not logged: {_reason(error)}"
            self.tell()

    def take(self, data: bytes) -> None:
        """Log a piece of what the agent has written."""
        self.taken_at = time.monotonic()
        self.note(data)

    def note(self, data: bytes) -> None:
        """Log what is not the agent's."""
        if self._log is None:
            return
        try:
            self._log.write(data)
        except OSError as error:
            # Told later: a line of ours now would stand in the middle of the agent's screen.
            self._trouble = f"the log of this run is cut off: {_reason(error)}"
            self.close()

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def tell(self) -> None:
        """Say what has gone wrong, if anything has and it has not been said."""
        if self._trouble:
            self._warn(self._trouble)
            self._trouble = ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
