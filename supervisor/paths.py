"""Where the user-level files live: the registry, the spool, the daemon's lock, logs, the configuration.

They follow the platform (platformdirs), never the runtime folder: that one is missing under cron and plain ssh, and
two places for one lock would be two daemons.
"""

from __future__ import annotations

import os
import sys

APP = "agent-yes-supervise"


def state_dir() -> str:
    """Return the user-level state folder, created with mode 0700.

    Raises:
        OSError: the folder cannot be made.
    """
    return _private_folder(_plain_state_dir() or _platforms_state_dir())


def registry_dir() -> str:
    """Return the folder that holds one file per known store."""
    return _private_folder(os.path.join(state_dir(), "registry"))


def registry_file(directory: str) -> str:
    """Return the registry's file for the store of a project, given by its real path."""
    return os.path.join(registry_dir(), f"{digest(directory)}.json")


def spool_dir() -> str:
    """Return the folder that keeps what could not be written into its store."""
    return _private_folder(os.path.join(state_dir(), "spool"))


def log_dir() -> str:
    """Return the folder for logs and reports of bugs."""
    return _private_folder(os.path.join(state_dir(), "logs"))


def daemon_log() -> str:
    """Return the file that the daemon logs to where there is no journal."""
    return os.path.join(log_dir(), "daemon.log")


def daemon_lock() -> str:
    """Return the file whose lock the one daemon of this user holds."""
    return os.path.join(state_dir(), "daemon.lock")


def daemon_presence() -> str:
    """Return the file in which the running daemon says of itself what others may want to know."""
    return os.path.join(state_dir(), "daemon.json")


def config_file() -> str:
    """Return where the person's settings lie; neither the file nor its folder need be there."""
    if sys.platform == "linux":  # as platformdirs has it, without 10 ms for it: each wrap looks whether there is one
        folder = os.environ.get("XDG_CONFIG_HOME", "")
        if not os.path.isabs(folder):  # unset, or to be ignored (XDG Base Directory Specification)
            folder = os.path.expanduser("~/.config")
        return os.path.join(folder, APP, "config.toml")
    else:  # noqa: RET505  mypy knows what follows for what another platform has
        from platformdirs import user_config_dir  # noqa: PLC0415  see state_dir

        return os.path.join(user_config_dir(APP, appauthor=False), "config.toml")


def last_prune() -> str:
    """Return the file whose time is that of the daemon's last pruning."""
    return os.path.join(state_dir(), "pruned")


def _plain_state_dir() -> str | None:
    """Return what platformdirs would, where that is plain: it takes 10 ms to load, for which an agent would wait."""
    if sys.platform != "linux":
        return None
    home, base = os.environ.get("HOME", ""), os.environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return os.path.join(base, APP)
    return os.path.join(home, ".local", "state", APP) if home.startswith("/") and not base else None


def _platforms_state_dir() -> str:
    from platformdirs import user_state_dir  # noqa: PLC0415  see `_plain_state_dir`

    return user_state_dir(APP, appauthor=False)


def digest(text: str) -> str:
    """Return 32 digits that stand for a text, as part of a file's name.

    hashlib would load OpenSSL's, which takes milliseconds.
    """
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # noqa: PLC0415  as Python's own random does
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]  # noqa: PLC0415  Python 3.11
        except ImportError:
            from hashlib import sha256  # noqa: PLC0415  a Python without modules of its own for this
    digits: str = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return digits[:32]


def _private_folder(path: str) -> str:
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path
