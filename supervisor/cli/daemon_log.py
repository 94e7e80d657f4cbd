"""Where the log of supervising goes, and how its lines look there."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

TURNED_OVER_AT = 1 << 20
"""Bytes of a log file at which it is turned over; three old ones are kept."""


class CleanFormatter(logging.Formatter):
    """Keeps what comes from a store from speaking to the terminal, or from making up lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line without what a terminal would obey."""
        from supervisor.cli.output import clean  # noqa: PLC0415  only supervising needs it

        return clean(super().formatMessage(record))


class JournalFormatter(CleanFormatter):
    """Begins each line with its priority (sd-daemon(3)); the journal has times of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(priority + line for line in super().format(record).splitlines())


def log_to(level: int, file: str | None = None) -> None:
    """Log what supervising has to say.

    Args:
        level: of what is logged of ours; of others, warnings.
        file: where to; by default to stderr.
    """
    handler: logging.Handler
    if file is not None:
        from logging.handlers import RotatingFileHandler  # noqa: PLC0415  it imports much that nobody else needs

        handler = RotatingFileHandler(
            file, maxBytes=TURNED_OVER_AT, backupCount=3, encoding="utf-8", errors="backslashreplace"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    if file is None and _writes_to_journal():
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(CleanFormatter("%(asctime)s %(levelname)s %(message)s"))
    for unsaid in ("logThreads", "logMultiprocessing", "logProcesses", "logAsyncioTasks", "_srcfile"):
        setattr(logging, unsaid, None)  # no line of ours has them, and thousands may come at once (logging HOWTO)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("supervisor").setLevel(level)


def _writes_to_journal() -> bool:
    """Tell whether stderr is the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
