"""The error boundary: every trouble is one line with its remedy, and an exit code that says whose it is."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from kit import COMMAND, Ask, Original, dead_pid, run_ours
from stores import execute

from supervisor import __version__, db, paths, views
from supervisor.cli import app
from supervisor.errors import NotFound, SuperviseError

ONE_LINE = re.compile(r"agent-yes-supervise: [^;\n]+; [^\n]+\n")


@pytest.fixture
def store(project: Path) -> Path:
    """Give the test a project with one ended run, and its store's file; the test stands in it."""
    db.get_db(project)
    here = db.upsert_project(str(project), "claude")
    db.update_run_status(db.create_run(dead_pid(), here.id).id, "completed", 0)
    db.close_db()
    return project / ".agent-yes" / "store.sqlite"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """Make ``boom`` a command that raises what the test wants."""
    commands = dict(app.cli.commands)

    def break_with(error: BaseException) -> None:
        def boom() -> None:
            raise error

        app.cli.add_command(click.Command("boom", callback=boom))

    yield break_with
    app.cli.commands = commands


READERS = (
    ("runs", "list"),
    ("runs", "list", "--json"),
    ("runs", "active"),
    ("runs", "crashed"),
    ("runs", "show", "1"),
    ("runs", "show", "1", "--json"),
    ("projects", "show"),
    ("projects", "show", "--json"),
    ("projects", "list"),
    ("ls",),
    ("ls", "--json"),
    ("runs", "rm", "1"),
    ("projects", "rm", ".", "--yes"),
)


def fails_in_one_line(answer: tuple[int, str, str], what: str) -> None:
    """Assert that a command has failed as a user's error: one line with its remedy, and no data."""
    code, out, err = answer
    assert (code, out) == (1, "")
    assert ONE_LINE.fullmatch(err), err
    assert re.search(what, err), err


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_damaged_store(store: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """A store that is no database is an error of one line, also where JSON was wanted, and stays as it is."""
    store.write_bytes(b"this was a database once" * 400)
    before = store.read_bytes()
    fails_in_one_line(ask(*words), r"store\.sqlite is damaged \(file is not a database\); save .*stores repair ")
    assert store.read_bytes() == before


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_store_that_is_a_symbolic_link(store: Path, tmp_path: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """A store that is a symbolic link is refused."""
    store.rename(tmp_path / "real.sqlite")
    store.symlink_to(tmp_path / "real.sqlite")
    fails_in_one_line(ask(*words), r"store\.sqlite is a symbolic link; replace it")


@pytest.mark.parametrize(
    "words",
    [("runs", "list"), ("runs", "show", "1"), ("runs", "rm", "1"), ("projects", "rm", ".", "--yes")],
    ids=" ".join,
)
def test_locked_store(store: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """A store that another process has locked is waited for, then told in one line."""
    monkeypatch.setattr(views, "TIMEOUT", 0.05)
    for module in ("runs", "projects"):
        monkeypatch.setattr(sys.modules[f"supervisor.cli.{module}"], "TIMEOUT", 0.05)
    holder = sqlite3.connect(store, isolation_level=None)
    try:
        if "rm" not in words:  # readers of a WAL are in nobody's way
            holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        fails_in_one_line(ask(*words), r"store\.sqlite is locked by another process; try again")
    finally:
        holder.close()


def test_writer_is_in_no_readers_way(store: Path, ask: Ask) -> None:
    """While another process writes, runs are shown."""
    holder = sqlite3.connect(store, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        code, out, err = ask("runs", "list")
        assert (code, err) == (0, "")
        assert "project#1" in out
    finally:
        holder.close()


def test_one_bad_store_among_others(store: Path, tmp_path: Path, ask: Ask) -> None:
    """Where some stores can be read they are shown, the bad one is told on stderr, and that is no failure."""
    bad = tmp_path / "bad"
    bad.mkdir()
    Original(bad).close()
    assert ask("stores", "add", str(bad))[0] == 0
    (bad / ".agent-yes" / "store.sqlite").write_bytes(b"this was a database once" * 400)
    for words in (
        ("runs", "list", "--all"),
        ("projects", "list"),
        ("ls", "--all"),
        ("runs", "list", "--all", "--json"),
    ):
        code, out, err = ask(*words)
        assert code == 0
        assert "project" in out
        assert ONE_LINE.fullmatch(err)
        assert "bad/.agent-yes/store.sqlite is damaged" in err


def test_nothing_is_claimed_of_what_cannot_be_read(store: Path, ask: Ask) -> None:
    """``ls`` does not say that nothing runs while a store cannot be read."""
    store.write_bytes(b"this was a database once" * 400)
    assert "Nothing" not in ask("ls")[2]
    assert "No projects" not in ask("projects", "list")[2]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("runs", "list", "--project", "nowhere"), "'nowhere' is no known project; see: .* projects list"),
        (("runs", "show", "nowhere#1"), "'nowhere' is no known project"),
        (("runs", "show", "99"), "there is no run 99 in .*; see: "),
        (("runs", "show", "what"), "'what' names no run; give an id"),
        (("runs", "rm", "99"), "there is no run 99"),
        (("projects", "show", "nowhere"), "'nowhere' is no known project"),
        (("projects", "rm", "nowhere", "--yes"), "'nowhere' is no known project"),
        (("stores", "add", "nowhere"), "there is no (store in|directory) .*nowhere; "),
        (("stores", "add", "--scan", "nowhere"), "there is no directory nowhere; check the path"),
        (("stores", "forget", "nowhere"), "'nowhere' is no known project"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there(store: Path, ask: Ask, words: tuple[str, ...], what: str) -> None:
    """A run, a project, a store or a directory that does not exist is told with where to look."""
    fails_in_one_line(ask(*words), what)


@pytest.mark.parametrize("words", [("projects", "show"), ("runs", "show", "."), ("runs", "show", "1")], ids=" ".join)
def test_directory_without_a_store(project: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """In a directory without a store it is said what to do, and none is made."""
    fails_in_one_line(ask(*words), f"in {project}; ")
    assert list(project.iterdir()) == []


def test_removed_directory(store: Path, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that has been removed, what is here cannot be said; everything else still works."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    fails_in_one_line(ask("runs", "list"), "the current directory has been removed; go to one that exists")
    fails_in_one_line(ask("projects", "show"), "the current directory has been removed")
    assert ask("runs", "list", "--all")[0] == ask("ls")[0] == ask("runs", "show", f"{store.parents[1]}#1")[0] == 0


@pytest.mark.parametrize(
    "words", [("ls",), ("runs", "list"), ("projects", "list"), ("stores", "list"), ("stores", "add", ".")], ids=" ".join
)
def test_registry_that_cannot_be_read(store: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """A registry that is no folder is an error of one line that names it."""
    folder = Path(paths.registry_dir())
    shutil.rmtree(folder)
    folder.write_text("no folder")
    fails_in_one_line(ask(*words), f"{folder}: File exists; check the path and its rights")


def test_junk_in_the_registry(store: Path, ask: Ask) -> None:
    """A registry file that makes no sense is passed over with one line, whatever its name holds."""
    (Path(paths.registry_dir()) / "x\x1b[2J\n.json").write_text("{")
    answer = subprocess.run([*COMMAND, "stores", "list", "--json"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.count('"dir"')) == (0, 1)
    assert ONE_LINE.sub("", answer.stderr) == "" or answer.stderr.count("\n") == 1
    assert "is no registry entry" in answer.stderr
    assert "\x1b" not in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "list", "--limit", "-1"),
        ("runs", "list", "--limit", "many"),
        ("runs", "list", "--status", "dead"),
        ("runs", "list", "--all", "--project", "x"),
        ("runs", "show"),
        ("runs", "rm"),
        ("projects", "rm"),
        ("stores", "add"),
        ("stores", "add", "a", "--scan", "b"),
        ("ls", "--watch", "--json"),
        ("ls", "--nonsense"),
        ("nonsense",),
        ("runs", "nonsense"),
        (),
    ],
    ids=" ".join,
)
def test_usage(project: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """Words that make no command are 2, with the usage on stderr and nothing on stdout."""
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert "Usage: agent-yes-supervise" in err


@pytest.mark.parametrize("since", ["", "yesterday", "2x", "-2h", "2026-13-01", "0001-01-01", "99999-01-01", "h"])
def test_since_that_is_no_time(project: Path, ask: Ask, since: str) -> None:
    """``--since`` says what it takes."""
    code, out, err = ask("runs", "list", f"--since={since}")
    assert (code, out) == (2, "")
    assert "is no time; give 2h, 7d, or 2026-05-31T12:00" in err


def test_since_of_any_length(store: Path, ask: Ask) -> None:
    """A span of any length is taken."""
    for span in ("9" * 400 + "w", "0s"):
        assert ask("runs", "list", "--since", span)[0] == 0
    assert "project#1" in ask("runs", "list", "--since", "9" * 400 + "w")[1]


def test_help_and_version(project: Path, ask: Ask) -> None:
    """Help, in both spellings and at every level, and the version are data, and no error."""
    for words in (("--help",), ("-h",), ("runs", "-h"), ("runs", "list", "-h"), ("stores", "add", "--help")):
        code, out, err = ask(*words)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: agent-yes-supervise")
    assert ask("--version") == (0, f"agent-yes-supervise, version {__version__}\n", "")


def test_every_error_of_ours_is_one_line(project: Path, ask: Ask, broken: Callable[[BaseException], None]) -> None:
    """An error of ours is one line however many it is made of, and cannot speak to the terminal."""
    broken(SuperviseError("two\nlines\x1b[2J", "do\nthis"))
    code, out, err = ask("boom")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "\x1b" not in err
    broken(NotFound("nothing is there"))
    assert ask("boom") == (1, "", "agent-yes-supervise: nothing is there\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied; check its rights"),
        (OSError(errno.ENOSPC, "No space left", "/a"), "/a: No space left; free some space on its disk"),
        (
            OSError(errno.EIO, "Input/output error"),
            "the system refuses: Input/output error; check the path and its rights",
        ),
        (
            sqlite3.OperationalError("disk I/O error"),
            "a store cannot be used (disk I/O error); see: agent-yes-supervise stores list",
        ),
    ],
    ids=["rights", "disk", "io", "sqlite"],
)
def test_errors_of_the_system(
    project: Path, ask: Ask, broken: Callable[[BaseException], None], error: Exception, line: str
) -> None:
    """What the system or SQLite refuses is no bug of ours, and has a remedy too."""
    broken(error)
    assert ask("boom") == (1, "", f"agent-yes-supervise: {line}\n")


def test_bug(project: Path, ask: Ask, broken: Callable[[BaseException], None]) -> None:
    """A bug of ours is 3 and names its report: a private file with versions, command and traceback."""
    broken(RuntimeError("out of\x1b[2J order"))
    code, out, err = ask("boom", "--json")
    assert code == 2
    code, out, err = ask("boom")
    assert (code, out, err.count("\n")) == (3, "", 1)
    said = re.fullmatch(
        r"agent-yes-supervise: this is a bug of ours \((.*)\); please report it with (/\S+\.log)\n", err
    )
    assert said
    assert said[1] == "RuntimeError: out of\N{REPLACEMENT CHARACTER}[2J order"
    report = Path(said[2])
    assert report.parent == Path(paths.log_dir())
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    text = report.read_text(encoding="utf-8")
    for part in (f"agent-yes-supervise {__version__}", sys.version, sqlite3.sqlite_version, "['boom']", "raise error"):
        assert part in text
    assert text.rstrip().endswith("RuntimeError: out of\x1b[2J order")
    assert "AGENT_YES" not in text
    assert os.environ["HOME"] not in text.replace(str(report), "")


def test_each_bug_has_its_report(project: Path, ask: Ask, broken: Callable[[BaseException], None]) -> None:
    """Bugs in the same second do not overwrite each other's reports."""
    broken(RecursionError("deep"))
    assert [ask("boom")[0] for _ in range(3)] == [3, 3, 3]
    assert len(list(Path(paths.log_dir()).iterdir())) == 3


def test_bug_without_a_place_for_its_report(
    project: Path, tmp_path: Path, ask: Ask, broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the logs' folder cannot be made the report goes to the temporary one, and else to stderr."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    broken(RuntimeError("out of order"))
    assert ask("boom")[0] == 3
    assert "out of order" in next((tmp_path / "tmp").iterdir()).read_text(encoding="utf-8")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/dev/null/nowhere")
    code, _, err = ask("boom")
    assert code == 3
    assert "RuntimeError: out of order\n" in err
    assert err.endswith("please report it with the lines above\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["ctrl-c", "abort"])
def test_interrupted(project: Path, ask: Ask, broken: Callable[[BaseException], None], error: BaseException) -> None:
    """Ctrl-C is 130, without a traceback."""
    broken(error)
    code, out, err = ask("boom")
    assert (code, out, err.strip()) == (130, "", "")


def test_errors_as_installed(store: Path) -> None:
    """The command itself ends with the boundary's codes."""
    store.write_bytes(b"this was a database once" * 400)
    answer = run_ours("runs", "list", "--json")
    fails_in_one_line((answer.returncode, answer.stdout, answer.stderr), "is damaged")
    assert run_ours("runs", "list", "--limit", "x").returncode == 2


def test_store_with_code_of_its_own(store: Path, ask: Ask) -> None:
    """A store that brings a trigger is refused by all that read or delete."""
    execute(store.parents[1], "CREATE TRIGGER t AFTER DELETE ON runs BEGIN DELETE FROM projects; END")
    for words in (("runs", "list"), ("runs", "rm", "1"), ("projects", "show")):
        fails_in_one_line(ask(*words), "brings code of its own")
