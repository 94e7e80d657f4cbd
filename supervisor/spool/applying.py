"""Bringing what is spooled into its stores, exactly once however many do so, and whenever one of them dies.

A run's token tells, within the transaction that writes it, whether the store has it already. The commit is on the disk
before the file is removed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor import registry
from supervisor.errors import StoreBusy, StoreError, StoreRefused, SuperviseError
from supervisor.nouns import Ending
from supervisor.spool import files
from supervisor.spool.content import AnotherFormat, decode, decode_settled
from supervisor.store import recording, schema as schemas
from supervisor.store.addenda import add_evidence
from supervisor.store.connection import open_for_writing, translate
from supervisor.store.files import identity, store_file
from supervisor.store.recording import NewRun
from supervisor.store.settling import settle

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
    """A file that makes sense: of which run it is, when that began or the ending was known, and how it is written.

    ``brings_run`` tells whether it holds the whole run, so that a store may be made for it.
    """

    name: str
    directory: str
    run: str
    since: float
    write: Callable[[sqlite3.Connection], object]
    brings_run: bool = True


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
            if kept is not None and only in (None, kept.directory):
                by_directory.setdefault(kept.directory, []).append(kept)
    except OSError as error:
        applied.troubles.append(
            SuperviseError(f"what is spooled cannot be read ({error})", "check the folder and its rights")
        )
    for directory, left in by_directory.items():
        left.sort(key=lambda kept: (kept.since, kept.name))
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
        if name.startswith(files.SETTLED):
            return _settled(name)
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
        since = run.stamp["started_at"] or 0
        return _Kept(name, run.directory, run.token, since, lambda connection: _adopt(connection, run, ending, adds))
    return None


def _settled(name: str) -> _Kept:
    directory, claim, ending = decode_settled(files.read(name))
    if name != files.settled_name(directory, claim):
        raise ValueError("it is not named as it should be")

    def write(connection: sqlite3.Connection) -> object:
        return settle(connection, [(claim, ending)])

    return _Kept(name, directory, str(claim.run_id), ending.detected_at, write, brings_run=False)


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
    known = identity(directory)
    create = any(kept.brings_run for kept in left)
    connection, schema = open_for_writing(directory, create=create, timeout=timeout, durable=True)
    try:
        if schema.version > schemas.NEWEST:  # its tokens are in tables that we do not know
            raise StoreError(f"{store_file(directory)} was made by a newer version", "let that version record it")
        registry.announce(directory, known is None)
        known = known or identity(directory)
        while left:
            kept = left[0]
            try:
                kept.write(connection)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:  # it must not hide the others
                _put_aside(kept.name, error, applied)
            else:
                if identity(directory) != known:
                    raise StoreBusy(f"{store_file(directory)} is being replaced", "it is tried again")
                files.remove(kept.name)
                applied.files += 1
            del left[0]
    finally:
        connection.close()


def _adopt(connection: sqlite3.Connection, run: NewRun, ending: Ending | None, adds: bool) -> None:
    recording.adopt_run(connection, run, ending)
    if ending is not None and adds:
        add_evidence(connection, run.token, ending.evidence)


def _still_waiting(directory: str, left: list[_Kept], error: Exception) -> SuperviseError:
    if isinstance(error, sqlite3.Error):
        error = translate(directory, error)
    reason, remedy = (
        (error.message, error.remedy) if isinstance(error, StoreError) else (str(error), "check its rights")
    )
    runs = len({kept.run for kept in left})
    what = "1 run" if runs == 1 else f"{runs} runs"
    message = f"{what} of {directory} cannot be recorded yet ({reason}), and waits in {files.folder()}"
    return SuperviseError(message, remedy)
