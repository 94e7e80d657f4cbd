"""Bringing what is spooled into its stores, exactly once however many do so, and whenever one of them dies.

A run's token tells, within the transaction that writes it, whether the store has it already. The commit is on the disk
before the file is removed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass, field

from supervisor import registry
from supervisor.errors import StoreBusy, StoreError, StoreRefused, SuperviseError
from supervisor.models import Ending
from supervisor.spool import files
from supervisor.spool.content import AnotherFormat, decode
from supervisor.store import recording, schema as schemas
from supervisor.store.addenda import add_evidence
from supervisor.store.connection import open_for_writing, store_file, translate
from supervisor.store.recording import NewRun

log = logging.getLogger(__name__)

LOCK_WAIT = 0.1
"""Seconds to wait for a store's lock: what waits for one store must not keep the others, nor a reader of them."""


@dataclass(slots=True)
class Applied:
    """What was done: how many files have been brought into their stores, and why others have not.

    ``waiting`` are the projects' directories of those that could be when their stores take them.
    """

    files: int = 0
    waiting: set[str] = field(default_factory=set)
    troubles: list[SuperviseError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file that makes sense."""

    name: str
    run: NewRun
    ending: Ending | None
    adds: bool


def apply_spooled(*, only: str | None = None, timeout: float = LOCK_WAIT) -> Applied:
    """Bring what is spooled into its stores; what cannot be now stays, and what makes no sense is put aside.

    Args:
        only: the one project's directory whose store is to get what waits for it.
        timeout: seconds to wait for each store's lock.
    """
    applied = Applied()
    by_directory: dict[str, list[_Kept]] = {}
    try:
        names = files.waiting()
        for name in names:
            kept = _read(name, applied)
            if kept is not None and only in (None, kept.run.directory):
                by_directory.setdefault(kept.run.directory, []).append(kept)
    except OSError as error:
        applied.troubles.append(
            SuperviseError(f"what is spooled cannot be read ({error})", "check the folder and its rights")
        )
    for directory, left in by_directory.items():
        left.sort(key=lambda kept: (kept.run.stamp["started_at"] or 0, kept.name))
        try:
            _apply_to(directory, left, timeout, applied)
        except (StoreError, sqlite3.Error, OSError) as error:
            if left:
                applied.waiting.add(directory)
                applied.troubles.append(_still_waiting(directory, left, error))
    return applied


def _read(name: str, applied: Applied) -> _Kept | None:
    """Return what a file holds; None, with the reason in ``applied``, for what can or must not be brought anywhere."""
    try:
        run, ending = decode(files.read(name))
        adds = ending is not None and name.startswith(run.token + files.ADDED)
        if not adds and name != run.token + (files.BEGUN if ending is None else files.ENDED):
            raise ValueError("it is not named as it should be")
    except FileNotFoundError:
        return None
    except AnotherFormat as error:
        applied.troubles.append(
            SuperviseError(f"{name} in the spool is of another version ({error})", "it waits for that version")
        )
    except (files.Unusable, ValueError, IsADirectoryError) as error:
        _put_aside(name, error, applied)
    else:
        return _Kept(name, run, ending, adds)
    return None


def _put_aside(name: str, reason: Exception, applied: Applied) -> None:
    try:
        place = files.put_aside(name)
    except FileNotFoundError:
        return
    if place:
        message = f"{name} in the spool is no record of a run ({reason})"
        applied.troubles.append(SuperviseError(message, f"it is kept as {place}"))


def _apply_to(directory: str, left: list[_Kept], timeout: float, applied: Applied) -> None:
    """Bring files into one store, as far as it goes; those that are done leave the list."""
    if os.path.realpath(directory) != directory:
        raise StoreRefused(f"{directory} leads elsewhere now", "put the directory back in its place")
    inode = _inode(directory)
    connection, schema = open_for_writing(directory, timeout=timeout, durable=True)
    try:
        if schema.version > schemas.NEWEST:  # its tokens are in tables that we do not know
            raise StoreError(f"{store_file(directory)} was made by a newer version", "let that version record it")
        registry.announce(directory, inode is None)
        inode = inode or _inode(directory)
        while left:
            kept = left[0]
            try:
                _write(connection, kept)
            except (ValueError, OverflowError, RecursionError) as error:  # it must not hide the others
                _put_aside(kept.name, error, applied)
            else:
                if _inode(directory) != inode:
                    raise StoreBusy(f"{store_file(directory)} is being replaced", "it is tried again")
                files.remove(kept.name)
                applied.files += 1
            del left[0]
    finally:
        connection.close()


def _write(connection: sqlite3.Connection, kept: _Kept) -> None:
    recording.adopt_run(connection, kept.run, kept.ending)
    if kept.ending is not None and kept.adds:
        add_evidence(connection, kept.run.token, kept.ending.evidence)


def _inode(directory: str) -> int | None:
    try:
        return os.lstat(store_file(directory)).st_ino
    except OSError:
        return None


def _still_waiting(directory: str, left: list[_Kept], error: Exception) -> SuperviseError:
    if isinstance(error, sqlite3.Error):
        error = translate(directory, error)
    reason, remedy = (
        (error.message, error.remedy) if isinstance(error, StoreError) else (str(error), "check its rights")
    )
    runs = len({kept.run.token for kept in left})
    what = "1 run" if runs == 1 else f"{runs} runs"
    message = f"{what} of {directory} cannot be recorded yet ({reason}), and waits in {files.folder()}"
    return SuperviseError(message, remedy)
