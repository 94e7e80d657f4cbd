"""What an agent leaves behind: told, recorded, and ended only if asked for."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kit import COMMAND, Processes, rows, run_ours, wait_until
from nursery import linux
from wrapping import STORE, agent, end_runs, recorded_run, recorded_runs

from supervisor.process import procfs
from supervisor.spool.applying import apply_spooled

pytestmark = [linux, pytest.mark.usefixtures("reaped")]

WRAP = (*COMMAND, "wrap")
PREFIX = "agent-yes-supervise: "


@pytest.fixture
def reaped(project: Path) -> Iterator[None]:
    """End what a test that fails has left of its runs."""
    yield
    end_runs(project)


def leaving(*commands: str, until: str = "true") -> list[str]:
    """Return an agent that starts commands of the shell and ends, with 3, when each is up: ``pid-N`` holds its pid.

    Args:
        commands: what is left behind.
        until: what must hold before, for those that go on from being up.
    """
    lines = [
        f"sh -c 'echo $$ >draft-{n}; mv draft-{n} pid-{n}; exec {command}' &" for n, command in enumerate(commands)
    ]
    waits = [f"[ -e pid-{n} ] && ! grep -q draft /proc/$(cat pid-{n})/cmdline" for n in range(len(commands))]
    return ["sh", "-c", "\n".join([*lines, *(f"until {it}; do sleep 0.01; done" for it in (*waits, until)), "exit 3"])]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run an agent under wrap; what it leaves behind must not hold what we read."""
    command = [*WRAP, *words]
    with Path("said").open("w") as said:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False).returncode
    return subprocess.CompletedProcess(command, code, None, Path("said").read_text())


def left(project: Path, processes: Processes, number: int = 0) -> int:
    """Return the pid of a process that was left behind, and that the test ends."""
    return processes.adopt(int((project / f"pid-{number}").read_text()))


def evidence(project: Path, run_id: int = 1) -> list[tuple[int, str, str]]:
    """Return pid, name and fate of what is recorded as left by a run."""
    ((stored,),) = rows(project, "SELECT evidence FROM run_ending WHERE run_id = ?", [run_id])
    return [(one["pid"], one["name"], one["fate"]) for one in json.loads(stored).get("left", [])]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return procfs.read_stat(pid).is_dead
    except procfs.GONE:
        return True


def test_told_and_recorded(project: Path, processes: Processes) -> None:
    """What lives on is told in one line and recorded with the ending, and left alone; the end comes through."""
    ended = run(*leaving("sleep 1000", "setsid sleep 1001"))
    pids = [left(project, processes, number) for number in (0, 1)]
    one, other = (rf"{pid} sleep \d+s" for pid in pids)
    assert re.fullmatch(rf"{PREFIX}2 processes left: ({one}, {other}|{other}, {one})\n", ended.stderr)
    assert ended.returncode == recorded_run(project)["exit_code"] == 3
    assert sorted(evidence(project)) == sorted((pid, "sleep", "left") for pid in pids)
    assert not any(map(is_gone, pids))
    assert f"it left processes behind: {evidence(project)[0][0]} sleep (left), " in run_ours("why", ".").stdout
    shown = json.loads(run_ours("runs", "show", "--json", ".").stdout)
    assert [one["pid"] for one in shown["evidence"]["left"]] == [one[0] for one in evidence(project)]


def test_script(project: Path, processes: Processes) -> None:
    """A program that an interpreter runs is told by its own name, without its arguments: there may be secrets."""
    (project / "server.py").write_text("import time\ntime.sleep(1000)\n")
    ended = run(*leaving(f"{sys.executable} -S server.py --key sk-secret"))
    pid = left(project, processes)
    assert re.fullmatch(rf"{PREFIX}1 process left: {pid} python[0-9.]* server.py \d+s\n", ended.stderr)
    assert "secret" not in str(evidence(project))


def test_reap(project: Path, processes: Processes) -> None:
    """With --reap what is left is ended, in whatever session and even stopped, and that is told and recorded."""
    ended = run("--reap", *leaving("sleep 1000", "setsid sleep 1001", 'sh -c "kill -STOP \\$\\$; sleep 9"'))
    pids = [int((project / f"pid-{number}").read_text()) for number in range(3)]
    assert all(map(is_gone, pids))
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"{PREFIX}3 processes ended: ")
    assert sorted(evidence(project)) == sorted(
        [*((pid, "sleep", "ended") for pid in pids[:2]), (pids[2], "sh", "ended")]
    )


@pytest.fixture
def stubborn(project: Path, processes: Processes) -> subprocess.Popen[str]:
    """Return a wrapper that waits, after its agent's end, for one that ignores SIGTERM: ``told`` says which."""
    refusing = agent("trap", "TERM", "report", "told", "take", "TERM", "touch", "asked", "await", "never")
    steps = ["spawn", f"exec {shlex.join(refusing)} >/dev/null 2>&1", "await", "told", "exit", 3]
    wrapper = processes.start(*WRAP, "--reap", *agent(*steps), stderr=subprocess.PIPE)
    wait_until((project / "asked").exists)
    return wrapper


def test_reap_one_that_refuses(project: Path, stubborn: subprocess.Popen[str]) -> None:
    """What ignores SIGTERM is killed, at once if somebody wants wrap to end; by then the agent's end is recorded."""
    assert recorded_run(project)["exit_code"] == 3
    pid = json.loads((project / "told").read_text())["pid"]
    assert stubborn.poll() is None
    stubborn.send_signal(signal.SIGINT)
    assert stubborn.stderr is not None
    assert stubborn.wait(4) == 3
    assert re.fullmatch(rf"{PREFIX}1 process ended: {pid} \S+ fake_agent.py \d+s \(killed\)\n", stubborn.stderr.read())
    assert evidence(project)[0][2] == "killed"
    assert is_gone(pid)


def test_reap_under_nohup(project: Path, processes: Processes) -> None:
    """A signal that the wrapper was started to ignore takes nothing from the time that what is left has to end."""
    ending = agent("trap", "TERM", "report", "told", "take", "TERM", "touch", "asked", "await", "go")
    steps = ["spawn", f"exec {shlex.join(ending)} >/dev/null 2>&1", "await", "told", "exit", 3]
    wrapper = processes.start(
        *WRAP,
        "--reap",
        *agent(*steps),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_until((project / "asked").exists)
    wrapper.send_signal(signal.SIGHUP)
    time.sleep(0.3)  # for a signal that must not come
    (project / "go").touch()
    assert wrapper.wait(20) == 3
    assert evidence(project)[0][2] == "ended"


def test_not_recorded(project: Path, stubborn: subprocess.Popen[str]) -> None:
    """What was left, where that cannot be recorded in time, is told all the same, and recorded later."""
    with closing(sqlite3.connect(project / STORE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        stubborn.send_signal(signal.SIGINT)
        assert stubborn.wait(4) == 3
    assert stubborn.stderr is not None
    told, missing = stubborn.stderr.read().splitlines()
    assert told.startswith(f"{PREFIX}1 process ended: ")
    assert missing.startswith(f"{PREFIX}what it has left behind is not recorded yet; it is kept in ")
    assert (recorded_run(project)["exit_code"], evidence(project)) == (3, [])
    assert apply_spooled().troubles == []
    assert [one[2] for one in evidence(project)] == ["killed"]


@pytest.mark.parametrize("name", ["codex app-server", "cline --cline-hub-daemon"])
def test_daemons_that_agents_keep(project: Path, processes: Processes, name: str) -> None:
    """Daemons that outlive agents by design, and what stands below them, are told and recorded but never ended."""
    program = project / name.split(maxsplit=1)[0]
    program.write_text("#!/bin/sh\nsleep 1000 &\necho $! >below\nwait\n")
    program.chmod(0o755)
    ended = run("--reap", *leaving(f"setsid ./{name}", until="[ -s below ]"))
    daemon, below = left(project, processes), processes.adopt(int((project / "below").read_text()))
    script = program.name
    expected = rf"{PREFIX}2 processes left: {daemon} sh {script} \d+s \(kept\), {below} sleep \d+s \(kept\)\n"
    assert re.fullmatch(expected, ended.stderr)
    assert evidence(project) == [(daemon, f"sh {script}", "kept"), (below, "sleep", "kept")]
    assert not is_gone(daemon)


def test_at_another_terminal(project: Path, processes: Processes) -> None:
    """What has another terminal, which is still there, is somebody's: it is never ended."""
    master, slave = pty.openpty()
    try:
        ended = run(
            "--reap",
            *leaving(f'setsid sh -c "exec <{os.ttyname(slave)}; touch up; exec sleep 1000"', until="[ -e up ]"),
        )
        pid = left(project, processes)
        assert ended.stderr.endswith(" (kept)\n")
        assert not is_gone(pid)
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize("leads", [True, False], ids=["agent leads", "shell leads"])
def test_session_without_token(project: Path, processes: Processes, leads: bool) -> None:
    """A process that has lost its token counts in a session that the agent has led, and not in a person's."""
    prefix = ["setsid"] if leads else []
    ended = run(*prefix, *leaving('env -i "$(command -v sleep)" 1000'))
    pid = left(project, processes)
    assert evidence(project) == ([(pid, "sleep", "left")] if leads else [])
    assert bool(ended.stderr) == leads


def test_nested(project: Path, processes: Processes) -> None:
    """What an agent leaves that is wrapped within another's run is left by its own run only."""
    ended = run(*WRAP, *leaving("sleep 1000"))
    pid = left(project, processes)
    assert ended.stderr.count("\n") == 1
    outer, inner = recorded_runs(project)
    assert (evidence(project, outer["id"]), evidence(project, inner["id"])) == ([], [(pid, "sleep", "left")])


def test_inner_run_that_is_left(project: Path, processes: Processes) -> None:
    """A wrapper that an agent leaves running is a leftover of it, and its own agent is not: --reap ends both."""
    inner = shlex.join([*WRAP, "sh", "-c", "touch up; exec sleep 1000"])
    outer = f"{inner} >/dev/null 2>&1 & until [ -e up ]; do sleep 0.01; done; exit 3"
    ended = run("--reap", "sh", "-c", outer)
    first, second = recorded_runs(project)
    assert re.fullmatch(rf"{PREFIX}1 process ended: {second['owner_pid']} \S+ \S+ \d+s\n", ended.stderr)
    assert (first["exit_code"], second["cause"], second["term_signal"]) == (3, "stopped", signal.SIGTERM)
    assert is_gone(second["pid"])
