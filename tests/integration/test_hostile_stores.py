"""Stores made by somebody who means harm: whatever they hold, it is neither run, nor obeyed, nor a way elsewhere.

What is promised of them, and where else it is tested:

- Nothing read from a store is executed: here, `test_wrap_records.py` (a bare ``wrap``), `test_completion.py`.
- Nothing read from a store is signalled unproven: here, `test_stop.py`, `test_known_bugs.py`, `unit/test_facts.py`.
- Nothing read from a store is a path to write to: here, `unit/test_log_files.py`, `unit/test_retention.py`.
- A stored command is started only where it is trusted, by a bare name, printed first: `test_wrap_records.py`.
- A pid is validated before any call: here, `unit/test_judge.py`, `unit/test_pidfd.py`, `unit/test_stamp.py`.
- Signals go through a verified pidfd: `test_stop.py`, `unit/test_pidfd.py`.
- Links and strangers' stores are refused: here by every command, `unit/test_store_refusals.py`, `test_other_users.py`.
- Triggers and views do nothing: here by every command, `unit/test_store_refusals.py`.
- Secrets are not stored: `test_wrap_secrets.py`, `unit/test_masking.py`.
- Text is stripped of what a terminal obeys: here by every command, `unit/test_output.py`, `test_reading_commands.py`,
  `test_daemon.py` and `unit/test_daemon_log.py` (the daemon's log), `unit/test_log_screen.py` (agents' logs).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from damage import junk_page
from kit import Answer, Ask, Original, Processes, dead_pid, run_ours
from stores import ending, execute, new_run, stamp

from supervisor import registry
from supervisor.cli.completion import complete_project, complete_run, complete_running, complete_store
from supervisor.cli.output import clean
from supervisor.models import Rank
from supervisor.process.stamp import stamp_of
from supervisor.registry import Origin
from supervisor.store import recording
from supervisor.store.connection import open_for_writing
from supervisor.store.files import FOLDER, store_file

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u061c\u200e\u202e\u2066\u2028\r\nevil"
"""What speaks to a terminal, turns text around and breaks lines."""

STRANGER = 4711
"""The id of some other user."""

READING: tuple[tuple[str, ...], ...] = (
    *(("ls",), ("ls", "--all"), ("why", "1"), ("why", "."), ("logs", "1"), ("doctor",), ("config", "path")),
    *(("runs", "list"), ("runs", "list", "--all"), ("runs", "active"), ("runs", "crashed"), ("runs", "show", "1")),
    *(("runs", "show", "."), ("projects", "list"), ("projects", "show"), ("stores", "list"), ("stores", "repair")),
    *(("prune",), ("prune", "--older-than", "1s"), ("config", "show"), ("config", "check"), ("service", "status")),
)
"""Every command that reads."""

WRITING: tuple[tuple[str, ...], ...] = (
    *(("scan", "--no-wait"), ("stop", "1"), ("kill", "1"), ("stop", "--timeout", "0", "."), ("stores", "add", ".")),
    *(("stores", "add", "--scan", "."), ("prune", "--older-than", "1s", "--yes"), ("runs", "rm", "2")),
    *(("runs", "rm", "1", "--force"), ("projects", "rm", "."), ("projects", "rm", ".", "--yes", "--force")),
    *(("stores", "repair", "--yes"), ("stores", "forget", "."), ("ls",), ("stores", "list")),
)
"""Every command that writes, in an order in which each finds something to do."""

EVERY = (*READING, *(("--help",), ("completion", "bash")), *WRITING)


def is_harmless(answer: Answer, words: tuple[str, ...]) -> None:
    """Assert that a command has answered without a bug of ours, and without a character that a terminal obeys."""
    assert answer.code in (0, 1), (words, answer.err)
    for text in (answer.out, answer.err):
        assert clean(text).replace("↵", "\n") == text.replace("↵", "\n"), words


def candidates_here() -> list[tuple[str, str]]:
    """Return what completion offers here, as words and what is said of them."""
    nothing: Any = None
    found = []
    for typed in ("", "e", "/", "."):
        for complete in (complete_run, complete_running, complete_project, complete_store):
            found += [(str(item.value), item.help or "") for item in complete(nothing, nothing, typed)]
    return found


@pytest.fixture
def evil(tmp_path: Path, project: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project whose every text, its own name included, speaks to the terminal."""
    directory = tmp_path / EVIL
    directory.mkdir()
    monkeypatch.chdir(directory)
    connection, _ = open_for_writing(str(directory))
    for number, pid in enumerate((processes.living().pid, dead_pid(), dead_pid())):
        fields: dict[str, Any] = {"cli": EVIL, "args": [EVIL], "cwd": EVIL, "prompt": EVIL, "set_default": True}
        run = new_run(directory, f"{number:032x}", stamp=stamp_of(pid), **fields)
        recording.begin_run(connection, run)
        if number == 1:
            end = ending(Rank.OWNER, settled_by=EVIL, evidence={EVIL: EVIL, "left": [{EVIL: EVIL}], "oom": EVIL})
            recording.finish_run(connection, run, end)
    connection.execute("INSERT INTO projects (dir, cmd, prompt) VALUES (:evil, :evil, :evil)", {"evil": EVIL})
    connection.execute(
        "UPDATE run_process SET asked_by = :evil, asked_for = :evil, asked_at = 1 WHERE run_id = 3", {"evil": EVIL}
    )
    connection.execute("UPDATE run_process SET stamped_by = :evil", {"evil": EVIL})
    connection.execute("UPDATE run_process SET host = :evil, boot_id = :evil WHERE run_id = 3", {"evil": EVIL})
    connection.close()
    registry.add(str(directory), Origin.ADDED)
    return directory


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_command_speaks_for_a_store(evil: Path, ask: Ask, as_json: bool) -> None:
    """Whatever text a store or a path holds, no command passes on what a terminal would obey, nor fails by it."""
    json_too = {"ls", "why", "runs", "projects", "stores", "doctor", "scan", "prune"}
    for words in READING if as_json else EVERY:
        if as_json and (words[0] not in json_too or words[1:2] in (("add",), ("rm",), ("forget",))):
            continue
        answer = ask(*words, "--json") if as_json else ask(*words)
        is_harmless(answer, words)
        if as_json and answer.code == 0:
            json.loads(answer.out)
    for word, says in candidates_here():
        assert (clean(word), clean(says)) == (word, says)


def test_no_command_speaks_for_a_damaged_store(evil: Path, ask: Ask) -> None:
    """Errors and remedies name such a path harmlessly, too."""
    junk_page(Path(store_file(str(evil))), 1)
    for words in EVERY:
        is_harmless(ask(*words), words)


def test_the_daemon_does_not_speak_for_a_store(evil: Path, processes: Processes, tmp_path: Path) -> None:
    """The daemon's log, as verbose as it can be, has no such character, and no line that a store has made up."""
    daemon = Daemon(processes, tmp_path / "daemon.log")
    daemon.hear("watching .*#1:")
    (Path(store_file(str(evil)))).write_bytes(b"no database" * 1000)
    daemon.hear("is damaged")
    daemon.stop()
    lines = daemon.log().splitlines()
    assert all(clean(line) == line for line in lines)
    assert not [line for line in lines if line.startswith("evil")]


JUNK: dict[str, object] = {
    "a blob": b"\x1b[2J\xff\x00",
    "NUL": "a\x00b\x00",
    "bytes that are no UTF-8": "CAST(x'ff1b5b' AS TEXT)",
    "the largest number": 2**63 - 1,
    "the smallest number": -(2**63),
    "infinity": float("inf"),
    "a fraction": -1.5,
    "a long text": "x" * 200_000,
    "deep JSON": "[" * 100_000,
    "JSON of all kinds": '{"a": [1, null, {"b": 1e999}], "left": 3, "oom": [], "suspended": {}}',
    "a path": "../../../../etc/passwd",
    "nothing": "",
}
"""What stands in a column of every kind."""

COLUMNS = {
    "runs": ("pid", "project_id", "status", "exit_code", "started_at", "ended_at", "args"),
    "projects": ("dir", "cmd", "prompt", "created_at", "updated_at", "last_run_at"),
    "run_process": (
        *("token", "cli", "cwd", "args_added", "host", "boot_id", "pid_ns", "pid_ns_ticks", "time_ns", "pid"),
        *("start_ticks", "pidfd_inode", "started_at", "stamped_by", "owner_pid", "owner_start_ticks", "resumed_from"),
        *("asked_by", "asked_for", "asked_at"),
    ),
    "run_ending": (
        *("status", "exit_code", "ended_at", "term_signal", "core_dumped", "cause", "rank", "evidence"),
        *("settled_by", "detected_at"),
    ),
}


def with_junk(project: Path, value: object) -> list[int]:
    """Make a store with a run for each column, which holds that value; return the runs' ids."""
    connection, _ = open_for_writing(str(project))
    expression = value if isinstance(value, str) and value.startswith("CAST(") else "?"
    bound = [] if expression != "?" else [value]
    ids: list[int] = []
    for table, columns in COLUMNS.items():
        for column in columns:
            run = new_run(project, f"{len(ids):032x}", pid=dead_pid() if not ids else 4_999_000 + len(ids))
            ids.append(recording.begin_run(connection, run))
            if table == "run_ending" or len(ids) % 2:
                recording.finish_run(connection, run, ending(Rank.INFERENCE))
            key = "run_id" if table.startswith("run_") else "id"
            place = 1 if table == "projects" else ids[-1]
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute(f"UPDATE {table} SET {column} = {expression} WHERE {key} = {place}", bound)
            if table == "projects":  # a project of its own for each
                connection.execute("UPDATE projects SET id = ? WHERE id = 1", (100 + len(ids),))
                connection.execute("UPDATE runs SET project_id = ? WHERE id = ?", (100 + len(ids), ids[-1]))
                connection.execute("UPDATE projects SET dir = dir || id WHERE id > 100 AND dir = ?", (str(project),))
    connection.close()
    return ids


@pytest.mark.parametrize("kind", JUNK)
def test_values_of_any_kind(project: Path, ask: Ask, kind: str) -> None:
    """A value that is not of its column's kind, or without measure, spoils its row at most, and no command."""
    ids = with_junk(project, JUNK[kind])
    registry.add(str(project), Origin.ADDED)
    for words in (*READING, ("scan", "--no-wait")):
        is_harmless(ask(*words), words)
    shows = [ask(*words, str(run_id)) for run_id in ids for words in (("why",), ("runs", "show"))]
    for answer in shows:
        is_harmless(answer, ("show",))
        assert len(answer.out) < 20_000_000
    assert sum(answer.code for answer in shows) == 0
    found = ask("runs", "list", "--limit", "0", "--json")
    assert sorted(run["id"] for run in found.json) == ids
    candidates_here()
    for words in WRITING[1:]:
        is_harmless(ask(*words), words)


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Note every signal that would be sent, and send none."""
    sent: list[object] = []

    def refuse(*call: object) -> None:
        if call[1] != 0:
            sent.append(call)

    for module, name in ((os, "kill"), (os, "killpg"), (signal, "pidfd_send_signal")):
        monkeypatch.setattr(module, name, refuse)
    yield sent


PIDS: tuple[object, ...] = (1, 0, -1, -2, 2**31, 2**40, 2**62, "1", "self", "1; kill -9 -1", b"\x01", 1.0, "")


@pytest.mark.parametrize("pid", [*PIDS, "our own", "our parent"], ids=repr)
@pytest.mark.parametrize("is_stamped", [False, True], ids=["bare", "stamped"])
def test_no_pid_is_signalled(project: Path, ask: Ask, no_signals: list[object], pid: object, is_stamped: bool) -> None:
    """By no number in a row, with whatever stamp it comes, is a process signalled, a group, or everybody."""
    number = {"our own": os.getpid(), "our parent": os.getppid()}.get(str(pid), pid)
    with Original(project) as original:
        run_id = original.create_run(number, started_at=int(time.time()) + 100)
    if is_stamped:
        connection, _ = open_for_writing(str(project))
        columns = stamp_of(1) if isinstance(number, str | bytes | float) else stamp(int(str(number)) % 2**62)
        with recording.Transaction(connection):
            recording.insert_process(connection, run_id, columns, by="evil", owner=(1, None))
            connection.execute("UPDATE run_process SET pid = ?, owner_pid = ?", (number, number))
        connection.close()
    for words in (("stop", "--timeout", "0", "1"), ("kill", "1"), ("scan", "--no-wait"), ("runs", "rm", "1"), ("ls",)):
        is_harmless(ask(*words), words)
    assert no_signals == []


CODE: dict[str, tuple[str, ...]] = {
    "a trigger on updates": ("CREATE TRIGGER t AFTER UPDATE ON runs BEGIN UPDATE projects SET cmd = 'evil'; END",),
    "a trigger on deletes": ("CREATE TRIGGER t AFTER DELETE ON runs BEGIN UPDATE projects SET cmd = 'evil'; END",),
    "a trigger on stamps": (
        "CREATE TRIGGER t AFTER INSERT ON run_process BEGIN UPDATE projects SET cmd = 'evil'; END",
    ),
    "a view for runs": ("ALTER TABLE runs RENAME TO r", "CREATE VIEW runs AS SELECT * FROM r"),
    "a view for endings": ("DROP TABLE run_ending", "CREATE VIEW run_ending AS SELECT * FROM runs"),
    "a view that writes": (
        "ALTER TABLE runs RENAME TO r",
        "CREATE VIEW runs AS SELECT * FROM r",
        "CREATE TRIGGER t INSTEAD OF UPDATE ON runs BEGIN UPDATE projects SET cmd = 'evil'; END",
    ),
    "a virtual table": ("ALTER TABLE runs RENAME TO r", "CREATE VIRTUAL TABLE runs USING fts5(id, pid, status)"),
}


@pytest.mark.parametrize("code", CODE)
def test_code_in_a_store_is_not_run(project: Path, ask: Ask, code: str) -> None:
    """A store with triggers, views or virtual tables is refused by every command, is shown so, and stays as it is."""
    with Original(project) as original:
        original.create_run(dead_pid())
    connection, _ = open_for_writing(str(project))
    connection.close()
    registry.add(str(project), Origin.ADDED)
    execute(project, *CODE[code])
    file = Path(store_file(str(project)))
    before = file.read_bytes()
    for words in EVERY:
        answer = ask(*words)
        is_harmless(answer, words)
        if words[0] in ("why", "stop", "kill", "runs", "projects"):
            assert "brings code of its own" in answer.err, words
    assert run_ours("wrap", "--", "true").returncode == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize("what", ["folder", "store"])
@pytest.mark.parametrize("how", ["a link", pytest.param("a stranger's", marks=pytest.mark.root)])
def test_every_command_refuses(project: Path, tmp_path: Path, ask: Ask, what: str, how: str) -> None:
    """A link, or what is a stranger's, is refused by every command, and nothing behind it is changed."""
    if how == "a stranger's" and os.geteuid() != 0:
        pytest.skip("needs root: gives files to another user")
    with Original(project) as original:
        original.create_run(dead_pid())
    registry.add(str(project), Origin.ADDED)
    place = project / FOLDER if what == "folder" else Path(store_file(str(project)))
    real = place
    if how == "a link":
        real = tmp_path / "real"
        place.rename(real)
        place.symlink_to(real)
    else:
        os.chown(place, STRANGER, STRANGER)
    file = real / "store.sqlite" if what == "folder" else real
    before = file.read_bytes()
    for words in EVERY:
        answer = ask(*words)
        is_harmless(answer, words)
        if words[0] in ("why", "stop", "kill", "runs", "projects"):
            assert "symbolic link" in answer.err or "belongs to another user" in answer.err, words
    assert run_ours("wrap", "--", "true").returncode == 0
    assert file.read_bytes() == before
    assert {path.name for path in real.parent.iterdir()} <= {place.name, "real", "project", "home", ".gitignore"}


@pytest.fixture
def victim(tmp_path: Path, ask: Ask) -> Iterator[Callable[[], None]]:
    """Give the test somebody else's project, with a store and logs, and what asserts that it is as it was."""
    place = tmp_path / "victim"
    place.mkdir()
    with Original(place) as original:
        original.create_run(dead_pid())
    logs = place / FOLDER / "logs"
    logs.mkdir(0o700)
    for name in (f"{7:032x}.log", f"{7:032x}.out", f"{7:032x}.err", "precious"):
        (logs / name).write_text("precious")
        os.utime(logs / name, (1, 1))

    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}

    before = everything()

    def is_untouched() -> None:
        assert everything() == before

    yield is_untouched


PATHS = ("{victim}", "../victim", "../../victim", "{victim}/.agent-yes/logs/precious", "/", "", "relative")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_nowhere(project: Path, tmp_path: Path, ask: Ask, victim: Callable[[], None], path: str) -> None:
    """A project, a working directory or a token that names another place is shown, and nothing is written there."""
    path = path.format(victim=tmp_path / "victim")
    connection, _ = open_for_writing(str(project))
    for number, token in enumerate((f"{7:032x}", f"../../../victim/.agent-yes/logs/{7:032x}", path)):
        run = new_run(project, f"{number:032x}", pid=4_999_000 + number, cwd=path)
        recording.begin_run(connection, run)
        recording.finish_run(connection, run, ending(Rank.OWNER, ended_at=1_000_000_001.0))
        connection.execute("UPDATE run_process SET token = ? WHERE run_id = ?", (token, number + 1))
    connection.execute("UPDATE projects SET dir = ?", (path,))
    connection.close()
    registry.add(str(project), Origin.ADDED)
    for words in (*EVERY, ("runs", "rm", "1"), ("runs", "rm", "3")):
        is_harmless(ask(*words), words)
        victim()
    assert run_ours("wrap", "--", "true").returncode == 0
    victim()


def test_a_prompt_as_long_as_a_book(project: Path, ask: Ask) -> None:
    """Texts of 5 MB are cut where they are listed, and cost no command its life."""
    with Original(project) as original:
        original.connection.execute("UPDATE projects SET prompt = ?, cmd = ?", ("p" * 5_000_000, "c" * 5_000_000))
        original.create_run(dead_pid(), args=json.dumps(["x" * 5_000_000]))
    for words in (("ls",), ("runs", "list"), ("projects", "list"), ("why", "1")):
        answer = ask(*words)
        is_harmless(answer, words)
        assert len(answer.out) < 200_000, words
