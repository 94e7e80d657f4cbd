"""Many writers on one store at once: nothing is lost, and no lock is anyone's error."""

from __future__ import annotations

from pathlib import Path

from kit import Processes, rows
from stores import race

WRAPPERS, WRAPPED = 8, 100
CALLERS, CALLED = 4, 50

WRAPPER = """
import json, sys
from pathlib import Path
from stores import ending, new_run
from supervisor.models import Cause, Rank, RunStatus
from supervisor.store import connection, recording

project, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print(flush=True)
sys.stdin.read()
recorded = {}
for number in range(count):
    run = new_run(Path(project), f"{name}-{number}", pid=4_000_000 + number, args=[name, str(number)])
    store, _ = connection.open_for_writing(project)
    begun = recording.begin_run(store, run)
    how = ending(Rank.OWNER, status=RunStatus.FAILED, exit_code=number % 256, cause=Cause.EXITED, settled_by=name)
    assert recording.finish_run(store, run, how)[0] == begun
    store.close()
    recorded[run.token] = begun
print(json.dumps(recorded))
"""
"""Records runs as so many wrappers would, each with a connection of its own."""

CALLER = """
import json, sys
from supervisor import db

project, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print(flush=True)
sys.stdin.read()
db.get_db(project)
recorded = {}
for number in range(count):
    known = db.upsert_project(dir=project, cmd="claude") if number == 0 else known
    run = db.create_run(pid=5_000_000 + number, project_id=known.id, args=[name, str(number)])
    assert db.update_run_status(run.id, "completed", 0).status == "completed"
    recorded[f"{name}-{number}"] = run.id
db.close_db()
print(json.dumps(recorded))
"""
"""Records runs with the functions of the database module, through one connection."""


def test_concurrent_writers(project: Path, home: Path, processes: Processes) -> None:
    """Eight wrappers and four callers make two thousand writes on a fresh store at once, and every one is there."""
    wrappers = [(WRAPPER, str(project), f"w{number}", str(WRAPPED)) for number in range(WRAPPERS)]
    callers = [(CALLER, str(project), f"c{number}", str(CALLED)) for number in range(CALLERS)]
    recorded: dict[str, int] = {}
    for outcome in race(processes, *wrappers, *callers):
        recorded.update(outcome)
    assert 2 * len(recorded) == 2 * (WRAPPERS * WRAPPED + CALLERS * CALLED) == 2000
    stored = rows(project, "SELECT json_extract(args, '$[0]') || '-' || json_extract(args, '$[1]'), id FROM runs")
    assert dict(stored) == recorded
    assert len(stored) == 1000
    assert rows(project, "SELECT token, run_id FROM run_process WHERE token NOTNULL ORDER BY run_id") == sorted(
        ((name, run_id) for name, run_id in recorded.items() if name.startswith("w")), key=lambda pair: pair[1]
    )
    assert rows(project, "SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1") == [
        ("completed", CALLERS * CALLED),
        ("failed", WRAPPERS * WRAPPED),
    ]
    ended = "SELECT settled_by, count(*), count(DISTINCT exit_code) FROM run_ending GROUP BY 1 ORDER BY 1"
    assert rows(project, ended) == [(f"w{number}", WRAPPED, WRAPPED) for number in range(WRAPPERS)]
    assert rows(project, "SELECT dir, cmd FROM projects") == [(str(project), "claude")]
    assert rows(project, "PRAGMA integrity_check") == [("ok",)]
