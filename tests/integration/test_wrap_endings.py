"""Wrap ends as its agent ended, and records it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kit import COMMAND, Processes, run_ours, wait_until
from wrapping import agent, ignored_signals, recorded_run, recorded_runs, signals_in

from supervisor.models import Rank

STOPPED = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE]
SIGNALLED = [signal.SIGSEGV, signal.SIGABRT, signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN, signal.SIGRTMAX]


Words = tuple[str, ...]


@pytest.fixture(params=[(), ("--log",)], ids=["plain", "logged"])
def wrap(request: pytest.FixtureRequest) -> Words:
    """Return how wrap is called: with a log what the agent writes goes through pipes."""
    return ("wrap", *request.param)


def by_signal(number: int) -> list[str]:
    """Return a command that dies by a signal, and leaves no core file."""
    return ["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 42, 125, 126, 127, 128, 130, 137, 255])
def test_exit_code(project: Path, code: int, wrap: Words) -> None:
    """An exit code comes through as it is and is recorded, by the owner, as completed or failed."""
    ended = run_ours(*wrap, "sh", "-c", f"exit {code}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")
    run = recorded_run(project)
    assert (run["status"], run["exit_code"]) == ("failed" if code else "completed", code)
    assert (run["cause"], run["term_signal"], run["rank"], run["settled_by"]) == ("exited", None, Rank.OWNER, "wrap")


@pytest.mark.parametrize(
    ("number", "status", "cause"),
    [
        *((number, "failed", "stopped") for number in STOPPED),
        (signal.SIGKILL, "crashed", "killed"),
        *((number, "crashed", "signalled") for number in SIGNALLED),
        (32, "crashed", "signalled"),
    ],
)
def test_signal(project: Path, number: int, status: str, cause: str, wrap: Words) -> None:
    """A signal that ends the agent ends wrap too, so that a parent sees the truth; the record says 128+n and why."""
    if number in ignored_signals():
        pytest.skip(f"a program that is started here ignores signal {number}")
    ended = run_ours(*wrap, *by_signal(number))
    assert (ended.returncode, ended.stdout, ended.stderr) == (-number, "", "")
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == (status, 128 + number, cause)
    assert (run["term_signal"], run["core_dumped"], run["rank"]) == (number, 0, Rank.OWNER)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_shell_sees_the_signal(project: Path, number: signal.Signals, wrap: Words) -> None:
    """To a shell an agent that a signal ended looks the same with wrap and without: 128+n."""
    script = '"$@"; echo "code $?"'
    direct, wrapped = (
        subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, text=True, check=False).stdout
        for words in (by_signal(number), [*COMMAND, *wrap, *by_signal(number)])
    )
    assert direct == wrapped == f"code {128 + number}\n"


@pytest.mark.parametrize("hard", [0, resource.RLIM_INFINITY], ids=["forbidden", "unlimited"])
def test_no_second_core_file(project: Path, hard: int, wrap: Words) -> None:
    """When the agent dumps core, wrap dies by the same signal without a core file of its own."""
    if hard and resource.getrlimit(resource.RLIMIT_CORE)[1] != hard:
        pytest.skip("core files are forbidden here")
    (project / "below").mkdir()
    ended = run_ours(
        *wrap,
        *("sh", "-c", "cd below && kill -SEGV $$"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert ended.returncode == -signal.SIGSEGV
    assert list(project.glob("*core*")) == []
    pattern = Path("/proc/sys/kernel/core_pattern")
    if pattern.exists() and pattern.read_text().startswith("core"):
        dumped = len(list((project / "below").iterdir()))
        assert (dumped, recorded_run(project)["core_dumped"]) == ((1, 1) if hard else (0, 0))


def test_kill_the_agent(project: Path, processes: Processes, wrap: Words) -> None:
    """An agent that somebody kills with SIGKILL is recorded as crashed, 137 and killed, by its owner wrap."""
    wrapper = processes.ours(*wrap, *agent("touch", "up", "await", "never"))
    wait_until((project / "up").exists)
    os.kill(recorded_run(project)["pid"], signal.SIGKILL)
    assert wrapper.wait(20) == -signal.SIGKILL
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("crashed", 137, "killed")
    assert (run["rank"], run["settled_by"], run["owner_pid"]) == (Rank.OWNER, "wrap", wrapper.pid)
    assert run["ended_at"] // 1000 >= run["started_at"]


@pytest.fixture
def unstartable(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, alone on PATH, of things that cannot be started."""
    folder = project / "bin"
    (folder / "folder").mkdir(parents=True)
    (folder / "text").write_text("#!/bin/sh\n")
    (folder / "orphan").write_text("#!/no/such/interpreter\n")
    (folder / "orphan").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("nosuchagent", 127, "nosuchagent: command not found"),
        ("", 127, ": command not found"),
        ("./nosuchagent", 127, "./nosuchagent: No such file or directory"),
        ("bin/text/agent", 127, "bin/text/agent: Not a directory"),
        ("bin/orphan", 127, "bin/orphan: No such file or directory"),
        ("bin/text", 126, "bin/text: Permission denied"),
        ("text", 126, "text: Permission denied"),
        ("bin/folder", 126, "bin/folder: Permission denied"),
        ("no\nsuch\x1b[2J", 127, "no\ufffdsuch\ufffd[2J: command not found"),
    ],
)
def test_not_started(project: Path, unstartable: Path, command: str, code: int, message: str, wrap: Words) -> None:
    """A command that cannot be started is answered as a shell does, in one line, and recorded as not started."""
    ended = run_ours(*wrap, command, "x")
    assert (ended.returncode, ended.stderr) == (code, f"agent-yes-supervise: {message}\n")
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"], run["cli"]) == ("failed", code, "not-started", command)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    """Write a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_script_without_interpreter_line(project: Path, wrap: Words) -> None:
    """A script without an interpreter line is run by sh with its arguments, as execvp(3) and shells do."""
    script(project / "agent", 'echo "$0 $1"; exit 4\n')
    ended = run_ours(*wrap, "./agent", "a b")
    assert (ended.returncode, ended.stdout, ended.stderr) == (4, "./agent a b\n", "")


def test_search_along_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH is searched as execvp(3) does: past what may not be executed, but not past a script of the shell."""
    script(project / "a" / "agent", "", 0o644)
    script(project / "b" / "agent", "echo shell script\n")
    script(project / "c" / "agent", "#!/bin/sh\necho too far\n")
    monkeypatch.setenv("PATH", f"{project}/nowhere:{project}/a:{project}/b:{project}/c")
    assert run_ours("wrap", "agent").stdout == "shell script\n"
    monkeypatch.setenv("PATH", f"{project}/a:")
    script(project / "agent", "#!/bin/sh\necho current directory\n")
    assert run_ours("wrap", "agent").stdout == "current directory\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nosuch", "true"], "wrap has no option --nosuch"),
        (["--project"], "--project needs a value"),
        (["--default=1", "true"], "--default takes no value"),
        (["--project", "nowhere", "touch", "started"], "--project nowhere: no such directory"),
        (["--project", "a-file", "touch", "started"], "--project a-file: no such directory"),
        (["--project=", "touch", "started"], "--project : no such directory"),
    ],
)
def test_failures_of_our_own(project: Path, words: list[str], message: str) -> None:
    """A command line that makes no sense is answered by 125 and one line, and nothing is started or recorded."""
    (project / "a-file").touch()
    ended = run_ours("wrap", *words)
    assert ended.returncode == 125
    assert ended.stderr.startswith(f"agent-yes-supervise: {message}")
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in project.iterdir()] == ["a-file"]


def test_help(project: Path) -> None:
    """Help is shown for the wrapper's own options, and starts nothing."""
    for words in (["-h"], ["--help"], ["--default", "--help", "touch", "started"]):
        ended = run_ours("wrap", *words)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "Usage: agent-yes-supervise wrap" in ended.stdout
    assert list(project.iterdir()) == []


FEW_DESCRIPTORS = """
import resource, sys
from supervisor.cli import main
from supervisor.wrap import command

limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
main()
"""


@pytest.mark.parametrize("limit", [*range(4, 13), 16])
def test_few_descriptors(project: Path, limit: int) -> None:
    """However few descriptors are to be had, the agent runs and its end comes through; a line says what is missing."""
    agent = ["sh", "-c", "echo ran; ulimit -c 0; kill -ABRT $$"]
    ended = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(limit), "wrap", *agent], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGABRT, "ran\n"), ended.stderr
    if (project / ".agent-yes" / "store.sqlite").exists() and recorded_runs(project):
        assert recorded_run(project)["exit_code"] == 134
    else:
        assert ended.stderr.startswith("agent-yes-supervise: this run is not recorded")
        assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("limit", [*range(4, 13), 16])
@pytest.mark.parametrize("asked", ["--log", "--restart=on-crash", "--timeout=1m"])
def test_few_descriptors_and_more_asked(project: Path, asked: str, limit: int) -> None:
    """So it is whatever is asked for that needs more of them."""
    words = [FEW_DESCRIPTORS, str(limit), "wrap", asked, "sh", "-c", "echo ran; exit 3"]
    ended = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "ran\n"), ended.stderr
    assert "Traceback" not in ended.stderr


def test_signals_without_descriptors(project: Path) -> None:
    """An agent that is not even forked gets the signals that we were started with; Python ignores two."""
    words = [FEW_DESCRIPTORS, "4", "wrap", "grep", "SigIgn", "/proc/self/status"]
    ended = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True)
    assert signals_in(ended.stdout.split()[1]) == ignored_signals()


@pytest.mark.parametrize("asked", ["--prompt=p", "--restart=on-crash"])
def test_nothing_for_a_closed_stream(project: Path, asked: str) -> None:
    """Where nothing can be put in the place of a stream that is closed the agent runs, and a line says the rest."""
    words = ["import os; os.devnull = '/nowhere'; from supervisor.cli import main; main()", "wrap", asked]
    agent = ["sh", "-c", "read line || exit 3"]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", *words, *agent],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("agent-yes-supervise: this run is not recorded: [Errno 2] No such file or directory")
    assert "Traceback" not in ended.stderr


GO_ON = """
import os, sys
from supervisor.wrap import signals

there, gone_on = os.pipe()
agent = os.fork()
if agent == 0:
    os.close(gone_on)
    os._exit(len(os.read(there, 1)) + 6)

def refuse(pid, number):
    os.write(gone_on, b"x")
    raise PermissionError(1, "not yours")

signals.Inherited()
os.kill = refuse
print(flush=True)
status = signals.wait_for(agent, after=0, attend=lambda: None, heard={})
os._exit(os.WEXITSTATUS(status))
"""


def test_agent_of_another_user(processes: Processes) -> None:
    """A signal that cannot be passed on, because the agent has become another user's, does not end the wrapper."""
    wrapper = processes.start(sys.executable, "-c", GO_ON, stdout=subprocess.PIPE)
    assert wrapper.stdout is not None
    wrapper.stdout.readline()
    wrapper.terminate()
    assert wrapper.wait(20) == 7
