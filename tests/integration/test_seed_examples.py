"""The original's own examples, step for step in Python, and the example script."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from kit import Processes, dead_pid, rows

from supervisor.db import (
    close_db,
    create_run,
    get_all_projects,
    get_crashed_runs,
    get_db,
    get_project_by_dir,
    get_project_runs,
    get_project_with_latest_run,
    get_run_by_id,
    get_running_runs,
    mark_run_as_crashed,
    update_run_status,
    upsert_project,
)
from supervisor.models import RunStatus
from supervisor.process import facts, judge
from supervisor.process.judge import State

EXAMPLE = Path(__file__).parents[2] / "examples" / "db_usage.py"


def is_dead(pid: int | None) -> bool:
    """Tell whether a process of this PID namespace is gone, in the place of ``process.kill(pid, 0)``."""
    scene = facts.scene()
    if judge.screen(pid, None, scene) is not None:
        return False
    assert pid is not None
    seen, descriptor = facts.look(pid)
    if descriptor is not None:
        os.close(descriptor)
    return judge.judge(None, None, seen, scene, namespace_proven=True).state is State.DEAD


def test_complete_workflow(project: Path) -> None:
    """Complete Workflow: register a project, start a run, mark it as completed, check the project, clean up."""
    registered = upsert_project(dir=os.getcwd(), cmd="claude", prompt="Implement new feature")
    run = create_run(pid=os.getpid(), project_id=registered.id, args=sys.argv[1:])
    update_run_status(run.id, "completed", 0)
    info = get_project_with_latest_run(os.getcwd())
    assert info is not None
    assert info.total_runs == 1
    assert info.project.prompt == "Implement new feature"
    assert info.latest_run is not None
    assert (info.latest_run.id, info.latest_run.status, info.latest_run.exit_code) == (run.id, "completed", 0)
    assert info.latest_run.args == sys.argv[1:]
    close_db()
    assert rows(project, "SELECT status, exit_code FROM runs") == [("completed", 0)]


def test_crash_recovery(project: Path, processes: Processes) -> None:
    """Crash Recovery: of the running runs, those whose process is gone are marked as crashed, and only those."""
    registered = upsert_project(dir=os.getcwd(), cmd="claude")
    living, killed = processes.living(), processes.living()
    pids = [living.pid, killed.pid, dead_pid(), 1, 0, -1, 1 << 31]
    runs = [create_run(pid=pid, project_id=registered.id) for pid in pids]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    detected = []
    for run in get_running_runs():
        if is_dead(run.pid):
            mark_run_as_crashed(run.id)
            detected.append(run.id)
    assert sorted(detected) == [runs[1].id, runs[2].id]
    assert [run.pid for run in reversed(get_running_runs())] == [living.pid, 1, 0, -1, 1 << 31]
    assert {crashed.run_id for crashed in get_crashed_runs()} == set(detected)


def test_crash_recovery_of_a_zombie(project: Path, processes: Processes) -> None:
    """Crash Recovery: a process that has ended and waits for its parent is gone, though ``kill(pid, 0)`` finds it."""
    registered = upsert_project(dir=os.getcwd(), cmd="claude")
    agent = processes.living()
    run = create_run(pid=agent.pid, project_id=registered.id)
    agent.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, agent.pid, os.WEXITED | os.WNOWAIT)
    os.kill(agent.pid, 0)
    assert is_dead(run.pid)


def test_project_dashboard(project: Path) -> None:
    """Project Dashboard: each project's runs by status, and when it last ran, the latest first."""
    idle = upsert_project(dir="/idle", cmd="gemini")
    for directory, statuses in (("/early", ["failed", "crashed", "crashed"]), ("/late", ["completed"])):
        known = upsert_project(dir=directory, cmd="claude")
        for status in statuses:
            update_run_status(create_run(pid=1, project_id=known.id).id, status)
        get_db().connection.execute("UPDATE projects SET last_run_at = last_run_at + 5 * id WHERE id = ?", (known.id,))
    dashboard = []
    for known in get_all_projects():
        runs = get_project_runs(known.id)
        completed, failed, crashed = (
            len([run for run in runs if run.status == status]) for status in ("completed", "failed", "crashed")
        )
        datetime.fromtimestamp(known.last_run_at or 0)
        dashboard.append((known.dir, known.cmd, completed, failed, crashed))
    assert dashboard == [("/late", "claude", 1, 0, 0), ("/early", "claude", 0, 1, 2), ("/idle", "gemini", 0, 0, 0)]
    assert get_all_projects()[-1] == idle


def test_resume_last_project(project: Path) -> None:
    """Resume Last Project: the first of all projects is the one that ran last, with its command and its prompt."""
    assert get_all_projects() == []
    for directory, prompt in (("/first", "one"), ("/last", "solve all TODOs"), ("/never", "three")):
        upsert_project(dir=directory, cmd="claude", prompt=prompt)
    for number, directory in enumerate(("/first", "/last", "/first", "/last")):
        known = get_project_by_dir(directory)
        assert known is not None
        create_run(pid=1, project_id=known.id)
        get_db().connection.execute(
            "UPDATE projects SET last_run_at = ? WHERE id = ?", (1795404686000 + number, known.id)
        )
    last_project = get_all_projects()[0]
    assert (last_project.dir, last_project.cmd, last_project.prompt) == ("/last", "claude", "solve all TODOs")


@pytest.mark.parametrize("fails", [False, True])
def test_integrate_with_a_program(project: Path, fails: bool) -> None:
    """Integrate with the CLI: a program records itself, and whether its agent logic raised."""

    def agent_logic() -> None:
        if fails:
            raise RuntimeError("no luck")

    def run_agent(cmd: str, prompt: str) -> int:
        registered = upsert_project(dir=os.getcwd(), cmd=cmd, prompt=prompt)
        run = create_run(pid=os.getpid(), project_id=registered.id, args=sys.argv[1:])
        try:
            agent_logic()
            update_run_status(run.id, "completed", 0)
        except RuntimeError:
            update_run_status(run.id, "failed", 1)
        return run.id

    run = get_run_by_id(run_agent("claude", "try"))
    assert run is not None
    assert (run.status, run.exit_code) == (("failed", 1) if fails else ("completed", 0))


def test_direct_access_and_migration(project: Path) -> None:
    """Advanced Usage: the success rate by project in SQL, and a column added if it is not there."""
    registered = upsert_project(dir=os.getcwd(), cmd="claude")
    for status in ("completed", "failed", "completed"):
        update_run_status(create_run(pid=1, project_id=registered.id).id, status)
    db = get_db()
    stats = db.connection.execute(
        "SELECT projects.dir, count(runs.id) AS total, count(runs.id) FILTER (WHERE runs.status = 'completed')"
        " AS successful FROM runs INNER JOIN projects ON projects.id = runs.project_id GROUP BY projects.id"
    ).fetchall()
    assert stats == [(str(project), 3, 2)]
    outcomes = []
    for _ in range(2):
        try:
            db.connection.execute("ALTER TABLE projects ADD COLUMN description TEXT")
            outcomes.append("added")
        except sqlite3.OperationalError:
            outcomes.append("was there")
    assert outcomes == ["added", "was there"]
    assert get_all_projects() == [get_project_by_dir(os.getcwd())]


def test_db_usage(project: Path) -> None:
    """The example script runs in any directory, more than once, and tells what it has done."""
    for count in (2, 4):
        shown = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=30, check=False)
        assert (shown.returncode, shown.stderr) == (0, "")
        lines = shown.stdout.splitlines()
        assert lines[0] == f"store: {project}/.agent-yes/store.sqlite"
        assert f"run {count - 1}: completed, exit code 0" in lines
        assert f"run {count}: killed; its row still says running" in lines
        assert f"run {count}: its process is gone, so it has crashed" in lines
        assert len([line for line in lines if line.startswith(f"crashed: claude in {project} ")]) == count // 2
        assert f"latest of {count} runs here: crashed" in lines
        assert lines[-1].startswith(f"{project}: {count // 2} of {count} runs completed, last run 20")
    assert [run.status for run in get_db().get_all_runs()] == [RunStatus.CRASHED, RunStatus.COMPLETED] * 2
