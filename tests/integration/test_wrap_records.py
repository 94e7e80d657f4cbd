"""What wrap records where, what it does when it cannot, and what a bare wrap starts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import COMMAND, Original, Processes, rows, run_ours, wait_until
from wrapping import STORE, agent, children, is_stopped, no_privilege, recorded_run, recorded_runs

from supervisor import registry
from supervisor.process import procfs
from supervisor.spool import files
from supervisor.spool.applying import apply_spooled

NOT_YET = "agent-yes-supervise: this run is not recorded yet: "
NOT_RECORDED = "agent-yes-supervise: this run is not recorded: "


def project_row(project: Path) -> tuple[str, str, str | None]:
    """Return the directory, command and prompt of a store's only project."""
    ((directory, command, prompt),) = rows(project, "SELECT dir, cmd, prompt FROM projects")
    return directory, command, prompt


def test_project_row(project: Path) -> None:
    """The first agent becomes the project's own; later ones do so with --default or --prompt; a prompt stays."""
    run_ours("wrap", "true", "-x")
    assert project_row(project) == (str(project), "true", None)
    run_ours("wrap", "false")
    assert project_row(project) == (str(project), "true", None)
    run_ours("wrap", "--default", "false")
    assert project_row(project) == (str(project), "false", None)
    assert run_ours("wrap", "--prompt", "fix --it", "echo", "-n").stdout == "fix --it"
    assert project_row(project) == (str(project), "echo", "fix --it")
    run_ours("wrap", "false")
    assert project_row(project) == (str(project), "echo", "fix --it")
    run_ours("wrap", "--default", "true")
    assert project_row(project) == (str(project), "true", "fix --it")
    recorded = [(run["cli"], json.loads(run["args"])) for run in recorded_runs(project)]
    assert recorded[:2] == [("true", ["-x"]), ("false", [])]
    assert recorded[3] == ("echo", ["-n", "fix --it"])
    ((last_run_at,),) = rows(project, "SELECT last_run_at FROM projects")
    assert abs(last_run_at - recorded_runs(project)[-1]["ended_at"]) < 60_000


@pytest.mark.parametrize("name", ["other", "../project/other", "link"])
def test_project_option(project: Path, name: str) -> None:
    """--project records the run in the physical DIR, while the agent stays where it was started."""
    (project / "other").mkdir()
    (project / "link").symlink_to("other")
    assert run_ours("wrap", "--project", name, "pwd").stdout == f"{project}\n"
    assert not (project / STORE).exists()
    run = recorded_run(project / "other")
    assert (run["dir"], run["cwd"]) == (str(project / "other"), str(project))


def test_physical_directory(project: Path, tmp_path: Path) -> None:
    """A directory that was reached through a symbolic link is recorded by its physical path, never an ancestor's."""
    run_ours("wrap", "true")
    (project / "below").mkdir()
    link = tmp_path / "link"
    link.symlink_to(project / "below")
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(link), *COMMAND, "wrap", "true"]
    subprocess.run(command, check=True)
    assert recorded_run(project / "below")["dir"] == str(project / "below")
    assert len(recorded_runs(project)) == 1


def test_deleted_directory(project: Path) -> None:
    """In a directory that has been deleted the agent runs all the same, and a line says that it is not recorded."""
    command = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", *COMMAND, "wrap"]
    ended = subprocess.run([*command, "false"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"{NOT_RECORDED}the current directory has been deleted\n")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 125
    assert "the current directory has been deleted" in ended.stderr


def test_registry(project: Path) -> None:
    """A store that wrap makes is in the registry as made by us; one that it finds is not trusted."""
    run_ours("wrap", "true")
    entry = registry.get(str(project))
    assert entry is not None
    assert (entry.dir, entry.origin, entry.trusted) == (str(project), registry.Origin.CREATED, True)
    (project / "other").mkdir()
    Original(project / "other").close()
    run_ours("wrap", "--project", "other", "true")
    entry = registry.get(str(project / "other"))
    assert entry is not None
    assert (entry.origin, entry.trusted) == (registry.Origin.FOUND, False)


def test_registry_that_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home the run is recorded all the same, and one line says that the daemon does not learn of it."""
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    ended = run_ours("wrap", "sh", "-c", "exit 3")
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert ended.stderr.startswith("agent-yes-supervise: the daemon does not learn of this store: ")
    assert recorded_run(project)["exit_code"] == 3
    bare = run_ours("wrap")
    assert (bare.returncode, bare.stderr.count("\n")) == (125, 1)


class TestBare:
    """A wrap without a command."""

    @pytest.fixture
    def project(self, project: Path) -> Path:
        """Make the project known with a command and a prompt, by a run of its own."""
        run_ours("wrap", "--prompt", "fix it", "echo")
        return project

    def change(self, project: Path, column: str, value: str | None) -> None:
        """Change what the store says of the project, as anybody who can write it may."""
        with sqlite3.connect(project / STORE) as connection:
            connection.execute(f"UPDATE projects SET {column} = ?", (value,))
        connection.close()

    def refused(self, project: Path) -> str:
        """Run a bare wrap that starts nothing and answers with 125 and one line; return that."""
        before = len(recorded_runs(project))
        ended = run_ours("wrap")
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (125, "", 1)
        assert len(recorded_runs(project)) == before
        return ended.stderr

    def test_starts_the_stored_command(self, project: Path) -> None:
        """It says what it starts, and starts the project's command with its prompt as last argument."""
        ended = run_ours("wrap")
        assert (ended.returncode, ended.stdout) == (0, "fix it\n")
        assert ended.stderr == "agent-yes-supervise: starting echo 'fix it'\n"
        run = recorded_runs(project)[-1]
        assert (run["cli"], json.loads(run["args"])) == ("echo", ["fix it"])

    def test_without_prompt(self, project: Path) -> None:
        """A project without a prompt starts its command alone."""
        self.change(project, "prompt", None)
        assert run_ours("wrap").stdout == "\n"

    def test_another_prompt(self, project: Path) -> None:
        """With --prompt that one is used and stored in the place of the old one."""
        assert run_ours("wrap", "--prompt", "do that").stdout == "do that\n"
        assert project_row(project) == (str(project), "echo", "do that")

    def test_control_characters(self, project: Path) -> None:
        """What it starts is shown without what a terminal would obey, and reaches the agent as it is."""
        prompt = "\x1b[2J\r\n\x9b1m\x7f\u202etxt"
        self.change(project, "prompt", prompt)
        ended = run_ours("wrap")
        assert ended.stdout == f"{prompt}\n".replace("\r\n", "\n")  # as text mode reads it
        assert ended.stderr == "agent-yes-supervise: starting echo '\ufffd[2J\ufffd\ufffd\ufffd1m\ufffd\ufffdtxt'\n"

    @pytest.mark.parametrize("command", ["/bin/echo", "./echo", "../echo", "nosuchagent", "", "e\0cho", "."])
    def test_no_bare_name_on_path(self, project: Path, command: str) -> None:
        """A stored command that is no bare name on PATH is not started."""
        shutil.copy("/bin/echo", project / "echo")
        self.change(project, "cmd", command)
        assert "is no program on your PATH" in self.refused(project)

    def test_prompt_that_is_no_argument(self, project: Path) -> None:
        """A stored prompt that no program can be given is refused."""
        self.change(project, "prompt", "fix\0it")
        assert "the project's prompt cannot be an argument" in self.refused(project)

    def test_another_store_in_its_place(self, project: Path) -> None:
        """A store that somebody has put in the place of ours is not trusted, until a person says so."""
        shutil.copy(project / STORE, project / "copy")
        os.replace(project / "copy", project / STORE)
        assert "was not made by you" in self.refused(project)
        run_ours("wrap", "true")
        assert "was not made by you" in self.refused(project)
        assert run_ours("stores", "add", ".").returncode == 0
        assert run_ours("wrap").stdout == "fix it\n"

    def test_unknown_store(self, project: Path) -> None:
        """A store that the registry does not know, such as a cloned repository may bring, is not trusted."""
        registry.forget(str(project))
        assert "was not made by you" in self.refused(project)

    def test_moved_project(self, project: Path) -> None:
        """A store that holds another directory's project starts nothing."""
        self.change(project, "dir", "/elsewhere")
        assert "is not a project yet" in self.refused(project)

    def test_no_store(self, project: Path) -> None:
        """Without a store there is nothing to start, and none is made."""
        (project / "empty").mkdir()
        ended = run_ours("wrap", cwd=project / "empty")
        assert (ended.returncode, ended.stderr.count("\n")) == (125, 1)
        assert list((project / "empty").iterdir()) == []


def repair(project: Path, how: str) -> None:
    """Make a store that `spoil` has made unusable one that can be written, and fit for a reader of it."""
    folder, store = project / ".agent-yes", project / STORE
    if how == "read-only store":
        folder.chmod(0o700)
        store.chmod(0o600)
    elif how == "store is a folder":
        store.rmdir()
    elif how in ("folder is a file", "folder is a link"):
        folder.unlink()
    elif how == "brings a trigger":
        with sqlite3.connect(store) as connection:
            connection.execute("DROP TRIGGER t")
        connection.close()
    elif how != "read-only directory":
        store.rename(project / "damaged")


def spoil(project: Path, how: str) -> None:
    """Make a project's store unusable."""
    folder, store = project / ".agent-yes", project / STORE
    if how == "read-only directory":
        project.chmod(0o555)
    elif how == "folder is a file":
        folder.write_text("mine")
    elif how == "folder is a link":
        (project / "elsewhere").mkdir()
        folder.symlink_to("elsewhere")
    else:
        run_ours("wrap", "true")
        if how == "corrupt":
            store.write_bytes(b"no database " * 1000)
        elif how == "read-only store":
            store.chmod(0o400)
            folder.chmod(0o500)
        elif how == "brings a trigger":
            with sqlite3.connect(store) as connection:
                connection.execute("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END")
            connection.close()
        else:
            store.unlink()
            {"store is a folder": store.mkdir, "store is a link": lambda: store.symlink_to("/dev/null")}[how]()


@pytest.mark.parametrize(
    "how",
    [
        "read-only directory",
        "read-only store",
        "folder is a file",
        "folder is a link",
        "store is a link",
        "store is a folder",
        "brings a trigger",
        "corrupt",
    ],
)
def test_unusable_store(project: Path, how: str) -> None:
    """Where the store cannot be written the agent runs as ever; one line says so, and the run is recorded later."""
    spoil(project, how)
    try:
        ended = run_ours("wrap", "sh", "-c", "echo ran; exit 42", preexec_fn=no_privilege)
    finally:
        project.chmod(0o755)
    assert (ended.returncode, ended.stdout) == (42, "ran\n")
    assert ended.stderr.startswith(NOT_YET)
    assert f"; it is kept in {files.folder()} until it can be\n" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (project / "elsewhere" / "store.sqlite").exists()
    if not how.startswith("read-only"):  # root may write all the same
        (trouble,) = apply_spooled().troubles
        assert str(trouble).startswith(f"1 run of {project} cannot be recorded yet (")
    assert len(files.waiting()) == 1
    repair(project, how)
    for _ in range(2):
        assert apply_spooled().troubles == []
        run = recorded_runs(project)[-1]
        assert len(recorded_runs(project)) == (2 if how in ("read-only store", "brings a trigger") else 1)
        assert (run["status"], run["exit_code"], run["cause"], run["settled_by"]) == ("failed", 42, "exited", "wrap")
    assert files.waiting() == []
    assert registry.get(str(project)) is not None


PATCHED = """
import sys
from supervisor.store import connection
from supervisor.wrap import record
from supervisor.cli import main

for word in sys.argv.pop(1).split():
    name, _, seconds = word.partition("=")
    setattr(record if hasattr(record, name) else connection, name, float(seconds))
main()
"""


def patched(waits: str, *words: str) -> list[str]:
    """Return a command line of wrap with other times to wait."""
    return [sys.executable, "-c", PATCHED, waits, "wrap", *words]


@pytest.fixture
def lock(project: Path) -> Iterator[sqlite3.Connection]:
    """Give the test a store of the original's that another connection has locked."""
    with Original(project) as original:
        original.connection.execute("BEGIN IMMEDIATE")
        yield original.connection


def test_locked_at_the_start(project: Path, processes: Processes, lock: sqlite3.Connection) -> None:
    """A locked store keeps no agent from starting; once it is free the run is recorded and the store made known."""
    steps = agent("touch", "up", "await", "go", "exit", 3)
    wrapper = processes.ours("wrap", *steps, stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    assert rows(project, "SELECT * FROM runs") == []
    assert [name.endswith(files.BEGUN) for name in files.waiting()] == [True]
    lock.execute("COMMIT")
    wait_until(lambda: rows(project, "SELECT * FROM runs"))
    assert recorded_run(project)["status"] == "running"
    wait_until(lambda: files.waiting() == [])
    wait_until(lambda: registry.get(str(project)))
    (project / "go").touch()
    assert wrapper.communicate(timeout=20)[1] == ""
    assert (wrapper.returncode, recorded_run(project)["exit_code"]) == (3, 3)


def test_locked_until_after_the_end(project: Path, processes: Processes, lock: sqlite3.Connection) -> None:
    """A run of which nothing could be recorded while it lasted is recorded whole when the store is free."""
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go", "exit", 3), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    (pid,) = children(wrapper.pid)
    (project / "go").touch()
    wait_until(lambda: children(wrapper.pid) == [])
    lock.execute("COMMIT")
    assert wrapper.communicate(timeout=20)[1] == ""
    run = recorded_run(project)
    assert (run["pid"], run["status"], run["exit_code"]) == (pid, "failed", 3)
    assert run["started_at"] * 1000 <= run["ended_at"]
    assert files.waiting() == []


@pytest.mark.parametrize("lasts", ["0.5", "0"])
def test_locked_for_ever(project: Path, lock: sqlite3.Connection, lasts: str) -> None:
    """When the store stays locked one line says so, the exit code is the agent's, and a later ``ls`` records it."""
    waits = "FIRST_WAIT=0.01 LATER_WAIT=0.01 RETRY_EVERY=0.01 GIVE_UP_AFTER=0.1 LAST_WAIT=0.1"
    command = patched(waits, "sh", "-c", f"sleep {lasts}; exit 3")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert ended.stderr.startswith(f"{NOT_YET}{project / STORE} ")
    assert "locked" in ended.stderr
    (kept,) = files.waiting()
    assert kept.endswith(files.ENDED)
    shown = run_ours("ls", "--json")
    assert json.loads(shown.stdout) == []
    assert shown.stderr.startswith(
        f"agent-yes-supervise: 1 run of {project} cannot be recorded yet ({project / STORE} "
    )
    assert (shown.stderr.count("\n"), len(files.waiting())) == (1, 1)
    lock.execute("COMMIT")
    shown = run_ours("ls", "--json")
    (run,) = json.loads(shown.stdout)
    assert (shown.stderr, run["exit_code"], run["args"][1]) == ("", 3, f"sleep {lasts}; exit 3")
    assert (len(recorded_runs(project)), files.waiting()) == (1, [])


@pytest.fixture
def waiting(project: Path, processes: Processes, lock: sqlite3.Connection) -> tuple[subprocess.Popen[str], int]:
    """Start an agent whose wrapper waits for the store between fork and exec; return both."""
    command = patched("FIRST_WAIT=60", *agent("touch", "started", "await", "go", "exit", 3))
    wrapper = processes.start(*command, process_group=0, stderr=subprocess.PIPE)
    (pid,) = wait_until(lambda: children(wrapper.pid))
    return wrapper, processes.adopt(pid)


Waiting = tuple[subprocess.Popen[str], int]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        return procfs.read_stat(pid).is_dead
    except procfs.GONE:
        return True


def test_wrapper_killed_before_the_exec(project: Path, lock: sqlite3.Connection, waiting: Waiting) -> None:
    """When the wrapper is killed before the row is written nothing ever starts."""
    wrapper, pid = waiting
    wrapper.kill()
    wait_until(lambda: is_gone(pid))
    lock.execute("COMMIT")
    assert not (project / "started").exists()
    assert rows(project, "SELECT * FROM runs") == []


def test_agent_killed_before_the_exec(project: Path, lock: sqlite3.Connection, waiting: Waiting) -> None:
    """When the agent-to-be is killed before its exec that is recorded as any kill."""
    wrapper, pid = waiting
    os.kill(pid, signal.SIGKILL)
    lock.execute("COMMIT")
    assert wrapper.communicate(timeout=20)[1] == ""
    assert wrapper.returncode == -signal.SIGKILL
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("crashed", 137, "killed")
    assert not (project / "started").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_group_signalled_before_the_exec(
    project: Path, lock: sqlite3.Connection, waiting: Waiting, number: signal.Signals
) -> None:
    """A signal to the group that comes before the exec, such as a Ctrl-C, ends the agent before it starts."""
    wrapper, _ = waiting
    os.killpg(wrapper.pid, number)
    lock.execute("COMMIT")
    assert wrapper.wait(20) == -number
    run = recorded_run(project)
    assert (run["status"], run["exit_code"], run["cause"]) == ("failed", 128 + number, "stopped")
    assert not (project / "started").exists()


def test_wrapper_signalled_before_the_exec(lock: sqlite3.Connection, waiting: Waiting, project: Path) -> None:
    """A signal to the wrapper alone that comes before the exec reaches the agent."""
    wrapper, _ = waiting
    wrapper.terminate()
    lock.execute("COMMIT")
    assert wrapper.wait(20) == -signal.SIGTERM
    assert recorded_run(project)["exit_code"] == 128 + signal.SIGTERM


def test_stopped_before_the_exec(project: Path, lock: sqlite3.Connection, waiting: Waiting) -> None:
    """A Ctrl-Z that comes before the exec stops wrapper and agent; continued, the agent starts."""
    wrapper, pid = waiting
    os.killpg(wrapper.pid, signal.SIGTSTP)
    lock.execute("COMMIT")
    wait_until(lambda: is_stopped(wrapper.pid) and is_stopped(pid))
    assert not (project / "started").exists()
    os.killpg(wrapper.pid, signal.SIGCONT)
    (project / "go").touch()
    assert wrapper.wait(20) == 3
    assert recorded_run(project)["exit_code"] == 3
    assert (project / "started").exists()


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_store_gone_meanwhile(project: Path, processes: Processes, replaced: bool) -> None:
    """When the store is deleted while an agent runs the whole run is in the new one; trusted if ours."""
    wrapper = processes.ours("wrap", *agent("touch", "up", "await", "go", "exit", 3), stderr=subprocess.PIPE)
    wait_until((project / "up").exists)
    run = recorded_run(project)
    wait_until(lambda: registry.get(str(project)))
    shutil.rmtree(project / ".agent-yes")
    if replaced:
        Original(project).close()
    (project / "go").touch()
    assert wrapper.communicate(timeout=20)[1] == ""
    again = recorded_run(project)
    same = ("pid", "token", "cli", "args", "started_at")
    assert {key: again[key] for key in same} == {key: run[key] for key in same}
    assert (wrapper.returncode, again["status"], again["exit_code"]) == (3, "failed", 3)
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.trusted is not replaced


def test_thirty_at_once(project: Path, processes: Processes) -> None:
    """Thirty wrappers that start at once in a new project are all recorded, under one project."""
    wrappers = [
        processes.ours("wrap", "sh", "-c", f"exit {number}", stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        for number in range(30)
    ]
    assert [wrapper.communicate(timeout=50)[1] for wrapper in wrappers] == [""] * 30
    assert [wrapper.returncode for wrapper in wrappers] == list(range(30))
    assert sorted(run["exit_code"] for run in recorded_runs(project)) == list(range(30))
    assert len({run["token"] for run in recorded_runs(project)}) == 30
    assert project_row(project)[:2] == (str(project), "sh")
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.trusted
