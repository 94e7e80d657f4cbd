"""The spool's files: what goes in comes out, and whatever else lies there harms nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kit import rows
from stores import ending, execute, new_run

from supervisor import paths
from supervisor.daemon.spooled import SpoolWatch
from supervisor.models import Cause, Claim, Rank, RunStatus
from supervisor.spool import content, files
from supervisor.spool.applying import apply_spooled
from supervisor.store import recording
from supervisor.store.connection import open_for_writing
from supervisor.store.recording import NewRun

TOKEN = "0123456789abcdef" * 2
OTHER = "f" * 32


class Spool(NamedTuple):
    """A project without a store, and the spool's folder."""

    project: Path
    folder: Path

    def keep(self, token: str = TOKEN, *, ended: bool = True, **fields: Any) -> Path:
        """Keep a run; return its file."""
        run = new_run(self.project, token, **fields)
        files.keep(run, ending(Rank.OWNER) if ended else None)
        return self.folder / f"{token}{files.ENDED if ended else files.BEGUN}"

    def tokens(self) -> list[str]:
        """Return the tokens of the runs in the store."""
        if not (self.project / ".agent-yes" / "store.sqlite").exists():
            return []
        return [token for (token,) in rows(self.project, "SELECT token FROM run_process ORDER BY token")]


@pytest.fixture
def spool(project: Path) -> Spool:
    """Give the test a project and an empty spool."""
    return Spool(project, Path(paths.spool_dir()))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"args": ["", "a b\n\0", "\udcff\udc80", "ü\U0001f600", "\ud800"], "cli": "\udcfe", "cwd": ""},
        {"prompt": "p", "set_default": True, "owner": (7, None)},
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_round_trip(spool: Spool, fields: dict[str, Any], ended: bool) -> None:
    """A run with its ending comes back as it was, whatever its texts hold."""
    run = new_run(spool.project, TOKEN, **fields)
    end = ending(Rank.OWNER, evidence={"source": "waitpid"}, term_signal=9, core_dumped=False) if ended else None
    again, end_again = content.decode(content.encode(run, end))
    assert {name: getattr(again, name) for name in NewRun.__slots__} == {
        name: getattr(run, name) for name in NewRun.__slots__
    }
    assert end_again == end


def good() -> dict[str, Any]:
    """Return what a file of an ended run holds."""
    made: dict[str, Any] = json.loads(content.encode(new_run(Path("/p"), TOKEN), ending(Rank.OWNER)))
    return made


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(
            ("run", name, None)
            for name in ("token", "directory", "cli", "args", "cwd", "set_default", "stamp", "owner")
        ),
        ("run", "directory", "relative"),
        ("run", "directory", "/nul\0"),
        ("run", "token", "../../etc/passwd"),
        ("run", "args", ["a", 1]),
        ("run", "owner", [1]),
        ("run", "owner", ["1", 2]),
        ("run", "more", 1),
        ("run", "stamp", {}),
        ("run", "stamp", {**good()["run"]["stamp"], "pid": 1 << 80}),
        ("run", "stamp", {**good()["run"]["stamp"], "pid": True}),
        ("run", "stamp", {**good()["run"]["stamp"], "started_at": float("nan")}),
        ("run", "stamp", {**good()["run"]["stamp"], "started_at": 1e300}),
        ("ending", "status", "running"),
        ("ending", "status", "done"),
        ("ending", "cause", "magic"),
        ("ending", "rank", int(Rank.KERNEL)),
        ("ending", "ended_at", float("inf")),
        ("ending", "exit_code", "3"),
        ("ending", "evidence", []),
        ("ending", "evidence", None),
    ],
)
def test_nonsense(part: str, name: str, value: object) -> None:
    """A value that is not of its kind makes the whole file nonsense."""
    kept = good()
    kept[part][name] = value
    with pytest.raises(ValueError, match=r"."):
        content.decode(json.dumps(kept).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b"{}", b'{"format": "1"}', b"\xff", b"[" * 100_000, b"1"])
def test_no_file_of_ours(raw: bytes) -> None:
    """What is no JSON, or says no format, is nonsense."""
    with pytest.raises(ValueError, match=r"."):
        content.decode(raw)


def half(path: Path) -> None:
    """Cut a file in two."""
    path.write_bytes(path.read_bytes()[:-20])


def linked(path: Path) -> None:
    """Put a symbolic link to the same content in the place of a file."""
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def other(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a deed that removes a file and makes something else of that name."""

    def deed(path: Path) -> None:
        path.unlink()
        make(path)

    return deed


BAD: dict[str, Callable[[Path], object]] = {
    "junk": lambda path: path.write_bytes(os.urandom(100)),
    "half": half,
    "empty": lambda path: path.write_bytes(b""),
    "symbolic link": linked,
    "dangling link": other(lambda path: path.symlink_to("nowhere")),
    "pipe": other(os.mkfifo),
    "folder": other(Path.mkdir),
    "another run's": lambda path: path.write_bytes(path.read_bytes().replace(TOKEN.encode(), OTHER.encode())),
    "the beginning's name": lambda path: path.rename(path.with_name(TOKEN + files.BEGUN)),
    "no name of ours": lambda path: path.rename(path.with_name("README")),
    "text that no store takes": lambda path: path.write_bytes(
        path.read_bytes().replace(b'"host": "here"', b'"host": "\\ud800"')
    ),
    "too large": lambda path: os.truncate(path, files.LARGEST + 1),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_file(spool: Spool, how: str) -> None:
    """A file that makes no sense is kept aside with one line, once, and hides no other."""
    BAD[how](spool.keep())
    spool.keep("a" * 32)
    spool.keep("e" * 32)
    applied = apply_spooled()
    (trouble,) = applied.troubles
    assert (applied.files, spool.tokens()) == (2, ["a" * 32, "e" * 32])
    assert os.path.lexists(trouble.remedy.removeprefix("it is kept as "))
    assert len(os.listdir(spool.folder / files.ASIDE)) == 1
    again = apply_spooled()
    assert (again.files, again.troubles, files.waiting()) == (0, [], [])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user(spool: Spool) -> None:
    """Another user's file is never brought into a store."""
    os.chown(spool.keep(), 4321, 4321)
    (trouble,) = apply_spooled().troubles
    assert "it belongs to another user (uid 4321)" in str(trouble)
    assert spool.tokens() == []


@pytest.mark.parametrize("how", ["writable", "another user's", "link"])
def test_folder_that_is_not_ours_alone(spool: Spool, how: str) -> None:
    """A spool that others can write to is neither read nor written."""
    spool.keep()
    if how == "writable":
        spool.folder.chmod(0o770)
    elif how == "link":
        spool.folder.rename(spool.folder.with_name("real"))
        spool.folder.symlink_to("real")
    elif os.geteuid() == 0:
        os.chown(spool.folder, 4321, 4321)
    else:
        pytest.skip("only root can give a folder away")
    applied = apply_spooled()
    assert (applied.files, len(applied.troubles), spool.tokens()) == (0, 1, [])
    with pytest.raises(OSError, match=r"."):
        spool.keep(OTHER)


def newer(spool: Spool) -> None:
    """Let a newer version have made the store."""
    open_for_writing(str(spool.project))[0].close()
    execute(spool.project, "INSERT INTO schema_migrations VALUES (99, 0)")


def moved(spool: Spool) -> None:
    """Let the project's path lead to another directory."""
    spool.project.rename(spool.project.with_name("real"))
    spool.project.symlink_to("real")


def intruder(spool: Spool) -> None:
    """Let the store bring code of its own."""
    open_for_writing(str(spool.project))[0].close()
    execute(spool.project, "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END")


def another_format(spool: Spool) -> None:
    """Let a newer version have written the file."""
    (name,) = files.waiting()
    kept = json.loads((spool.folder / name).read_bytes())
    (spool.folder / name).write_text(json.dumps({**kept, "format": 2}))


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        (newer, "was made by a newer version"),
        (moved, "leads elsewhere now"),
        (intruder, "brings code of its own"),
        (another_format, "is of another version"),
        (lambda spool: shutil.rmtree(spool.project), "there is no directory"),
    ],
)
def test_what_must_wait(spool: Spool, deed: Callable[[Spool], object], says: str) -> None:
    """What cannot be brought into its store now stays where it is, with one line, and nothing is made."""
    spool.keep()
    deed(spool)
    before = sorted(path.name for path in spool.project.parent.iterdir())
    (trouble,) = apply_spooled().troubles
    assert says in str(trouble)
    assert files.waiting() == [TOKEN + files.ENDED]
    assert sorted(path.name for path in spool.project.parent.iterdir()) == before
    if (spool.project / ".agent-yes").exists():
        assert rows(spool.project, "SELECT * FROM runs") == []


@pytest.mark.parametrize("order", [(False, True), (True, False), (True, True), (False, False)])
def test_any_order_once(spool: Spool, order: tuple[bool, bool]) -> None:
    """A beginning and an end of the same run make one row, whichever comes first and however often."""
    for ended in order:
        spool.keep(ended=ended)
        assert apply_spooled().troubles == []
    status = "crashed" if any(order) else "running"
    assert rows(spool.project, "SELECT status FROM runs") == [(status,)]


ROW = Claim(1, 4999001, 1_795_500_000, None, None, None)
SETTLED = ending(Rank.KERNEL, cause=Cause.KILLED, exit_code=137, term_signal=9, evidence={"source": "pidfd"})


def other_field(part: str, name: str, value: object) -> bytes:
    """Return the content of a file with the ending of a row, one field of it otherwise."""
    kept = json.loads(content.encode_settled("/p", ROW, SETTLED))
    (kept[part] if part else kept)[name] = value
    return json.dumps(kept).encode()


@pytest.mark.parametrize("pid", [1, 1.5, "text", "\udcff", None])
def test_settled_round_trip(pid: object) -> None:
    """An ending of a row comes back as it was, whatever the row holds."""
    row = dataclasses.replace(ROW, pid=pid)
    assert content.decode_settled(content.encode_settled("/p", row, SETTLED)) == ("/p", row, SETTLED)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "directory", "relative"),
        ("", "row", None),
        ("", "ending", None),
        ("row", "run_id", None),
        ("row", "pid", []),
        ("row", "more", 1),
        ("ending", "rank", int(Rank.OWNER)),
        ("ending", "rank", 99),
        ("ending", "status", "running"),
    ],
)
def test_settled_nonsense(part: str, name: str, value: object) -> None:
    """A value that is not of its kind makes the whole file nonsense, and so does an owner's word."""
    with pytest.raises(ValueError, match=r"."):
        content.decode_settled(other_field(part, name, value))


def test_settled(spool: Spool) -> None:
    """An ending that the daemon could not write is brought to its row, once, and to no other one."""
    spool.keep(ended=False)
    apply_spooled()
    ((pid, started_at),) = rows(spool.project, "SELECT pid, started_at FROM runs")
    row = Claim(1, pid, started_at, None, None, None)
    for claim in (dataclasses.replace(row, pid=1), row, row):
        files.keep_settled(str(spool.project), claim, SETTLED)
        applied = apply_spooled()
        assert (applied.files, applied.troubles, files.waiting()) == (1, [], [])
        status = "running" if claim is not row else "crashed"
        assert rows(spool.project, "SELECT status FROM runs") == [(status,)]
    assert rows(spool.project, "SELECT exit_code, rank FROM run_ending") == [(137, Rank.KERNEL)]


def test_settled_makes_no_store(spool: Spool) -> None:
    """The ending of a row waits for the store that has the row; none is made for it."""
    files.keep_settled(str(spool.project), ROW, SETTLED)
    (trouble,) = apply_spooled().troubles
    assert "1 run of " in str(trouble)
    assert (os.listdir(spool.project), len(files.waiting())) == ([], 1)


@pytest.mark.parametrize("order", ["ended added", "added ended", "added", "ended added added ended", "begun added"])
def test_evidence_that_came_later(spool: Spool, order: str) -> None:
    """What became known of an end after it was kept is part of it in the store, whichever comes first."""
    run, end = new_run(spool.project, TOKEN), ending(Rank.OWNER, settled_by="wrap", evidence={"source": "waitpid"})
    more = end.replaced(evidence={"source": "waitpid", "left": [{"pid": 1}]})
    for kind in order.split():
        if kind == "added":
            files.keep(run, more, added=True)
        else:
            files.keep(run, None if kind == "begun" else end)
        assert apply_spooled().troubles == []
    ((evidence,),) = rows(spool.project, "SELECT evidence FROM run_ending")
    assert json.loads(evidence) == more.evidence
    assert (spool.tokens(), files.waiting()) == ([TOKEN], [])


def test_one_file_does_not_stop_the_others(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file runs into with the junk of its store puts it aside; those behind it, and other stores', go on."""
    spool.keep()
    spool.keep(OTHER)
    adopt = recording.adopt_run

    def stumble(connection: Any, run: NewRun, end: Any) -> int:
        if run.token == TOKEN:
            raise TypeError("'list' object is not a mapping")
        return adopt(connection, run, end)

    monkeypatch.setattr(recording, "adopt_run", stumble)
    applied = apply_spooled()
    assert [TOKEN in str(trouble) for trouble in applied.troubles] == [True]
    assert (applied.files, spool.tokens(), files.waiting()) == (1, [OTHER], [])


def test_store_replaced_meanwhile(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has gone into a file that another stands in place of by then is brought there, too."""
    adopt, folder = recording.adopt_run, spool.project / ".agent-yes"

    def adopt_and_replace(*args: Any) -> int:
        made = adopt(*args)
        if not folder.with_name("old").exists():
            folder.rename(folder.with_name("old"))
            open_for_writing(str(spool.project))[0].close()
        return made

    monkeypatch.setattr(recording, "adopt_run", adopt_and_replace)
    spool.keep()
    (trouble,) = apply_spooled().troubles
    assert ("is being replaced" in str(trouble), spool.tokens()) == (True, [])
    assert (apply_spooled().troubles, spool.tokens(), files.waiting()) == ([], [TOKEN], [])


@pytest.mark.parametrize("ended", [False, True])
def test_run_that_the_original_has_deleted(spool: Spool, ended: bool) -> None:
    """A run that is deleted without what we know of it, as under Bun, is brought whole, as if it were not known."""
    spool.keep(ended=False)
    apply_spooled()
    execute(spool.project, "PRAGMA foreign_keys = OFF", "DELETE FROM runs")
    spool.keep(ended=ended)
    assert apply_spooled().troubles == []
    found = rows(spool.project, "SELECT status, token FROM runs JOIN run_process ON run_id = id")
    assert found == [("crashed" if ended else "running", TOKEN)]
    assert rows(spool.project, "SELECT count(*) FROM run_process") == [(1,)]


def test_owners_word_stays(spool: Spool) -> None:
    """An end that its owner has recorded is not written again."""
    spool.keep()
    apply_spooled()
    execute(spool.project, "UPDATE run_ending SET evidence = 'as it was'")
    spool.keep()
    assert apply_spooled().files == 1
    assert rows(spool.project, "SELECT evidence FROM run_ending") == [("as it was",)]


@pytest.mark.parametrize("rank", [Rank.INFERENCE, Rank.KERNEL])
def test_owners_word_wins(spool: Spool, rank: Rank) -> None:
    """An end that somebody else has settled meanwhile gives way to the owner's."""
    spool.keep(ended=False)
    apply_spooled()
    execute(spool.project, "UPDATE runs SET status = 'failed'", "PRAGMA foreign_keys = OFF")
    execute(
        spool.project,
        "INSERT INTO run_ending (run_id, status, ended_at, cause, rank, settled_by, detected_at)"
        f" VALUES (1, 'failed', 1, 'stopped', {int(rank)}, 'daemon', 1)",
    )
    spool.keep()
    apply_spooled()
    assert rows(spool.project, "SELECT runs.status, cause, rank FROM runs JOIN run_ending") == [
        (RunStatus.CRASHED, Cause.LOST, Rank.OWNER)
    ]


def test_commits_are_on_the_disk_before_the_file_goes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file is removed only after a commit that outlives a power cut."""
    spool.keep()
    asked: list[bool] = []

    def open_and_note(directory: str, **options: Any) -> Any:
        connection, schema = open_for_writing(directory, **options)
        asked.append(connection.execute("PRAGMA synchronous").fetchone() == (2,))
        return connection, schema

    monkeypatch.setattr("supervisor.spool.applying.open_for_writing", open_and_note)
    monkeypatch.setattr(files, "remove", lambda _name: asked.append(spool.tokens() == [TOKEN]))
    apply_spooled()
    assert asked == [True, True]


def test_daemon_tries_again(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon looks when the folder changes, tries again while something waits, and says so once."""
    now = [0.0]
    watch = SpoolWatch(lambda: now[0])
    watch.take()
    spool.keep()
    (spool.project / ".agent-yes").write_text("mine")
    for _ in range(20):
        watch.take()
        now[0] += 0.1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    (spool.project / ".agent-yes").unlink()
    now[0] += 60
    watch.take()
    assert spool.tokens() == [TOKEN]


def test_daemon_tries_again_at_once_when_a_store_changes(spool: Spool) -> None:
    """What waits for a store is tried again soon after that changes, and not sooner for others."""
    now = [0.0]
    watch = SpoolWatch(lambda: now[0])

    def tries_in() -> float:
        assert watch.due is not None
        return watch.due - now[0]

    spool.keep()
    (spool.project / ".agent-yes").write_text("mine")
    watch.take()
    while tries_in() < 1:  # the folder counts as just changed for a while
        now[0] += tries_in()
        watch.take()
    watch.hurry("/another")
    assert tries_in() >= 1
    watch.hurry(str(spool.project))
    assert tries_in() < 1
    (spool.project / ".agent-yes").unlink()
    now[0] += tries_in()
    watch.take()
    assert (watch.due, spool.tokens()) == (None, [TOKEN])


def test_daemon_outlives_a_bug(spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong with the spool the daemon goes on, and logs it once."""

    def boom(**_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("supervisor.daemon.spooled.apply_spooled", boom)
    now = [0.0]
    watch = SpoolWatch(lambda: now[0])
    for _ in range(3):
        spool.keep(os.urandom(16).hex())
        now[0] += 100
        watch.take()
    assert len(caplog.records) == 1
