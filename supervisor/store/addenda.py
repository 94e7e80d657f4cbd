"""What becomes known of an ending after it has been recorded."""

from __future__ import annotations

import json

from supervisor.store.recording import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


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
        text = json.dumps({**json.loads(known), **evidence})
        connection.execute("UPDATE run_ending SET evidence = ? WHERE run_id = ?", (text, run_id))
        return True
