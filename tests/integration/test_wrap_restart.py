"""An agent that is started again: each try a run of its own, until it ends well or somebody has had enough."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import COMMAND, Processes, rows, run_ours, wait_until
from nursery import linux
from wrapping import Terminal, agent, fake_claude, recorded_run, recorded_runs

pytestmark = linux

WRAP = (*COMMAND, "wrap")
PREFIX = "agent-yes-supervise: "

TRIES = """
number=$(cat tries 2>/dev/null || echo 0)
echo $((number + 1)) >tries
echo try $number: "$@"
"""
"""The beginning of an agent of the shell that counts its tries, from 0."""


def falling(*ends: str) -> list[str]:
    """Return an agent that ends so at each try, with the last of these again and again."""
    cases = "\n".join(f"{number}) {end} ;;" for number, end in enumerate(ends[:-1]))
    return ["sh", "-c", f"{TRIES}\ncase $number in\n{cases}\n*) {ends[-1]} ;;\nesac", "agent"]


CRASH = "kill -SEGV $$"


@pytest.fixture(autouse=True)
def quick(home: Path) -> Callable[..., None]:
    """Let waits be short, and give the test a function to set what else ``[wrap]`` is to say."""

    def write(**values: object) -> None:
        settings = {"restart_delay": 0.05, **values}
        file = home / "config" / "agent-yes-supervise" / "config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("[wrap]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))

    write()
    return write


def linked(project: Path) -> list[int | None]:
    """Return, for each run, which one it goes on with."""
    return [first for (first,) in rows(project, "SELECT resumed_from FROM run_process ORDER BY run_id")]


def evidence(project: Path, run_id: int) -> dict[str, Any]:
    """Return the evidence of a run's ending."""
    ((stored,),) = rows(project, "SELECT evidence FROM run_ending WHERE run_id = ?", [run_id])
    found: dict[str, Any] = json.loads(stored)
    return found


def test_until_it_ends_well(project: Path) -> None:
    """A crashed agent is started again with the same arguments, each try a run that is linked to the first."""
    ended = run_ours("wrap", "--restart", "on-crash", *falling(CRASH, "kill -KILL $$", "exit 7"), "x y")
    assert ended.returncode == 7
    assert ended.stdout == "try 0: x y\ntry 1: x y\ntry 2: x y\n"
    runs = recorded_runs(project)
    assert [(run["status"], run["exit_code"]) for run in runs] == [("crashed", 139), ("crashed", 137), ("failed", 7)]
    assert linked(project) == [None, 1, 1]
    assert len({run["token"] for run in runs}) == len({run["pid"] for run in runs}) == 3
    assert len({run["args"] for run in runs}) == len({run["owner_pid"] for run in runs}) == 1
    said = [
        rf"{PREFIX}sh was ended by SIG{name}; it is started again in 0\.\d s \(restart {number} of 5\); .*"
        for number, name in ((1, "SEGV"), (2, "KILL"))
    ]
    assert re.fullmatch("\n".join([*said, ""]), ended.stderr)
    shown = run_ours("why", "2").stdout
    assert "it went on with run 1, which had ended badly" in shown
    assert "it was to be started again at 20" in shown
    assert json.loads(run_ours("runs", "show", "--json", "3").stdout)["resumed_from"] == 1


def test_a_failure_is_no_crash(project: Path) -> None:
    """An exit code is a failure: it is followed by a restart only where failures are to be."""
    assert run_ours("wrap", "--restart", "on-crash", *falling("exit 3", "exit 0")).returncode == 3
    assert len(recorded_runs(project)) == 1
    (project / "tries").unlink()
    assert run_ours("wrap", "--restart", "on-failure", *falling("exit 3", "exit 0")).returncode == 0
    assert [run["exit_code"] for run in recorded_runs(project)] == [3, 3, 0]


@pytest.mark.parametrize("words", [(), ("--restart", "never")])
def test_not_asked_for(words: tuple[str, ...], project: Path) -> None:
    """Nothing is started again unless that is asked for."""
    assert run_ours("wrap", *words, *falling(CRASH, "exit 0")).returncode == -signal.SIGSEGV
    assert len(recorded_runs(project)) == 1


@pytest.mark.parametrize(("words", "tries"), [(("--max-restarts", "2"), 3), (("--max-restarts=0",), 1), ((), 6)])
def test_a_loop_parks(words: tuple[str, ...], tries: int, project: Path, quick: Callable[..., None]) -> None:
    """A crash loop ends after so many restarts, as its last try did, and with one line that says so."""
    quick(longest_delay=0.05)
    ended = run_ours("wrap", "--restart", "on-crash", *words, *falling(CRASH))
    assert ended.returncode == -signal.SIGSEGV
    assert len(recorded_runs(project)) == tries
    *_, last = ended.stderr.splitlines()
    again = "is not started again" if tries == 1 else f"has been started again {tries - 1} times in a row"
    assert last == f"{PREFIX}sh was ended by SIGSEGV, and {again}; that is all. See: agent-yes-supervise why ."


def test_health_makes_new(project: Path, quick: Callable[..., None]) -> None:
    """A run that lasts long enough is healthy, and restarts are counted anew."""
    quick(healthy_after=0.2)
    command = falling(CRASH, CRASH, f"sleep 0.3; {CRASH}", CRASH, CRASH)
    assert run_ours("wrap", "--restart", "on-crash", "--max-restarts", "2", *command).returncode == -signal.SIGSEGV
    assert len(recorded_runs(project)) == 5


def test_not_found(project: Path) -> None:
    """What cannot be started is not tried again."""
    assert run_ours("wrap", "--restart", "on-failure", "no-such-agent").returncode == 127
    assert recorded_run(project)["cause"] == "not-started"


def waiting(project: Path, processes: Processes, quick: Callable[..., None], **options: Any) -> subprocess.Popen[str]:
    """Return a wrapper that is about to start its crashed agent again, in a minute."""
    quick(restart_delay=60)
    wrapper = processes.start(*WRAP, "--restart", "on-crash", *falling(CRASH), **options)
    wait_until(lambda: (project / "tries").exists() and "restarts_at" in evidence_of_first(project))
    return wrapper


def evidence_of_first(project: Path) -> dict[str, Any]:
    """Return the evidence of the first run's ending, nothing while there is none."""
    try:
        return evidence(project, 1)
    except (ValueError, sqlite3.OperationalError):
        return {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_called_off(number: signal.Signals, project: Path, processes: Processes, quick: Callable[..., None]) -> None:
    """A signal while it waits calls the restart off, and ends the wrapper."""
    wrapper = waiting(project, processes, quick)
    wrapper.send_signal(number)
    assert wrapper.wait(20) == -number
    assert len(recorded_runs(project)) == 1
    assert "started again at 20" in (shown := run_ours("why", ".").stdout)
    assert "which was called off" in shown


def test_stop_while_it_waits(project: Path, processes: Processes, quick: Callable[..., None]) -> None:
    """The command ``stop`` calls a restart off, and what runs no more cannot be stopped twice."""
    wrapper = waiting(project, processes, quick)
    assert run_ours("stop", ".").stdout == "project#1 had ended, and is not started again\n"
    assert wrapper.wait(20) == -signal.SIGTERM
    assert run_ours("stop", ".").stderr == f"{PREFIX}run 1 does not run; see: agent-yes-supervise runs list\n"


def test_stop_trusts_no_row(project: Path, processes: Processes, quick: Callable[..., None]) -> None:
    """A store that names another process as a waiting wrapper does not get that one ended."""
    waiting(project, processes, quick)
    innocent = processes.living()
    with sqlite3.connect(project / ".agent-yes" / "store.sqlite") as store:
        ticks = int(Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19])
        store.execute("UPDATE run_process SET owner_pid = ?, owner_start_ticks = ?", (innocent.pid, ticks))
    store.close()
    assert "does not run" in run_ours("stop", ".").stderr
    time.sleep(0.1)  # for a signal that must not come
    assert innocent.poll() is None


def test_stop_ends_the_series(project: Path) -> None:
    """A try that was stopped by ``stop`` is the last, whatever it ended with."""
    stopping = f"{' '.join(COMMAND)} stop pid:$$ >/dev/null & wait; sleep 60"
    ended = run_ours("wrap", "--restart", "on-failure", *falling(CRASH, f'trap "exit 9" TERM; {stopping}'))
    assert ended.returncode == 9
    assert [run["cause"] for run in recorded_runs(project)] == ["signalled", "stopped"]


@pytest.mark.parametrize("words", [(), ("--log",)])
def test_ctrl_c_ends_the_series(words: tuple[str, ...], project: Path, processes: Processes) -> None:
    """An agent that fails by a Ctrl-C of the person's has been ended by that."""
    command = [*WRAP, *words, "--restart", "on-failure", *agent("trap", "INT", "say", "up", "take", "INT", "exit", 9)]
    with Terminal(processes, *command) as terminal:
        terminal.expect("up")
        terminal.type("\x03")
        assert terminal.program.wait(20) == 9
    assert len(recorded_runs(project)) == 1


@pytest.mark.parametrize("words", [(), ("--log",)])
def test_on_a_terminal(words: tuple[str, ...], project: Path, processes: Processes) -> None:
    """Each try has the terminal as the first had it, and nothing of what was typed before."""
    steps = 'if [ $number = 1 ]; then read line; echo "<$line>"; stty -a | grep -o " -\\?echo "; exit 0; fi'
    command = ["sh", "-c", f"{TRIES}{steps}; stty raw -echo; echo up; sleep 0.3; {CRASH}"]
    with Terminal(processes, *WRAP, *words, "--restart", "on-crash", *command) as terminal:
        before = terminal.initial
        terminal.expect("up")
        terminal.type("stale")
        terminal.expect("try 1:")
        terminal.type("fresh\n")
        terminal.expect("<fresh>")
        assert terminal.program.wait(20) == 0
        assert terminal.settings() == before
    assert [run["status"] for run in recorded_runs(project)] == ["crashed", "completed"]


def test_each_has_its_log(project: Path) -> None:
    """With --log each try has a log of its own."""
    ended = run_ours("wrap", "--log", "--restart", "on-crash", *falling(CRASH, "exit 0"))
    assert (ended.returncode, ended.stdout) == (0, "try 0:\ntry 1:\n")
    assert [run_ours("logs", run).stdout for run in "12"] == ["try 0:\n", "try 1:\n"]


def test_default_is_set_once(project: Path) -> None:
    """A restart does not make its command the project's own again, if another has become that meanwhile."""
    other = f"{' '.join(COMMAND)} wrap --default true"
    assert (
        run_ours("wrap", "--default", "--restart", "on-crash", *falling(f"{other}; {CRASH}", "exit 0")).returncode == 0
    )
    assert {cmd for (cmd,) in rows(project, "SELECT cmd FROM projects")} == {"true"}


def test_goes_on_with_its_conversation(project: Path) -> None:
    """Each try of an agent that we know goes on with the one conversation; what was typed is recorded as typed."""
    claude = fake_claude(project, ["reply", "send", "KILL", "self"], ["reply", "bye"])
    ended = run_ours("wrap", "--restart", "on-crash", str(claude), "-p", "fix")
    assert (ended.returncode, ended.stdout.splitlines()[:2]) == (0, ["hist=1", "hist=2"])
    runs = recorded_runs(project)
    assert [json.loads(run["args"]) for run in runs] == [["-p", "fix"]] * 2
    first, second = (json.loads(added) for (added,) in rows(project, "SELECT args_added FROM run_process"))
    assert (first[0], second) == ("--session-id", ["--resume", first[1]])
    assert f"claude --resume {first[1]}" in run_ours("why", "1").stdout


def test_fresh(project: Path) -> None:
    """With --fresh nothing is added, and each try begins a conversation of its own."""
    claude = fake_claude(project, ["reply", "send", "KILL", "self"], ["reply", "exit", "0"])
    ended = run_ours("wrap", "--fresh", "--restart", "on-crash", str(claude), "-p", "fix")
    assert (ended.returncode, ended.stdout) == (0, "hist=1\nhist=1\n")
    assert rows(project, "SELECT args_added FROM run_process") == [(None,)] * 2


def ignore(number: int) -> None:
    """Ignore a signal."""
    signal.signal(number, signal.SIG_IGN)


def test_ignored_signals_say_nothing(project: Path, quick: Callable[..., None]) -> None:
    """What was ignored from the start, as under nohup, tells nobody to end, while it runs and while it waits."""
    quick(restart_delay=0.6)
    hangs_up = "(sleep 0.2; kill -HUP $PPID) & sleep 0.3"
    later = "(sleep 0.3; kill -HUP $PPID) &"
    command = falling(f"{hangs_up}; {later} {CRASH}", "exit 0")
    ended = subprocess.run(
        ["nohup", *WRAP, "--restart", "on-crash", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert (ended.returncode, len(recorded_runs(project))) == (0, 2)


def test_its_own_signals_say_nothing(project: Path) -> None:
    """An agent that ends what it has started by its group, our own, has not told us to end it."""
    command = falling('trap "" TERM; kill -TERM 0; sleep 0.2; exit 1', "exit 0")
    ended = run_ours("wrap", "--restart", "on-failure", *command, start_new_session=True)
    assert (ended.returncode, len(recorded_runs(project))) == (0, 2)


def test_told_while_it_is_looked_what_is_left(project: Path, processes: Processes, quick: Callable[..., None]) -> None:
    """What comes when a try has ended calls off the next, also while we end what the last has left behind."""
    quick(restart_delay=0.01)
    left = "(trap '' TERM; touch up; while :; do sleep 0.1; done) & while [ ! -e up ]; do sleep 0.01; done"
    wrapper = processes.start(*WRAP, "--reap", "--restart", "on-crash", *falling(f"{left}; {CRASH}"))
    wait_until(lambda: "restarts_at" in evidence_of_first(project))
    assert run_ours("stop", ".").stdout == "project#1 had ended, and is not started again\n"
    assert wrapper.wait(20) == -signal.SIGTERM
    assert len(recorded_runs(project)) == 1


@pytest.mark.parametrize("by", ["signal", "stop"])
def test_called_off_while_it_is_stopped(
    by: str, project: Path, processes: Processes, quick: Callable[..., None]
) -> None:
    """A wrapper that is stopped when its wait lapses heeds what has come meanwhile."""
    quick(restart_delay=0.6)
    wrapper = processes.start(*WRAP, "--restart", "on-crash", *falling(CRASH))
    wait_until(lambda: "restarts_at" in evidence_of_first(project))
    wrapper.send_signal(signal.SIGSTOP)
    wait_until(lambda: time.time() > evidence(project, 1)["restarts_at"])
    if by == "stop":
        assert run_ours("stop", ".").stdout == "project#1 had ended, and is not started again\n"
    else:
        wrapper.send_signal(signal.SIGTERM)
        wrapper.send_signal(signal.SIGCONT)
    assert wrapper.wait(20) == -signal.SIGTERM
    assert len(recorded_runs(project)) == 1


def test_stopped_when_nothing_can_be_written(project: Path, processes: Processes) -> None:
    """An end that was asked for is none to restart after, also where the store takes it only later."""
    wrapper = processes.start(*WRAP, "--restart", "on-crash", *agent("ignore", "TERM", "touch", "up", "await", "never"))
    wait_until((project / "up").exists)
    stopping = processes.ours("stop", "--timeout", "0.3", ".", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: rows(project, "SELECT 1 FROM run_process WHERE asked_at IS NOT NULL"))
    with sqlite3.connect(project / ".agent-yes" / "store.sqlite", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert wrapper.wait(20) == -signal.SIGKILL
        holder.execute("COMMIT")
    holder.close()
    stopping.wait(20)
    run_ours("runs", "list")
    assert recorded_run(project)["cause"] == "stopped"


def test_linked_where_the_first_was_kept(project: Path) -> None:
    """A try names the first of its series also where that could not be recorded at once."""
    folder = project / ".agent-yes"
    folder.write_text("in the way")
    assert run_ours("wrap", "--restart", "on-crash", *falling(f"rm .agent-yes; {CRASH}", "exit 0")).returncode == 0
    run_ours("runs", "list")
    assert linked(project) == [None, 1]


def test_tries_do_not_mix(project: Path) -> None:
    """With a log and a slow reader the next try begins when all that the last has written is taken."""
    words = "wrap --log --restart on-failure --max-restarts 1"
    lines = 'i=0; while [ $i -lt 3000 ]; do echo "$number $i, and more to make it long"; i=$((i+1)); done; exit 1'
    command = shlex.join([*COMMAND, *words.split(), "sh", "-c", f"{TRIES}{lines}"])
    read = subprocess.run(["sh", "-c", f"{command} | (sleep 0.7; cat)"], capture_output=True, text=True, check=False)
    numbers = [line.split()[0] for line in read.stdout.splitlines() if "more" in line]
    assert numbers == ["0"] * 3000 + ["1"] * 3000


@pytest.mark.parametrize("settings", ["x = ", f"[wrap]\nmax_restarts = {'9' * 5000}", "agents = 1\n"])
def test_broken_settings(settings: str, project: Path, home: Path) -> None:
    """Settings that cannot be used are told of in one line, and their defaults hold."""
    (home / "config" / "agent-yes-supervise" / "config.toml").write_text(settings)
    ended = run_ours("wrap", "--log", "--restart", "on-crash", "--timeout", "1m", *falling("exit 3"))
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert "the settings are not heeded: " in ended.stderr


def test_settings_that_are_no_file(project: Path, home: Path) -> None:
    """Nobody waits for settings that nobody writes."""
    file = home / "config" / "agent-yes-supervise" / "config.toml"
    file.unlink()
    os.mkfifo(file)
    assert run_ours("wrap", "true").returncode == 0


def test_stderr_that_nobody_reads(project: Path, processes: Processes) -> None:
    """A line of ours does not hold up the wrapper where stderr takes nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    wrapper = processes.start(*WRAP, "--restart", "on-crash", *falling(CRASH, "exit 3"), stderr=writer)
    assert wrapper.wait(20) == 3
    os.close(reader)
    os.close(writer)


def test_nothing_to_decide_by(project: Path) -> None:
    """Where it cannot be decided whether an agent is started again, it is not: its end comes through, and a line."""
    gone = "import sys; sys.modules['supervisor.wrap.restarts'] = None; from supervisor.cli import main; main()"
    words = [sys.executable, "-c", gone, "wrap", "--restart", "on-crash", *falling(CRASH)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, recorded_run(project)["status"]) == (-signal.SIGSEGV, "crashed")
    assert ended.stderr.startswith(f"{PREFIX}it is not started again: ModuleNotFoundError: ")
    assert ended.stderr.count("\n") == 1


def test_terminal_that_is_held_up(project: Path, processes: Processes, quick: Callable[..., None]) -> None:
    """Nor does a terminal whose output the person has held (Ctrl-S): `stop` can call the restart off all the same."""
    quick(restart_delay=60)
    with Terminal(processes, *WRAP, "--restart", "on-crash", "sh", "-c", f"echo up; read line; {CRASH}") as terminal:
        terminal.expect("up")
        terminal.type("\x13\n")
        wait_until(lambda: "restarts_at" in evidence_of_first(project))
        assert run_ours("stop", ".").stdout == "project#1 had ended, and is not started again\n"
        assert terminal.program.wait(20) == -signal.SIGTERM


def test_agents_that_are_always_logged(project: Path, home: Path) -> None:
    """The settings can want an agent logged, by its name; others are not."""
    (home / "config" / "agent-yes-supervise" / "config.toml").write_text("[agents.echo]\nlog = true\n")
    for name in ("echo", shutil.which("echo") or "", "printf"):
        assert run_ours("wrap", name, "hello").returncode == 0
    assert [run_ours("logs", str(run)).stdout for run in (1, 2)] == ["hello\n"] * 2
    assert "has no log" in run_ours("logs", "3").stderr
