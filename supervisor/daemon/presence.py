"""What the running daemon says of itself, in a file beside its lock, so that other commands can tell."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
from dataclasses import asdict, dataclass

from supervisor import paths

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Presence:
    """A running daemon. ``version`` and the counts are None where it has not said them; times are Unix seconds.

    ``watching`` is the number of runs, ``stores`` that of stores, both as of ``said_at``.
    """

    pid: int | None = None
    since: float | None = None
    version: str | None = None
    watching: int | None = None
    stores: int | None = None
    said_at: float | None = None

    def is_older_than(self, version: str) -> bool:
        """Tell whether the daemon is of an older version; one that does not say its version is."""
        return self.version is None or _as_key(self.version) < _as_key(version)


def publish(presence: Presence) -> None:
    """Let other commands know. That it cannot be written is a warning: supervising goes on."""
    try:
        target = paths.daemon_presence()
        draft = f"{target}.{os.getpid()}"
        with open(draft, "w", encoding="utf-8", opener=_private) as file:
            json.dump(asdict(presence), file)
        os.replace(draft, target)
    except OSError as error:
        log.warning("what this daemon does cannot be told to other commands: %s", error)


def withdraw() -> None:
    """Say nothing any more."""
    with contextlib.suppress(OSError):
        os.unlink(paths.daemon_presence())


def running() -> Presence | None:
    """Return the daemon of this user that runs now, None where none does.

    Whether one runs is told by its lock, which dies with it; a file may have been left by another.
    """
    try:
        descriptor = os.open(paths.daemon_lock(), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # there is none, or it is not ours to read: then neither is the daemon
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _presence_from(os.pread(descriptor, 4096, 0))
    else:
        return None
    finally:
        os.close(descriptor)
    said = _said()
    return said if (said.pid, said.since) == (holder.pid, holder.since) else holder


def _said() -> Presence:
    try:
        with open(paths.daemon_presence(), "rb") as file:
            return _presence_from(file.read(4096))
    except OSError:
        return Presence()


def _presence_from(content: bytes) -> Presence:
    """Make a presence of what a file says; what is not of its kind is not known."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return Presence()
    if not isinstance(said, dict):
        return Presence()
    version = said.get("version")
    return Presence(
        pid=_whole(said.get("pid")),
        since=_time(said.get("since")),
        version=version if isinstance(version, str) else None,
        watching=_whole(said.get("watching")),
        stores=_whole(said.get("stores")),
        said_at=_time(said.get("said_at")),
    )


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _time(value: object) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]  # a number, as it says
    except OverflowError:
        return None


def _as_key(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version, which is enough to tell an older one."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
