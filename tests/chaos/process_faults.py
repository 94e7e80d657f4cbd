"""What is done to processes: the daemon, wrappers, writers and agents."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from random import Random

from chaos.actors import OURS, Cradle, Daemon
from chaos.world import FAR, Kind, Later, Run, World, environment, now
from chaos.writers import Writer


class ProcessFaults:
    """Each method does a fault, and returns its name; None where it cannot be done now.

    Args:
        world: what is told.
        random: decides everything.
        cradle: the agents.
        daemon: the daemon.
        writers: those who write.
        later: takes what is to be done later.
    """

    def __init__(
        self, world: World, random: Random, cradle: Cradle, daemon: Daemon, writers: list[Writer], later: Later
    ) -> None:
        self._world, self._random, self._cradle, self._daemon = world, random, cradle, daemon
        self._writers, self._later = writers, later

    def end_all(self) -> None:
        """Let everybody go on."""
        for writer in self._writers:
            writer.go_on()
        for wrapper in self._cradle.wrappers.values():
            wrapper.send_signal(signal.SIGCONT)
        for run in self._cradle.living.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.pidfd, signal.SIGCONT)
        self._daemon.go_on()

    def kill_daemon(self) -> str | None:
        """SIGKILL, and another one at once or after a while."""
        if not self._daemon.runs:
            return None
        self._daemon.end(signal.SIGKILL)
        self._start_daemon_later(self._random.choice((0, 0, 0.3, 2)))
        return "daemon killed"

    def restart_daemon(self) -> str | None:
        """SIGTERM, and another one."""
        if not self._daemon.runs or self._daemon.life.ready == FAR:
            return None
        self._daemon.end(signal.SIGTERM)
        self._start_daemon_later(self._random.choice((0, 0, 2)))
        return "daemon restarted"

    def starve_daemon(self) -> str | None:
        """Give it too few descriptors for a while."""
        if not self._daemon.runs:
            return None
        self._daemon.end(signal.SIGKILL)
        limit = self._random.choice((40, 64, 80, 90))
        self._daemon.start(sweep_every=2, descriptors=limit)
        life = self._daemon.life
        self._later(self._random.uniform(4, 8), lambda: self._feed(life.pid))
        return "daemon short of descriptors"

    def _feed(self, pid: int) -> None:
        if self._daemon.runs and self._daemon.life.pid == pid:
            self._daemon.end(signal.SIGKILL)
            self._daemon.start()

    def hold_daemon(self) -> str | None:
        """SIGSTOP, and SIGCONT after a while."""
        if not self._daemon.runs or self._daemon.life.stopped.open:
            return None
        self._daemon.hold()
        self._later(self._random.uniform(0.2, 5), self._daemon.go_on)
        return "daemon stopped and continued"

    def hang_up_daemon(self) -> str | None:
        """SIGHUP: everything is read anew."""
        return "daemon told to read anew" if self._daemon.read_anew() else None

    def _start_daemon_later(self, seconds: float) -> None:
        def start() -> None:
            if not self._daemon.runs:
                self._daemon.start(sweep_every=self._random.choice((1, 5, 30)))

        self._later(seconds, start)

    def kill_wrapper(self) -> str | None:
        """SIGKILL to a wrapper at any time of its life."""
        run = self._wrapped(lambda run: run.owner_gone == FAR)
        if run is None:
            return None
        self._cradle.kill_wrapper(run)
        return "wrapper killed"

    def hold_wrapper(self) -> str | None:
        """SIGSTOP to a wrapper, and SIGCONT after a while."""
        run = self._wrapped(lambda run: run.owner_gone == FAR)
        if run is None:
            return None
        wrapper = self._cradle.wrappers[run.number]
        wrapper.send_signal(signal.SIGSTOP)
        self._later(self._random.choice((0.5, 2, 5, 9)), lambda: wrapper.send_signal(signal.SIGCONT))
        return "wrapper stopped and continued"

    def end_by_wrapper(self) -> str | None:
        """SIGTERM or SIGHUP to a wrapper, which is to go to its agent."""
        run = self._wrapped(lambda run: run.owner_gone == FAR and run.up != FAR and run.told == FAR)
        if run is None:
            return None
        number = self._random.choice((signal.SIGTERM, signal.SIGHUP))
        self._cradle.note_told(run, -number)
        self._cradle.wrappers[run.number].send_signal(number)
        self._later(3, lambda: self._end_orphan(run))
        return "agent ended by its wrapper"

    def _end_orphan(self, run: Run) -> None:
        """End an agent whose wrapper was killed before it could hand the signal on."""
        if run.lives and run.owner_gone != FAR:
            run.told = FAR
            self._cradle.tell(run, -signal.SIGKILL)

    def order_end(self) -> str | None:
        """Let a person end a run by ``stop`` or ``kill``."""
        runs = [run for run in self._cradle.living.values() if FAR == run.told == run.dead and run.written != FAR]
        if not runs:
            return None
        run, order = self._random.choice(runs), self._random.choice(("stop", "kill"))
        run.told, run.asked = now(), True
        log = self._world.scratch / "logs" / f"{order}-{run.number}.err"
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                [*OURS, order, f"pid:{run.pid}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment(self._world.scratch),
                cwd=self._world.scratch,
            )

        def see() -> None:
            if process.poll() is None:
                self._later(0.2, see)
                return
            if process.returncode not in (0, 1):
                self._world.wrong.append(f"{order} ended with {process.returncode}: {log.read_text()[-300:]}")
            if run.lives:
                run.told = FAR

        self._later(0.2, see)
        return f"agent ended by `{order}`"

    def hold_agent(self) -> str | None:
        """SIGSTOP to an agent, and SIGCONT after a while: it is alive."""
        # A wrapper stops along, and nobody continues it: one that was to restart would take that for a long, good run.
        living = self._cradle.living.values()
        runs = [run for run in living if run.told == FAR and run.dead == FAR and not run.falls]
        if not runs:
            return None
        pidfd = os.dup(self._random.choice(runs).pidfd)
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)

        self._later(self._random.uniform(0.2, 5), go_on)
        return "agent stopped and continued"

    def kill_writer(self) -> str:
        """SIGKILL to a writer, in the middle of whatever it does."""
        self._random.choice(self._writers).kill()
        return "writer killed"

    def hold_writer(self) -> str | None:
        """SIGSTOP to a writer, and SIGCONT after a while."""
        writer = self._random.choice(self._writers)
        if writer.stopped.open:
            return None
        writer.hold()
        self._later(self._random.choice((0.5, 2, 5)), writer.go_on)
        return "writer stopped and continued"

    def reuse_pid(self) -> str | None:
        """End a foreign agent and give its pid to a stranger at once."""
        runs = [
            run
            for run in self._cradle.living.values()
            if run.kind is Kind.FOREIGN and run.told == FAR and run.written != FAR
        ]
        if not runs:
            return None
        run = self._random.choice(runs)
        self._cradle.tell(run, self._random.choice((5, -9)))
        signal.pidfd_send_signal(run.pidfd, signal.SIGCONT)
        for _ in range(1000):
            self._cradle.observe()
            if run.reaped != FAR:
                break
        if run.reaped == FAR or not self._cradle.stranger(run.pid, [run]):
            return None
        code = self._random.randrange(50, 100)
        self._later(self._random.choice((0.5, 3, 12)), lambda: self._cradle.end_stranger(run.pid, code))
        return "pid given to another"

    def _wrapped(self, fits: Callable[[Run], bool]) -> Run | None:
        runs = [run for number in self._cradle.wrappers if fits(run := self._world.runs[number])]
        return self._random.choice(runs) if runs else None
