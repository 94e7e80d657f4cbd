"""What is done to daemon, owners, agents and stores. Each fault tells the world what it has taken, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from chaos.actors import Cradle, Daemon
from chaos.world import FAR, Cut, Kind, Run, Store, World, now
from chaos.writers import Writer

_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
if sys.argv[2] == "alone":
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("UPDATE projects SET cmd = cmd")
print(flush=True)
sys.stdin.read()
"""


class Later(NamedTuple):
    """What is to be done in so many seconds."""

    seconds: float
    do: Callable[[], object]


class Faults:
    """Does faults, one at each call of `strike`; what ends one is put on the agenda by ``later``.

    Args:
        world: what is told.
        random: decides everything.
        cradle: the agents.
        daemon: the daemon.
        writers: those who write.
        later: takes what is to be done later.
    """

    def __init__(
        self,
        world: World,
        random: Random,
        cradle: Cradle,
        daemon: Daemon,
        writers: list[Writer],
        later: Callable[[float, Callable[[], object]], None],
    ) -> None:
        self._world, self._random, self._cradle, self._daemon = world, random, cradle, daemon
        self._writers, self._later = writers, later
        self._files = 0
        self._undo: dict[str, Callable[[], None]] = {}
        """How each trouble of a store ends, by its directory."""
        self._kinds: list[tuple[int, Callable[[], str | None]]] = [
            (8, self.kill_daemon),
            (4, self.restart_daemon),
            (4, self.hold_daemon),
            (2, self.starve_daemon),
            (3, self.hang_up_daemon),
            (10, self.kill_wrapper),
            (5, self.hold_wrapper),
            (4, self.end_by_wrapper),
            (6, self.hold_agent),
            (4, self.kill_writer),
            (3, self.hold_writer),
            (6, self.lock_store),
            (3, self.forbid_writing),
            (4, self.move_project),
            (3, self.swap_store),
            (3, self.restore_store),
            (4, self.delete_store),
            (3, self.truncate_store),
            (3, self.junk_store),
            (4, self.fill_store_disk),
            (2, self.fill_state_disk),
            (5, self.reuse_pid),
        ]

    def strike(self) -> None:
        """Do a fault that can be done now."""
        weights, kinds = zip(*self._kinds, strict=True)
        (fault,) = self._random.choices(kinds, weights)
        name = fault()
        if name is not None:
            self._world.count(name)

    def end_all(self) -> None:
        """Put right what can be put right, as a person would."""
        for directory in list(self._undo):
            self._end_trouble(directory)
        if self._world.state_full.open:
            self._empty(self._world.scratch / "state", self._world.state_full.end)
        for writer in self._writers:
            writer.go_on()
        for wrapper in self._cradle.wrappers.values():
            wrapper.send_signal(signal.SIGCONT)
        for run in self._cradle.living.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.pidfd, signal.SIGCONT)
        self._daemon.go_on()

    # The daemon

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
        if not self._daemon.runs or self._daemon.life.ready == FAR:
            return None
        self._daemon.signal(signal.SIGHUP)
        return "daemon told to read anew"

    def _start_daemon_later(self, seconds: float) -> None:
        def start() -> None:
            if not self._daemon.runs:
                self._daemon.start(sweep_every=self._random.choice((1, 5, 30)))

        self._later(seconds, start)

    # Owners and agents

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

    def hold_agent(self) -> str | None:
        """SIGSTOP to an agent, and SIGCONT after a while: it is alive."""
        runs = [run for run in self._cradle.living.values() if run.told == FAR and run.dead == FAR]
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

    # Stores

    def lock_store(self) -> str | None:
        """Hold an exclusive lock, against writers only or against readers too."""
        store = self._healthy()
        if store is None:
            return None
        how = self._random.choice(("write", "alone"))
        holder = subprocess.Popen(
            [sys.executable, "-S", "-c", _LOCK, str(store.file), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # another may have been first
        )
        store.troubles.begin("locked")

        def release() -> None:
            holder.kill() if how == "write" else holder.communicate()
            holder.wait()
            assert holder.stdin is not None
            holder.stdin.close()

        self._trouble(store, self._random.choice((0.4, 2, 4, 7)), release)
        return f"store locked ({'for writing' if how == 'write' else 'for all'})"

    def forbid_writing(self) -> str | None:
        """Make a store's folder read-only for everyone who opens something there."""
        store = self._healthy()
        if store is None:
            return None
        folder = str(store.folder)
        _run("mount", "--bind", folder, folder)
        _run("mount", "-o", "remount,bind,ro", folder)
        store.troubles.begin("read-only")

        def allow() -> None:
            _run("umount", "--lazy", folder)
            self._reopen(store)

        self._trouble(store, self._random.uniform(1, 5), allow)
        return "store read-only"

    def move_project(self) -> str | None:
        """Move a project away and back."""
        store = self._healthy(lambda store: not store.small and not self._starts_in(store))
        if store is None:
            return None
        away = store.directory.with_name(f"{store.directory.name}.away")
        store.directory.rename(away)
        store.troubles.begin("moved")
        self._trouble(store, self._random.uniform(0.3, 4), lambda: _rename(away, store.directory))
        return "project moved away and back"

    def swap_store(self) -> str | None:
        """Move a store's folder away, and back in the place of whatever has come there meanwhile."""
        store = self._healthy(lambda store: not (store.small or store.spared))
        if store is None:
            return None
        away = store.folder.with_name("away")
        taken = now()
        store.cuts.append(Cut(taken))
        store.folder.rename(away)
        store.troubles.begin("swapped")

        def put_back() -> None:
            self._take_away(store)
            away.rename(store.folder)
            store.cuts.append(Cut(now(), taken))
            self._reopen(store)

        self._trouble(store, self._random.uniform(0.3, 4), put_back)
        return "store moved away and back"

    def restore_store(self) -> str | None:
        """Put a copy of a while ago in the place of a store, by a rename of its folder."""
        store = self._healthy(lambda store: not (store.small or store.spared))
        if store is None:
            return None
        self._files += 1
        copy = store.directory / f"copy-{self._files}"
        copy.mkdir(0o700)
        taken = now()
        try:
            _back_up(store.file, copy / "store.sqlite")
        except sqlite3.Error:
            shutil.rmtree(copy)
            return None

        def restore() -> None:
            if store.troubles.open:  # not now
                shutil.rmtree(copy)
                return
            store.cuts.append(Cut(now(), taken))
            self._take_away(store)
            copy.rename(store.folder)
            self._world.count("store replaced by a copy")
            self._reopen(store)

        self._later(self._random.uniform(0, 6), restore)
        return None

    def delete_store(self) -> str | None:
        """Delete a store's files, or its whole folder."""
        store = self._healthy(lambda store: not store.spared)
        if store is None:
            return None
        store.cuts.append(Cut(now()))
        if self._random.random() < 0.5:
            shutil.rmtree(store.folder, ignore_errors=True)
        else:
            _unlink(store)
        store.cuts.append(Cut(now()))
        self._reopen(store)
        return "store deleted"

    def truncate_store(self) -> str | None:
        """Cut off a database's file; after a while the store is removed, as for any damage."""
        store = self._healthy(lambda store: not store.spared)
        if store is None:
            return None
        store.cuts.append(Cut(now()))
        os.truncate(store.file, self._random.choice((0, 100, 4096, 10_000)))
        return self._damaged(store, "store truncated")

    def junk_store(self) -> str | None:
        """Overwrite a database's file with junk, or a part of it."""
        store = self._healthy(lambda store: not store.spared)
        if store is None:
            return None
        store.cuts.append(Cut(now()))
        size = store.file.stat().st_size
        start = self._random.choice((0, 0, size // 2))
        with open(store.file, "r+b") as file:
            file.seek(start)
            file.write(self._random.randbytes(max(4096, size - start)))
        return self._damaged(store, "store overwritten with junk")

    def _damaged(self, store: Store, what: str) -> str:
        store.troubles.begin(what)

        def remove() -> None:
            _unlink(store)
            store.cuts.append(Cut(now()))
            self._reopen(store)

        self._trouble(store, self._random.uniform(0.5, 4), remove)
        return what

    def fill_store_disk(self) -> str | None:
        """Fill the small disk of a store."""
        store = self._healthy(lambda store: store.small)
        if store is None:
            return None
        store.troubles.begin("disk full")
        _fill(store.directory)
        self._trouble(store, self._random.uniform(1, 6), lambda: self._empty(store.directory))
        return "disk of a store full"

    def fill_state_disk(self) -> str | None:
        """Fill the disk of the registry and the spool."""
        if self._world.state_full.open:
            return None
        self._world.state_full.begin()
        _fill(self._world.scratch / "state")

        def empty() -> None:
            if self._world.state_full.open:
                self._empty(self._world.scratch / "state", self._world.state_full.end)

        self._later(self._random.uniform(1, 5), empty)
        return "disk of the user's state full"

    def _empty(self, folder: Path, then: Callable[[], None] = lambda: None) -> None:
        (folder / "ballast").unlink(missing_ok=True)
        then()

    def _healthy(self, fits: Callable[[Store], bool] = lambda _: True) -> Store | None:
        """Return a store with which nothing is wrong now."""
        stores = [
            store for store in self._world.stores if store.file.exists() and not store.troubles.open and fits(store)
        ]
        return self._random.choice(stores) if stores else None

    def _starts_in(self, store: Store) -> bool:
        return any(
            self._world.runs[number].store is store and self._world.runs[number].up == FAR
            for number in self._cradle.wrappers
        )

    def _trouble(self, store: Store, seconds: float, undo: Callable[[], None]) -> None:
        directory = str(store.directory)

        def end() -> None:
            undo()
            store.troubles.end()

        self._undo[directory] = end
        self._later(seconds, lambda: self._end_trouble(directory) if self._undo.get(directory) is end else None)

    def _end_trouble(self, directory: str) -> None:
        self._undo.pop(directory)()

    def _reopen(self, store: Store) -> None:
        """Let those who write there begin anew, some at once and some later: they write to a file without a name."""
        for writer in self._writers:
            if writer.store is store:
                self._later(self._random.choice((0, 0.5, 2)), lambda writer=writer: writer.order("close"))  # type: ignore[misc]  # bound now

    def _take_away(self, store: Store) -> None:
        if store.folder.exists():
            self._files += 1
            store.folder.rename(store.directory / f"old-{self._files}")


def _back_up(source: Path, target: Path) -> None:
    connection = sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=0.2)
    copy = sqlite3.connect(target)
    try:
        connection.backup(copy)
    finally:
        copy.close()
        connection.close()


def _rename(away: Path, back: Path) -> None:
    away.rename(back)


def _unlink(store: Store) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{store.file}{suffix}").unlink(missing_ok=True)


def _fill(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
