"""What makes a process look like a run's agent, and what makes it certainly not one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import Original, Processes, dead_pid
from nursery import Nursery, as_root, linux, say
from strangers import stranger

from supervisor.process import procfs
from supervisor.process.signature import Looks, is_the_agent, looks_of
from supervisor.store.files import store_file

TOKEN, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
STRANGER = Looks(argv=("/opt/tool", "-v"), exe="/opt/tool", cwd="/srv", token=None, holds_store=False)
NO_STORE = "/nonexistent/project/.agent-yes/store.sqlite"

_HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("SELECT count(*) FROM runs").fetchone()
print(flush=True)
sys.stdin.readline()
connection.close()
print(flush=True)
sys.stdin.read()
"""

_LOCKS = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_SH, int(sys.argv[3]), int(sys.argv[2]))
    print(flush=True)
    sys.stdin.read()
"""

_LOOKS_AS_NOBODY = """
import dataclasses, json, os, sys
from supervisor.process.signature import looks_of
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
print(json.dumps(dataclasses.asdict(looks_of(int(sys.argv[1]), sys.argv[2]))))
"""


def judged(
    looks: Looks = STRANGER,
    *,
    cli: str | None = "claude",
    directory: str | None = "/home/me/project",
    token: str | None = None,
    **shown: object,
) -> bool | None:
    """Judge a stranger's looks, but for what is said otherwise."""
    changed = dataclasses.replace(looks, **shown)  # type: ignore[arg-type]  # the fields of the test's choice
    return is_the_agent(changed, cli=cli, directory=directory, token=token)


def test_a_stranger_is_certainly_not_the_agent() -> None:
    """A program of another name, in another folder, that does not know the store, is not the agent."""
    assert judged() is False
    assert judged(argv=("/opt/tool",), exe="/opt/tool") is False


@pytest.mark.parametrize(
    ("asked", "shown", "expected"),
    [(TOKEN, TOKEN, True), (TOKEN, OTHER, False), (TOKEN, None, False), (None, TOKEN, False), (None, None, False)],
)
def test_the_token_decides_where_both_have_one(asked: str | None, shown: str | None, expected: bool) -> None:
    """A run's own token proves its process, another's disproves it; with one missing, the other looks decide."""
    bearer = dataclasses.replace(STRANGER, token=shown)
    assert judged(bearer, token=asked) is expected
    agent = dataclasses.replace(bearer, cwd="/home/me/project", exe="/opt/claude", argv=("claude",))
    assert judged(agent, token=asked) is ((asked, shown) != (TOKEN, OTHER))


def test_who_holds_the_store_is_the_agent() -> None:
    """A process that has the store open is one that works with its runs, even if all else is hidden."""
    assert judged(holds_store=True) is True
    assert judged(Looks(None, None, None, None, holds_store=True), cli=None, directory=None) is True


@pytest.mark.parametrize("hidden", ["argv", "exe", "cwd"])
def test_what_is_hidden_says_nothing(hidden: str) -> None:
    """Nobody is certainly not the agent who does not show all: arguments, program and directory."""
    assert judged(dataclasses.replace(STRANGER, **{hidden: None})) is None  # type: ignore[arg-type]  # one of three


@pytest.mark.parametrize("unknown", [{"cli": None}, {"directory": None}, {"cli": ""}, {"cli": "  "}, {"cli": "bin/"}])
@pytest.mark.parametrize("cwd", ["/srv", "/home/me/project"])
def test_a_row_that_says_nothing_disproves_nothing(unknown: dict[str, str | None], cwd: str) -> None:
    """Without the run's command or directory there is nothing to compare with."""
    assert judged(**unknown, cwd=cwd) is None  # type: ignore[arg-type]  # the fields of the test's choice


@pytest.mark.parametrize(
    ("argv", "exe"),
    [
        (("claude", "--continue"), "/usr/bin/claude"),
        (("node", "/usr/bin/claude"), "/usr/bin/node"),
        (("/opt/bin/claude",), "/opt/lib/claude-2.1"),
    ],
)
@pytest.mark.parametrize("cwd", ["/home/me/project", "/home/me/project/src/deep"])
def test_the_agents_name_in_its_directory_is_the_agent(argv: tuple[str, ...], exe: str, cwd: str) -> None:
    """A process that bears the command's name and works in the project's directory, or below, is the agent."""
    for cli in ("claude", "/usr/local/bin/claude", "claude --dangerously-skip-permissions"):
        for directory in ("/home/me/project", "/home/me/project/"):
            assert judged(argv=argv, exe=exe, cwd=cwd, cli=cli, directory=directory) is True


@pytest.mark.parametrize(
    "shown",
    [
        {"cwd": "/home/me/project"},
        {"cwd": "/home/me/project/src"},
        {"in_project": True},
        {"argv": ("/opt/tool", "--for", "/usr/bin/claude")},
        {"exe": "/home/me/.local/share/claude/versions/2.1"},
    ],
)
def test_what_is_related_may_be_the_agent(shown: dict[str, object]) -> None:
    """The directory alone, or the name somewhere, is neither proof nor disproof."""
    assert judged(**shown) is None  # type: ignore[arg-type]  # the fields of the test's choice


def test_a_folder_of_a_similar_name_is_not_the_projects() -> None:
    """Only whole names of folders count."""
    assert judged(cwd="/home/me/project2") is False
    assert judged(cwd="/home/me") is False


def test_every_word_of_a_foreign_command_counts_as_its_name() -> None:
    """A foreign row's command may be a launcher with what it launches."""
    assert judged(cli="npx @acme/tool") is None
    assert judged(cli="npx other") is False
    assert judged(cli="npx other", cwd="/home/me/project", argv=("npx", "other"), exe="/usr/bin/npx") is True


@pytest.mark.parametrize(
    "name",
    [
        *("node", "nodejs", "node22", "bun", "deno", "python3", "python3.11", "python3.13t", "pypy3.10", "ruby3.2"),
        *("perl5.36.0", "java", "npx", "uv", "sh", "-bash", "bash", "zsh-5.9", "fish", "dash", "busybox", "env"),
        *("sudo", "docker", "ssh", "tmux"),
    ],
)
def test_an_interpreter_is_never_certainly_not_the_agent(name: str) -> None:
    """What can run an agent under any name is no stranger, be it the program, or the name that it goes by."""
    assert judged(exe=f"/usr/bin/{name}") is None
    assert judged(argv=(name, "x")) is None
    assert judged(argv=("wrapper", f"/usr/bin/{name}")) is None


@pytest.mark.parametrize("name", ["nodemon", "bashful", "shutdown", "javac", "uvicorn", "dockerd", "pythonista"])
def test_a_similar_name_is_no_interpreter(name: str) -> None:
    """Only whole names count, and only those of the program, its own name and its first argument."""
    assert judged(exe=f"/usr/sbin/{name}", argv=(name,)) is False
    assert judged(argv=("/opt/tool", "-x", "/usr/bin/python3")) is False


# From here on with real processes.


@linux
def test_the_looks_of_a_real_process(processes: Processes, tmp_path: Path) -> None:
    """Arguments, program and directory are those of the process, also if the program has been deleted meanwhile."""
    folder = tmp_path / "else where"
    process = stranger(processes, folder)
    shown = looks_of(process.pid, NO_STORE)
    program = str(folder / "tool")
    assert shown == Looks((program, "3600"), program, str(folder), None, holds_store=False, in_project=False)
    (folder / "tool").unlink()
    assert looks_of(process.pid, NO_STORE).exe == program


@linux
def test_a_token_in_the_environment(processes: Processes) -> None:
    """The token that a process was started with is seen, and proves it to be its run's."""
    process = processes.living(env={"NOT_AGENT_YES_RUN": OTHER, "AGENT_YES_RUN": TOKEN, "Z": "1"})
    shown = looks_of(process.pid, NO_STORE)
    assert shown.token == TOKEN
    assert is_the_agent(shown, cli=None, directory=None, token=TOKEN) is True
    assert is_the_agent(shown, cli=None, directory=None, token=OTHER) is False


@linux
def test_a_token_that_is_none(processes: Processes) -> None:
    """An environment may hold anything under the token's name, and nothing."""
    odd = processes.living(env={b"AGENT_YES_RUN": b"\xff\n"})
    assert looks_of(odd.pid, NO_STORE).token == "\ufffd\n"
    assert looks_of(processes.living(env={"A": "AGENT_YES_RUN=1"}).pid, NO_STORE).token is None


@linux
def test_who_has_the_store_open_holds_it(project: Path, processes: Processes) -> None:
    """A process with an open WAL connection is found by the kernel's list of locks, as long as it is open."""
    file = store_file(str(project))
    with Original(project):  # keeps the store's files there
        holder = processes.python(_HOLDS, file, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        bystander = processes.living()
        assert looks_of(holder.pid, file).holds_store
        assert not looks_of(bystander.pid, file).holds_store
        assert not looks_of(holder.pid, NO_STORE).holds_store
        say(holder, "close")
        holder.stdout.readline()
        assert not looks_of(holder.pid, file).holds_store


@linux
@pytest.mark.parametrize(
    ("start", "length", "holds"),
    [(128, 1, True), (127, 2, True), (123, 6, True), (127, 3, True), (127, 1, False), (129, 3, False), (0, 0, False)],
)
def test_locks_that_the_kernel_has_joined(
    tmp_path: Path, processes: Processes, start: int, length: int, holds: bool
) -> None:
    """A reader's lock beside byte 128 stands in one line with it; a lock up to the end of all is none of SQLite's."""
    shm = tmp_path / "store.sqlite-shm"
    shm.write_bytes(bytes(256))
    holder = processes.python(_LOCKS, str(shm), str(start), str(length), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert looks_of(holder.pid, str(tmp_path / "store.sqlite")).holds_store is holds


@linux
def test_a_project_that_has_moved(tmp_path: Path, processes: Processes) -> None:
    """A row names the project's old path; who works where its store stands now may be the agent all the same."""
    project, link = tmp_path / "moved", tmp_path / "link"
    (project / ".agent-yes").mkdir(parents=True)
    link.symlink_to(project)
    process = stranger(processes, project)
    for place in (project, link):
        shown = looks_of(process.pid, store_file(str(place)))
        assert shown.in_project
        assert is_the_agent(shown, cli="claude", directory=str(tmp_path / "old"), token=None) is None


@linux
def test_a_directory_that_is_gone_says_nothing(tmp_path: Path, processes: Processes) -> None:
    """A process whose working directory was deleted may have worked in the project."""
    folder = tmp_path / "folder"
    process = stranger(processes, folder)
    (folder / "tool").unlink()
    folder.rmdir()
    shown = looks_of(process.pid, NO_STORE)
    assert shown.cwd is None
    assert is_the_agent(shown, cli="claude", directory="/home/me/project", token=None) is None


@linux
def test_the_dead_show_nothing(processes: Processes) -> None:
    """A zombie, and a process that is gone, are never certainly not the agent."""
    nursery = Nursery(processes)
    zombie = nursery.born()
    nursery.end(zombie, 0)
    for pid in (zombie, dead_pid()):
        shown = looks_of(pid, NO_STORE)
        assert (shown.argv, shown.exe) == (None, None)
        assert is_the_agent(shown, cli="claude", directory="/home/me/project", token=None) is None


@linux
def test_a_thread_of_the_kernel_shows_nothing() -> None:
    """The kernel's own threads have neither arguments nor program, so that nothing can be said."""
    if procfs.status_field(2, b"Name:") != b"kthreadd":
        pytest.skip("no kernel threads are visible here")
    shown = looks_of(2, NO_STORE)
    assert (shown.argv, shown.exe) == (None, None)
    assert is_the_agent(shown, cli="claude", directory="/home/me/project", token=None) is None


@linux
@as_root
def test_another_users_process_is_hidden(processes: Processes, tmp_path: Path) -> None:
    """Of another user's process only the arguments show, so that nothing can be said."""
    process = stranger(processes, tmp_path / "elsewhere", env={"AGENT_YES_RUN": TOKEN})
    paths = os.pathsep.join(sys.path)
    printed = subprocess.run(
        [sys.executable, "-c", _LOOKS_AS_NOBODY, str(process.pid), NO_STORE],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    fields = json.loads(printed)
    shown = Looks(**{**fields, "argv": tuple(fields["argv"])})
    assert (shown.argv, shown.exe, shown.cwd, shown.token) == (looks_of(process.pid, NO_STORE).argv, None, None, None)
    assert is_the_agent(shown, cli="claude", directory="/home/me/project", token=OTHER) is None
