"""What a word that is being typed may become: names of runs, projects and stores, each with what it is.

A person waits for this at each Tab, so only few stores are opened, none is waited for, and trouble gives no candidates.
"""

from __future__ import annotations

import os
import sqlite3
from typing import NamedTuple

from supervisor import registry
from supervisor.errors import SuperviseError
from supervisor.names import short_names
from supervisor.store.files import store_file
from supervisor.store.supervision import SupervisedStore
from supervisor.views import find_project, here, known_directories

RUNS = 50
"""Runs of a store that are offered, the latest."""

STORES = 10
"""Stores that are opened where no project has been named yet, those written to last."""

_TIMEOUT = 0.1


class Candidate(NamedTuple):
    """A word, and what it names."""

    word: str
    says: str = ""


def runs(typed: str, *, only_running: bool = False) -> list[Candidate]:
    """Return the runs that a word may name: those here by id, others as ``PROJECT#ID``, the latest of each first.

    Args:
        typed: the word so far.
        only_running: only those whose row says that they run.
    """
    try:
        project, hash_, _ = typed.rpartition("#")
        if hash_:
            named = {find_project(project): f"{project}#"}
        else:
            names = short_names(known_directories())
            named = {directory: f"{names[directory]}#" for directory in _latest(names, typed)}
            if os.path.lexists(store_file(here())):
                named = {here(): "", **{place: name for place, name in named.items() if place != here()}}
    except (SuperviseError, OSError):
        return []
    found = []
    for directory, name in named.items():
        for run_id, status, cli in _runs_of(directory, only_running=only_running):
            if f"{name}{run_id}".startswith(typed):
                found.append(Candidate(f"{name}{run_id}", f"{status or 'junk'}: {cli or '?'}"))
    return found


def projects(typed: str) -> list[Candidate]:
    """Return the known projects that a word may name."""
    try:
        names = short_names(known_directories())
    except (SuperviseError, OSError):
        return []
    return [Candidate(name, directory) for directory, name in names.items() if name.startswith(typed)]


def stores(typed: str) -> list[Candidate]:
    """Return the registered stores that a word may name, those that are gone included."""
    try:
        directories = [entry.dir for entry in registry.entries()]
    except OSError:
        return []
    return [Candidate(directory) for directory in directories if directory.startswith(typed)]


def _latest(names: dict[str, str], typed: str) -> list[str]:
    """Return the projects whose short names may follow, the most recently written stores first."""
    fitting = [directory for directory, name in names.items() if name.startswith(typed)]
    return sorted(fitting, key=_written_at, reverse=True)[:STORES]


def _written_at(directory: str) -> float:
    times = [0.0]
    for path in (store_file(directory), f"{store_file(directory)}-wal"):
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(times)


def _runs_of(directory: str, *, only_running: bool) -> list[tuple[int, str | None, str | None]]:
    try:
        with SupervisedStore(directory, read_only=True, timeout=_TIMEOUT) as store:
            return store.latest_runs(limit=RUNS, only_running=only_running)
    except (SuperviseError, sqlite3.Error):
        return []
