"""Who acts: agents with and without a wrapper, and the daemon. We are the parent, or the reaper of orphans, of all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path
from random import Random

from chaos.world import FAR, DaemonLife, Kind, Run, World, environment, now

AGENT = Path(__file__).with_name("agent.sh")
OURS = (sys.executable, "-m", "supervisor")
FATES = (0, 0, 0, 1, 3, 42, 255, *(-number for number in (1, 2, 6, 9, 9, 11, 13, 15, 15, 14, 24)))
"""How agents are told to end: exit codes, and signals as negative numbers."""


_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def wait_status(how: int) -> int:
    """Return the wait(2) status of an exit with a code, or of an end by a signal (negative)."""
    return -how if how < 0 else how << 8


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False


class Cradle:
    """Starts agents, tells them to end, and learns how they did."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._environment = environment(world.scratch)
        self.living: dict[int, Run] = {}
        """Runs whose agent is not known to be dead, or not reaped yet, by number."""
        self.wrappers: dict[int, subprocess.Popen[bytes]] = {}
        """Wrappers that have not ended, by their run's number."""
        self._streams: dict[int, subprocess.Popen[bytes]] = {}
        self._reap_at: dict[int, float] = {}
        self._ends = select.epoll()
        self._by_pidfd: dict[int, Run] = {}
        self._unheard: set[int] = set()
        """Numbers of wrapped runs whose agent is not known to have started."""
        self._dead: dict[int, Run] = {}
        """Runs whose agent is dead, and not reaped yet."""
        self._zombies: set[int] = set()
        self.strangers: dict[int, tuple[subprocess.Popen[bytes], list[Run]]] = {}

    def agent(self, run: Run, *, stdin: int | None = None, code: int = 1) -> None:
        """Start the agent of a run as a child of ours; with ``stdin`` it ends, with ``code``, when that does."""
        process = subprocess.Popen(
            ["sh", str(AGENT), run.key, str(code)],
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            cwd=run.store.directory.parent,
            process_group=0,
        )
        self._streams[run.number] = process
        run.pid, run.pidfd, run.up = process.pid, os.pidfd_open(process.pid), now()
        self._follow(run)

    def wrap(self, run: Run, *options: str, terminal: bool = False, leaves: bool = False) -> None:
        """Start an agent under a wrapper, which leads a session on a terminal of its own if that is asked for.

        ``leaves`` is whether the agent leaves a process behind; one that `Run.falls` is to be started again.
        """
        more = ("1", "leave" if leaves else str(self._world.scratch / "logs" / f"fall-{run.number}"))
        run.on_terminal = terminal
        master, slave = pty.openpty() if terminal else (subprocess.PIPE, subprocess.PIPE)
        run.errors = self._world.scratch / "logs" / f"wrap-{run.number}.err"
        with open(run.errors, "wb") as errors:
            process = subprocess.Popen(
                [*OURS, "wrap", *options, "--", "sh", str(AGENT), run.key, *(more if leaves or run.falls else ())],
                stdin=slave,
                stdout=slave,
                stderr=errors,
                env=self._environment,
                cwd=run.store.directory,
                process_group=None if terminal else 0,
                start_new_session=terminal,
                preexec_fn=_take_terminal if terminal else None,  # noqa: PLW1509  there are none
            )
        if terminal:
            os.close(slave)
            process.stdin = open(master, "wb", 0)  # noqa: SIM115  closed with the others
            process.stdout = open(os.dup(master), "rb", 0)  # noqa: SIM115  the same
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._streams[run.number] = self.wrappers[run.number] = process
        self._unheard.add(run.number)

    def tell(self, run: Run, how: int, *, hold: float = 0.0) -> None:
        """Tell an agent to end, by an exit code or a signal (negative); ``hold`` is how long its zombie may stay."""
        if run.told != FAR or run.pidfd < 0:
            return
        stream = self._streams[run.number].stdin
        if stream is None:
            how = how if how < 0 else -signal.SIGKILL  # many share it
        run.told, run.fate = now(), wait_status(how)
        self._reap_at[run.number] = now() + hold
        if how < 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.pidfd, -how)
            return
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.write(b"%d\n" % how)
            stream.flush()

    def note_told(self, run: Run, how: int) -> None:
        """Note that an agent will end, by something else than `tell`."""
        if run.told == FAR:
            run.told, run.fate = now(), wait_status(how)

    def kill_wrapper(self, run: Run) -> None:
        """Kill a wrapper."""
        if run.number in self.wrappers:
            run.owner_gone = now()
            self.wrappers[run.number].kill()
            if run.on_terminal:  # which the kernel then closes
                self.note_told(run, -signal.SIGHUP)

    def stranger(self, pid: int, victims: list[Run]) -> bool:
        """Give a dead agent's pid to a process that has nothing to do with it; tell whether that was possible."""
        last = _LAST_PID.read_text(encoding="ascii")
        try:
            for _ in range(30):
                _LAST_PID.write_text(str(pid - 1), encoding="ascii")
                process = subprocess.Popen(["sh", "-c", "read -r code; exit $code"], stdin=subprocess.PIPE)
                if process.pid == pid:
                    self.strangers[pid] = process, victims
                    return True
                process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
                if os.path.exists(f"/proc/{pid}"):  # somebody else was given it
                    return False
            return False
        finally:
            _LAST_PID.write_text(last, encoding="ascii")  # no other pid is to be given out again

    def end_stranger(self, pid: int, code: int) -> None:
        """Let a stranger exit."""
        process, victims = self.strangers.pop(pid)
        assert process.stdin is not None
        process.stdin.write(b"%d\n" % code)
        process.stdin.close()
        process.wait()
        for run in victims:
            run.reused_by.append(wait_status(code))

    def observe(self) -> None:
        """See who is up, who is dead, and reap."""
        for number in list(self._unheard):
            self._hear(self._world.runs[number], self._streams[number])
        for pidfd, _ in self._ends.poll(0, maxevents=5000):
            run = self._by_pidfd[pidfd]
            run.dead = now()
            self._dead[run.number] = run
        for run in list(self._dead.values()):
            self._bury(run)
        for number, wrapper in list(self.wrappers.items()):
            if wrapper.poll() is not None:
                self._note_wrapper(self._world.runs[number], wrapper)

    def reap_orphans(self) -> None:
        """Reap what has become our child, known to nobody; what others wait for they have seen between two calls."""
        own = os.getpid()
        known = {process.pid for process in self._streams.values()} | {run.pid for run in self.living.values()}
        zombies = set()
        for child in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split():
            if int(child) not in known and int(child) not in self.strangers and _is_zombie(child):
                zombies.add(int(child))
        for pid in zombies & self._zombies:
            os.waitpid(pid, os.WNOHANG)
        self._zombies = zombies

    def _hear(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            heard: bytes | None = process.stdout.read()
        except OSError:  # a terminal that everybody has left
            heard = b""
        said = re.search(rb"\d+", heard or b"")
        if heard is None or (heard and not said):
            return
        self._unheard.remove(run.number)
        if not said:  # no agent has ever been, nor will be
            run.dead = run.reaped = now()
            if run.number not in self.wrappers:
                self._drop(run)
            return
        run.up = run.written = now()
        run.pid = int(said[0])
        try:
            run.pidfd = os.pidfd_open(run.pid)
        except ProcessLookupError:
            self._world.wrong.append(f"{run.key} has ended before anybody told it to")
            return
        self._follow(run)

    def _follow(self, run: Run) -> None:
        self.living[run.number] = self._by_pidfd[run.pidfd] = run
        self._ends.register(run.pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def _bury(self, run: Run) -> None:
        if self._reap_at.get(run.number, 0) > now():
            return
        try:
            found = os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            if os.path.exists(f"/proc/{run.pid}"):
                return  # its wrapper has still to reap it, or to leave it to us
        else:
            if found is None:
                return
            run.status = found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status
        run.reaped = now()
        run.told = min(run.told, run.dead)
        del self.living[run.number], self._dead[run.number], self._by_pidfd[run.pidfd]
        os.close(run.pidfd)
        run.pidfd = -1
        if run.number not in self.wrappers:
            self._drop(run)

    def _note_wrapper(self, run: Run, wrapper: subprocess.Popen[bytes]) -> None:
        del self.wrappers[run.number]
        run.owner_left, run.owner_status = now(), wrapper.returncode
        if run.asked and run.truth is None:
            run.fate = wait_status(wrapper.returncode)
        if run.dead != FAR and run.number not in self.living:
            self._drop(run)

    def _drop(self, run: Run) -> None:
        process = self._streams.pop(run.number, None)
        if process is None:
            return
        if run.kind is not Kind.WRAP:
            process.returncode = 0  # reaped by us, whatever it was
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Daemon:
    """The daemon, as often as it is started anew."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: subprocess.Popen[bytes] | None = None
        self.exits: list[str] = []
        """What has ended unasked, and how."""

    @property
    def life(self) -> DaemonLife:
        """The present process, or the last one."""
        return self._world.daemons[-1]

    @property
    def runs(self) -> bool:
        """Whether there is one."""
        return self._process is not None

    def start(self, *, sweep_every: float = 30.0, descriptors: int | None = None) -> None:
        """Start it, with as many descriptors as given."""
        log = self._world.scratch / "logs" / f"daemon-{len(self._world.daemons)}.err"
        command = [*OURS, "daemon", "--no-discover", "--sweep-every", str(sweep_every)]
        if descriptors is not None:
            command = ["sh", "-c", 'ulimit -n "$0"; exec "$@"', str(descriptors), *command]
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment(self._world.scratch),
                cwd=self._world.scratch,
                process_group=0,
            )
        self._world.daemons.append(DaemonLife(self._process.pid, log, now(), descriptors=descriptors))

    def observe(self) -> None:
        """See whether it supervises, and whether it still runs."""
        if self._process is None:
            return
        if self.life.ready == FAR and b"supervising" in self.life.log.read_bytes():
            self.life.ready = now()
        if self._process.poll() is not None:
            self.exits.append(f"{self.life.log.name}: {self._process.returncode}")
            self._ended()
            self.start()  # as a service manager would

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def descriptors(self) -> int:
        """Return how many descriptors it holds, 0 if there is none."""
        return 0 if self._process is None else len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def read_anew(self) -> bool:
        """SIGHUP, if it is there to take it; tell whether that was sent."""
        if self._process is None or self.life.ready == FAR:
            return False
        self.signal(signal.SIGHUP)
        return True

    def hold(self) -> None:
        """Stop it."""
        self.signal(signal.SIGSTOP)
        self.life.stopped.begin()

    def go_on(self) -> None:
        """Let it go on."""
        if self._process is not None and self.life.stopped.open:
            self.signal(signal.SIGCONT)
            self.life.stopped.end()

    def end(self, number: int) -> None:
        """End it by SIGKILL or SIGTERM and wait for that."""
        if self._process is None:
            return
        self.life.ended, self.life.asked = now(), True
        if number != signal.SIGKILL:
            self.go_on()
        self._process.send_signal(number)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.exits.append(f"{self.life.log.name}: does not end when asked to")
            self._process.kill()
            code = self._process.wait()
        if number == signal.SIGTERM and code != 0:
            self.exits.append(f"{self.life.log.name}: {code} when asked to end")
        self._ended()

    def _ended(self) -> None:
        self.life.ended = min(self.life.ended, now())
        if self.life.stopped.open:
            self.life.stopped.end()
        self._process = None


def register(world: World, folder: Path) -> None:
    """Make the stores below a folder known as a person does."""
    command = [*OURS, "stores", "add", "--scan", str(folder)]
    subprocess.run(command, env=environment(world.scratch), check=True, capture_output=True)
