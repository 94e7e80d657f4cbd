"""What becomes known of an ending after it has been recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit import rows
from stores import ending, execute, new_run

from supervisor.models import Rank
from supervisor.store import connection as connections, recording
from supervisor.store.addenda import add_evidence


@pytest.mark.parametrize(
    ("settled_by", "token", "added"), [("wrap", "t1", True), ("daemon", "t1", False), ("wrap", "t2", False)]
)
def test_added_to_the_owners_word_only(project: Path, settled_by: str, token: str, added: bool) -> None:
    """Evidence joins what is known of the run's ending, if its wrapper has recorded that; else nothing changes."""
    connection, _ = connections.open_for_writing(str(project))
    word = ending(Rank.OWNER, settled_by=settled_by, evidence={"source": "waitpid"})
    recording.finish_run(connection, new_run(project), word)
    assert add_evidence(connection, token, {"left": [1]}) == added
    connection.close()
    ((stored,),) = rows(project, "SELECT evidence FROM run_ending")
    assert json.loads(stored) == {"source": "waitpid", **({"left": [1]} if added else {})}


@pytest.mark.parametrize("junk", ["[]", "5", "{", "x'ff'", "1.5"])
def test_added_to_junk(project: Path, junk: str) -> None:
    """What is no object counts as no evidence: an agent can write its own store."""
    connection, _ = connections.open_for_writing(str(project))
    recording.finish_run(connection, new_run(project), ending(Rank.OWNER, settled_by="wrap"))
    execute(project, f"UPDATE run_ending SET evidence = {junk if junk[0] == 'x' else repr(junk)}")
    assert add_evidence(connection, "t1", {"left": [1]})
    connection.close()
    ((stored,),) = rows(project, "SELECT evidence FROM run_ending")
    assert json.loads(stored) == {"left": [1]}
