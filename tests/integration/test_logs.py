"""``logs`` and ``why``: what a run's agent wrote, as a person can read it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from kit import COMMAND, Ask, Processes, run_ours, wait_until
from wrapping import STORE, Terminal, agent, logs_of, recorded_run

LOGGED = (*COMMAND, "wrap", "--log")


@pytest.fixture
def logged(project: Path) -> Path:
    """Give the test a run that wrote five lines, with colours, and two to stderr."""
    script = r"for i in 1 2 3 4 5; do printf '\033[3%sm%s\033[m \a\n' $i $i; done; echo bad >&2; echo worse >&2; exit 3"
    run_ours("wrap", "--log", "sh", "-c", script)
    return project


def test_rendered(logged: Path, ask: Ask) -> None:
    """Control sequences are rendered away; stdout's log goes to stdout, stderr's to stderr."""
    shown = ask("logs", ".")
    assert (shown.code, shown.out, shown.err) == (0, "1\n2\n3\n4\n5\n", "bad\nworse\n")
    assert ask("logs", "1").out == shown.out


def test_last_lines(logged: Path, ask: Ask) -> None:
    """-n shows the last lines of each stream, with --raw as they were written."""
    shown = ask("logs", "-n", "2", ".")
    assert (shown.out, shown.err) == ("4\n5\n", "bad\nworse\n")
    assert ask("logs", "-n", "0", ".").out == ""
    assert run_ours("logs", "--raw", "-n", "1", ".").stdout == "\x1b[35m5\x1b[m \a\n"


def test_raw(logged: Path) -> None:
    """--raw prints the bytes as the agent wrote them."""
    written = subprocess.run([*COMMAND, "logs", "--raw", "."], capture_output=True, check=True)
    assert {"log": written.stdout, "err.log": written.stderr} == logs_of(logged)


def test_why(logged: Path, ask: Ask) -> None:
    """Why shows the last lines of the logs, in words and as JSON."""
    told = ask("why", ".").out
    assert told.endswith("last output:\n  1\n  2\n  3\n  4\n  5\n\nlast errors:\n  bad\n  worse\n")
    assert json.loads(ask("why", ".", "--json").out)["why"]["last_errors"] == ["bad", "worse"]


def test_deleted_with_the_run(logged: Path, ask: Ask) -> None:
    """With a run its logs are deleted."""
    assert ask("runs", "rm", ".").code == 0
    assert list((logged / ".agent-yes" / "logs").iterdir()) == []


def test_no_log(project: Path, ask: Ask) -> None:
    """A run without a log is a user's error in one line, with the remedy."""
    run_ours("wrap", "true")
    shown = ask("logs", ".")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.endswith("has no log; start agents with: agent-yes-supervise wrap --log CLI\n")
    assert "last" not in ask("why", ".").out


@pytest.mark.parametrize("how", ["token", "link", "fifo", "folder"])
def test_files_that_are_no_logs(logged: Path, ask: Ask, how: str) -> None:
    """Nothing but a log is read, whatever a store or its folder holds instead."""
    secret = logged / "secret"
    secret.write_text("the secret\n")
    logs = logged / ".agent-yes" / "logs"
    log = next(path for path in logs.iterdir() if not path.name.endswith(".err.log"))
    if how == "token":
        path = os.path.relpath(secret, logs)
        shutil.move(secret, logged / "secret.log")
        with sqlite3.connect(logged / STORE) as connection:
            connection.execute("UPDATE run_process SET token = ?", (path,))
        connection.close()
    elif how == "folder":
        logs.rename(logged / "moved")
        logs.symlink_to(logged / "moved")
    else:
        log.unlink()
        log.symlink_to(secret) if how == "link" else os.mkfifo(log)
    shown = ask("logs", ".")
    assert (shown.code, shown.out, shown.err.count("\n")) == (1, "", 1)
    assert "secret" not in ask("why", ".").out.partition("last")[2]


def test_follow(project: Path, processes: Processes) -> None:
    """-f shows lines as they are written, on a terminal too, and ends with the run."""
    steps = agent("say", "one", "await", "go", "say", "two", "await", "end", "exit", 0)
    with Terminal(processes, *LOGGED, *steps) as terminal:
        terminal.expect("one")
        reader = processes.ours("logs", "-f", ".", stdout=subprocess.PIPE)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "one\n"
        (project / "go").touch()
        assert reader.stdout.readline() == "two\n"
        (project / "end").touch()
        assert terminal.program.wait(20) == 0
    assert (reader.stdout.read(), reader.wait(20)) == ("", 0)


def test_follow_raw_errors(project: Path, processes: Processes) -> None:
    """-f --raw holds nothing back, not of stderr either."""
    script = "echo bad >&2; touch begun; until [ -e end ]; do sleep 0.02; done"
    wrapped = processes.ours(*LOGGED[len(COMMAND) :], "sh", "-c", script, stderr=subprocess.DEVNULL)
    wait_until((project / "begun").exists)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # which holds nothing back
    reader = processes.ours("logs", "-f", "--raw", ".", stderr=subprocess.PIPE, env=env)
    assert reader.stderr is not None
    assert reader.stderr.readline() == "bad\n"
    assert wrapped.poll() is None
    (project / "end").touch()
    assert (wrapped.wait(20), reader.wait(20)) == (0, 0)


def test_full_screen_program(project: Path, processes: Processes, ask: Ask) -> None:
    """Of a program on the alternate screen its last picture is shown, as wide as its terminal was."""
    draw = r"printf 'before\n\033[?1049h\033[H\033[2Jdraft\033[1;1Hfinal\033[2;98Hedges\033[?1049lafter\n'"
    with Terminal(processes, "sh", "-c", 'read go; "$@"', "sh", *LOGGED, "sh", "-c", draw) as terminal:
        terminal.resize(30, 100)
        terminal.type("go\n")
        terminal.rest()
    assert recorded_run(project)["exit_code"] == 0
    assert ask("logs", ".").out == f"before\nfinal\n{' ' * 97}edg\nes\nafter\n"
