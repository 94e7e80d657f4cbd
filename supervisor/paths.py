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
    folder = _plain("XDG_STATE_HOME", "~/.local/state")
    if folder is None:
        from platformdirs import user_state_dir  # noqa: PLC0415  see _plain

        folder = user_state_dir(APP, appauthor=False)
    return _private_folder(folder)


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
    folder = _plain("XDG_CONFIG_HOME", "~/.config")
    if folder is None:
        from platformdirs import user_config_dir  # noqa: PLC0415  see _plain

        folder = user_config_dir(APP, appauthor=False)
    return os.path.join(folder, "config.toml")


def last_prune() -> str:
    """Return the file whose time is that of the daemon's last pruning."""
    return os.path.join(state_dir(), "pruned")


def _plain(variable: str, usual: str) -> str | None:
    """Return our folder in one of the platform's where the environment alone tells it, None where platformdirs has to.

    Importing that takes 10 ms, which a wrapped agent or its caller would wait for; a test holds this to what it says.

    Args:
        variable: names the platform's folder, if it is set (XDG Base Directory Specification).
        usual: where it is else.
    """
    if sys.platform != "linux" or hasattr(sys, "getandroidapilevel") or "ANDROID_DATA" in os.environ:
        return None
    folder = os.environ.get(variable, "")
    if not folder and os.path.isabs(os.environ.get("HOME", "")):
        folder = os.path.expanduser(usual)
    return os.path.join(folder, APP) if os.path.isabs(folder) else None


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
