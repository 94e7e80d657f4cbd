"""What the daemon goes by: the configuration, read again on demand, below what its command line says."""

from __future__ import annotations

import logging

from supervisor.config import ConfigError, RetentionConfig, load

log = logging.getLogger(__name__)


class Settings:
    """The settings in force.

    Args:
        sweep_every: seconds between sweeps, as the command line says; None leaves it to the configuration.
        discovers: whether sweeps look for unknown stores; the same.

    Raises:
        ConfigError: the configuration cannot be used.
    """

    def __init__(self, *, sweep_every: float | None = None, discovers: bool | None = None) -> None:
        self._sweep_every = sweep_every
        self._discovers = discovers
        self._config = load()

    @property
    def sweep_every(self) -> float:
        """Seconds between sweeps."""
        return self._config.daemon.sweep_every if self._sweep_every is None else self._sweep_every

    @property
    def discovers(self) -> bool:
        """Whether sweeps also look for stores in the working directories of live processes."""
        return self._config.daemon.discover if self._discovers is None else self._discovers

    @property
    def retention(self) -> RetentionConfig:
        """How long records and logs are kept."""
        return self._config.retention

    def reload(self) -> bool:
        """Read the configuration again; a broken one is complained of and changes nothing. Tell whether it is read."""
        try:
            self._config = load()
        except ConfigError as error:
            log.error("the configuration stays as it was: %s", error)
            return False
        log.info("the configuration has been read again")
        return True
