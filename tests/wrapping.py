"""Tools for tests of wrap: the fake agent, what was recorded, and a terminal."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import pty
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kit import COMMAND, Processes

from supervisor.process import leftovers, procfs

AGENT = Path(__file__).parent / "agents" / "fake_agent.py"
STORE = Path(".agent-yes") / "store.sqlite"

_WAITS = {"x86_64": ("128", "7", "271"), "aarch64": ("137", "73")}.get(platform.machine(), ())
"""The numbers of rt_sigtimedwait(2), poll(2) and ppoll(2), each of which takes a time limit as its third argument."""

_WRITE = {"x86_64": "1", "aarch64": "64"}.get(platform.machine(), "")
_FOREVER = {0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
"""No time limit: a null pointer, or -1."""

calls_are_known = pytest.mark.skipif(
    not _WAITS or not os.path.exists("/proc/self/syscall"), reason="no such calls are known"
)

_RUNS = """
SELECT runs.*, dir, cmd, prompt, token, cli, cwd, owner_pid, cause, rank, term_signal, core_dumped, settled_by
FROM runs JOIN projects ON projects.id = runs.project_id
LEFT JOIN run_process ON run_process.run_id = runs.id LEFT JOIN run_ending ON run_ending.run_id = runs.id
ORDER BY runs.id
"""


def agent(*steps: object) -> list[str]:
    """Return the command line of a fake agent that does these steps."""
    return [sys.executable, "-S", "-E", str(AGENT), *(str(step) for step in steps)]


def fake_claude(folder: Path, *tries: Sequence[str], keeps: str = "start") -> Path:
    """Make a program ``claude`` that does other steps at each start, the last ones ever after; return it.

    It keeps its conversation as the step ``converse`` of the fake agent says, and the arguments of each start, a line
    of JSON each, in the file ``starts`` beside it.
    """
    starts, command = folder / "starts", [sys.executable, "-S", "-E", str(AGENT), "converse", keeps]
    program = folder / "claude"
    program.write_text(
        f"#!{sys.executable} -SE\nimport json, os, sys\nargs = json.dumps(sys.argv[1:])\n"
        f"with open({str(starts)!r}, 'a+') as file:\n    print(args, file=file)\n    file.seek(0)\n"
        f"    number = len(file.readlines())\ntries = {list(map(list, tries))!r}\n"
        f"steps = tries[min(number, len(tries)) - 1]\n"
        f"os.execv({sys.executable!r}, [*{command!r}, args, *steps])\n"
    )
    program.chmod(0o700)
    return program


def recorded_runs(project: Path) -> list[dict[str, Any]]:
    """Return all that a store says of its runs, oldest first."""
    connection = sqlite3.connect(project / STORE)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(_RUNS)]
    finally:
        connection.close()


def recorded_run(project: Path) -> dict[str, Any]:
    """Return what a store says of its only run."""
    (run,) = recorded_runs(project)
    return run


def end_runs(project: Path) -> None:
    """End every process that carries the token of one of a store's runs, to be sure that a test leaves none."""
    if not (project / STORE).exists():
        return
    for run in recorded_runs(project):
        left = leftovers.look(leftovers.Run(str(run["token"]), (), None))
        for one in left:
            if one.descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(one.descriptor, signal.SIGKILL)
        leftovers.close(left)


def signals_in(mask: str) -> set[int]:
    """Return the numbers in a set of signals as /proc/PID/status prints it (proc_pid_status(5))."""
    bits = int(mask, 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def ignored_signals() -> set[int]:
    """Return which signals a program ignores that is started here; posix_spawn of glibc has it ignore 32 and 33.

    Since Python 3.13, `subprocess` spawns so what is named by a path.
    """
    command = [shutil.which("cat") or "cat", "/proc/self/status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return signals_in(next(line for line in status.splitlines() if line.startswith("SigIgn:")).split()[1])


def is_stopped(pid: int) -> bool:
    """Tell whether a signal holds a process."""
    return procfs.read_stat(pid).is_stopped


def sleeps(pid: int) -> bool:
    """Tell whether a process waits for signals or descriptors without a time limit (proc(5), /proc/PID/syscall)."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[0] in _WAITS and int(words[3], 16) in _FOREVER


def is_held_up(pid: int) -> bool:
    """Tell whether a process waits in a write to its stdout (the same file: the call's number, its first argument)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[:2] == [_WRITE, "0x1"]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return procfs.read_stat(pid).is_dead
    except procfs.GONE:
        return True


def is_done_with(pid: int, number: int, *, sleeping: bool = True) -> bool:
    """Tell whether a process has taken a signal, and sleeps again if it is to, or has ended."""
    if is_gone(pid):
        return True
    masks = re.findall(r"(?:SigPnd|ShdPnd):\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return number not in set().union(*map(signals_in, masks)) and (not sleeping or sleeps(pid))


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def logs_of(project: Path) -> dict[str, bytes]:
    """Return what is in the logs of a project's only run, by the end of their names; without marks of sizes."""
    token = recorded_run(project)["token"]
    files = sorted((project / ".agent-yes" / "logs").iterdir())
    assert all(path.name.startswith(f"{token}.") for path in files)
    found = {path.name.partition(".")[2]: path.read_bytes() for path in files}
    return {stream: re.sub(rb"\x1b\]7749;\d+;\d+\x07", b"", text) for stream, text in found.items()}


WAYS = {"plain": (), "pipes": ("--log",), "terminal": ("--log",)}
"""How an agent can be run: without a log, or with one, where its output goes through pipes or a terminal of its own."""


class Wrapped:
    """An agent under wrap, in one of `WAYS`.

    Args:
        processes: what ends it.
        way: which.
        command: the agent's.
        options: those of `subprocess.Popen`; a program on a terminal leads its session anyway.
    """

    def __init__(self, processes: Processes, way: str, *command: str, **options: Any) -> None:
        words = (*COMMAND, "wrap", *WAYS[way], *command)
        self._terminal: Terminal | None = None
        if way == "terminal":
            self._terminal = Terminal(processes, *words)
            self.program = self._terminal.program
        else:
            self.program = processes.start(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal is not None:
            self._terminal.hang_up()

    def line(self) -> str:
        """Return the next line that the agent writes."""
        if self._terminal is not None:
            return self._terminal.expect("\r\n")
        assert self.program.stdout is not None
        return self.program.stdout.readline().rstrip("\n")

    def end(self) -> tuple[str, int]:
        """Return what else the agent writes, and how wrap ends."""
        if self._terminal is not None:
            rest = self._terminal.rest().decode()
        else:
            assert self.program.stdout is not None
            rest = self.program.stdout.read()
        return rest.replace("\r\n", "\n"), self.program.wait(20)


def no_privilege() -> None:
    """Take from root the right to pass over the rights of files; for what is about to be started."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert ctypes.CDLL(None).prctl(24, capability) == 0  # PR_CAPBSET_DROP


MAY_NOT_KILL = (
    sys.executable,
    "-SEc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 5); os.execvp(sys.argv[1], sys.argv[1:])",
)
"""Runs a command that root starts without its right to signal other users' processes (CAP_KILL, PR_CAPBSET_DROP)."""


def others(program: str) -> list[str]:
    """Return the command line of a program that is told to be another user's process, as sudo is.

    Args:
        program: Python that may use `os`, `select`, `signal` and `time`; it calls ``leave()`` to become the other's.
    """
    return [
        sys.executable,
        "-SEc",
        f"import os, select, signal, time\nleave = lambda: os.setuid(65534)\n{program}",
    ]


class Terminal:
    """A terminal, and a program that leads the session on it; what is typed is not echoed.

    ``initial`` is what it was set to before the program was started.
    """

    def __init__(self, processes: Processes, *argv: str, **options: Any) -> None:
        self._master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.initial = self.settings()
        self._unseen = b""
        self.program: subprocess.Popen[str] = processes.start(
            *argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **options,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def type(self, keys: str | bytes) -> None:
        """Press keys."""
        os.write(self._master, keys if isinstance(keys, bytes) else keys.encode())

    def rest(self) -> bytes:
        """Return all that is shown until the program has left the terminal."""
        shown, self._unseen = [self._unseen], b""
        while True:
            try:
                shown.append(os.read(self._master, 65536))
            except OSError:
                return b"".join(shown)

    def expect(self, text: str, timeout: float = 20.0) -> str:
        """Wait until a text is shown that has not been expected before; return what was shown before it."""
        wanted, deadline = text.encode(), time.monotonic() + timeout
        while wanted not in self._unseen:
            if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} is not shown within {timeout} s, but {self._unseen!r}")
            try:
                self._unseen += os.read(self._master, 65536)
            except OSError:
                raise AssertionError(f"the program has left the terminal; shown was {self._unseen!r}") from None
        before, _, self._unseen = self._unseen.partition(wanted)
        return before.decode(errors="replace")

    def resize(self, lines: int, columns: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def settings(self) -> list[Any]:
        """Return what the terminal is set to, as `termios.tcgetattr` does."""
        return termios.tcgetattr(self._master)

    def hang_up(self) -> None:
        """Close the terminal."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
