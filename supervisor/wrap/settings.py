"""What a person's settings say to ``wrap``. Nobody waits for them who has none."""

from __future__ import annotations

import os

from supervisor.paths import config_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config import Config, WrapConfig

_LARGEST = 64 * 1024


def wants_log(cli: str, warn: Callable[[str], None]) -> bool:
    """Tell whether the settings want what an agent writes to be logged.

    Args:
        cli: its name or path.
        warn: takes a line if the settings cannot be used.
    """
    try:
        with open(config_file(), "rb") as file:
            if b"agents" not in file.read(_LARGEST):
                return False  # none has a table of its own: without reading TOML, and what that imports
    except OSError:
        return False
    agent = _load(warn).agents.get(os.path.basename(cli))
    return agent is not None and agent.log


def load_settings(warn: Callable[[str], None]) -> WrapConfig:
    """Return how agents are started again and ended; with a line, and the defaults, if the settings cannot be used."""
    return _load(warn).wrap


def _load(warn: Callable[[str], None]) -> Config:
    from supervisor.config import Config, ConfigError, load  # noqa: PLC0415  12 ms that few have to wait for

    try:
        return load()
    except ConfigError as error:
        warn(f"the settings are not heeded: {error}")
        return Config()
