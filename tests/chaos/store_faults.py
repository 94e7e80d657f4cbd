"""What is done to stores, and to the disks that they and the user's state lie on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from chaos.actors import Cradle
from chaos.world import FAR, Cut, Later, Store, World, now
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


class StoreFaults:
    """Each method does a fault, and returns its name; None where it cannot be done now.

    A store has one trouble at a time. What is taken from a store is noted as a `Cut`.

    Args:
        world: what is told.
        random: decides everything.
        cradle: the agents.
        writers: those who write.
        later: takes what is to be done later.
    """

    def __init__(self, world: World, random: Random, cradle: Cradle, writers: list[Writer], later: Later) -> None:
        self._world, self._random, self._cradle = world, random, cradle
        self._writers, self._later = writers, later
        self._files = 0
        self._undo: dict[str, Callable[[], None]] = {}
        """How each trouble of a store ends, by its directory."""

    def end_all(self) -> None:
        """Put right what can be put right, as a person would."""
        for directory in list(self._undo):
            self._end_trouble(directory)
        self._empty_state_disk()

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
            holder.kill()
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
        try:
            _run("mount", "-o", "remount,bind,ro", folder)
        except subprocess.CalledProcessError:  # somebody has just opened a file there for writing
            _run("umount", "--lazy", folder)
            return None
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
            self._put(store, lambda: away.rename(store.folder), taken)
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
            if store.troubles.open or not copy.exists():  # not now
                shutil.rmtree(copy, ignore_errors=True)
                return
            store.cuts.append(Cut(now(), taken))
            self._put(store, lambda: copy.rename(store.folder), taken)
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
            self._files += 1
            shutil.rmtree(store.folder.rename(store.directory / f"deleted-{self._files}"), ignore_errors=True)
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

    def bring_code(self) -> str | None:
        """Give a store a trigger, for which it is refused until somebody drops it."""
        store = self._healthy()
        if store is None or not _execute(store, "CREATE TRIGGER chaos AFTER UPDATE ON runs BEGIN SELECT 1; END"):
            return None
        store.troubles.begin("trigger")

        def drop() -> None:
            while not _execute(store, "DROP TRIGGER IF EXISTS chaos"):
                pass

        self._trouble(store, self._random.uniform(0.5, 4), drop)
        return "store with a trigger"

    def link_store(self) -> str | None:
        """Put a symbolic link in the place of a store's folder, for which it is refused."""
        store = self._healthy(lambda store: not (store.small or store.spared))
        if store is None:
            return None
        real, taken = store.folder.with_name("real"), now()
        store.folder.rename(real)
        self._put(store, lambda: store.folder.symlink_to(real), taken)
        store.troubles.begin("symbolic link")

        def unlink() -> None:
            taken = now()
            store.folder.unlink()
            self._put(store, lambda: real.rename(store.folder), taken)

        self._trouble(store, self._random.uniform(0.5, 4), unlink)
        return "store behind a symbolic link"

    def fill_store_disk(self) -> str | None:
        """Fill the small disk of a store."""
        store = self._healthy(lambda store: store.small)
        if store is None:
            return None
        store.troubles.begin("disk full")
        _fill(store.directory)
        self._trouble(store, self._random.uniform(1, 6), lambda: _empty(store.directory))
        return "disk of a store full"

    def fill_state_disk(self) -> str | None:
        """Fill the disk of the registry and the spool."""
        if self._world.state_full.open:
            return None
        self._world.state_full.begin()
        _fill(self._world.scratch / "state")

        self._later(self._random.uniform(1, 5), self._empty_state_disk)
        return "disk of the user's state full"

    def litter(self) -> str | None:
        """Leave what makes no sense in the spool, and in the registry for a while."""
        state = self._world.scratch / "state" / "agent-yes-supervise"
        self._files += 1
        token = f"{self._files:032x}"
        place = state / "spool" / self._random.choice((f"{token}-ended.json", f"{token}-begun.json", f"junk-{token}"))
        entry = state / "registry" / f"{token}.json"
        junk = self._random.choice((b"", b"{}", b'{"format": 1, "run": 7}', b"[" * 5000, self._random.randbytes(100)))
        try:
            self._random.choice((place.mkdir, lambda: os.mkfifo(place), lambda: place.write_bytes(junk)))()
            entry.write_bytes(junk)
        except OSError:  # there is none yet, or its disk is full
            return None
        self._later(self._random.uniform(1, 5), lambda: entry.unlink(missing_ok=True))
        return "junk in spool and registry"

    def _empty_state_disk(self) -> None:
        if self._world.state_full.open:
            _empty(self._world.scratch / "state")
            self._world.state_full.end()

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

    def _put(self, store: Store, put: Callable[[], object], taken: float) -> None:
        """Put a folder, as it was at ``taken``, in the place of what stands there now or comes there meanwhile."""
        while True:
            if store.folder.exists():
                self._files += 1
                store.folder.rename(store.directory / f"old-{self._files}")
                store.cuts.append(Cut(now(), taken))
            try:
                put()
            except OSError:  # a wrapper was faster
                continue
            store.cuts.append(Cut(now(), taken))
            return


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


def _execute(store: Store, sql: str) -> bool:
    """Change a store as somebody else; tell whether that was done."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{store.file}?mode=rw", uri=True, timeout=1)) as connection:
            connection.execute(sql)
    except sqlite3.Error:
        return False
    return True


def _unlink(store: Store) -> None:
    """Delete a store's files, and none that comes in their place meanwhile, such as the next store's log."""
    beside = [Path(f"{store.file}{suffix}") for suffix in ("-wal", "-shm")]
    known = [(path, path.stat().st_ino) for path in beside if path.exists()]
    store.file.unlink(missing_ok=True)
    for path, inode in known:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()


def _fill(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def _empty(folder: Path) -> None:
    (folder / "ballast").unlink(missing_ok=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
