"""Settling a run by compare-and-set, and taking that back: what everyone does who is not its owner."""

from __future__ import annotations

from supervisor.store.recording import KERNEL, Transaction, as_ms, as_stored_text, heeding_request, replace_ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from supervisor.models import Claim, Ending

_IS_THE_CLAIMS = (
    "id = ? AND (pid IS ? OR CAST(pid AS BLOB) IS ?) AND (started_at IS ? OR CAST(started_at AS BLOB) IS ?)"
)
_IS_AS_SETTLED_BELOW = (
    "EXISTS (SELECT 1 FROM run_ending AS old WHERE old.run_id = runs.id AND old.status IS runs.status"
    " AND old.exit_code IS runs.exit_code AND old.ended_at IS runs.ended_at AND old.rank < ?)"
)


def settle(connection: sqlite3.Connection, endings: Iterable[tuple[Claim, Ending]]) -> list[bool]:
    """Write endings by compare-and-set, all in one transaction; tell for each whether it was written.

    A row is written if its id, pid and start are still those of the claim and it is either still running or exactly as
    a lower-ranked ending left it.
    """
    with Transaction(connection):
        return [_settle_one(connection, claim, ending) for claim, ending in endings]


def retract(connection: sqlite3.Connection, claim: Claim) -> bool:
    """Set a run back to running that is exactly as an inferred ending left it; tell whether it was."""
    with Transaction(connection):
        written = connection.execute(
            "UPDATE runs SET status = 'running', exit_code = NULL, ended_at = NULL"
            f" WHERE {_IS_THE_CLAIMS} AND {_IS_AS_SETTLED_BELOW}",
            (*_claimed(claim), KERNEL),
        ).rowcount
        if written == 1:
            connection.execute("DELETE FROM run_ending WHERE run_id = ?", (claim.run_id,))
        return written == 1


def _claimed(claim: Claim) -> tuple[object, ...]:
    """Return what to bind in `_IS_THE_CLAIMS`."""
    pid, started_at = _as_stored(claim.pid), _as_stored(claim.started_at)
    return claim.run_id, pid, pid, started_at, started_at


def _settle_one(connection: sqlite3.Connection, claim: Claim, ending: Ending) -> bool:
    ending = heeding_request(connection, claim.run_id, ending)
    written = connection.execute(
        "UPDATE runs SET status = ?, exit_code = ?, ended_at = ?"
        f" WHERE {_IS_THE_CLAIMS} AND (status = 'running' OR {_IS_AS_SETTLED_BELOW})",
        (ending.status, ending.exit_code, as_ms(ending.ended_at), *_claimed(claim), int(ending.rank)),
    ).rowcount
    if written == 1:
        replace_ending(connection, claim.run_id, ending)
    return written == 1


def _as_stored(value: object) -> object:
    return as_stored_text(value) if isinstance(value, str) else value
