"""The database module in one go: a project, a run that ends well, a run that crashes, and what is known afterwards.

Run it in any directory: ``python examples/db_usage.py``. It records into that directory's own store,
``.agent-yes/store.sqlite``, beside whatever is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime

from supervisor.db import (
    close_db,
    create_run,
    get_all_projects,
    get_crashed_runs,
    get_db,
    get_project_runs,
    get_project_with_latest_run,
    get_running_runs,
    mark_run_as_crashed,
    update_run_status,
    upsert_project,
)
from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.sight import see
from supervisor.store.supervision import SupervisedStore


def start_agent() -> subprocess.Popen[bytes]:
    """Start what stands for an agent here: a program that works until its input ends, and then ends well."""
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def dead_runs() -> list[int]:
    """Return the ids of the running runs whose process is gone.

    ``os.kill(pid, 0)`` is not enough: it raises for another user's live process, and finds a dead one once its pid has
    been given to another. The stamp that `create_run` keeps tells them apart. (The daemon looks a second time, 2 s
    later, before it believes that a process which it never saw is gone; these here were our own.)
    """
    dead = []
    with SupervisedStore(os.getcwd()) as store:
        for sight in see(store, store.running_claims()):
            if sight.verdict.state is State.DEAD:
                dead.append(sight.claim.run_id)
            sight.close()
    return dead


def main() -> None:
    """Show each step of a run's life."""
    print(f"store: {get_db().path}")

    project = upsert_project(dir=os.getcwd(), cmd="claude", prompt="run all tests and commit changes")
    print(f"project {project.id}: {project.cmd} in {project.dir}")

    agent = start_agent()
    run = create_run(pid=agent.pid, project_id=project.id, args=["--exit-on-idle=60s"])
    print(f"run {run.id}: {run.status}, pid {run.pid}")
    agent.communicate()
    status = RunStatus.FAILED if agent.returncode else RunStatus.COMPLETED
    ended = update_run_status(run.id, status, agent.returncode)
    assert ended is not None
    print(f"run {run.id}: {ended.status}, exit code {ended.exit_code}")

    agent = start_agent()
    run = create_run(pid=agent.pid, project_id=project.id, args=["--continue"])
    print(f"run {run.id}: {run.status}, pid {run.pid}")
    agent.send_signal(signal.SIGKILL)
    agent.communicate()
    print(f"run {run.id}: killed; its row still says {get_running_runs()[0].status}")
    for run_id in dead_runs():
        mark_run_as_crashed(run_id)
        print(f"run {run_id}: its process is gone, so it has crashed")

    for crashed in get_crashed_runs():
        print(f"crashed: {crashed.cmd} in {crashed.dir} (run {crashed.run_id}, pid {crashed.pid})")

    info = get_project_with_latest_run(os.getcwd())
    assert info is not None
    assert info.latest_run is not None
    print(f"latest of {info.total_runs} runs here: {info.latest_run.status}")

    for project in get_all_projects():
        runs = get_project_runs(project.id)
        completed = sum(run.status is RunStatus.COMPLETED for run in runs)
        last = datetime.fromtimestamp(project.last_run_at) if project.last_run_at else None
        print(f"{project.dir}: {completed} of {len(runs)} runs completed, last run {last or 'never'}")

    close_db()


if __name__ == "__main__":
    main()
