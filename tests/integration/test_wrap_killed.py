"""Wrappers that are killed at any instant of their lives: their runs are recorded truthfully, once, and end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kit import Original, Processes
from nursery import linux
from stores import with_tools
from wrapping import recorded_run

from supervisor import registry

LIVES = Path(__file__).parents[1] / "lives.py"


@linux
@pytest.mark.parametrize("log", [[], ["--log"]], ids=["plain", "log"])
def test_at_any_instant(
    home: Path, tmp_path: Path, processes: Processes, pytestconfig: pytest.Config, log: list[str]
) -> None:
    """Killed before the fork, between fork, row and exec, while it runs or while its end is written: it is all true.

    That is: no wrong record, no row that stays, no second one, and no run that has ended while its agent lives.
    ``--instants=N`` and ``--seed=N`` of pytest are this test's.
    """
    options = ["--instants", pytestconfig.getoption("instants"), *log]
    if pytestconfig.getoption("seed"):
        options += ["--seed", pytestconfig.getoption("seed")]
    lives = processes.start(
        sys.executable, str(LIVES), *options, str(tmp_path / "lives"), env=with_tools(), stdout=subprocess.PIPE
    )
    told = json.loads(lives.communicate(timeout=50)[0])
    print(told)
    assert told["wrong"] == []


DIES_WITH_THE_ROW = """
import os, sys
from supervisor.cli import main
from supervisor.store import recording

begin = recording.begin_run
recording.begin_run = lambda *args: (begin(*args), os.kill(os.getpid(), 9))
main()
"""


@pytest.mark.parametrize("store", ["new", "another's", "one put in its place"])
def test_known_before_the_row(project: Path, store: str) -> None:
    """Once there is a row the daemon can know of its store, whoever has made that."""
    if store != "new":
        Original(project).close()
    if store == "one put in its place":
        registry.add(str(project), registry.Origin.FOUND)
        shutil.copytree(project / ".agent-yes", project / "other")
        shutil.rmtree(project / ".agent-yes")
        (project / "other").rename(project / ".agent-yes")
    ended = subprocess.run([sys.executable, "-c", DIES_WITH_THE_ROW, "wrap", "true"], check=False, timeout=20)
    assert ended.returncode == -signal.SIGKILL
    assert recorded_run(project)["status"] == "running"
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.origin is (registry.Origin.CREATED if store == "new" else registry.Origin.FOUND)
    assert entry.inode == (project / ".agent-yes" / "store.sqlite").stat().st_ino
