"""What supervision reads and writes in a store, beyond the original's functions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from supervisor.models import Claim, Ending, ProjectSummary, RunDetail, RunStatus
from supervisor.store import recording, settling
from supervisor.store.rows import (
    ENDING_COLUMNS,
    N_PROCESS,
    N_RUN,
    PROCESS_COLUMNS,
    PROJECT_COLUMNS,
    RUN_COLUMNS,
    by_newest,
    claim_from,
    ending_from,
    process_from,
    project_from,
    run_from,
)
from supervisor.store.store import Store
from supervisor.store.values import in_ms

if TYPE_CHECKING:
    from supervisor.process.stamp import StampColumns

_JOINS = " LEFT JOIN projects ON projects.id = runs.project_id LEFT JOIN run_process ON run_process.run_id = runs.id"
_NEWEST = by_newest("runs.started_at")
_AT_ONCE, _FEW = 500, 2000


class SupervisedStore(Store):
    """A store as the daemon and the views see it."""

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed to this file; our own writes do not."""
        version: int = self.connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def running_rows(self) -> dict[int, tuple[object, object]]:
        """Return pid and start, as stored, of every row that says ``running``, by id."""
        rows = self._rows("SELECT id, pid, started_at FROM runs WHERE status = 'running'")
        return {run_id: (pid, started_at) for run_id, pid, started_at in rows}

    def running_claims(self, run_ids: Sequence[int] | None = None) -> list[Claim]:
        """Return what rows that say ``running`` claim, with their stamps, in the order of their ids.

        Args:
            run_ids: only these; by default, all.
        """
        some = run_ids is not None and len(run_ids) <= _AT_ONCE
        only = f" AND runs.id IN ({', '.join('?' * len(run_ids or ()))})" if some else ""
        rows = self._rows(
            f"SELECT runs.id, runs.pid, runs.started_at, dir, cmd, {PROCESS_COLUMNS} FROM runs{_JOINS}"
            f" WHERE runs.status = 'running'{only} ORDER BY runs.id",
            *(run_ids or () if some else ()),
        )
        wanted = None if run_ids is None else set(run_ids)
        return [claim_from(row) for row in rows if wanted is None or row[0] in wanted]

    def keep_stamps(self, stamps: Iterable[tuple[int, StampColumns]], *, by: str) -> None:
        """Keep the stamps of processes bound at first sight, by run id; one that is kept stays.

        A run that has been deleted meanwhile is passed over.
        """
        with self.transaction() as connection:
            for run_id, stamp in stamps:
                if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone() is not None:
                    recording.insert_process(connection, run_id, stamp, by=by)

    def settle(self, endings: Sequence[tuple[Claim, Ending]]) -> list[bool]:
        """Write endings by compare-and-set, in one transaction; tell for each whether it was written."""
        return settling.settle(self.connection, endings)

    def keep_request(self, run_id: int, order: str, *, by: str) -> None:
        """Record that somebody asks a run to end, before that is done: the ending then says who."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE run_process SET asked_by = ?, asked_for = ?, asked_at = ? WHERE run_id = ?",
                (by, order, recording.now_ms(), run_id),
            )

    def inferred_claims(self, boot_id: str, *, exists: Callable[[int], bool | None] = lambda _: True) -> list[Claim]:
        """Return the claims of runs that were settled by inference alone, whose stamp is of this boot.

        Args:
            boot_id: this boot's.
            exists: tells whether there is a process of that number; runs of others are left out, and cost little.
        """
        settled = self._rows(
            "SELECT runs.id, runs.pid FROM run_ending"  # joined in this order, whatever SQLite supposes: they are few
            " CROSS JOIN runs ON runs.id = run_ending.run_id CROSS JOIN run_process ON run_process.run_id = runs.id"
            " WHERE rank = 1 AND boot_id = ? AND run_ending.status IS runs.status",
            boot_id,
        )
        ids = [run_id for run_id, pid in settled if type(pid) is int and exists(pid)]
        claims = []
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            claims += self._rows(
                f"SELECT runs.id, runs.pid, runs.started_at, dir, cmd, {PROCESS_COLUMNS} FROM runs{_JOINS}"
                f" WHERE runs.id IN ({', '.join('?' * len(some))})",
                *some,
            )
        return [claim_from(row) for row in claims]

    def retract(self, claim: Claim) -> bool:
        """Set a run that was settled by inference alone back to running; tell whether it was still so settled."""
        return settling.retract(self.connection, claim)

    def details(
        self,
        *,
        run_id: int | None = None,
        pid: int | None = None,
        statuses: Sequence[RunStatus] = (),
        since: float | None = None,
        ended_since: float | None = None,
        limit: int | None = None,
    ) -> list[RunDetail]:
        """Return runs with all that is known of them, newest first.

        Args:
            run_id: only this run.
            pid: only runs of this process id.
            statuses: only runs of these statuses.
            since: only runs that started at or after this Unix time.
            ended_since: only runs that ended at or after this Unix time.
            limit: at most so many.
        """
        wheres: list[str] = []
        parameters: list[object] = []
        for column, value in (("runs.id = ?", run_id), ("runs.pid = ?", pid)):
            if value is not None:
                wheres.append(column)
                parameters.append(value)
        sorts = ended_since is not None  # by when they ended, rather than in order
        if statuses:
            walks = ended_since is not None or (limit is not None and not self._are_few(statuses))
            wheres.append(f"{'+' if walks else ''}runs.status IN ({', '.join('?' * len(statuses))})")
            parameters.extend(statuses)
            sorts = sorts or not walks
        for column, moment in (("runs.started_at", since), ("runs.ended_at", ended_since)):
            if moment is not None:
                wheres.append(f"{column} IS NOT NULL AND {in_ms(column)} >= ?")
                parameters.append(moment * 1000)
        if ended_since is not None and not self._rows(
            f"SELECT 1 FROM runs WHERE {' AND '.join(wheres)} LIMIT 1", *parameters
        ):
            return []  # mostly so, and SQLite takes longer to prepare the joins than to find that
        parameters.append(-1 if limit is None else limit)
        order = f"{'+' if sorts else ''}{_NEWEST}"
        # The newest are chosen first: what is known of a run is looked up for these alone.
        rows = self._rows(
            f"SELECT {RUN_COLUMNS}, {PROCESS_COLUMNS}, {ENDING_COLUMNS}, dir, cmd FROM"
            f" (SELECT runs.id AS chosen FROM runs WHERE {' AND '.join(wheres) or '1'} ORDER BY {order} LIMIT ?)"
            f" CROSS JOIN runs ON runs.id = chosen{_JOINS} LEFT JOIN run_ending ON run_ending.run_id = runs.id"
            f" ORDER BY {_NEWEST}",
            *parameters,
        )
        return [_detail_from(row) for row in rows]

    def _are_few(self, statuses: Sequence[RunStatus]) -> bool:
        """Tell whether so few runs have one of these statuses that sorting them is less than a walk from the newest."""
        holes = ", ".join("?" * len(statuses))
        counted = f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE status IN ({holes}) LIMIT {_FEW})"
        few: bool = self._rows(counted, *statuses)[0][0] < _FEW
        return few

    def is_last_of_owner(self, run_id: int) -> bool:
        """Tell whether the owner of a run has begun no other one since."""
        newer = self._rows(
            "SELECT 1 FROM run_process AS one JOIN run_process AS newer USING (owner_pid, owner_start_ticks)"
            " WHERE one.run_id = ? AND newer.run_id > one.run_id LIMIT 1",
            run_id,
        )
        return not newer

    def environment_of(self, run_id: int) -> dict[str, str]:
        """Return what is recorded of the environment that a run's agent was given."""
        try:
            rows = self._rows("SELECT environment FROM run_process WHERE run_id = ?", run_id)
            found = json.loads(rows[0][0]) if rows and isinstance(rows[0][0], str) else {}
        except (sqlite3.OperationalError, ValueError, RecursionError):  # no such column yet, or junk
            return {}
        pairs = found.items() if isinstance(found, dict) else ()
        return {name: value for name, value in pairs if isinstance(value, str)}

    def latest_runs(self, *, limit: int, only_running: bool = False) -> list[tuple[int, str | None, str | None]]:
        """Return id, status and command of the runs recorded last: fast on a large store, for completion.

        Args:
            limit: at most so many.
            only_running: only those whose row says that they run.
        """
        only = "WHERE runs.status = 'running'" if only_running else ""
        rows = self._rows(
            f"SELECT runs.id, runs.status, cli, cmd FROM runs{_JOINS} {only} ORDER BY runs.id DESC LIMIT ?", limit
        )
        return [(run_id, _text(status), _text(cli) or _text(cmd)) for run_id, status, cli, cmd in rows]

    def project_summaries(self) -> list[ProjectSummary]:
        """Return all projects with the number of their runs by status, the most recently run first."""
        counts: dict[int, dict[str, int]] = {}
        for project_id, status, count in self._counts():
            counts.setdefault(project_id, {})[str(status)] = count
        rows = self._rows(f"SELECT {PROJECT_COLUMNS} FROM projects ORDER BY {by_newest('projects.last_run_at')}")
        return [ProjectSummary(project_from(row), counts.get(row[0], {})) for row in rows]

    def _counts(self) -> list[tuple[int, object, int]]:
        """Return the number of runs by project and status; an index alone tells it where there is but one project."""
        first, last = "(SELECT min(project_id) FROM runs)", "(SELECT max(project_id) FROM runs)"
        ((lowest, highest),) = self._rows(f"SELECT {first}, {last}")
        if lowest == highest:
            rows = self._rows("SELECT status, count(*) FROM runs GROUP BY status")
            return [(lowest, status, count) for status, count in rows]
        return self._rows("SELECT project_id, status, count(*) FROM runs GROUP BY project_id, status")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _detail_from(row: tuple[object, ...]) -> RunDetail:
    process = process_from(row[N_RUN : N_RUN + N_PROCESS])
    *ending, directory, cmd = row[N_RUN + N_PROCESS :]
    cli = process.cli if process and process.cli else cmd
    return RunDetail(
        run_from(row[:N_RUN]),
        directory if isinstance(directory, str) else None,
        cli if isinstance(cli, str) else None,
        process,
        ending_from(tuple(ending)),
    )
