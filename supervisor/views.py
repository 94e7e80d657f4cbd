"""What the reading commands show, as data: runs across stores, their live verdicts, and the run that a word names."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from supervisor import registry
from supervisor.errors import NotFound, StoreError, StoreMissing
from supervisor.models import ProjectSummary, RunDetail, RunStatus
from supervisor.process.judge import Verdict
from supervisor.sight import see
from supervisor.store.connection import store_file, translate
from supervisor.store.supervision import SupervisedStore

READ_TIMEOUT = 5.0
"""Seconds that a reading command waits for a store's lock."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as a person sees it: where it is, its short name, and the verdict on it if its row says that it runs."""

    directory: str
    name: str
    detail: RunDetail
    verdict: Verdict | None


@dataclass(slots=True)
class Overview:
    """Runs of several stores, and the stores that could not be read."""

    runs: list[RunView] = field(default_factory=list)
    troubles: list[StoreError] = field(default_factory=list)


def known_directories() -> list[str]:
    """Return the projects whose stores are registered, and the current directory if it has one."""
    directories = {entry.dir for entry in registry.entries()}
    here = os.path.realpath(os.curdir)
    if os.path.lexists(store_file(here)):
        directories.add(here)
    return sorted(directories)


def short_names(directories: Iterable[str]) -> dict[str, str]:
    """Return for each directory the shortest tail of its path that no other one ends with."""
    directories = sorted(set(directories))
    names = {}
    for directory in directories:
        parts = directory.strip("/").split("/")
        tails = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        unique = (tail for tail in tails if sum(_ends_with(other, tail) for other in directories) == 1)
        names[directory] = next(unique, directory)
    return names


def opened(directory: str) -> SupervisedStore:
    """Return a store opened for reading only.

    Raises:
        StoreError: it cannot be read.
    """
    store = SupervisedStore(directory, read_only=True, timeout=READ_TIMEOUT)
    _ = store.connection
    return store


def runs_of(
    directories: Sequence[str],
    *,
    statuses: Sequence[RunStatus] = (),
    since: float | None = None,
    ended_since: float | None = None,
    limit: int | None = None,
    names: dict[str, str] | None = None,
) -> Overview:
    """Return the runs of some stores, newest first; those whose row says ``running`` with their verdicts.

    Args:
        directories: the projects.
        statuses: only these, all by default.
        since: only runs that started at or after this Unix time.
        ended_since: only runs that ended at or after this Unix time.
        limit: at most so many.
        names: short names of directories.
    """
    overview = Overview()
    names = short_names(directories) if names is None else names
    for directory in directories:
        try:
            with opened(directory) as store:
                details = store.details(statuses=statuses, since=since, ended_since=ended_since, limit=limit)
                overview.runs += _viewed(store, details, names[directory])
        except StoreMissing:
            continue
        except StoreError as error:
            overview.troubles.append(error)
        except sqlite3.Error as error:
            overview.troubles.append(translate(directory, error))
    if len(directories) > 1:
        overview.runs.sort(key=lambda view: view.detail.run.started_at or 0, reverse=True)
    del overview.runs[limit if limit is not None else len(overview.runs) :]
    return overview


def projects_of(directories: Sequence[str]) -> tuple[list[tuple[str, ProjectSummary]], list[StoreError]]:
    """Return the projects in some stores with their counts, the most recently run first, and stores in trouble."""
    found: list[tuple[str, ProjectSummary]] = []
    troubles: list[StoreError] = []
    for directory in directories:
        try:
            with opened(directory) as store:
                found += [(directory, summary) for summary in store.project_summaries()]
        except StoreMissing:
            continue
        except StoreError as error:
            troubles.append(error)
        except sqlite3.Error as error:
            troubles.append(translate(directory, error))
    found.sort(key=lambda item: item[1].project.last_run_at or 0, reverse=True)
    return found, troubles


def find_run(word: str) -> RunView:
    """Return the run that a word names: an id here, ``PROJECT#ID``, ``pid:N``, or ``.`` for the newest run here.

    Raises:
        NotFound: no run matches, or several do.
        StoreError: the store cannot be read.
    """
    if word.startswith("pid:"):
        return _find_by_pid(word)
    project, hash_, number = word.rpartition("#")
    directory = find_project(project) if hash_ else os.path.realpath(os.curdir)
    with opened(directory) as store:
        if word == ".":
            details = store.details(limit=1)
        elif number.isdecimal() and len(number) < 19:
            details = store.details(run_id=int(number))
        else:
            raise NotFound(f"{word!r} names no run", "give an id, PROJECT#ID, pid:N, or . for the newest run here")
        names = short_names({*known_directories(), directory})
        views = _viewed(store, details, names[directory])
    if not views:
        raise NotFound(f"there is no run {word} in {directory}", "see: agent-yes-supervise runs list")
    return views[0]


def find_project(word: str) -> str:
    """Return the directory that a word names: a path, or a tail of one known directory's path.

    Raises:
        NotFound: none matches, or several do.
    """
    path = os.path.realpath(word)
    directories = known_directories()
    if path in directories or os.path.lexists(store_file(path)):
        return path
    matches = [directory for directory in directories if _ends_with(directory, word.strip("/"))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NotFound(f"{word!r} names several projects: {', '.join(matches)}", "give more of the path")
    raise NotFound(f"{word!r} is no known project", "see: agent-yes-supervise projects list")


def _find_by_pid(word: str) -> RunView:
    number = word.removeprefix("pid:")
    if not number.isdecimal() or len(number) > 18:
        raise NotFound(f"{word!r} names no process", "give pid:N with a number")
    found = list(_all_with_pid(int(number)))
    running = [view for view in found if view.detail.run.status is RunStatus.RUNNING]
    matches = running or found
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound(f"no known run has pid {number}", "see: agent-yes-supervise ls")
    listed = ", ".join(f"{view.name}#{view.detail.run.id}" for view in matches)
    raise NotFound(f"several runs had pid {number}: {listed}", "name one of them")


def _all_with_pid(pid: int) -> Iterator[RunView]:
    directories = known_directories()
    names = short_names(directories)
    for directory in directories:
        try:
            with opened(directory) as store:
                yield from _viewed(store, store.details(pid=pid), names[directory])
        except (StoreError, sqlite3.Error):
            continue


def _viewed(store: SupervisedStore, details: Sequence[RunDetail], name: str) -> list[RunView]:
    running = {detail.run.id for detail in details if detail.run.status is RunStatus.RUNNING}
    verdicts = {}
    if running:
        for sight in see(store, [claim for claim in store.running_claims() if claim.run_id in running]):
            sight.close()
            verdicts[sight.claim.run_id] = sight.verdict
    return [RunView(store.directory, name, detail, verdicts.get(detail.run.id)) for detail in details]


def _ends_with(directory: str, tail: str) -> bool:
    return directory.strip("/") == tail or directory.endswith("/" + tail)
