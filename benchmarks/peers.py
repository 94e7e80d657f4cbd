"""Other supervisors, each watching processes that it has started itself, and when each lets know of a death.

They have no store, so what is timed is the first that anyone outside can see: a line in the log, or an answer to a
client that waits. Restarting is switched off: what counts is when a death is known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harness import PEERS, Home, blink, progress, wait_until

TOO_LATE = 10.0
"""Seconds after which a death counts as not noticed."""

_PROGRAM, _ARGUMENT = "/bin/sleep", "3600"


class Missing(Exception):
    """This peer cannot run here; the message says why, in one line."""


class LogPeer:
    """A supervisor that writes a line to its log for each death."""

    name: str
    timed = "its log line"
    line: re.Pattern[bytes]

    def __init__(self) -> None:
        self.pid = 0
        self._log = Path()
        self._count = 0

    def start(self, home: Home, count: int) -> None:
        """Start it with so many processes, and wait until they run.

        Raises:
            Missing: it is not installed, or does not start.
        """
        self._count = count
        self._log = home.path / f"{self.name}.log"
        self.launch(home, count)
        try:
            wait_until(lambda: len(self._agents()) == count, 60 + count / 5, "it does not start its processes")
        except RuntimeError as error:
            raise Missing(f"{error}: {home.log_tail(f'{self.name}.out')}") from None
        time.sleep(1.0)  # its start-up is not what is measured

    def launch(self, home: Home, count: int) -> None:
        """Start the supervisor itself and set ``pid``."""
        raise NotImplementedError

    def kill_one(self) -> float | None:
        """Kill one of its processes at random; return how long the line took, ms, None where it did not come."""
        victim = random.choice(self._agents())  # noqa: S311  no secret
        pidfd = os.pidfd_open(victim)
        with self._log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            begin = time.perf_counter_ns()
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            end = begin + int(TOO_LATE * 1e9)
            text = b""
            while time.perf_counter_ns() < end:
                if (more := os.read(log.fileno(), 1 << 16)) and self.line.search(text := text + more):
                    return (time.perf_counter_ns() - begin) / 1e6
                blink()
        return None

    def _agents(self) -> list[int]:
        return [pid for pid in children(self.pid) if _command(pid).startswith(_PROGRAM.encode())]


class Supervisord(LogPeer):
    """supervisord."""

    name = "supervisord"
    line = re.compile(rb"exited: agent")

    def launch(self, home: Home, count: int) -> None:
        """Start it in the foreground."""
        program = _installed("supervisor", "bin/supervisord")
        config = home.path / "supervisord.ini"
        config.write_text(
            f"[supervisord]\nnodaemon=true\nsilent=true\nlogfile={self._log}\npidfile={home.path}/supervisord.pid\n"
            f"childlogdir={home.path}\nminfds={count * 4 + 1024}\n"
            f"[program:agent]\ncommand={_PROGRAM} {_ARGUMENT}\nprocess_name=agent_%(process_num)d\nnumprocs={count}\n"
            "autorestart=false\nstartsecs=0\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
        )
        self.pid = home.start(str(program), "-c", str(config), log="supervisord.out", env=home.plain_environment).pid


class Circus(LogPeer):
    """circus; only its debug log tells of a death that does not lead to a restart."""

    name = "circus"
    line = re.compile(rb"reaping (already dead )?process \d+")

    def launch(self, home: Home, count: int) -> None:
        """Start it in the foreground."""
        program = _installed("circus", "bin/circusd")
        config = home.path / "circus.ini"
        config.write_text(
            f"[circus]\nendpoint = ipc://{home.path}/circus.sock\npubsub_endpoint = ipc://{home.path}/circus-pub.sock\n"
            f"loglevel = DEBUG\nlogoutput = {self._log}\n"
            f"[watcher:agent]\ncmd = {_PROGRAM} {_ARGUMENT}\nnumprocesses = {count}\nrespawn = False\n"
        )
        self.pid = home.start(str(program), str(config), log="circus.out", env=home.plain_environment).pid


class Pm2(LogPeer):
    """pm2."""

    name = "pm2"
    line = re.compile(rb"exited with code")

    def launch(self, home: Home, count: int) -> None:
        """Let it put itself into the background, its only way, and end it by its own command."""
        program = str(_installed("pm2", "node_modules/.bin/pm2"))
        if shutil.which("node") is None:
            raise Missing("node is not installed")
        folder = home.path / "pm2"
        environment = {**home.plain_environment, "PM2_HOME": str(folder)}
        app = {"name": "agent", "script": _PROGRAM, "args": _ARGUMENT, "interpreter": "none", "exec_mode": "fork"}
        config = home.path / "pm2.json"
        config.write_text(json.dumps({"apps": [{**app, "instances": count, "autorestart": False}]}))
        quiet = {"env": environment, "cwd": home.path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        home.at_end(lambda: subprocess.run([program, "kill"], **quiet, timeout=60, check=False))  # type: ignore[call-overload]
        subprocess.run([program, "start", str(config)], **quiet, timeout=300, check=True)  # type: ignore[call-overload]
        self._log = folder / "pm2.log"
        self.pid = int((folder / "pm2.pid").read_text())


class Systemd:
    """The systemd that runs here: the system's for root, else the user's."""

    name = "systemd"
    timed = "its answer to a waiting client"

    def __init__(self) -> None:
        self.pid = 0
        self._scope = ""
        self._mark = f"ays-benchmark-{os.getpid()}"
        self._units = 0
        self._home: Home | None = None

    def start(self, home: Home, count: int) -> None:
        """Start transient units.

        Raises:
            Missing: no systemd runs here.
        """
        self._home = home
        self._scope = systemd_scope()
        home.at_end(self._stop)
        for _ in range(count):
            subprocess.run([*self._run(), _PROGRAM, _ARGUMENT], check=True, stderr=subprocess.DEVNULL)
        self.pid = _parent(self._main_pid())

    def kill_one(self) -> float | None:
        """Start one more unit with a client that waits for it, and kill it; ms until the client says so."""
        assert self._home is not None  # noqa: S101  started
        client = self._home.start(*self._run("--wait"), _PROGRAM, _ARGUMENT, log="systemd-run", stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)  # fmt: skip
        assert client.stdout is not None  # noqa: S101  a pipe was asked for
        output = client.stdout.fileno()
        os.read(output, 4096)  # "Running as unit: …": it waits from now on
        time.sleep(0.05)
        pidfd = os.pidfd_open(self._main_pid())
        begin = time.perf_counter_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        answered = select.select([output], [], [], TOO_LATE)[0]
        taken = (time.perf_counter_ns() - begin) / 1e6 if answered else None
        os.close(pidfd)
        client.wait(10)
        return taken

    def _run(self, *options: str) -> list[str]:
        self._units += 1
        return ["systemd-run", self._scope, "--quiet" if not options else "--collect", *options,
                f"--unit={self._mark}-{self._units}", "-p", "RuntimeMaxSec=3600"]  # fmt: skip

    def _main_pid(self) -> int:
        unit = f"{self._mark}-{self._units}"

        def running() -> int:
            shown = subprocess.run(["systemctl", self._scope, "show", "--value", "-p", "MainPID", unit],
                                   capture_output=True, text=True, check=True)  # fmt: skip
            pid = int(shown.stdout)
            return pid if pid and _command(pid).startswith(_PROGRAM.encode()) else 0

        return wait_until(running, 10, "systemd does not start a unit")

    def _stop(self) -> None:
        subprocess.run(["systemctl", self._scope, "kill", "-s", "KILL", f"{self._mark}-*"], check=False)
        subprocess.run(["systemctl", self._scope, "reset-failed", f"{self._mark}-*"], check=False)


Peer = LogPeer | Systemd

ALL: tuple[type[Peer], ...] = (Supervisord, Systemd, Pm2, Circus)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(child) for task in tasks for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:
        return []


def systemd_scope() -> str:
    """Return the option that names our systemd: the system's for root, else the user's.

    Raises:
        Missing: none runs here.
    """
    if shutil.which("systemd-run") is None:
        raise Missing("it is not installed")
    if os.geteuid() == 0:
        scope, running = "--system", os.path.isdir("/run/systemd/system")
    else:
        scope, running = "--user", os.path.exists(f"{os.environ.get('XDG_RUNTIME_DIR', '')}/systemd/private")
    if not running:
        raise Missing("no systemd manages this machine or this user")
    return scope


def _installed(peer: str, program: str) -> Path:
    path = PEERS / peer / program
    if not path.exists():
        raise Missing("it is not installed: see benchmarks/setup.sh")
    return path


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def each(options: argparse.Namespace, skipped: list[str]) -> Iterator[Peer]:
    """Start the installed peers one after the other, each in a home of its own that ends with it.

    Args:
        options: those of a benchmark.
        skipped: takes a line for each that is skipped.
    """
    for kind in ALL:
        peer = kind()
        progress(f"{peer.name} with {options.peer_runs} processes …")
        with Home(options.dir) as home:
            try:
                peer.start(home, options.peer_runs)
            except Missing as why:
                skipped.append(f"{peer.name}: {why}")
                progress(f"  skipped: {why}")
                continue
            yield peer
