"""A service manager for tests: it hears what a daemon tells, keeps its descriptors, and hands them to the next one."""

from __future__ import annotations

import array
import contextlib
import os
import re
import select
import socket
import sys
from pathlib import Path
from typing import Any

from kit import COMMAND, Processes, wait_until

_HANDS_OVER = """
import os, sys

inherited = [int(number) for number in sys.argv[1].split(",") if number]
high = [os.dup2(number, 200 + place, inheritable=True) for place, number in enumerate(inherited)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place, inheritable=True)
    os.close(number)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Puts the descriptors where sd_listen_fds(3) wants them, and becomes the daemon."""


class Manager:
    """Listens on a socket in the directory given. ``kept`` are the descriptors that it keeps now, by name."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.heard: list[str] = []
        self.kept: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for descriptor in self.kept.values():
            os.close(descriptor)

    def start(self, processes: Processes, log: Path, *, watchdog: float | None = None, **options: Any) -> Any:
        """Start a daemon with what is kept for it, and wait until it says that it supervises."""
        environ = {**os.environ, "NOTIFY_SOCKET": self.address, "LISTEN_FDS": str(len(self.kept))}
        environ["LISTEN_FDNAMES"] = ":".join(self.kept)
        if watchdog is not None:
            environ["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        kept = list(self.kept.values())
        words = (_HANDS_OVER, ",".join(map(str, kept)), *COMMAND, "daemon", "--verbose", "--no-discover")
        self.heard.clear()
        with log.open("a") as file:
            daemon = processes.start(
                sys.executable, "-S", "-c", *words, env=environ, pass_fds=kept, stdout=file, stderr=file, **options
            )
        self.hear("READY=1")
        return daemon

    def listen(self) -> list[str]:
        """Take what has been told, and do it; return all that has been heard."""
        while select.select([self._socket], [], [], 0)[0]:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(4 * 8), socket.MSG_CMSG_CLOEXEC)
            message = data.decode()
            self.heard.append(message)
            name = (re.findall(r"^FDNAME=(.*)$", message, re.MULTILINE) or ["stored"])[0]
            for _, _, payload in ancillary:
                assert "FDSTORE=1" in message
                assert name not in self.kept
                (self.kept[name],) = array.array("i", payload)
            if "FDSTOREREMOVE=1" in message:
                with contextlib.suppress(KeyError):
                    os.close(self.kept.pop(name))
        return self.heard

    def hear(self, *parts: str) -> str:
        """Wait until a message has all these parts, and return it."""

        def found() -> str:
            return next((message for message in self.listen() if all(part in message for part in parts)), "")

        return wait_until(found, message=f"not heard: {parts}")

    def keeps(self, count: int) -> None:
        """Wait until that many descriptors are kept."""

        def found() -> bool:
            self.listen()
            return len(self.kept) == count

        wait_until(found, message=f"kept are {list(self.kept)}, not {count}")
