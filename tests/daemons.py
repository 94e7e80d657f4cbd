"""A real daemon for tests, with the test's home."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import COMMAND, Processes, wait_until


class Daemon:
    """``agent-yes-supervise daemon``, supervising by the time this is made. Ends with its `Processes`.

    It discovers nothing: it would find, and settle, the runs of the tests beside it.
    """

    def __init__(
        self, processes: Processes, log: Path, *options: str, command: Sequence[str] = COMMAND, **popen: Any
    ) -> None:
        self._log = log
        argv = (*command, "daemon", "--verbose", "--no-discover", *options)
        with log.open("w") as file:
            self.process = processes.start(*argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **popen)
        self.hear("supervising")

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text()

    def hear(self, pattern: str, *, times: int = 1, timeout: float = 20) -> list[str]:
        """Wait until lines of the log match a pattern, and return what matched."""

        def found() -> list[str]:
            assert self.process.poll() is None, f"the daemon has ended: {self.log()}"
            matches = [match[0] for match in re.finditer(pattern, self.log())]
            return matches if len(matches) >= times else []

        return wait_until(found, timeout, f"not heard: {pattern}")

    def watches(self, *runs: tuple[Path, int]) -> None:
        """Wait until it watches those runs, given by directory and id."""
        for directory, run_id in runs:
            self.hear(rf"watching {re.escape(f'{directory}#{run_id}')}:")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send it a signal and return its exit code and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - began
