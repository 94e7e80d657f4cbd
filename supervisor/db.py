"""The database module: the original's functions in snake_case, acting on the store of the last `get_db` call.

    >>> from supervisor.db import create_run, get_db, update_run_status, upsert_project
    >>> db = get_db()                                     # the current directory's store, or get_db("/a/project")
    >>> project = upsert_project(dir=os.getcwd(), cmd="claude", prompt="run all tests")
    >>> run = create_run(pid=agent.pid, project_id=project.id, args=["--continue"])
    >>> update_run_status(run.id, "completed", 0)

Each is described at the `Store` method of its name. Code that handles several stores uses `Store` itself. Times are
Unix seconds. Raises `supervisor.errors.StoreError` where a store cannot be opened, `sqlite3.Error` where SQLite does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from supervisor import registry
from supervisor.models import CrashedRun, Project, ProjectInfo, Run, RunStatus
from supervisor.spool.applying import apply_spooled
from supervisor.store.store import UNSET, Store, Unset

__all__ = [
    "CrashedRun",
    "Project",
    "ProjectInfo",
    "Run",
    "RunStatus",
    "Store",
    "close_db",
    "create_run",
    "delete_project",
    "delete_project_runs",
    "delete_run",
    "get_all_projects",
    "get_all_runs",
    "get_crashed_runs",
    "get_db",
    "get_project_by_dir",
    "get_project_by_id",
    "get_project_runs",
    "get_project_with_latest_run",
    "get_run_by_id",
    "get_run_by_pid",
    "get_running_runs",
    "mark_run_as_crashed",
    "update_project_last_run",
    "update_run_status",
    "upsert_project",
]

_stores: dict[str, Store] = {}
_current: Store | None = None


def get_db(base_dir: str | os.PathLike[str] | None = None) -> Store:
    """Return the store of a directory, the current one by default, and make it the one that the functions act on.

    The same directory gives the same store until `close_db`; another gives another. A store that is written to becomes
    known to the daemon. What is spooled for it is brought there when it is opened.

    Raises:
        StoreError: the store can be neither opened nor made.
    """
    global _current  # noqa: PLW0603  the seed's singleton
    directory = os.path.realpath(os.fspath(base_dir) if base_dir is not None else os.getcwd())
    store = _stores.get(directory)
    if store is None:  # other threads may be here at this moment: setdefault gives all of them the same
        store = _stores.setdefault(directory, Store(directory, on_write=registry.announce))
        _ = store.connection
        apply_spooled(only=directory)
    _ = store.connection
    _current = store
    return store


def close_db() -> None:
    """Close every store that `get_db` has opened in this thread; the next call opens anew."""
    global _current  # noqa: PLW0603  the seed's singleton
    for store in _stores.values():
        store.close()
    _stores.clear()
    _current = None


def _db() -> Store:
    return _current if _current is not None else get_db()


def upsert_project(dir: str, cmd: str, prompt: str | None | Unset = UNSET) -> Project:  # noqa: A002  the seed's name
    """Create or update a project: see `Store.upsert_project`."""
    return _db().upsert_project(dir, cmd, prompt)


def get_project_by_dir(dir: str) -> Project | None:  # noqa: A002  the seed's name
    """Return the project of a directory."""
    return _db().get_project_by_dir(dir)


def get_project_by_id(id: int) -> Project | None:  # noqa: A002  the seed's name
    """Return the project with that id."""
    return _db().get_project_by_id(id)


def get_all_projects() -> list[Project]:
    """Return all projects, the most recently run first."""
    return _db().get_all_projects()


def update_project_last_run(project_id: int) -> Project | None:
    """Set when a project last ran to now."""
    return _db().update_project_last_run(project_id)


def delete_project(project_id: int) -> bool:
    """Delete a project with all its runs."""
    return _db().delete_project(project_id)


def create_run(pid: int, project_id: int, args: Sequence[str] = ()) -> Run:
    """Record that a run has begun: see `Store.create_run`."""
    return _db().create_run(pid, project_id, args)


def get_run_by_id(id: int) -> Run | None:  # noqa: A002  the seed's name
    """Return the run with that id."""
    return _db().get_run_by_id(id)


def get_run_by_pid(pid: int) -> Run | None:
    """Return the newest run with that process id."""
    return _db().get_run_by_pid(pid)


def get_project_runs(project_id: int) -> list[Run]:
    """Return a project's runs, newest first."""
    return _db().get_project_runs(project_id)


def get_running_runs() -> list[Run]:
    """Return the runs whose row says that they run."""
    return _db().get_running_runs()


def get_all_runs() -> list[Run]:
    """Return all runs, newest first."""
    return _db().get_all_runs()


def update_run_status(run_id: int, status: RunStatus | str, exit_code: int | None | Unset = UNSET) -> Run | None:
    """Set a run's status, for its owner: see `Store.update_run_status`."""
    return _db().update_run_status(run_id, status, exit_code)


def mark_run_as_crashed(run_id: int) -> Run | None:
    """Set a run's status to crashed."""
    return _db().mark_run_as_crashed(run_id)


def delete_run(run_id: int) -> bool:
    """Delete a run."""
    return _db().delete_run(run_id)


def delete_project_runs(project_id: int) -> int:
    """Delete all runs of a project and return how many there were."""
    return _db().delete_project_runs(project_id)


def get_project_with_latest_run(dir: str) -> ProjectInfo | None:  # noqa: A002  the seed's name
    """Return the project of a directory with its newest run and the number of its runs."""
    return _db().get_project_with_latest_run(dir)


def get_crashed_runs() -> list[CrashedRun]:
    """Return all crashed runs with their projects."""
    return _db().get_crashed_runs()
