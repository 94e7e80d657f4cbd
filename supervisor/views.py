"""What the reading commands show, as data: runs and projects across stores, live verdicts, and what a word names."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from supervisor import registry
from supervisor.errors import NotFound, StoreError, StoreMissing
from supervisor.models import Claim, ProjectSummary, RunDetail, RunStatus
from supervisor.names import is_named, is_tail, short_names
from supervisor.process.judge import State, Verdict
from supervisor.store.connection import translate
from supervisor.store.files import store_file
from supervisor.store.store import Store
from supervisor.store.supervision import SupervisedStore

if TYPE_CHECKING:
    from supervisor.sight import Sight

TIMEOUT = 5.0
"""Seconds that a command waits for a store's lock."""

_MOST_NAMED = 10
"""So many matches are named in an error at most."""

See = Callable[[Store, Iterable[Claim]], "list[Sight]"]
S = TypeVar("S", bound=Store)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as a person sees it: where it is, its short name, and the verdict on it if its row says that it runs."""

    directory: str
    name: str
    detail: RunDetail
    verdict: Verdict | None

    @property
    def key(self) -> tuple[str, int]:
        """What tells this run from every other one."""
        return self.directory, self.detail.run.id

    @property
    def may_run(self) -> bool:
        """Whether its process may be alive: a row without a verdict was written after the last look."""
        running = self.detail.run.status is RunStatus.RUNNING
        return running and (self.verdict is None or self.verdict.state is not State.DEAD)


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project as a person sees it: whose store keeps it, and how many of its running rows are of dead processes."""

    directory: str
    summary: ProjectSummary
    unsettled: int


@dataclass(slots=True)
class Overview:
    """Runs of several stores, whether a limit has left out more, and the stores that could not be read."""

    runs: list[RunView] = field(default_factory=list)
    troubles: list[StoreError] = field(default_factory=list)
    more: bool = False


def here() -> str:
    """Return the physical path of the current directory.

    Raises:
        NotFound: it has been removed.
    """
    try:
        return os.path.realpath(os.curdir)
    except FileNotFoundError:
        raise NotFound("the current directory has been removed", "go to one that exists") from None


def known_directories() -> list[str]:
    """Return the projects whose stores are registered, and the current directory if it has one."""
    directories = {os.path.realpath(entry.dir) for entry in registry.entries()}
    with contextlib.suppress(NotFound):
        if os.path.lexists(store_file(here())):
            directories.add(here())
    return sorted(directories)


@contextlib.contextmanager
def usable(store: S) -> Iterator[S]:
    """Open a store for the block; what SQLite says of it there becomes a `StoreError`.

    Raises:
        StoreError: it cannot be opened, read or written.
    """
    with store:
        try:
            _ = store.connection
            yield store
        except sqlite3.Error as error:
            raise translate(store.directory, error) from error


def trouble_of(directory: str) -> StoreError | None:
    """Return why a store cannot be read, None for one that can."""
    try:
        with usable(_reader(directory)):
            return None
    except StoreError as error:
        return error


def runs_of(
    directories: Sequence[str],
    *,
    statuses: Sequence[RunStatus] = (),
    since: float | None = None,
    limit: int | None = None,
    names: dict[str, str] | None = None,
) -> Overview:
    """Return the runs of some stores, newest first; those whose row says ``running`` with their verdicts.

    Args:
        directories: the projects.
        statuses: only these, all by default.
        since: only runs that started at or after this Unix time.
        limit: at most so many.
        names: short names of directories.
    """
    names = short_names(directories) if names is None else names
    one_more = None if limit is None else limit + 1
    may_run = not statuses or RunStatus.RUNNING in statuses

    def read(store: SupervisedStore, see: See) -> list[RunView]:
        details = functools.partial(store.details, statuses=statuses, since=since, limit=one_more)
        return _look(store, names[store.directory], details, see, may_run=may_run)

    runs, troubles = _of_each(directories, read)
    if len(directories) > 1:
        runs.sort(key=lambda view: view.detail.run.started_at or 0, reverse=True)
    return Overview(runs[:limit], troubles, more=limit is not None and len(runs) > limit)


def running_and_ended(names: dict[str, str], *, statuses: Sequence[RunStatus], ended_since: float) -> Overview:
    """Return, by one look at each store named, what says that it runs, and what ended so since that Unix time."""

    def read(store: SupervisedStore, see: See) -> list[RunView]:
        running = _look(store, names[store.directory], lambda: store.details(statuses=(RunStatus.RUNNING,)), see)
        ended = functools.partial(store.details, statuses=statuses, ended_since=ended_since)
        return running + _look(store, names[store.directory], ended, see, may_run=False)

    runs, troubles = _of_each(list(names), read)
    return Overview(sorted(runs, key=lambda view: view.detail.run.started_at or 0, reverse=True), troubles)


def projects_of(directories: Sequence[str]) -> tuple[list[ProjectView], list[StoreError]]:
    """Return the projects in some stores with their counts, the most recently run first, and stores in trouble."""
    found, troubles = _of_each(directories, _projects_in)
    found.sort(key=lambda view: view.summary.project.last_run_at or 0, reverse=True)
    return found, troubles


def find_run(word: str) -> RunView:
    """Return the run that a word names: an id here, ``PROJECT#ID``, ``pid:N``, or ``.`` for the newest run here.

    Raises:
        NotFound: no run matches, or several do.
        StoreError: the store cannot be read.
    """
    project, hash_, number = word.rpartition("#")
    if not hash_ and word.startswith("pid:"):
        return _find_by_pid(word)
    if number != "." and not _is_number(number):
        raise NotFound(f"{word!r} names no run", "give an id, PROJECT#ID, pid:N, or . for the newest run here")
    directory = find_project(project) if project else here()
    names = short_names({*known_directories(), directory})
    try:
        with usable(_reader(directory)) as store:
            views = _look(
                store,
                names[directory],
                lambda: store.details(limit=1) if number == "." else store.details(run_id=int(number)),
                _seeing(),
            )
    except StoreMissing:
        raise NotFound(
            f"there are no runs in {directory}", "name one by PROJECT#ID: agent-yes-supervise runs list --all"
        ) from None
    if not views:
        what = "no run yet" if number == "." else f"no run {number}"
        raise NotFound(f"there is {what} in {directory}", "see: agent-yes-supervise runs list --all")
    return views[0]


def environment_of(view: RunView) -> dict[str, str]:
    """Return what is recorded of the environment that a run's agent was given."""
    with usable(_reader(view.directory)) as store:
        return store.environment_of(view.detail.run.id)


def find_project(word: str) -> str:
    """Return the directory that a word names: a path, or a tail of one known directory's path.

    Raises:
        NotFound: none matches, or several do.
    """
    path = os.path.realpath(word if os.path.isabs(word) else os.path.join(here(), word))
    directories = known_directories()
    if path in directories or os.path.lexists(store_file(path)):
        return path
    matches = [known for known in directories if is_tail(word, known)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NotFound(f"{word!r} names several projects: {_listed(matches)}", "give more of the path")
    raise NotFound(f"{word!r} is no known project", "see: agent-yes-supervise projects list")


def find_project_view(word: str | None) -> ProjectView:
    """Return the project that a word names: the one of that directory, or else the only one that its store keeps.

    Stores move with their directory and are copied, so a project may be kept in another one's store: there its own
    path names it, or a tail of that.

    Args:
        word: as for `find_project`, or the path of a project; None for the current directory.

    Raises:
        NotFound: none matches, or several do.
        StoreError: the store cannot be read.
    """
    try:
        directory = here() if word is None else find_project(word)
    except NotFound:
        kept, _ = projects_of(known_directories())
        found = [view for view in kept if word and is_named(word, view.summary.project.dir)]
        if not found:
            raise
    else:
        kept, troubles = projects_of([directory])
        if troubles:
            raise troubles[0]
        if not kept:
            raise NotFound(f"there is no project in {directory}", "start an agent there: agent-yes-supervise wrap CLI")
        found = [view for view in kept if view.summary.project.dir == directory] or kept
    if len(found) == 1:
        return found[0]
    stores = sorted({view.directory for view in found})
    listed = _listed(stores if len(stores) > 1 else [view.summary.project.dir for view in found])
    raise NotFound(f"{word or stores[0]!r} names several projects: {listed}", "give the path of one")


def _find_by_pid(word: str) -> RunView:
    number = word.removeprefix("pid:")
    if not _is_number(number):
        raise NotFound(f"{word!r} names no process", "give pid:N with a number")
    directories = known_directories()
    names = short_names(directories)
    found, troubles = _of_each(
        directories,
        lambda store, see: _look(store, names[store.directory], lambda: store.details(pid=int(number)), see),
    )
    matches = [view for view in found if view.may_run] or found
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = _listed([f"{view.name}#{view.detail.run.id}" for view in matches])
        raise NotFound(f"several runs had pid {number}: {listed}", "name one of them")
    if troubles:
        raise NotFound(
            f"no run with pid {number} in the stores that can be read", "see: agent-yes-supervise stores list"
        )
    raise NotFound(f"no known run has pid {number}", "see: agent-yes-supervise runs list --all")


def _reader(directory: str) -> SupervisedStore:
    return SupervisedStore(directory, read_only=True, timeout=TIMEOUT)


def _of_each(
    directories: Sequence[str], read: Callable[[SupervisedStore, See], list[T]]
) -> tuple[list[T], list[StoreError]]:
    """Read some stores; what cannot be read is told, and does not hide the rest."""
    found: list[T] = []
    troubles: list[StoreError] = []
    see = _seeing()
    for directory in directories:
        try:
            with usable(_reader(directory)) as store:
                found += read(store, see)
        except StoreMissing:
            continue
        except StoreError as error:
            troubles.append(error)
    return found, troubles


def _seeing() -> See:
    """Return what judges rows of some stores, and asks but once, if at all, where we are and how the clock went."""
    made: list[See] = []

    def see(store: Store, claims: Iterable[Claim]) -> list[Sight]:
        if not made:
            from supervisor.sight import see_from_here  # noqa: PLC0415  15 ms that help and completion need not wait for

            made.append(see_from_here())
        return made[0](store, claims)

    return see


def _look(
    store: SupervisedStore, name: str, read: Callable[[], list[RunDetail]], see: See, *, may_run: bool = True
) -> list[RunView]:
    # Claims first: a row that is settled in between then shows its end, never "running" without a verdict.
    claims = store.running_claims() if may_run else []
    details = read()
    running = {detail.run.id for detail in details if detail.run.status is RunStatus.RUNNING}
    verdicts = {}
    for sight in see(store, [claim for claim in claims if claim.run_id in running]) if running else []:
        sight.close()
        verdicts[sight.claim.run_id] = sight.verdict
    return [RunView(store.directory, name, detail, verdicts.get(detail.run.id)) for detail in details]


def _projects_in(store: SupervisedStore, see: See) -> list[ProjectView]:
    running = _look(store, "", lambda: store.details(statuses=(RunStatus.RUNNING,)), see)
    dead = Counter(view.detail.run.project_id for view in running if not view.may_run)
    return [ProjectView(store.directory, summary, dead[summary.project.id]) for summary in store.project_summaries()]


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 19


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
