"""An agent under wrap cannot tell, but for its parent and one variable of its environment."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import COMMAND, Processes, run_ours, wait_until
from wrapping import agent, is_stopped, recorded_run, recorded_runs, signals_in

from supervisor.process import procfs

TOKEN = "AGENT_YES_RUN"
WRAP = (*COMMAND, "wrap")


@pytest.fixture(params=[(), ("--log",)], ids=["plain", "logged"])
def wrap(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return how wrap is called: with a log the agent's streams are pipes, and all else is as without."""
    return (*WRAP, *request.param)


def report(project: Path, *prefix: str, **options: Any) -> dict[str, Any]:
    """Return what an agent inherits that is started behind this prefix."""
    told = project / "told"
    command = [*prefix, *agent("report", told, "exit", 0)]
    assert subprocess.run(command, check=False, **options).returncode == 0
    found: dict[str, Any] = json.loads(told.read_text())
    told.unlink()
    return found


@pytest.mark.parametrize("options", [{}, {"start_new_session": True}, {"process_group": 0}], ids=str)
def test_surroundings(project: Path, processes: Processes, options: dict[str, Any], wrap: tuple[str, ...]) -> None:
    """The agent has the directory, umask, process group, session and descriptors that wrap was started with."""
    reader, writer = os.pipe()
    high = fcntl.fcntl(writer, fcntl.F_DUPFD, 40)
    given = {"umask": 0o027, "pass_fds": (reader, high), "stdin": subprocess.DEVNULL}
    try:
        direct = report(project, **given)
        wrapper = processes.start(*wrap, *agent("report", "told", "await", "go"), **given, **options)
    finally:
        for descriptor in (reader, writer, high):
            os.close(descriptor)
    wait_until((project / "told").exists)
    found = json.loads((project / "told").read_text())
    same = ("cwd", "umask", "descriptors")
    assert {key: found[key] for key in same} == {key: direct[key] for key in same}
    assert {reader, high} <= set(found["descriptors"])
    assert (found["pgid"], found["sid"]) == (os.getpgid(wrapper.pid), os.getsid(wrapper.pid))
    run = recorded_run(project)
    assert (run["pid"], run["owner_pid"], run["cwd"]) == (found["pid"], wrapper.pid, str(project))
    assert (run["status"], found["ppid"]) == ("running", wrapper.pid)
    (project / "go").touch()
    assert wrapper.wait(20) == 0


@pytest.mark.parametrize(
    "locale",
    [{}, {b"LC_CTYPE": b"C"}, {b"LC_CTYPE": b"C.UTF-8"}, {b"LC_CTYPE": b""}, {b"LANG": b"C"}, {b"LC_ALL": b"C"}],
    ids=lambda given: b" ".join(b"%s=%s" % item for item in given.items()).decode() or "none",
)
def test_environment(project: Path, home: Path, locale: dict[bytes, bytes], wrap: tuple[str, ...]) -> None:
    """The agent has the environment that wrap was started with, whatever its bytes, and its run's token."""
    environment = {
        **{name: os.environb[name] for name in (b"HOME", b"PATH", b"XDG_STATE_HOME")},
        **locale,
        b"BYTES": bytes(range(1, 256)),
        b"EMPTY": b"",
        b"\xff": b"name",
        TOKEN.encode(): b"of another run",
    }
    direct = report(project, env=environment)["environment"]
    wrapped = report(project, *wrap, env=environment)["environment"]
    token = wrapped.pop(TOKEN)
    del direct[TOKEN]
    assert wrapped == direct
    assert token == recorded_run(project)["token"]
    assert len(bytes.fromhex(token)) == 16


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_arguments(project: Path, locale: str, monkeypatch: pytest.MonkeyPatch, wrap: tuple[str, ...]) -> None:
    """The agent has its arguments byte for byte, and they are recorded so that each byte can be told."""
    monkeypatch.setenv("LC_ALL", locale)
    given = [b"", "\u00fc\U0001f600".encode(), b"\xff\xfe", b"a b", b"--", b"--help", b"-x=1", b'\x01\n\t"\\', b""]
    words = [word.encode() for word in agent("report", "told", "exit", 0)]
    command = [*(word.encode() for word in wrap), *words, *given]
    assert subprocess.run(command, check=False).returncode == 0
    assert json.loads(Path("told").read_text())["arguments"] == [word.decode("latin-1") for word in [*words, *given]]
    recorded = json.loads(recorded_run(project)["args"])
    assert [word.encode("utf-8", "surrogateescape") for word in recorded] == [*words[1:], *given]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)], ids=str)
def test_closed_standard_descriptors(project: Path, closed: tuple[int, ...], wrap: tuple[str, ...]) -> None:
    """Where stdin, stdout or stderr is closed it is closed for the agent too, and nothing of ours takes its place."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    direct, wrapped = (report(project, *prefix, preexec_fn=close)["descriptors"] for prefix in ((), wrap))
    assert wrapped == direct
    assert not set(closed) & set(wrapped)
    assert recorded_run(project)["status"] == "completed"
    refused = subprocess.run([*wrap, "nosuchagent"], preexec_fn=close, check=False)
    assert refused.returncode == 127
    assert recorded_runs(project)[1]["cause"] == "not-started"


def test_bytes_pass_through(project: Path, wrap: tuple[str, ...]) -> None:
    """Megabytes of all 256 bytes pass from stdin through the agent to stdout unchanged."""
    sent = bytes(range(256)) * 4 + os.urandom(4 << 20)
    received = subprocess.run([*wrap, "cat"], input=sent, stdout=subprocess.PIPE, check=True).stdout
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


def ignoring(*numbers: int) -> Callable[[], None]:
    """Return a preparation that ignores these signals and blocks two others."""

    def prepare() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN})

    return prepare


def signals_of(*prefix: str, **options: Any) -> dict[str, str]:
    """Return which signals an agent that is no Python program blocks and ignores."""
    command = [*prefix, "cat", "/proc/self/status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return {name: fields[name] for name in ("SigBlk", "SigIgn", "SigCgt")}


@pytest.mark.parametrize(
    "ignored", [(), (signal.SIGINT, signal.SIGHUP), (signal.SIGCHLD,), (signal.SIGTSTP, signal.SIGTTOU)], ids=str
)
def test_mask_and_ignored_signals(project: Path, ignored: tuple[int, ...], wrap: tuple[str, ...]) -> None:
    """The agent blocks and ignores what wrap was started with; wrap learns its end even where SIGCHLD is ignored."""
    given: dict[str, Any] = {"preexec_fn": ignoring(*ignored)}
    assert signals_of(*wrap, **given) == signals_of(**given)
    assert subprocess.run([*wrap, "sh", "-c", "exit 5"], check=False, **given).returncode == 5
    assert [run["exit_code"] for run in recorded_runs(project)] == [0, 5]


def test_signals_that_python_ignores(project: Path, wrap: tuple[str, ...]) -> None:
    """What Python itself ignores has its default in the agent, whatever it was before."""
    reset = {signal.SIGPIPE, signal.SIGXFSZ}
    given = {"preexec_fn": ignoring(*reset), "restore_signals": False}
    assert signals_in(signals_of(*wrap, **given)["SigIgn"]) == signals_in(signals_of(**given)["SigIgn"]) - reset


def trapping(*names: str) -> list[str]:
    """Return the steps that trap signals and say so."""
    return [*(word for name in names for word in ("trap", name)), "say", "up"]


def lines_of(process: subprocess.Popen[str]) -> Callable[[], str]:
    """Return what reads the next line of a process."""
    assert process.stdout is not None
    stream = process.stdout
    return lambda: stream.readline().rstrip("\n")


@pytest.mark.parametrize(
    "step",
    [
        ["send", "TERM", "group"],
        ["spawn", "trap '' TERM; kill -TERM 0; until [ -e done ]; do sleep 0.01; done"],
    ],
    ids=["itself", "descendant"],
)
def test_signals_from_below(project: Path, processes: Processes, step: list[str], wrap: tuple[str, ...]) -> None:
    """What the agent, or one below it, sends to its own group reaches the agent once, not by the wrapper again."""
    steps = [*trapping("TERM", "USR1"), *step, "take", "USR1", "exit", 9]
    wrapper = processes.start(*wrap, *agent(*steps), stdout=subprocess.PIPE, process_group=0)
    line = lines_of(wrapper)
    assert (line(), line()) == ("up", "SIGTERM")
    wrapper.send_signal(signal.SIGUSR1)  # sent on behind whatever else the wrapper sends on
    assert line() == "SIGUSR1"
    (project / "done").touch()
    assert (line(), wrapper.wait(20)) == ("", 9)


def test_alarm_set_before(project: Path, wrap: tuple[str, ...]) -> None:
    """An alarm that was set before wrap was started (``perl -e 'alarm 5; exec @ARGV'``) ends the agent."""
    ended = run_ours(*wrap[len(COMMAND) :], "sleep", "60", preexec_fn=lambda: signal.alarm(1))
    assert ended.returncode == -signal.SIGALRM


def test_stopped_agent_without_job_control(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """Where nobody would continue it the wrapper does not stop with its agent, and still passes on what it gets."""
    steps = [*trapping("CONT"), "take", "CONT", "exit", 9]
    wrapper = processes.start(*wrap, *agent(*steps), stdout=subprocess.PIPE, start_new_session=True)
    line = lines_of(wrapper)
    assert line() == "up"
    pid = recorded_run(project)["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid))
    wrapper.send_signal(signal.SIGRTMAX)  # a later number than SIGCHLD, so that it is taken behind that
    wait_until(lambda: int(procfs.status_field(pid, b"ShdPnd:") or b"0", 16) >> (signal.SIGRTMAX - 1) & 1)
    assert not is_stopped(wrapper.pid)
    wrapper.send_signal(signal.SIGCONT)
    assert wrapper.wait(20) == -signal.SIGRTMAX


@pytest.mark.parametrize("continued", ["wrapper", "group"])
@pytest.mark.parametrize("stopped", ["agent", "group", "group politely"])
def test_stop_and_continue(
    project: Path, processes: Processes, stopped: str, continued: str, wrap: tuple[str, ...]
) -> None:
    """Agent and wrapper stop together and go on together, whoever was signalled; the agent is continued once."""
    steps = [*trapping("CONT", "USR1"), "take", "CONT", "take", "USR1", "exit", 9]
    wrapper = processes.start(*wrap, *agent(*steps), stdout=subprocess.PIPE, process_group=0)
    line = lines_of(wrapper)
    assert line() == "up"
    pid = recorded_run(project)["pid"]
    if stopped == "agent":
        os.kill(pid, signal.SIGSTOP)
    else:
        os.killpg(wrapper.pid, signal.SIGSTOP if stopped == "group" else signal.SIGTSTP)
    wait_until(lambda: is_stopped(pid) and is_stopped(wrapper.pid))
    if continued == "wrapper":
        wrapper.send_signal(signal.SIGCONT)
    else:
        os.killpg(wrapper.pid, signal.SIGCONT)
    assert line() == "SIGCONT"
    wrapper.send_signal(signal.SIGUSR1)
    assert line() == "SIGUSR1"
    assert (line(), wrapper.wait(20)) == ("", 9)


def test_nested(project: Path, processes: Processes, wrap: tuple[str, ...]) -> None:
    """Under two wrappers both runs are recorded with the agent's end, and a signal to the outer reaches the agent."""
    steps = [*trapping("TERM"), "report", "told", "take", "TERM", "exit", 42]
    outer = processes.start(*wrap, *wrap, *agent(*steps), stdout=subprocess.PIPE)
    line = lines_of(outer)
    assert line() == "up"
    wait_until((project / "told").exists)
    outer.terminate()
    assert (line(), line(), outer.wait(20)) == ("SIGTERM", "", 42)
    first, second = recorded_runs(project)
    assert (first["status"], first["exit_code"], second["status"], second["exit_code"]) == ("failed", 42, "failed", 42)
    told = json.loads((project / "told").read_text())
    assert (first["owner_pid"], first["pid"], second["pid"]) == (outer.pid, second["owner_pid"], told["pid"])
    assert (second["token"], first["token"] != second["token"]) == (told["environment"][TOKEN], True)
