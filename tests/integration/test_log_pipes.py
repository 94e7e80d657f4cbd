"""An agent whose redirected streams go through pipes: unchanged, kept apart, and copied to logs."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from wrapping import Terminal, agent, is_stopped, logs_of, recorded_run

from supervisor.process import procfs

LOGGED = (*COMMAND, "wrap", "--log")
BOTH = "echo out; echo err >&2; echo more"


def test_streams_are_kept_apart(project: Path) -> None:
    """Stdout and stderr arrive where they were to go, each with a log of its own; stdin is the agent's as it was."""
    (project / "in").write_text("the input\n")
    with (project / "in").open() as given:
        script = f"{BOTH}; readlink /proc/$$/fd/0; cat"
        ended = subprocess.run([*LOGGED, "sh", "-c", script], stdin=given, capture_output=True, check=False)
        assert given.read() == ""
    assert (ended.stdout.decode(), ended.stderr) == (f"out\nmore\n{project / 'in'}\nthe input\n", b"err\n")
    assert logs_of(project) == {"log": ended.stdout, "err.log": b"err\n"}


def test_into_files(project: Path) -> None:
    """What goes to files is written where they stand, and all of it is there when wrap has ended."""
    command = shlex.join([*LOGGED, "sh", "-c", BOTH])
    subprocess.run(["sh", "-c", f"{{ echo before; {command}; echo after; }} >out 2>err"], check=True)
    assert (project / "out").read_text() == "before\nout\nmore\nafter\n"
    assert (project / "err").read_text() == "err\n"


def test_one_place_keeps_the_order(project: Path) -> None:
    """Where stdout and stderr lead to one place all stands there in the order in which it was written."""
    writer = "import os\nfor i in range(500): os.write(1, b'out %d\\n' % i); os.write(2, b'err %d\\n' % i)"
    wanted = "".join(f"out {i}\nerr {i}\n" for i in range(500)).encode()
    command = [*LOGGED, sys.executable, "-S", "-E", "-c", writer]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert ended.stdout == wanted
    assert logs_of(project) == {"log": wanted}


def test_reader_that_goes_away(project: Path) -> None:
    """When nobody reads any more the agent is told by SIGPIPE, and ends as it would without a log."""
    command = shlex.join([*LOGGED, "yes"])
    ended = subprocess.run(
        ["bash", "-c", f'{command} | head -1; echo "${{PIPESTATUS[0]}}"'], capture_output=True, check=True
    )
    assert ended.stdout == b"y\n141\n"
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 141, "stopped")


def test_reader_that_does_not_read(project: Path, processes: Processes) -> None:
    """A reader that takes nothing holds up the agent but not the wrapper: signals are passed on, and it ends."""
    wrapper = processes.start(*LOGGED, "yes", stdout=subprocess.PIPE)
    assert wrapper.stdout is not None
    assert wrapper.stdout.readline() == "y\n"
    pid = recorded_run(project)["pid"]
    wait_until(lambda: procfs.read_stat(pid).state == "S")
    wrapper.terminate()
    assert wrapper.wait(20) == -signal.SIGTERM
    assert recorded_run(project)["exit_code"] == 128 + signal.SIGTERM
    rest = wrapper.stdout.read()
    assert set(rest.splitlines()[:-1]) == {"y"}
    assert logs_of(project)["log"].decode() == f"y\n{rest}"


def test_left_behind(project: Path, processes: Processes) -> None:
    """What the agent leaves behind keeps its stdout, though agent and wrapper have ended; it is logged, too."""
    left = "(until [ -e go ]; do sleep 0.01; done; echo went) & echo $!; exit 5"
    wrapper = processes.start(*LOGGED, "sh", "-c", left, stdout=subprocess.PIPE)
    assert wrapper.stdout is not None
    pid = wrapper.stdout.readline()
    processes.adopt(int(pid))
    assert wrapper.wait(20) == 5
    assert recorded_run(project)["status"] == "failed"
    (project / "go").touch()
    assert wrapper.stdout.read() == "went\n"
    wait_until(lambda: logs_of(project)["log"].decode() == f"{pid}went\n")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_streams_that_nobody_has_kept(project: Path, processes: Processes, kind: str) -> None:
    """Who reads a stream that nothing left behind has kept sees its end, though another one is still in use."""
    server = "(until [ -e go ]; do sleep 0.01; done; echo late >&2) >/dev/null &"
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    with open(reader, encoding="ascii") as output, (project / "errors").open("w") as errors:
        command = (*LOGGED, "sh", "-c", f"{server} echo out $!")
        wrapper = processes.start(*command, stdin=writer, stdout=writer, stderr=errors)
        os.close(writer)
        shown = output.read().split()
        processes.adopt(int(shown[1]))
    assert (shown[0], wrapper.wait(20)) == ("out", 0)
    (project / "go").touch()
    wait_until(lambda: (project / "errors").read_text().endswith("late\n"))


def test_ctrl_c_after_the_end(project: Path, processes: Processes) -> None:
    """What the agent leaves behind and ignores Ctrl-C keeps its stdout even then."""
    left = "(trap '' INT; touch up; until [ -e go ]; do sleep 0.01; done; echo went) & echo $!"
    wait = "until [ -e up ]; do sleep 0.01; done"
    wrapper = processes.start(*LOGGED, "sh", "-c", f"{left}; {wait}", stdout=subprocess.PIPE, process_group=0)
    assert wrapper.stdout is not None
    processes.adopt(int(wrapper.stdout.readline()))
    assert wrapper.wait(20) == 0
    os.killpg(wrapper.pid, signal.SIGINT)
    (project / "go").touch()
    assert wrapper.stdout.read() == "went\n"


def test_terminal_is_left_alone(project: Path, processes: Processes) -> None:
    """A stream that is a terminal is the agent's own and not logged; one that is redirected is."""
    command = shlex.join([*LOGGED, "sh", "-c", "tty <&1; echo err >&2; exit 6"])
    with Terminal(processes, "sh", "-c", f"tty; {command} </dev/null 2>err; exit $?") as terminal:
        first, second = terminal.rest().splitlines()
        assert first == second
        assert terminal.program.wait(20) == 6
    assert (project / "err").read_text() == "err\n"
    assert logs_of(project) == {"err.log": b"err\n"}


def test_nothing_to_log(project: Path, processes: Processes) -> None:
    """Where only stdin is redirected nothing can be logged, and one line says so."""
    command = shlex.join([*LOGGED, "sh", "-c", "test -t 1 && exit 6"])
    with Terminal(processes, "sh", "-c", f"{command} </dev/null; exit $?") as terminal:
        shown = terminal.rest()
        assert shown.startswith(b"agent-yes-supervise: this run is not logged: ")
        assert (shown.count(b"\n"), terminal.program.wait(20)) == (1, 6)
    assert recorded_run(project)["exit_code"] == 6


@pytest.fixture(params=[(), ("--log",)], ids=["plain", "logged"])
def wrap(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return how wrap is called."""
    return (*COMMAND, "wrap", *request.param)


def test_keys_from_a_terminal(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """Where only stdout is redirected the agent reads the terminal, and Ctrl-Z and fg reach it once."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    steps = [
        "trap",
        "INT",
        "trap",
        "CONT",
        "say",
        "up",
        "line",
        "take",
        "INT",
        "line",
        "take",
        "CONT",
        "line",
        "exit",
        7,
    ]
    environment = {**os.environ, "PS1": "", "HISTFILE": "/dev/null"}
    with Terminal(processes, bash, "--norc", "--noprofile", "--noediting", "-i", env=environment) as terminal:
        settings = terminal.initial
        terminal.type(f"{shlex.join([*wrap, *agent(*steps)])} | (trap '' INT; exec cat)\n")
        terminal.expect("up")
        run = recorded_run(project)
        both = processes.adopt(run["owner_pid"]), processes.adopt(run["pid"])
        terminal.type("a line\n")
        terminal.expect("[a line]")
        terminal.type("\x03")
        terminal.expect("SIGINT")
        terminal.type("more\n")
        terminal.expect("[more]")
        terminal.type("\x1a")
        wait_until(lambda: all(map(is_stopped, both)))
        terminal.type('echo "shell: $?"\n')
        terminal.expect(f"shell: {128 + signal.SIGTSTP}")
        terminal.type("fg\n")
        terminal.expect("SIGCONT")
        terminal.type("the last\n")
        assert "SIGCONT" not in terminal.expect("[the last]")
        wait_until(lambda: recorded_run(project)["exit_code"] == 7)
        terminal.type('echo "the shell obeys"\n')
        terminal.expect("the shell obeys")
        assert terminal.settings() == settings
    if "--log" in wrap:
        assert logs_of(project)["log"].decode().split("\n")[0:2] == ["up", "[a line]"]


def test_what_is_written_before_a_stop(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """What an agent has written when it stops is passed on before the wrapper stops along."""
    writes = f"head -c {1 << 20} /dev/zero & wait; kill -TSTP $$; exit 5"
    wrapper = processes.start(*wrap, "sh", "-c", writes, stdout=subprocess.PIPE, process_group=0)
    assert wrapper.stdout is not None
    assert len(wrapper.stdout.read(1 << 20)) == 1 << 20
    wait_until(lambda: is_stopped(wrapper.pid))
    wrapper.send_signal(signal.SIGCONT)
    assert (wrapper.stdout.read(), wrapper.wait(20)) == ("", 5)


def test_into_a_socket(project: Path) -> None:
    """What an agent has written to a socket, as programs of node give their children, is there when wrap has ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        size = 20_000
        ended = subprocess.run(
            [*LOGGED, "sh", "-c", f"head -c {size} /dev/zero; exit 4"], stdout=theirs.fileno(), check=False
        )
        assert ended.returncode == 4
        assert len(ours.recv(2 * size)) == size


def test_closed_streams(project: Path) -> None:
    """A stream that is closed stays closed for the agent."""
    script = "[ -e /proc/$$/fd/1 ] || echo closed >&2"
    command = shlex.join([*LOGGED, "sh", "-c", script])
    ended = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"closed\n")
    assert logs_of(project) == {"err.log": b"closed\n"}


def test_full_disk(project: Path) -> None:
    """When the log cannot grow any more one line says so at the end, and the agent has noticed nothing."""
    program = (
        "import os; from supervisor.log import folder; from supervisor.cli import main\n"
        "folder.create = lambda *_: os.open('/dev/full', os.O_RDWR)\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "wrap", "--log", *agent("say", "one", "say", "two", "exit", 3)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = b"agent-yes-supervise: the log of this run is cut off: No space left on device\n"
    assert (ended.returncode, ended.stdout) == (3, b"one\ntwo\n" + said)


def test_deleted_folder(project: Path, processes: Processes) -> None:
    """When the folder is deleted while the agent runs it goes on, and its run is recorded in the new store."""
    wrapper = processes.start(
        *LOGGED, *agent("touch", "up", "await", "go", "say", "on", "exit", 3), stdout=subprocess.PIPE
    )
    wait_until((project / "up").exists)
    subprocess.run(["rm", "-r", str(project / ".agent-yes")], check=True)
    (project / "go").touch()
    assert wrapper.communicate(timeout=20)[0] == "on\n"
    assert wrapper.returncode == recorded_run(project)["exit_code"] == 3
    assert not os.path.exists(project / ".agent-yes" / "logs")
