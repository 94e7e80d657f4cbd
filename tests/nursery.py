"""Processes of strangers: children of a helper, which reaps them only when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kit import Processes, wait_until

from supervisor.process import pidfd, procfs

T = TypeVar("T", bound=Callable[..., object])

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfds")
"""Everything here."""

_NURSERY = """
import ctypes, os, resource, sys

core = int(sys.argv[2]) if len(sys.argv) > 2 else 0
resource.setrlimit(resource.RLIMIT_CORE, (core, core))
if len(sys.argv) > 1:
    user = int(sys.argv[1])
    os.setgroups([]), os.setresgid(user, user, user), os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which is lost with root's rights
pipes = {}
for line in sys.stdin:
    order, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    if order == "spawn":
        for _ in range(numbers[0]):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                for other in pipes.values():
                    os.close(other)
                os.close(writer)
                code = os.read(reader, 1)
                os._exit(code[0] if code else 0)
            os.close(reader)
            pipes[pid] = writer
        print(*list(pipes)[-numbers[0]:], flush=True)
    elif order == "exit":
        os.write(pipes[numbers[0]], bytes(numbers[1:]))
        print(flush=True)
    elif order == "reap":
        print(os.waitpid(numbers[0], 0)[1], flush=True)
        os.close(pipes.pop(numbers[0]))
for pid in pipes:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""

_CORE_SIZE = 1 << 16

_LEADER_LEAVES = """
import ctypes, os, sys, threading

def work():
    line = sys.stdin.readline().split()
    if line[0] == "exec":
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import os, sys; sys.stdin.readline(); os._exit(9)"])
    os._exit(int(line[1]))

threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def as_root(test: T) -> T:
    """Mark a test that needs root, and skip it elsewhere."""
    pytest.mark.root(test)
    pytest.mark.skipif(not _may_unshare(), reason="needs root and new namespaces")(test)
    return test


def _may_unshare() -> bool:
    try:
        return (
            os.geteuid() == 0
            and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def _tells_exits() -> bool:
    if sys.platform != "linux":
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    descriptor = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    status = pidfd.exit_status(descriptor)
    os.close(descriptor)
    return status is not None


tells_exits = pytest.mark.skipif(not _tells_exits(), reason="needs exit statuses after the reap (Linux 6.15)")


class Nursery:
    """A helper process and its children, who are no children of ours. Ends with its `Processes`.

    ``user`` is whose processes they are to be, for tests that run as root; their crashes then leave core files in
    their directory. ``python`` is the command that starts Python. Options are those of `subprocess.Popen`.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        user: int | None = None,
        python: Sequence[str] = (sys.executable,),
        **options: Any,
    ) -> None:
        args = () if user is None else (str(user), str(_CORE_SIZE))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._helper = processes.start(*python, "-c", _NURSERY, *args, **pipes, **options)

    @property
    def pid(self) -> int:
        """The parent of all."""
        return self._helper.pid

    def spawn(self, count: int) -> list[int]:
        """Start processes that wait, and return their pids."""
        return [int(pid) for pid in self._order("spawn", count).split()]

    def born(self) -> int:
        """Start one process, and return its pid."""
        return self.spawn(1)[0]

    def exit(self, pid: int, code: int) -> None:
        """Let one exit; it stays a zombie until the reap."""
        self._order("exit", pid, code)

    def end(self, pid: int, how: int) -> None:
        """Let one exit with that code, or kill it where ``how`` is negative, and wait until it is a zombie."""
        if how < 0:
            os.kill(pid, -how)
        else:
            self.exit(pid, how)
        wait_until(lambda: procfs.read_stat(pid).is_dead)

    def reap(self, pid: int) -> int:
        """Reap one that has ended, and return its wait(2) status."""
        return int(self._order("reap", pid))

    def dead(self) -> int:
        """Return the pid of one that has ended and been reaped."""
        pid = self.born()
        os.kill(pid, signal.SIGKILL)
        self.reap(pid)
        return pid

    def _order(self, order: str, *numbers: int) -> str:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        print(order, *numbers, file=self._helper.stdin, flush=True)
        return self._helper.stdout.readline()


def leaderless(processes: Processes) -> subprocess.Popen[str]:
    """Start a process whose first thread has exited; a line ``exit CODE`` or ``exec`` tells its worker what to do."""
    process = processes.python(_LEADER_LEAVES, stdin=subprocess.PIPE)
    wait_until(lambda: procfs.read_stat(process.pid).state == "Z")
    return process


class Apart:
    """Keeps processes of child PID namespaces from seeing what the tests beside this one have.

    A row may have been written by any process that sees its store, so tests that run at the same time, in another
    worker or another run, would no longer be sure of the dead pids in their stores.
    """

    own: Path | None = None
    """Where this worker's folders are."""

    @classmethod
    def all(cls) -> Path | None:
        """Return the folder that all test runs of this user have theirs in; None where they lie elsewhere."""
        above = cls.own.parents if cls.own else ()
        return next((folder for folder in above if folder.name.startswith("pytest-of-")), None)

    @classmethod
    def command(cls, *command: str) -> list[str]:
        """Return a command that runs another in a mount namespace where of all tests' folders ours alone are.

        Where no test runs, it is a namespace without any.
        """
        if cls.own is None:
            hide = 'for folder in "$1"/pytest-of-*; do [ ! -d "$folder" ] || mount -t tmpfs none "$folder"; done'
            words = f'{hide}; shift; exec "$@"', "sh", tempfile.gettempdir()
            return ["unshare", "--mount", "sh", "-ec", *words, *command]
        folders = cls.all()
        if folders is None:
            return list(command)
        hide = 'own=$1 all=$2; shift 2; here=$PWD; cd "$own"; mount -t tmpfs none "$all"; mkdir -p "$own"'
        script = f'{hide}; mount -c --bind . "$own"; cd "$here"; exec "$@"'
        return ["unshare", "--mount", "sh", "-ec", script, "sh", str(cls.own), str(folders), *command]


def child_of_a_namespace(processes: Processes, script: str, *args: str) -> int:
    """Run a shell script as the first process of a new PID namespace, and return its pid once it sleeps for good."""
    command = f"{script}\necho up; exec sleep infinity"
    outer = processes.start(
        *Apart.command("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "sh", "-ec", command, "sh", *args),
        stdout=subprocess.PIPE,
    )
    assert hear(outer) == "up"
    return child_of(outer)


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the pid of a process's only child."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def say(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to a process's standard input."""
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def hear(process: subprocess.Popen[str]) -> str:
    """Read a line of a process's standard output."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def descriptors() -> set[str]:
    """Return what descriptors this process has open, and to what."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def in_child_namespace(*command: str) -> list[str]:
    """Return a command that runs another as the first process of a PID namespace of its own, for whoever may."""
    inner = Apart.command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command)
    return ["unshare", "--user", "--map-root-user", *inner]
