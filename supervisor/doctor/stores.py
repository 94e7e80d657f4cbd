"""The stores that the daemon looks after: whether each can be used, is whole, and is nobody else's."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator

from supervisor import registry
from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.errors import StoreError, StoreMissing
from supervisor.process.namespace import on_shared_file_system
from supervisor.store.connection import translate
from supervisor.store.health import Health, health_of
from supervisor.store.schema import NEWEST
from supervisor.store.store import Store

TIMEOUT = 5.0
"""Seconds to wait for a store's lock, and for the check of its file."""

_LARGE_WAL = 64 << 20
_MIB = 1 << 20


def check_stores() -> Iterator[Finding]:
    """Find how each registered store fares."""
    entries = registry.entries()
    if not entries:
        yield ok("store", "no stores are known yet")
    for entry in entries:
        try:
            with Store(entry.dir, create=False, read_only=True, timeout=TIMEOUT) as store:
                yield from _findings(entry.dir, health_of(store, patience=TIMEOUT))
        except StoreMissing as error:
            remedy = f"agent-yes-supervise stores forget {shlex.quote(entry.dir)}"
            yield warn("store", error.message, remedy)
        except StoreError as error:
            yield fail("store", error.message, error.remedy)
        except sqlite3.Error as error:
            trouble = translate(entry.dir, error)
            yield fail("store", trouble.message, trouble.remedy)


def _findings(directory: str, health: Health) -> Iterator[Finding]:
    """Yield what is not as it should be, or else one line that all is well."""
    found = list(_troubles(directory, health))
    wal = f" and {health.wal_size / _MIB:.1f} MiB of WAL" if health.wal_size else ""
    size = f"{health.runs} run{'' if health.runs == 1 else 's'}, {health.size / _MIB:.1f} MiB{wal}"
    yield from found or [ok("store", f"{directory}: {size}")]


def _troubles(directory: str, health: Health) -> Iterator[Finding]:
    if health.damage:
        remedy = f"save what can be read: agent-yes-supervise stores repair {shlex.quote(directory)}"
        yield fail("store", f"{directory} is damaged: {health.damage}", remedy)
    if health.damage is None:
        remedy = "check it at leisure: sqlite3 store.sqlite 'PRAGMA quick_check'"
        yield warn("store", f"{directory} is too large to be checked within {TIMEOUT:.0f} seconds", remedy)
    if health.readable_by_others:
        paths = " ".join(shlex.quote(path) for path in health.readable_by_others)
        yield warn("store", f"{directory}: others may read its prompts", f"chmod go= {paths}")
    if not health.is_wal:
        yield warn("store", f"{directory} is not in WAL mode: readers wait for writers", "the next write changes that")
    if on_shared_file_system(directory):
        remedy = "keep it on a local disk: SQLite's WAL does not work between hosts"
        yield warn("store", f"{directory} lies on a file system that other hosts may share", remedy)
    if health.wal_size > _LARGE_WAL:
        text = f"{directory}: its WAL has grown to {health.wal_size / _MIB:.0f} MiB: a reader holds on to it"
        yield warn("store", text, "end what has it open for long: the last to close it empties the WAL")
    if health.junk:
        text = f"{directory}: {health.junk} of {health.runs} runs have values that make no sense"
        yield warn("store", text, "see: agent-yes-supervise runs list; delete them: agent-yes-supervise runs rm")
    if health.version > NEWEST:
        text = f"{directory} was made by a newer version: what that knows of processes is not used here"
        yield warn("store", text, "update this one")
