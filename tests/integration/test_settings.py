"""The settings as a person and a daemon use them."""

from __future__ import annotations

import functools
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon
from kit import COMMAND, Original, Processes, run_ours, wait_until
from nursery import Nursery, linux

from supervisor.cli import app
from supervisor.daemon import presence

pytestmark = linux


@pytest.fixture
def file(home: Path) -> Path:
    """Give the test the path of the configuration, in a folder that is there."""
    path = home / "config" / "agent-yes-supervise" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def start(processes: Processes, project: Path, tmp_path: Path) -> Callable[..., Daemon]:
    """Give the test a function that starts a daemon."""
    return functools.partial(Daemon, processes, tmp_path / "daemon.log")


def watching() -> int | None:
    """Return how many runs the running daemon has said that it watches."""
    found = presence.running()
    assert found is not None
    return found.watching


def test_show_and_check(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file all is shown at its default and nothing is wrong; with one, what it sets, or what is wrong."""

    def ask(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(["config", *words])
        return code, *capsys.readouterr()

    assert ask("path") == (0, f"{file}\n", "")
    code, shown, _ = ask("show")
    assert (code, "sweep_every = 30.0" in shown) == (0, True)
    assert "all settings have their defaults" in ask("check")[2]
    file.write_text("[daemon]\nsweep_every = 7\n")
    assert '"sweep_every": 7.0' in ask("show", "--json")[1]
    assert ask("check") == (0, "", f"{file} is fine\n")
    file.write_text("[daemon]\nsweep_every = '7'\nx = 1\n")
    code, wrong, _ = ask("check")
    assert code == 1
    assert [line.split(": ")[0] for line in wrong.splitlines()] == [f"{file}:2", f"{file}:3"]
    assert ask("show")[0] == 1


def test_edit(file: Path) -> None:
    """The editor gets a file in which everything is explained and nothing set, and what it leaves is checked."""
    file.parent.rmdir()
    editor = f"{sys.executable} -c \"import sys; open(sys.argv[1], 'a').write('[oh]')\""
    edited = run_ours("config", "edit", env={**os.environ, "VISUAL": editor})
    assert edited.returncode == 1
    text = file.read_text()
    assert "# sweep_every = 30.0" in text
    assert (
        edited.stdout
        == f"{file}:{text.count(chr(10)) + 1}: there is no table oh; there are: daemon, retention, wrap, agents\n"
    )
    file.write_text(text.removesuffix("[oh]"))
    again = run_ours("config", "edit", env={**os.environ, "VISUAL": "true"})
    assert (again.returncode, again.stderr) == (0, f"{file} is fine\n")


def test_a_daemon_refuses_to_start_with_a_broken_one(file: Path) -> None:
    """It ends with 1 and one line: file, line and remedy."""
    file.write_text("[daemon]\nsweep_evry = 1\n")
    ended = run_ours("daemon")
    assert (ended.returncode, ended.stdout) == (1, "")
    expected = f"{file}:2: there is no key daemon.sweep_evry; did you mean sweep_every?"
    assert ended.stderr == f"agent-yes-supervise: {expected}\n"


def test_a_reload(
    file: Path, start: Callable[..., Daemon], original: Original, processes: Processes, nursery: Nursery
) -> None:
    """SIGHUP brings a changed file into force; with a broken one the daemon says so and goes on as before.

    Its count of runs is told with a sweep, which each reload begins with, so that shows how often it sweeps.
    """
    file.write_text("[daemon]\nsweep_every = 3600\n")
    daemon = start()
    file.write_text("[daemon]\nsweep_every = 0.1\ndiscover = maybe\n")
    daemon.process.send_signal(signal.SIGHUP)
    (line,) = daemon.hear(r"ERROR .*\n")
    assert f"the configuration stays as it was: {file}:3: this is not TOML" in line
    daemon.watches((original.directory, original.create_run(processes.living().pid)))
    agent = nursery.born()
    run = original.create_run(agent)
    daemon.watches((original.directory, run))
    nursery.end(agent, 0)
    wait_until(lambda: original.row(run)[0] != "running")  # a second later, by the clock of the same loop
    assert watching() == 0, "no sweep has come"
    file.write_text("[daemon]\nsweep_every = 0.1\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear("the configuration has been read again")
    daemon.watches((original.directory, original.create_run(processes.living().pid)))
    wait_until(lambda: watching() == 2)
    assert daemon.stop()[0] == 0


def test_the_command_line_comes_first(
    file: Path, start: Callable[..., Daemon], original: Original, processes: Processes
) -> None:
    """What the command line says holds against the file, also after a reload."""
    file.write_text("[daemon]\nsweep_every = 3600\n")
    daemon = start("--sweep-every", "0.1")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hear("the configuration has been read again")
    daemon.watches((original.directory, original.create_run(processes.living().pid)))
    wait_until(lambda: watching() == 1)


def test_a_daemon_ends_with_its_terminal(processes: Processes, project: Path, tmp_path: Path) -> None:
    """Started in a terminal that is then closed, it stops, for that is what the hangup means there."""
    log = tmp_path / "log"
    pid, terminal = pty.fork()
    if pid == 0:  # the daemon leads the terminal's session
        with log.open("w") as file:
            os.dup2(file.fileno(), 2)
        os.execv(COMMAND[0], [*COMMAND, "daemon", "--no-discover"])
    try:
        wait_until(lambda: log.exists() and "supervising" in log.read_text())
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(status) == 0
    assert "stopped; " in log.read_text()
