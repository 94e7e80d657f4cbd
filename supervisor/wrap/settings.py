"""What a person's settings say to ``wrap``. Nobody waits for them who has none."""

from __future__ import annotations

import os
import stat

from supervisor.paths import config_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config import Config, WrapConfig

_LARGEST = 64 * 1024


class Settings:
    """The settings, read when they are first needed; where they cannot be used the defaults hold, and a line says so.

    Args:
        warn: takes the line.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._config: Config | None = None

    def wants_log(self, cli: str) -> bool:
        """Tell whether what an agent, given by name or path, writes is to be logged."""
        if b"agents" not in _text():
            return False  # none has a table of its own: without reading TOML, and what that imports
        agent = self.read().agents.get(os.path.basename(cli))
        return agent is not None and agent.log

    @property
    def wrap(self) -> WrapConfig:
        """How agents are started again, and ended."""
        return self.read().wrap

    def read_any(self) -> None:
        """Read them now if there are any, so that what is wrong with them is said."""
        if os.path.lexists(config_file()):
            self.read()

    def read(self) -> Config:
        """Return all of them."""
        from supervisor.config import Config, ConfigError, load  # noqa: PLC0415  12 ms that few have to wait for

        if self._config is None:
            try:
                self._config = load()
            except ConfigError as error:
                self._warn(f"the settings are not heeded: {error}")
                self._config = Config()
        return self._config


def _text() -> bytes:
    """Return what stands in the file, nothing where there is none: a FIFO would wait for a writer."""
    try:
        descriptor = os.open(config_file(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LARGEST) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
