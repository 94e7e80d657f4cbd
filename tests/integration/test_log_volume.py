"""Much output through `wrap --log`: all of it arrives, and who does not read it holds up the agent, not our memory."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

from kit import COMMAND, Processes, wait_until
from wrapping import Terminal, calls_are_known, is_held_up, logs_of, recorded_run, sleeps

from supervisor.log.writer import CAP

LOGGED = (*COMMAND, "wrap", "--log")
MOST_TAKEN = 2 * 1024 * 1024
"""Bytes that pipes, terminals and the wrapper take at most while nobody reads."""


def held_by(pid: int) -> int:
    """Return how many bytes of memory are a process's own."""
    kilobytes = re.search(r"^RssAnon:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert kilobytes is not None
    return int(kilobytes[1]) * 1024


def written_by(pid: int) -> int:
    """Return how many bytes a process has written."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def holds_up(wrapper: int, project: Path) -> None:
    """Let the agent write as much as it can, and see that little of it is taken and less of it kept."""
    wait_until((project / "up").exists)
    pid = recorded_run(project)["pid"]
    before = held_by(wrapper)
    (project / "go").touch()
    written = looks = 0

    def is_stuck() -> bool:
        nonlocal written, looks
        last, written = written, written_by(pid)
        looks = looks + 1 if 0 < last == written and is_held_up(pid) and sleeps(wrapper) else 0
        return looks == 20  # once may be by chance

    wait_until(is_stuck)
    assert written <= MOST_TAKEN
    assert held_by(wrapper) - before <= MOST_TAKEN


WRITES = "touch up; until [ -e go ]; do sleep 0.01; done; exec dd if=/dev/zero bs=1k status=none"


def test_through_a_pipe(project: Path) -> None:
    """What an agent writes into a pipe arrives unchanged, also when its log has long been full."""
    sent = bytes(range(256)) + os.urandom(CAP + 3 * 1024 * 1024)
    (project / "file").write_bytes(sent)
    ended = subprocess.run([*LOGGED, "cat", "file"], stdout=subprocess.PIPE, check=True)
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(sent).digest()
    log = logs_of(project)["log"]
    assert len(log) <= CAP
    assert log[: CAP // 2] == sent[: CAP // 2]
    assert log.endswith(sent[-CAP // 8 :])


@calls_are_known
def test_nobody_reads_the_pipe(project: Path, processes: Processes) -> None:
    """A reader that takes nothing holds up the agent in its write; the wrapper keeps no more than a piece."""
    wrapper = processes.start(*LOGGED, "sh", "-c", WRITES, stdout=subprocess.PIPE)
    holds_up(wrapper.pid, project)
    wrapper.terminate()


@calls_are_known
def test_nobody_reads_the_terminal(project: Path, processes: Processes) -> None:
    """The same where the agent writes to a terminal whose window has frozen."""
    with Terminal(processes, *LOGGED, "sh", "-c", f"stty raw; {WRITES}") as terminal:
        holds_up(terminal.program.pid, project)
