"""What becomes known of a run while it runs, and of an ending after it has been recorded."""

from __future__ import annotations

import json

from supervisor.store.recording import Transaction, as_ms, heeding_request
from supervisor.store.values import evidence_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from supervisor.nouns import Ending, Request


def add_evidence(connection: sqlite3.Connection, token: str, evidence: Mapping[str, object]) -> bool:
    """Add evidence to the ending of the run with that token, if its owner has recorded one; tell whether it has."""
    with Transaction(connection):
        found = connection.execute(
            "SELECT run_id, evidence FROM run_ending JOIN run_process USING (run_id)"
            " WHERE token = ? AND run_ending.settled_by = 'wrap'",
            (token,),
        ).fetchone()
        if found is None:
            return False
        run_id, known = found
        text = json.dumps({**evidence_from(known), **evidence})
        connection.execute("UPDATE run_ending SET evidence = ? WHERE run_id = ?", (text, run_id))
        return True


def keep_request(connection: sqlite3.Connection, token: str, request: Request) -> None:
    """Record that somebody asks the run with that token to end, before that is done: the ending then says who."""
    with Transaction(connection):
        connection.execute(
            "UPDATE run_process SET asked_by = ?, asked_for = ?, asked_at = ? WHERE token = ?",
            (request.by, request.order, as_ms(request.at), token),
        )


def heeding(connection: sqlite3.Connection, token: str, ending: Ending) -> Ending:
    """Return the ending of the run with that token as it counts if somebody has asked for it; nothing is written."""
    found = connection.execute("SELECT run_id FROM run_process WHERE token = ?", (token,)).fetchone()
    return ending if found is None else heeding_request(connection, found[0], ending)
