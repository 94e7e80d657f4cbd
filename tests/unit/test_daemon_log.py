"""Where the daemon's log goes, and how its lines look there."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli import daemon_log

_LOGS = """
import logging, sys
from supervisor.cli import daemon_log

daemon_log.TURNED_OVER_AT = 1000
daemon_log.log_to(logging.INFO, sys.argv[1])
for number in range(100):
    logging.getLogger("supervisor").info("line %s %s", number, "x" * 60)
"""


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_each_line_for_the_journal_has_a_priority(level: int, priority: int) -> None:
    """A traceback's lines too: the journal takes each line for a message of its own."""
    try:
        raise ValueError("no\x1b[31m")
    except ValueError:
        record = logging.LogRecord("supervisor", level, __file__, 1, "a %s", ("b\nc",), sys.exc_info())
    lines = daemon_log.JournalFormatter("%(message)s").format(record).splitlines()
    assert lines[0] == f"<{priority}>a b↵c"
    assert lines[1] == f"<{priority}>Traceback (most recent call last):"
    assert all(line.startswith(f"<{priority}>") for line in lines)


def test_a_log_file_is_turned_over(tmp_path: Path) -> None:
    """A file that has grown to its limit is put aside; three of these are kept."""
    subprocess.run([sys.executable, "-c", _LOGS, str(tmp_path / "daemon.log")], check=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["daemon.log", *(f"daemon.log.{n}" for n in (1, 2, 3))]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    assert " INFO line 99 xxx" in (tmp_path / "daemon.log").read_text().splitlines()[-1]
