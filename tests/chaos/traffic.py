"""What is usual: agents that come and go, the owners who record them, bursts, and persons who look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from random import Random

from chaos.actors import FATES, OURS, Cradle, Daemon
from chaos.world import FAR, Kind, Later, Run, Store, Word, World, environment, now
from chaos.writers import Writer

ODD_PIDS: tuple[object, ...] = (-1, 0, 1, 1 << 31, 1 << 40, -(1 << 62), 1.5, "abc", "12abc", "\x1b[31m\r\n", "")
ODD_ARGS = (
    '["{key}"]',
    '["{key}", ',
    '{{"{key}": 1}}',
    '["{key}\x1b[2J\x07\x00\udc80"]',
    '"{key}"',
    "[[[[{key}",
    '["{key}", 1, null]',
)
READERS: tuple[tuple[str, ...], ...] = (
    ("ls", "--all"),
    ("ls", "--json"),
    ("stores", "list"),
    ("doctor",),
    ("scan", "--no-wait"),
    ("scan", "--json"),
    ("prune", "--yes"),
)
READERS_HERE: tuple[tuple[str, ...], ...] = (
    ("runs", "list"),
    ("runs", "crashed", "--json"),
    ("why", "."),
    ("projects", "list"),
    ("logs", "."),
)
SHARES = {Kind.FOREIGN: 6.0, Kind.API: 3.0, Kind.WRAP: 3.0, Kind.ODD: 0.4}
LIFETIMES = (0.0, 0.05, 0.5, 1.0, 3.0, 8.0)
WRAP_OPTIONS = ((), (), ("--timeout", "1h"), ("--idle-timeout", "1h"), ("--reap",))
"""Limits that nobody reaches, and what decides over what an agent leaves behind."""

RESTARTED = ("--restart", "on-crash", "--max-restarts", "1")
FOREIGN_DELAYS = (0, 0.1, 0.5, 2, 5, None, None, None, None, None)
API_DELAYS = (0, 0.1, 0.5, 2, 5, None, None)
"""Seconds until an owner records an end; None is never."""


class Traffic:
    """Starts what is usual.

    Args:
        world: what is told.
        random: decides everything.
        cradle: the agents.
        daemon: the daemon.
        writers: those who write, by their store's index and kind.
        later: takes what is to be done later.
    """

    def __init__(
        self,
        world: World,
        random: Random,
        cradle: Cradle,
        daemon: Daemon,
        writers: dict[tuple[int, Kind], Writer],
        later: Later,
    ) -> None:
        self._world, self._random, self._cradle, self._daemon = world, random, cradle, daemon
        self._writers, self._later = writers, later
        self._asked = 0
        self.readers: list[tuple[subprocess.Popen[bytes], str, Path]] = []
        """Persons who look: process, command, and what it says on stderr."""

    def start_agent(self, shares: Mapping[Kind, float] = SHARES) -> None:
        """Start an agent that somebody records, or record a row that has none; ``shares`` says how often each."""
        number = self._random.randrange(len(self._world.stores))
        store = self._world.stores[number]
        kind = self._random.choices(list(shares), list(shares.values()))[0]
        if kind is Kind.WRAP:
            self._wrap(store)
        else:
            writer = self._writers[number, Kind.API if kind is Kind.API else Kind.FOREIGN]
            self.odd(writer) if kind is Kind.ODD else self.create(writer)

    def _wrap(self, store: Store) -> None:
        if not store.directory.exists():
            return
        run = self._world.new_run(Kind.WRAP, store)
        way, end = self._random.random(), self._random.random()
        options = ["--log"] if way < 0.4 else []
        options += self._random.choice(WRAP_OPTIONS)
        run.falls = end < 0.25
        if run.falls:
            options += RESTARTED
        self._cradle.wrap(run, *options, terminal=way < 0.2, leaves=end > 0.75)
        self._later(0.2 + self._lifetime(), lambda: self._end_wrapped(run))

    def _end_wrapped(self, run: Run) -> None:
        if run.up == FAR and run.dead == FAR and run.owner_left == FAR:
            self._later(0.3, lambda: self._end_wrapped(run))
        else:
            self._tell(run)

    def _lifetime(self) -> float:
        return self._random.choice(LIFETIMES) * self._random.uniform(0.5, 1.5)

    def _tell(self, run: Run) -> None:
        """Tell an agent to end, somehow; some of our zombies stay for a while."""
        hold = self._random.choice((0, 0, 0, 0.5, 3)) if run.kind is not Kind.WRAP else 0
        self._cradle.tell(run, self._random.choice(FATES), hold=hold)

    def create(self, writer: Writer, *, ends: bool = True) -> Run:
        """Start an agent and let a writer record it."""
        run = self._world.new_run(writer.kind, writer.store)
        args = json.dumps([run.key])
        if writer.kind is Kind.FOREIGN and self._random.random() < 0.2:
            args = self._random.choice(ODD_ARGS).format(key=run.key)
        self._cradle.agent(run)
        if ends:
            self._later(self._lifetime(), lambda: self._end(run, writer))
        self._record([run], writer, [(run.pid, args)])
        return run

    def odd(self, writer: Writer) -> None:
        """Let a writer record a pid that is no agent's."""
        run = self._world.new_run(Kind.ODD, writer.store)
        pid = self._random.choice((*ODD_PIDS, self._daemon.life.pid))
        self._record([run], writer, [(pid, json.dumps([run.key]))])

    def _record(self, runs: list[Run], writer: Writer, rows: list[tuple[object, str]]) -> None:
        def written(ids: list[int], connected: float) -> None:
            for run, row_id in zip(runs, ids, strict=True):
                run.row_id, run.written, run.connected = row_id, now(), connected

        def refused(_error: str) -> None:
            for run in runs:
                run.refused = True

        writer.owns.update(run.number for run in runs)
        writer.order("create", rows, answer=written, refuse=refused)

    def _end(self, run: Run, writer: Writer) -> None:
        self._tell(run)
        delay = self._random.choice(FOREIGN_DELAYS if run.kind is Kind.FOREIGN else API_DELAYS)
        if delay is not None:
            self._later(delay, lambda: self._say_end(run, writer, tries=100))

    def _say_end(self, run: Run, writer: Writer, tries: int) -> None:
        """Let the owner record an end, once it has seen it: with a code that nobody else would give."""
        if run.number not in writer.owns or run.refused:
            return
        if FAR in (run.dead, run.written):
            if tries:
                self._later(0.1, lambda: self._say_end(run, writer, tries - 1))
            return
        word = Word("completed", 0) if run.truth == 0 else Word("failed", 100 + run.number % 20)
        run.word = word

        def said(done: bool, connected: float) -> None:
            word.said, word.connected = done, connected

        writer.order("update", run.row_id, run.key, word.status, word.exit_code, answer=said)

    def burst(self, size: int) -> None:
        """Let many agents end at once, by a common word or by SIGKILL."""
        number = self._random.choice((0, self._random.randrange(len(self._world.stores))))
        writer = self._writers[number, Kind.FOREIGN]
        reader, pipe = os.pipe()
        runs: list[Run] = []
        code, by_signal = self._random.randrange(1, 100), self._random.random() < 0.5

        def start() -> None:
            for _ in range(min(40, size - len(runs))):
                run = self._world.new_run(Kind.FOREIGN, writer.store)
                self._cradle.agent(run, stdin=reader, code=code)
                runs.append(run)
            if len(runs) < size:
                self._later(0.02, start)
            else:
                self._record(runs, writer, [(run.pid, json.dumps([run.key])) for run in runs])
                self._later(self._random.choice((1, 6, 9)), end)

        def end() -> None:
            for run in runs:
                if by_signal:
                    self._cradle.tell(run, -signal.SIGKILL)
                else:
                    self._cradle.note_told(run, code)
            os.close(reader)
            os.close(pipe)
            self._world.count(f"{size} exits at once")

        start()

    def read(self) -> None:
        """Let a person look at what there is."""
        store = self._random.choice(self._world.stores)
        command, here = self._random.choice(READERS), self._world.scratch
        if self._random.random() < 0.5 and store.directory.exists():
            command, here = self._random.choice(READERS_HERE), store.directory
        self._asked += 1
        log = self._world.scratch / "logs" / f"reader-{self._asked}.err"
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                [*OURS, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=here,
                env=environment(self._world.scratch),
            )
        self.readers.append((process, " ".join(command), log))

    def see_readers(self) -> None:
        """See who has ended, and how."""
        for reader in list(self.readers):
            process, command, log = reader
            if process.poll() is None:
                continue
            self.readers.remove(reader)
            if process.returncode not in (0, 1):
                said = log.read_text(errors="replace")[-300:]
                self._world.wrong.append(f"{command} ended with {process.returncode}: {said}")
