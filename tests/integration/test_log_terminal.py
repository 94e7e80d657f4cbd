"""An agent whose terminal is its own behind a relay: nobody can tell, and whatever dies, the terminal is put right."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from kit import COMMAND, Processes, run_ours, wait_until
from wrapping import (
    Terminal,
    agent,
    calls_are_known,
    children,
    is_done_with,
    is_gone,
    is_held_up,
    logs_of,
    recorded_run,
    recorded_runs,
    signals_in,
    sleeps,
)

LOGGED = (*COMMAND, "wrap", "--log")
CTRL_C, CTRL_Z = "\x03", "\x1a"
DRAWS = r"printf '\033[?1049h\033[?1000;1006h\033[?25l\033[?2004h\033[3;9r'; stty raw -echo; echo drawn; "
UNDONE = (b"\x1b[?1000l", b"\x1b[?1006l", b"\x1b[?2004l", b"\x1b[r", b"\x1b[?25h", b"\x1b[?1049l")


def test_settings_and_size(project: Path, processes: Processes) -> None:
    """The agent finds its terminal as it would find the person's: the same settings, the same size."""
    found = []
    for prefix in ((), LOGGED):
        with Terminal(processes, "sh", "-c", 'read go && "$@"', "sh", *prefix, "stty", "-a") as terminal:
            terminal.resize(31, 97)
            terminal.type("go\n")
            terminal.expect("speed")
            found.append(terminal.rest())
    assert found[0] == found[1]
    assert b"rows 31; columns 97" in found[0]
    assert b"-echo " in found[0]


def test_signals_that_the_agent_inherits(project: Path, processes: Processes) -> None:
    """The agent blocks and ignores what wrap was started with, none of what the relay or the shim need."""
    prepares = (
        "import os, sys; from signal import *\n"
        "pthread_sigmask(SIG_BLOCK, {SIGUSR2, SIGRTMIN})\n"
        "for number in (SIGHUP, SIGCHLD, SIGTSTP, SIGTTOU, SIGUSR1): signal(number, SIG_IGN)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    found = []
    for prefix in ((), LOGGED):
        with Terminal(processes, sys.executable, "-c", prepares, *prefix, "cat", "/proc/self/status") as one:
            shown = one.rest().decode()
        found.append({name: signals_in(mask) for name, mask in re.findall(r"Sig(Blk|Ign|Cgt):\t(\w+)", shown)})
    reset = {signal.SIGPIPE, signal.SIGXFSZ}  # what Python ignores, and wrap therefore resets
    assert found[1] == {**found[0], "Ign": found[0]["Ign"] - reset}
    assert found[1]["Blk"] >= {signal.SIGUSR2, signal.SIGRTMIN}
    assert found[1]["Ign"] >= {signal.SIGHUP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTOU, signal.SIGUSR1}


@pytest.mark.parametrize("end", [0, 1, 42, 255, "TERM", "KILL", "SEGV", "HUP"])
def test_endings(project: Path, processes: Processes, end: int | str) -> None:
    """How the agent ends comes through, is recorded with its own pid, and its last words are shown and logged."""
    how = f"exit {end}" if isinstance(end, int) else f"ulimit -c 0; kill -{end} $$"
    with Terminal(processes, *LOGGED, "sh", "-c", f"echo $$ $PPID; {how}") as terminal:
        shown = terminal.rest()
    code = end if isinstance(end, int) else -signal.Signals[f"SIG{end}"]
    assert terminal.program.wait(20) == code
    run = recorded_run(project)
    assert (run["exit_code"], run["settled_by"]) == (code if code >= 0 else 128 - code, "wrap")
    pid, parent = map(int, shown.split())
    assert (run["pid"], run["owner_pid"]) == (pid, terminal.program.pid) != (pid, parent)
    assert logs_of(project) == {"log": shown}


def test_not_started(project: Path, processes: Processes) -> None:
    """A command that cannot be started is answered as ever, on a terminal that is given back first."""
    with Terminal(processes, *LOGGED, "nosuchagent") as terminal:
        assert terminal.rest() == b"agent-yes-supervise: nosuchagent: command not found\r\n"
    assert terminal.program.wait(20) == 127
    assert recorded_run(project)["cause"] == "not-started"


def test_every_key(project: Path, processes: Processes) -> None:
    """All 256 bytes that can be typed reach an agent that takes them raw, and none is taken for a command."""
    reader = "import os, sys, tty; tty.setraw(0); os.write(1, b'ready'); got = b''\n"
    reader += "while len(got) < 256: got += os.read(0, 256)\nos.write(1, got.hex().encode() + b'.')"
    with Terminal(processes, *LOGGED, sys.executable, "-S", "-E", "-c", reader) as terminal:
        terminal.expect("ready")
        terminal.type(bytes(range(256)))
        assert terminal.expect(".") == bytes(range(256)).hex()
        assert terminal.program.wait(20) == 0


def test_every_byte(project: Path, processes: Processes) -> None:
    """Megabytes of all bytes pass to the terminal unchanged and to the last one, and are all in the log."""
    sent = bytes(range(256)) + os.urandom(4 << 20)
    (project / "file").write_bytes(sent)
    with Terminal(processes, *LOGGED, "sh", "-c", "stty raw; exec cat file") as terminal:
        shown = terminal.rest()
    assert hashlib.sha256(shown).digest() == hashlib.sha256(sent).digest()
    assert terminal.program.wait(20) == 0
    (log,) = (project / ".agent-yes" / "logs").iterdir()
    assert log.read_bytes().endswith(sent)
    assert (log.stat().st_mode & 0o7777, log.parent.stat().st_mode & 0o7777) == (0o600, 0o700)


def test_trouble_with_what_is_shown(project: Path, processes: Processes) -> None:
    """Whatever goes wrong as the agent's output is looked through, it is shown, logged, and the agent goes on."""
    program = (
        "from supervisor.wrap.modes import Modes; from supervisor.cli import main\n"
        "Modes.follow = lambda *_: 1 / 0\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "wrap", "--log", *agent("say", "one", "line", "exit", 3)]
    with Terminal(processes, *command) as terminal:
        terminal.expect("one")
        terminal.type("two\n")
        terminal.expect("[two]")
        assert terminal.program.wait(20) == 3
    assert logs_of(project) == {"log": b"one\r\n[two]\r\n"}


@calls_are_known
def test_stalled_terminal(project: Path, processes: Processes) -> None:
    """While the terminal takes nothing the agent is held up; Ctrl-C ends it, that is recorded, and nothing is lost."""
    with Terminal(processes, *LOGGED, "sh", "-c", "echo up; exec yes") as terminal:
        before = terminal.initial
        terminal.expect("up")
        pid = recorded_run(project)["pid"]
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "yes\n")
        looks = 0

        def is_stuck() -> bool:
            nonlocal looks
            looks = looks + 1 if is_held_up(pid) and sleeps(terminal.program.pid) else 0
            return looks == 20  # once may be by chance

        wait_until(is_stuck)
        terminal.type(CTRL_C)
        wait_until(lambda: recorded_run(project)["status"] == "failed")
        assert terminal.program.poll() is None
        shown = terminal.rest()
        assert terminal.program.wait(20) == -signal.SIGINT
        assert terminal.settings() == before
    assert shown.count(b"y\r\n") > 1000  # the terminal itself drops some at Ctrl-C (termios(3), NOFLSH)
    assert b"up" + shown == logs_of(project)["log"]


def test_signals_to_the_whole_group(project: Path, processes: Processes) -> None:
    """What a process sends to the wrapper's whole group reaches the agent once: it is in a group of its own."""
    steps = ["trap", "TERM", "trap", "USR1", "say", "up", "take", "USR1", "exit", 9]
    with Terminal(processes, *LOGGED, *agent(*steps)) as terminal:
        terminal.expect("up")
        os.killpg(terminal.program.pid, signal.SIGTERM)
        terminal.expect("SIGTERM")
        terminal.program.send_signal(signal.SIGUSR1)
        assert "SIGTERM" not in terminal.expect("SIGUSR1")
        assert terminal.program.wait(20) == 9


def test_ctrl_z_where_nobody_would_continue(project: Path, processes: Processes) -> None:
    """Without a shell above, Ctrl-Z does nothing, as it does without wrap."""
    with Terminal(processes, *LOGGED, *agent("trap", "CONT", "say", "up", "line", "exit", 0)) as terminal:
        terminal.expect("up")
        terminal.type(CTRL_Z)
        terminal.expect("SIGCONT")
        terminal.type("still here\n")
        terminal.expect("[still here]")
        assert terminal.program.wait(20) == 0


def test_settings_that_an_agent_leaves(project: Path, processes: Processes) -> None:
    """What an agent that ends well has set its terminal to, as by stty, the person's is set to, too; else nothing."""
    script = '"$@" stty -icanon; "$@" sh -c "stty -onlcr; exit 1"; stty -a'
    with Terminal(processes, "sh", "-c", script, "sh", *LOGGED) as terminal:
        shown = terminal.rest().split()
    assert b"-icanon" in shown
    assert b"onlcr" in shown


def test_killed_agent(project: Path, processes: Processes) -> None:
    """What a killed agent did to the terminal is undone: its screen, mouse, cursor and settings."""
    with Terminal(processes, *LOGGED, "sh", "-c", f"{DRAWS} kill -KILL $$") as terminal:
        before = terminal.initial
        shown = terminal.rest().partition(b"drawn")[2]
        assert all(sequence in shown for sequence in UNDONE), shown
        assert terminal.program.wait(20) == -signal.SIGKILL
        assert terminal.settings() == before


def test_killed_relay(project: Path, processes: Processes) -> None:
    """When the wrapper is killed its terminal is put right, and the agent gets a hang-up; its row can be judged."""
    waits = f"trap 'touch hung-up; exit' HUP; {DRAWS} touch up; while :; do sleep 0.01; done"
    script = '"$@"; touch back; read line; echo "<$line>"'
    with Terminal(processes, "sh", "-c", script, "sh", *LOGGED, "sh", "-c", waits) as terminal:
        before = terminal.initial
        wait_until((project / "up").exists)
        run = recorded_run(project)
        agents_shell = processes.adopt(run["pid"])
        wait_until(lambda: terminal.settings() != before)
        os.kill(run["owner_pid"], signal.SIGKILL)
        wait_until((project / "hung-up").exists)
        wait_until((project / "back").exists)
        wait_until(lambda: terminal.settings() == before)
        terminal.type("a line\n")
        shown = terminal.expect("<a line>").encode()
    assert all(sequence in shown for sequence in UNDONE), shown
    wait_until(lambda: is_gone(agents_shell))
    told = json.loads(run_ours("runs", "show", ".", "--json").stdout)
    assert (told["status"], told["verdict"]) == ("running", "dead")


@calls_are_known
def test_logout(project: Path, processes: Processes) -> None:
    """A SIGHUP to the shim while the terminal is there, as at a logout, reaches nobody and ends nothing."""
    steps = ["trap", "HUP", "say", "up", "line", "exit", 7]
    with Terminal(processes, *LOGGED, *agent(*steps)) as terminal:
        terminal.expect("up")
        (shim,) = children(terminal.program.pid)
        os.kill(shim, signal.SIGTERM)
        os.kill(shim, signal.SIGHUP)
        wait_until(lambda: is_done_with(shim, signal.SIGHUP))
        terminal.type("go\n")
        assert "SIGHUP" not in terminal.expect("[go]")
        assert terminal.program.wait(20) == 7
    assert recorded_run(project)["exit_code"] == 7


def test_killed_shim(project: Path, processes: Processes) -> None:
    """When the shim is killed the kernel hangs up on the agent, and the wrapper still learns how it ended."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("there are no pidfds here")
    steps = ["trap", "TERM", "ignore", "HUP", "say", "up", "take", "TERM", "exit", 7]
    with Terminal(processes, *LOGGED, *agent(*steps)) as terminal:
        before = terminal.initial
        terminal.expect("up")
        processes.adopt(recorded_run(project)["pid"])
        (shim,) = children(terminal.program.pid)
        os.kill(shim, signal.SIGKILL)
        terminal.program.send_signal(signal.SIGTERM)
        terminal.expect("SIGTERM")
        code = terminal.program.wait(20)
        assert terminal.settings() == before
    run = recorded_run(project)
    assert (code, run["status"], run["exit_code"]) in [(7, "failed", 7), (125, "running", None)]


def test_wrapper_killed_before_the_exec(project: Path, processes: Processes) -> None:
    """When the wrapper is killed before its row is written nothing ever starts."""
    program = (
        "import os, signal, sys; from supervisor.wrap import record; from supervisor.cli import main\n"
        "record.Record.begin = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "wrap", "--log", "touch", "started"]
    with Terminal(processes, *command) as terminal:
        assert terminal.program.wait(20) == -signal.SIGKILL
        terminal.rest()  # until nobody is left on the terminal
    assert not (project / "started").exists()
    assert not (project / ".agent-yes").exists()


def test_stderr_elsewhere(project: Path, processes: Processes) -> None:
    """A stderr that is redirected is left alone: the agent writes to it directly, and it is not in the log."""
    command = shlex.join([*LOGGED, "sh", "-c", "test -t 2 || readlink /proc/$$/fd/2 >&2; echo out"])
    with Terminal(processes, "sh", "-c", f"{command} 2>errors") as terminal:
        assert terminal.rest() == b"out\r\n"
    assert (project / "errors").read_text() == f"{project / 'errors'}\n"
    assert logs_of(project) == {"log": b"out\r\n"}


def test_left_behind(project: Path, processes: Processes) -> None:
    """What the agent leaves behind on the terminal holds up nobody, and gets no signal."""
    left = "(trap 'touch signalled' HUP; touch left; until [ -e go ]; do sleep 0.01; done; touch went) &"
    script = f"{left} until [ -e left ]; do sleep 0.01; done; echo $!; exit 5"
    with Terminal(processes, *LOGGED, "sh", "-c", script) as terminal:
        processes.adopt(int(terminal.expect("\n")))
        assert terminal.program.wait(20) == 5
    (project / "go").touch()
    wait_until((project / "went").exists)
    assert not (project / "signalled").exists()


def test_told_to_end_while_the_last_is_shown(project: Path, processes: Processes) -> None:
    """A signal that comes while the last of an ended agent is shown calls its restart off."""
    writes = "(until [ -e done ]; do echo more; sleep 0.01; done) & kill -KILL $$"
    with Terminal(processes, *LOGGED, "--restart", "on-crash", "sh", "-c", writes) as terminal:
        terminal.expect("more")
        wait_until(lambda: is_gone(recorded_run(project)["pid"]))
        for _ in range(10):
            terminal.expect("more")
        terminal.program.terminate()
        try:
            assert terminal.program.wait(20) in (-signal.SIGTERM, -signal.SIGKILL)
        finally:
            (project / "done").touch()
    assert recorded_run(project)["exit_code"] == 137


def test_nested(project: Path, processes: Processes) -> None:
    """A logged wrap under a logged wrap: both runs end as the agent does, and both logs hold what it wrote."""
    with Terminal(processes, *LOGGED, *LOGGED, *agent("line", "exit", 42)) as terminal:
        terminal.type("a line\n")
        terminal.expect("[a line]")
        assert terminal.program.wait(20) == 42
    assert [run["exit_code"] for run in recorded_runs(project)] == [42, 42]
    logs = list((project / ".agent-yes" / "logs").iterdir())
    assert len(logs) == 2
    assert all(b"[a line]" in log.read_bytes() for log in logs)


@pytest.mark.parametrize("how", ["link", "file", "another's"])
def test_unusable_folder(project: Path, processes: Processes, how: str) -> None:
    """Where the log must not or cannot be made one line says so, the agent runs, and nothing is written elsewhere."""
    run_ours("wrap", "true")
    logs, elsewhere = project / ".agent-yes" / "logs", project / "elsewhere"
    elsewhere.mkdir()
    if how == "link":
        logs.symlink_to(elsewhere)
    elif how == "file":
        logs.touch()
    elif os.geteuid() == 0:
        logs.mkdir()
        os.chown(logs, 12345, 12345)
    else:
        pytest.skip("needs root")
    with Terminal(processes, *LOGGED, "sh", "-c", "test -t 1 && echo ran; exit 3") as terminal:
        shown = terminal.rest().decode()
    assert terminal.program.wait(20) == 3
    assert shown.startswith("agent-yes-supervise: this run is not logged: ")
    assert (shown.count("\n"), shown.endswith("\nran\r\n")) == (2, True)
    assert list(elsewhere.iterdir()) == []
    assert recorded_runs(project)[1]["exit_code"] == 3
