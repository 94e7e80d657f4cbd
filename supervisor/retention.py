"""What is kept, and for how long: finding and deleting old runs, logs, and rows of nothing, across stores."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from supervisor.config import RetentionConfig
from supervisor.errors import StoreError, StoreMissing
from supervisor.log import files
from supervisor.log.files import LogFile
from supervisor.store import pruning
from supervisor.store.connection import translate
from supervisor.store.schema import NEWEST
from supervisor.store.store import Store

TIMEOUT = 5.0
"""Seconds to wait for a store's lock."""

SHORTEST_REST = 0.01
"""Seconds between two transactions, at least: who waits for the lock looks for it that often."""

FRESH = 3600.0
"""Seconds since its last write for which a log may be that of a run whose row is still to come."""

Rest = Callable[[float], object]
"""Waits so many seconds, none after a store; what is true ends the work early."""

_DAY, _MIB = 86400.0, 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What is old: runs that ended, and logs last written, before a Unix time; and how many bytes all logs may take."""

    runs_before: float
    logs_before: float
    logs_bytes: int

    @classmethod
    def of(cls, config: RetentionConfig, now: float) -> Limits:
        """Return the limits that the configuration sets at a Unix time."""
        return cls(now - config.runs_days * _DAY, now - config.logs_days * _DAY, config.logs_mib * _MIB)


@dataclass(slots=True)
class Pruned:
    """What one store was rid of, or would be."""

    directory: str
    runs: int = 0
    orphans: int = 0
    logs: int = 0
    log_bytes: int = 0

    @property
    def nothing(self) -> bool:
        """Whether that is nothing."""
        return not (self.runs or self.orphans or self.logs)


@dataclass(slots=True)
class Pruning:
    """What was deleted, store by store, the stores that could not be read, and whether the work was ended early."""

    pruned: dict[str, Pruned] = field(default_factory=dict)
    troubles: list[StoreError] = field(default_factory=list)
    cut_short: bool = False


def prune(directories: Iterable[str], limits: Limits, *, dry: bool = False, rest: Rest = time.sleep) -> Pruning:
    """Delete what is old from some stores, in small transactions with a rest after each.

    Args:
        directories: the projects.
        limits: what is old.
        dry: only count; nothing is written.
        rest: see `Rest`.
    """
    done, logs, busy = Pruning(), list[LogFile](), 0
    for directory in directories:
        pruned = Pruned(directory)
        try:
            with Store(directory, create=False, read_only=dry, timeout=TIMEOUT) as store:
                running = _prune_store(store, pruned, limits, dry=dry, rest=rest, done=done)
            for log in files.logs_of(directory):
                busy += log.size if log.token in running else 0
                logs += [] if log.token in running else [log]
        except StoreMissing:
            continue
        except StoreError as error:
            done.troubles.append(error)
        except sqlite3.Error as error:
            done.troubles.append(translate(directory, error))
        except OSError as error:
            done.troubles.append(StoreError(f"{directory}: {error.filename}: {error.strerror}", "check its rights"))
        done.pruned[directory] = pruned  # what was done before a trouble stays done
        done.cut_short = done.cut_short or bool(rest(0))  # a store that is locked, or has nothing old, has not asked
        if done.cut_short:
            return done
    for log in _too_many(logs, limits.logs_before, limits.logs_bytes - busy, time.time()):
        if dry or files.delete(log):
            done.pruned[log.directory].logs += 1
            done.pruned[log.directory].log_bytes += log.size
    return done


def _prune_store(store: Store, pruned: Pruned, limits: Limits, *, dry: bool, rest: Rest, done: Pruning) -> set[str]:
    """Delete old runs and orphans, and return the tokens of running runs."""
    connection = store.connection
    if store.schema.version > NEWEST:
        raise StoreError(f"{store.path} was made by a newer version", "nothing is deleted there; update this one")
    if dry:
        pruned.runs = pruning.count_old_runs(connection, limits.runs_before)
        pruned.orphans = pruning.count_orphans(connection)
    else:
        for deleted in _rested(pruning.delete_old_runs(connection, limits.runs_before), rest, done):
            pruned.runs += deleted
        for deleted in () if done.cut_short else _rested(pruning.delete_orphans(connection), rest, done):
            pruned.orphans += deleted
    running = pruning.running(connection)
    if not dry and not done.cut_short:
        pruning.tidy(connection)
    return running


def _rested(batches: Iterator[int], rest: Rest, done: Pruning) -> Iterator[int]:
    """Pass on what each transaction did, with a rest as long as it took; end early when the rest says so."""
    began = time.monotonic()
    for deleted in batches:
        yield deleted
        if rest(max(SHORTEST_REST, time.monotonic() - began)):
            done.cut_short = True
            return
        began = time.monotonic()


def _too_many(logs: Iterable[LogFile], before: float, room: int, now: float) -> list[LogFile]:
    """Return the logs last written before a Unix time, and of the others the oldest for which there is no room."""
    going: list[LogFile] = []
    left: list[LogFile] = []
    for log in sorted(logs, key=lambda log: log.written_at):
        (going if log.written_at < before else left).append(log)
    excess = sum(log.size for log in left) - room
    for log in left:
        if excess <= 0 or log.written_at > now - FRESH:
            break
        going.append(log)
        excess -= log.size
    return going
