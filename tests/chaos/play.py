"""The play: agents come and go, faults strike, then all is put right, and the oracle judges."""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from chaos import apart
from chaos.actors import OURS, Cradle, Daemon, register
from chaos.faults import Faults, tell_random
from chaos.oracle import Findings, Oracle, Row, Watch, read_rows
from chaos.world import FAR, Kind, Run, Store, Word, World, environment, now
from chaos.writers import Writer

TICK = 0.005
AGENTS_A_SECOND, FAULTS_A_SECOND, READERS_A_SECOND = 12.0, 1.0, 0.3
LOOKS_EVERY = 0.4
ODD_PIDS: tuple[object, ...] = (-1, 0, 1, 1 << 31, 1 << 40, -(1 << 62), 1.5, "abc", "12abc", "\x1b[31m\r\n", "")
ODD_ARGS = ('["{key}"]', '["{key}", ', '{{"{key}": 1}}', '["{key}\x1b[2J\x07\x00\udc80"]', '"{key}"', "[[[[{key}", '["{key}", 1, null]')
READERS = (("ls", "--all"), ("ls", "--json"), ("stores", "list"), ("doctor",), ("scan", "--no-wait"), ("scan", "--json"))
READERS_HERE = (("runs", "list"), ("runs", "crashed", "--json"), ("why", "."), ("projects", "list"), ("logs", "."))


class Play:
    """One play.

    Args:
        options: of the command line.
        scratch: an empty folder for everything.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options = options
        self._random = Random(options.seed)
        self.world = World(scratch)
        for name in ("logs", "home", "projects", "state"):
            (scratch / name).mkdir()
        apart.hide_other_tests(scratch)
        apart.mount_small(scratch / "state", "8m")
        self.world.stores = [self._store(number) for number in range(options.stores)]
        self._cradle = Cradle(self.world, self._random)
        self._daemon = Daemon(self.world)
        kinds = (Kind.FOREIGN, Kind.API)
        self._writers = {(store, kind): Writer(self.world, kind, self.world.stores[store]) for store in range(options.stores) for kind in kinds}
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._faults = Faults(self.world, self._random, self._cradle, self._daemon, list(self._writers.values()), self._later)
        self._watch = Watch(self.world)
        self._readers: list[tuple[subprocess.Popen[bytes], list[str], Path]] = []
        self._bursts = 0
        self._slowest = 0.0

    def _store(self, number: int) -> Store:
        directory = self.world.scratch / "projects" / f"p{number}"
        directory.mkdir()
        small = number == self._options.stores - 1
        if small:
            apart.mount_small(directory, "24m")
        return Store(directory, small=small)

    def run(self) -> int:
        """Play, settle, judge and report; return the exit code."""
        began = now()
        self._begin()
        self._loop(began + self._options.seconds, acting=True)
        played = now() - began
        self._put_right()
        unsettled = self._settle()
        settled = now() - began - played
        self._leave()
        findings = self._judge()
        findings.wrong += unsettled
        return self._report(findings, played, settled)

    # The loop

    def _begin(self) -> None:
        for writer in self._writers.values():
            if writer.kind is Kind.FOREIGN:
                writer.order("close")
                self._create(writer)
        while any(writer.busy for writer in self._writers.values()):
            self._step()
        register(self.world, self.world.scratch / "projects")
        self._daemon.start(sweep_every=5)
        rate = self._options.rate
        self._often(AGENTS_A_SECOND * rate, self._start_agent)
        self._often(FAULTS_A_SECOND * rate, self._faults.strike)
        self._often(READERS_A_SECOND * rate, self._read)
        if self._options.burst:
            for share in (0.3, 0.7):
                self._later(share * self._options.seconds, self._burst)

    def _loop(self, until: float, *, acting: bool) -> None:
        while now() < until:
            self._step()
            if acting:
                while self._agenda and self._agenda[0][0] <= now():
                    heapq.heappop(self._agenda)[2]()

    def _step(self) -> None:
        started = now()
        self._cradle.observe()
        self._daemon.observe()
        for writer in self._writers.values():
            writer.listen()
        self._every("watch", LOOKS_EVERY, self._watch.look)
        self._every("orphans", 0.5, self._cradle.reap_orphans)
        self._every("readers", 0.2, self._see_readers)
        time.sleep(TICK)
        self._slowest = max(self._slowest, now() - started)

    _last: dict[str, float] = {}

    def _every(self, name: str, seconds: float, do: Callable[[], object]) -> None:
        if now() - self._last.get(name, 0.0) >= seconds:
            do()
            self._last[name] = now()

    def _later(self, seconds: float, do: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (now() + seconds, next(self._numbers), do))

    def _often(self, a_second: float, do: Callable[[], object]) -> None:
        def again() -> None:
            self._later(self._random.expovariate(a_second), again)
            do()

        self._later(self._random.expovariate(a_second), again)

    # What is usual

    def _start_agent(self) -> None:
        store = self._random.choice(self.world.stores)
        kind = self._random.choices((Kind.FOREIGN, Kind.API, Kind.WRAP, Kind.ODD), (6, 3, 3, 0.4))[0]
        if kind is not Kind.WRAP:
            writer = self._writers[self.world.stores.index(store), Kind.API if kind is Kind.API else Kind.FOREIGN]
            self._create(writer, odd=kind is Kind.ODD)
            return
        if not store.directory.exists():
            return
        run = self.world.new_run(kind, store)
        self._cradle.wrap(run, *(("--log",) if self._random.random() < 0.3 else ()))
        self._later(0.2 + self._lifetime(), lambda: self._end_wrapped(run))

    def _end_wrapped(self, run: Run) -> None:
        if run.up == FAR and run.dead == FAR and run.owner_left == FAR:
            self._later(0.3, lambda: self._end_wrapped(run))
        else:
            tell_random(self._cradle, self._random, run)

    def _lifetime(self) -> float:
        return self._random.choice((0.0, 0.05, 0.5, 1.0, 3.0, 8.0)) * self._random.uniform(0.5, 1.5)

    def _create(self, writer: Writer, *, odd: bool = False) -> None:
        """Start an agent and let a writer record it, or a row that has none."""
        run = self.world.new_run(Kind.ODD if odd else writer.kind, writer.store)
        args = json.dumps([run.key])
        if odd:
            pid = self._random.choice((*ODD_PIDS, self._daemon.life.pid))
        else:
            self._cradle.agent(run)
            pid = run.pid
            if writer.kind is Kind.FOREIGN and self._random.random() < 0.2:
                args = self._random.choice(ODD_ARGS).format(key=run.key)
            self._later(self._lifetime(), lambda: self._end(run, writer))
        self._record([run], writer, [(pid, args)])

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
        tell_random(self._cradle, self._random, run)
        delays: tuple[float | None, ...] = (0, 0.1, 0.5, 2, 5, None, None)
        delay = self._random.choice((*delays, None, None, None) if run.kind is Kind.FOREIGN else delays)
        if delay is not None:
            self._later(delay, lambda: self._say_end(run, writer, tries=100))

    def _say_end(self, run: Run, writer: Writer, tries: int) -> None:
        """Let the owner record an end, once it has seen it: with a word that nobody else would say."""
        if run.number not in writer.owns or run.refused:
            return
        if run.dead == FAR or run.written == FAR:
            if tries:
                self._later(0.1, lambda: self._say_end(run, writer, tries - 1))
            return
        assert run.truth is not None
        code = 100 + run.number % 20
        word = Word("completed", 0) if run.truth == 0 else Word("failed", code)
        run.word = word

        def said(done: bool, connected: float) -> None:
            word.said, word.connected = done, connected

        writer.order("update", run.row_id, run.key, word.status, word.exit_code, answer=said)

    def _burst(self) -> None:
        """Let many agents end at once."""
        writer = self._writers[self._random.randrange(max(1, len(self.world.stores) - 1)), Kind.FOREIGN]
        reader, pipe = os.pipe()
        runs: list[Run] = []
        code = self._random.randrange(1, 100)
        by_signal = self._random.random() < 0.5

        def start() -> None:
            for _ in range(40):
                run = self.world.new_run(Kind.FOREIGN, writer.store)
                self._cradle.agent(run, stdin=reader, code=code)
                runs.append(run)
            if len(runs) < self._options.burst:
                self._later(0.02, start)
            else:
                self._record(runs, writer, [(run.pid, json.dumps([run.key])) for run in runs])
                self._later(self._random.choice((1, 4, 8)), end)

        def end() -> None:
            for run in runs:
                if by_signal:
                    self._cradle.tell(run, -signal.SIGKILL)
                else:
                    self._cradle.note_told(run, code)
            os.close(reader)
            os.close(pipe)
            self._bursts += 1
            self.world.count(f"{self._options.burst} exits at once")

        start()

    def _read(self) -> None:
        """Let a person look at what there is."""
        store = self._random.choice(self.world.stores)
        command, here = self._random.choice(READERS), self.world.scratch
        if self._random.random() < 0.5 and store.directory.exists():
            command, here = self._random.choice(READERS_HERE), store.directory
        log = self.world.scratch / "logs" / f"reader-{next(self._numbers)}.err"
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                [*OURS, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, cwd=here, env=environment(self.world.scratch)
            )
        self._readers.append((process, list(command), log))

    def _see_readers(self) -> None:
        for reader in list(self._readers):
            process, command, log = reader
            if process.poll() is None:
                continue
            self._readers.remove(reader)
            if process.returncode not in (0, 1):
                self.world.wrong.append(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-300:]}")

    # The end

    def _put_right(self) -> None:
        """End all faults and all agents, but for one in each store."""
        while self._agenda and any(run.told == FAR and run.dead == FAR for run in self._cradle.living.values()):
            break
        pending = sorted(self._agenda)
        self._agenda.clear()
        self._faults.end_all()
        for _, _, do in pending:
            if getattr(do, "__name__", "") != "again":
                self._guard(do)
        self._faults.end_all()
        if not self._daemon.runs or self._daemon.life.descriptors is not None:
            self._daemon.end(signal.SIGKILL)
            self._daemon.start(sweep_every=2)
        for writer in self._writers.values():
            writer.order("close")
            if writer.kind is Kind.API:
                self._beacon(writer)
        self._loop(now() + 0.5, acting=True)

    def _guard(self, do: Callable[[], object]) -> None:
        with contextlib.suppress(ProcessLookupError):
            do()

    def _beacon(self, writer: Writer) -> None:
        """Record an agent that lives to the end: it shows the daemon that the store's rows are of this namespace."""
        run = self.world.new_run(Kind.API, writer.store)
        self._cradle.agent(run)
        self._beacons = [*getattr(self, "_beacons", []), run]
        self._record([run], writer, [(run.pid, json.dumps([run.key]))])

    def _settle(self) -> list[str]:
        """Wait until nothing is left to be settled; return what is."""
        deadline = now() + self._options.settle
        while now() < deadline:
            self._loop(now() + 0.25, acting=True)
            for run in list(self._cradle.living.values()):
                if run not in self._beacons:
                    self._cradle.tell(run, -signal.SIGKILL)
            self._every("hup", 5.0, lambda: self._daemon.signal(signal.SIGHUP))
            left = self._left()
            if not left:
                return []
        return [f"after {self._options.settle:g} s: {line}" for line in left]

    def _left(self) -> list[str]:
        left = [f"{run.key} lives" for run in self._cradle.living.values() if run not in self._beacons]
        left += [f"the wrapper of chaos-{number} runs" for number in self._cradle.wrappers]
        left += [f"{log.name} runs" for _, _, log in self._readers]
        left += [f"a writer of {writer.store.directory.name} is busy" for writer in self._writers.values() if writer.busy]
        if left:
            return left
        spool = self.world.scratch / "state" / "agent-yes-supervise" / "spool"
        left += [f"{path.name} is in the spool" for path in spool.glob("*.json")]
        for store in self.world.stores:
            try:
                rows = read_rows(store)
            except sqlite3.Error as error:
                return [f"{store.directory.name} cannot be read: {error}"]
            left += [f"{line} in {store.directory.name} runs" for row in rows if (line := self._is_left(row))]
        return left

    def _is_left(self, row: Row) -> str | None:
        from chaos.oracle import key_of

        number = key_of(row.args)
        run = self.world.runs[number] if number is not None and number < len(self.world.runs) else None
        if row.status != "running" or run is None or run.kind is Kind.ODD or run in self._beacons:
            return None
        return run.key

    def _leave(self) -> None:
        for writer in self._writers.values():
            writer.leave()

    def _judge(self) -> Findings:
        rows = {str(store.directory): read_rows(store) for store in self.world.stores}
        if self._options.spoil:
            self._spoil(rows)
        findings = Oracle(self.world, rows).judge_all()
        findings.wrong += self.world.wrong
        for store in self.world.stores:
            with contextlib.closing(sqlite3.connect(store.file)) as connection:
                answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
                if answer != "ok":
                    findings.wrong.append(f"{store.directory.name}: {answer}")
        self._daemon.observe()
        self._daemon.end(signal.SIGTERM)
        return findings

    def _spoil(self, rows: dict[str, list[Row]]) -> None:
        """Change one row, take one, double one."""
        by_number = [
            (run, listed, row)
            for listed in rows.values()
            for row in listed
            if row.status not in {"running"} and (run := self._run_of(row)) is not None and run.kind is not Kind.ODD and run.written != FAR and not run.store.cuts and run.kind is Kind.FOREIGN
        ]
        for (_, listed, row), how in zip(by_number, ("change", "take", "double"), strict=False):
            if how != "double":
                listed.remove(row)
            if how != "take":
                listed.append(row._replace(exit_code=77) if how == "change" else row)

    def _run_of(self, row: Row) -> Run | None:
        from chaos.oracle import key_of

        number = key_of(row.args)
        return self.world.runs[number] if number is not None and number < len(self.world.runs) else None

    def _report(self, findings: Findings, played: float, settled: float) -> int:
        tracebacks = self._tracebacks()
        for title, lines in (
            ("wrong", findings.wrong),
            ("lost", findings.missing),
            ("doubled", findings.doubled),
            ("daemon exit", self._daemon.exits),
            ("traceback", tracebacks),
        ):
            for line in lines[:20]:
                print(f"{title}: {line}")
        faults = self.world.faults
        print(f"faults: {sum(faults.values())}, of {len(faults)} kinds")
        for name, count in sorted(faults.items()):
            print(f"  {count:4} {name}")
        kinds = {kind: sum(run.kind is kind for run in self.world.runs) for kind in Kind}
        print(f"played for {played:.0f} s, settled within {settled:.1f} s; slowest step {self._slowest:.2f} s, {self._watch.looks} looks")
        print("runs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        print(f"judged {findings.judged}: {len(findings.wrong)} wrong, {len(findings.missing)} lost, {len(findings.doubled)} doubled; {findings.excused} taken by a fault")
        print(f"daemons: {len(self.world.daemons)}, {len(self._daemon.exits)} ended unasked; tracebacks: {len(tracebacks)}")
        bad = findings.wrong or findings.missing or findings.doubled or self._daemon.exits or tracebacks
        print(f"seed {self._options.seed}: {'FAILED' if bad else 'ok'}", flush=True)
        return 1 if bad else 0

    def _tracebacks(self) -> list[str]:
        found = []
        logs = [*(self.world.scratch / "logs").iterdir(), *(self.world.scratch / "state").rglob("bug-*")]
        for log in logs:
            text = log.read_text(errors="replace")
            at = text.find("Traceback (most recent call last)")
            if at >= 0:
                found.append(f"{log.name}: {text[max(0, at - 200) : at + 3000]}")
        return found
