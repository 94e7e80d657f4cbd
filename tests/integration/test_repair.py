"""``stores repair``: what can be read of a damaged store goes into a new one, and nothing else is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon
from damage import DAMAGES, FIRST_PID, all_rows, filled, half_checkpointed, junk_page, leaf_of, root_of, with_wal
from kit import LIVES, Ask, Original, Processes, rows, run_ours, wait_until
from nursery import Nursery, linux
from stores import FIXTURES, NEWER, execute, place

from supervisor import registry
from supervisor.errors import StoreBusy, StoreDamaged, StoreError, StoreMissing, StoreRefused
from supervisor.registry import Origin
from supervisor.spool import files
from supervisor.store import repair as repairing
from supervisor.store.connection import open_for_writing
from supervisor.store.pages import Pages, Row
from supervisor.store.repair import is_under_repair, marker, repair
from supervisor.store.salvage import LOST, Salvage
from supervisor.store.store import Store

IGNORED: list[str] = []


def mend(project: Path) -> repairing.Repaired:
    """Repair the store of a project."""
    return repair(str(project), dry=False, tell=IGNORED.append)


def is_whole(file: Path) -> bool:
    """Tell whether SQLite finds nothing wrong with a database, its indexes and keys included."""
    connection = sqlite3.connect(file)
    try:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        return found == [("ok",)] and not connection.execute("PRAGMA foreign_key_check").fetchall()
    finally:
        connection.close()


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what the files of a folder hold."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a filled store's folder, made once."""
    project = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as context:
        context.setenv("HOME", str(project))
        return filled(project).parent


@pytest.fixture
def store(model: Path, project: Path) -> Path:
    """Give the project a copy of it, and return its file."""
    shutil.copytree(model, project / ".agent-yes")
    return project / ".agent-yes" / "store.sqlite"


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_be_read_is_saved(project: Path, store: Path, damage: str) -> None:
    """Every row that is saved is as it was, or says what it has lost; runs known by indexes and stamps come back."""
    before = all_rows(store)
    DAMAGES[damage](store)
    content = store.read_bytes()
    done = mend(project)
    assert is_whole(store)
    assert store.stat().st_mode & 0o777 == 0o600
    assert done.aside is not None
    assert Path(done.aside).read_bytes() == content
    after, partial = all_rows(store), 0
    for table, saved in after.items():
        for run_id, row in saved.items():
            if row == before[table].get(run_id):
                continue
            assert (table, run_id) in {("runs", run_id), ("projects", 1), ("projects", 2)}
            if table == "projects":  # known by its index, or by the store's own place
                assert row[1] == before[table][run_id][1]
                continue
            partial += 1
            pid, project_id, status = before[table][run_id][1:4]
            assert row[1:4] == (pid, project_id, status)
            assert json.loads(row[7]) == [LOST]
    assert (len(after["runs"]), partial) == (done.salvaged.runs, done.salvaged.partial)
    assert after["run_process"].keys() | after["run_ending"].keys() <= after["runs"].keys()
    if damage not in {"nearly all", "the end", "the middle"}:
        assert len(after["runs"]) == 300, "each is known by something"
        assert after["run_process"] == before["run_process"] or "processes" in damage
    with Store(str(project)) as opened:
        assert opened.create_run(1, 1).id > max(before["runs"] if damage != "nearly all" else [0])


def test_a_broken_index_costs_nothing(project: Path, store: Path) -> None:
    """Where only indexes are broken every row is saved as it was."""
    before = all_rows(store)
    DAMAGES["two indexes"](store)
    done = mend(project)
    assert all_rows(store) == before
    assert (done.salvaged.partial, done.salvaged.lost) == (0, 0)


@pytest.mark.parametrize("damage", ["the header", "the first page", "the root of runs"])
def test_rows_that_no_tree_leads_to_are_found(project: Path, store: Path, damage: str) -> None:
    """Where the way to the rows is lost, every row is found on its page."""
    before = all_rows(store)
    DAMAGES[damage](store)
    mend(project)
    after = all_rows(store)
    assert {table: found for table, found in after.items() if table != "projects"} == {
        table: found for table, found in before.items() if table != "projects"
    }


@pytest.mark.parametrize("damage", ["the root of runs", "the header"])
def test_a_deleted_run_does_not_come_back(project: Path, store: Path, damage: str) -> None:
    """What was deleted stays so while the indexes are whole, though its pages, or its supervision rows, are there."""
    execute(
        project,
        "PRAGMA secure_delete = OFF",  # as SQLite itself has it; some builds have it on
        "CREATE TABLE gone (id INTEGER PRIMARY KEY, pid, project_id, status, exit_code, started_at, ended_at, args)",
        "INSERT INTO gone SELECT id + 1000, pid, project_id, status, exit_code, started_at, ended_at, args FROM runs",
        "DROP TABLE gone",  # what stands on its pages stays there
    )
    with Store(str(project)) as opened:
        for run_id in range(20, 280):
            opened.delete_run(run_id)
    execute(
        project,
        "DELETE FROM projects WHERE dir = '/elsewhere'",  # so that nobody doubts whose the orphans were
        "PRAGMA foreign_keys = OFF",  # as the original has it under Bun
        "DELETE FROM runs WHERE id > 290",
    )
    before = all_rows(store)
    DAMAGES[damage](store)
    done = mend(project)
    after = all_rows(store)
    assert after["runs"].keys() == before["runs"].keys()
    assert after["run_process"].keys() == after["runs"].keys()
    assert done.salvaged.lost == 0


@pytest.fixture
def with_a_wal(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """Give the project a store whose newer half is in its WAL only, and return its file."""
    return with_wal(tmp_path_factory.mktemp("source"), project, 200)


def test_the_wal_is_read(project: Path, with_a_wal: Path) -> None:
    """What is committed in the WAL only is saved, and both files are set aside."""
    content = with_a_wal.with_name("store.sqlite-wal").read_bytes()
    junk_page(with_a_wal, leaf_of(with_a_wal, "runs", 0))
    with_a_wal.with_name("store.sqlite-wal").write_bytes(content)
    done = mend(project)
    assert done.aside is not None
    assert Path(f"{done.aside}-wal").read_bytes() == content
    assert not with_a_wal.with_name("store.sqlite-wal").exists()
    assert all_rows(with_a_wal)["runs"].keys() == set(range(1, 201))
    assert 0 < done.salvaged.partial < 60


def test_an_empty_file_with_a_wal(project: Path, with_a_wal: Path) -> None:
    """Of a file that is empty, the rows in its WAL are saved: SQLite itself would delete that."""
    os.truncate(with_a_wal, 0)
    done = mend(project)
    assert done.damage == "the file is empty, but its WAL is not"
    saved = all_rows(with_a_wal)["runs"].keys()
    assert set(range(110, 201)) <= saved


def test_a_wal_that_is_lost_half_way(project: Path, with_a_wal: Path) -> None:
    """Where a WAL was deleted before it was wholly in the database, what its file has of both is saved."""
    half_checkpointed(with_a_wal)
    mend(project)
    assert is_whole(with_a_wal)
    assert set(range(1, 80)) <= all_rows(with_a_wal)["runs"].keys()


@pytest.mark.parametrize("place", [0, 40, 5000])
def test_a_garbled_wal_is_no_damage(project: Path, with_a_wal: Path, place: int) -> None:
    """A WAL is believed up to its first frame that makes no sense, as SQLite does; the store before it is whole."""
    wal = with_a_wal.with_name("store.sqlite-wal")
    content = bytearray(wal.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    wal.write_bytes(content)
    descriptor, other = os.open(with_a_wal, os.O_RDONLY), os.open(wal, os.O_RDONLY)
    try:
        ours = {row.rowid for number in range(1, 400) for row in leaf_rows(Pages(descriptor, other), number)}
    finally:
        os.close(descriptor)
        os.close(other)
    with pytest.raises(StoreError, match="is not damaged; there is nothing to repair"):
        mend(project)
    assert all_rows(with_a_wal)["runs"].keys() == ours


def leaf_rows(pages: Pages, number: int) -> list[Row]:
    """Return the runs on a page."""
    from supervisor.store.salvage import _looks_like

    if number >= pages.count or pages.kind(number) != 0x0D:
        return []
    return [row for row in pages.rows(number) if row is not None and _looks_like(row) == "runs"]


@pytest.mark.parametrize("name", FIXTURES)
def test_stores_of_the_original_are_read_as_sqlite_reads_them(project: Path, name: str) -> None:
    """Of a whole store of the original every row is read just as SQLite does, junk and a frozen start included."""
    file = place(name, project)
    descriptor, wal = os.open(file, os.O_RDONLY), file.with_name("store.sqlite-wal")
    log = os.open(wal, os.O_RDONLY) if wal.exists() else None
    other = project / "other"
    other.mkdir()
    try:
        salvage = Salvage(Pages(descriptor, log))
        (other / ".agent-yes").mkdir()
        connection = sqlite3.connect(other / ".agent-yes" / "store.sqlite")
        for sql in salvage.seed_schema():
            connection.execute(sql)
        connection.close()
        connection, made = open_for_writing(str(other))
        salvage.bring_into(connection, str(other))
        connection.close()
    finally:
        os.close(descriptor)
        if log is not None:
            os.close(log)
    connection, before = open_for_writing(str(project))
    connection.close()
    assert made.frozen_started_at == before.frozen_started_at
    assert all_rows(other / ".agent-yes" / "store.sqlite") == all_rows(file)


def test_columns_and_tables_of_others(project: Path, store: Path) -> None:
    """Columns that others have added are kept with their values; their tables are left, and named."""
    execute(
        project,
        "ALTER TABLE runs ADD COLUMN note TEXT",
        "UPDATE runs SET note = 'n' || id WHERE id > 100",
        "CREATE TABLE notes (text)",
    )
    junk_page(store, root_of(store, "idx_runs_pid"))
    assert mend(project).salvaged.others == ["notes"]
    found = dict(rows(project, "SELECT id, note FROM runs"))
    assert (found[100], found[101]) == (None, "n101")


def test_a_hostile_schema_runs_nothing(project: Path, store: Path) -> None:
    """A table whose text makes more than a table is salvaged by the usual columns, and its text is not run."""
    before = all_rows(store)
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE runs AS SELECT 1 AS id' WHERE name = 'runs'")
    connection.close()
    mend(project)
    assert all_rows(store) == before


def test_dry_changes_nothing(project: Path, store: Path, ask: Ask) -> None:
    """Without --yes it is said what could be saved, and every file stays as it is."""
    junk_page(store, leaf_of(store, "runs", 1))
    assert is_damaged(project)
    before = bytes_of(store.parent)
    answer = ask("stores", "repair")
    assert answer.code == 0
    assert "can be saved: 2 projects, 300 runs, " in answer.out
    assert f"agent-yes-supervise stores repair --yes {project}" in answer.err
    after = bytes_of(store.parent)
    assert {name: after[name] for name in before if not name.endswith("-shm")} == {
        name: content for name, content in before.items() if not name.endswith("-shm")
    }
    assert not [name for name in after if any(word in name for word in ("repair", "corrupt", "new"))]


def test_the_command(project: Path, store: Path, ask: Ask) -> None:
    """With --yes it is done, and said where the damaged file is; a store that was trusted still is."""
    registry.add(str(project), Origin.CREATED)
    junk_page(store, leaf_of(store, "runs", 1))
    answer = ask("stores", "repair", str(project), "--yes")
    assert answer.code == 0
    assert "saved: 2 projects, 300 runs, " in answer.out
    (aside,) = store.parent.glob("store.sqlite.corrupt-*[0-9]")
    assert f"the damaged file is kept: {aside}" in answer.out
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.trusted
    again = ask("stores", "repair", "--yes")
    assert (again.code, again.out) == (1, "")
    assert "is not damaged; there is nothing to repair" in again.err


def test_json(project: Path, store: Path, ask: Ask) -> None:
    """As JSON, the same is data with stable keys."""
    junk_page(store, root_of(store, "idx_runs_pid"))
    found = ask("stores", "repair", "--json").json
    assert list(found) == ["dir", "damage", "aside", "projects", "runs", "partial", "lost", "others"]
    assert (found["aside"], found["runs"], found["lost"]) == (None, 300, 0)


def test_what_is_not_repaired(project: Path, store: Path, tmp_path: Path) -> None:
    """A whole, an empty, a missing, a refused and a newer store are left alone, each with its reason."""
    with pytest.raises(StoreError, match="is not damaged"):
        mend(project)
    with pytest.raises(StoreMissing):
        mend(tmp_path)
    execute(project, *NEWER)
    junk_page(store, root_of(store, "idx_runs_pid"))
    with pytest.raises(StoreError, match="newer version"):
        mend(project)
    store.write_bytes(b"")
    with pytest.raises(StoreError, match="is empty, not damaged"):
        mend(project)
    store.rename(project / "real")
    store.symlink_to(project / "real")
    with pytest.raises(StoreRefused):
        mend(project)
    assert not list(store.parent.glob("*corrupt*"))


def holder(processes: Processes, code: str, path: Path | str) -> subprocess.Popen[str]:
    """Start a process that runs some code on a path and then lives on."""
    program = f"import sys; {code}; {LIVES}"
    process = processes.python(program, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_an_open_store_is_not_repaired(
    project: Path, store: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as another has the store open, in use or not, nothing is done, and the other is named."""
    monkeypatch.setattr(repairing, "PATIENCE", 0.1)
    junk_page(store, leaf_of(store, "runs", 1))
    before = store.read_bytes()
    uses = "import sqlite3; kept = sqlite3.connect(sys.argv[1]); kept.execute('SELECT 1 FROM projects').fetchall()"
    for holds in (uses, "kept = open(sys.argv[1])"):
        other = holder(processes, holds, store)
        with pytest.raises(StoreBusy, match=rf"is open in \S+ \(pid {other.pid}\); end that first"):
            mend(project)
        other.kill()
        other.wait()
    assert store.read_bytes() == before
    mend(project)
    assert is_whole(store)


def test_one_repair_at_a_time(project: Path, store: Path, processes: Processes) -> None:
    """A store is repaired by one at a time; the marker of a repair that was killed is in nobody's way."""
    junk_page(store, leaf_of(store, "runs", 1))
    Path(marker(str(project))).touch()
    (store.parent / "store.sqlite.new-left").mkdir()
    assert not is_under_repair(str(project))
    locks = "import fcntl; kept = open(sys.argv[1]); fcntl.flock(kept, fcntl.LOCK_EX)"
    other = holder(processes, locks, marker(str(project)))
    assert is_under_repair(str(project))
    with pytest.raises(StoreBusy, match="is being repaired already"):
        mend(project)
    other.kill()
    other.wait()
    mend(project)
    assert sorted(
        path.name.partition("corrupt")[0] for path in store.parent.iterdir() if path.name[-4:] not in ("-shm", "-wal")
    ) == [
        ".gitignore",
        "store.sqlite",
        "store.sqlite.",
    ]


def test_who_opens_it_too_late_is_waited_for(
    project: Path, store: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has opened the old file at the last moment cannot use it, is named, and is waited for."""
    junk_page(store, leaf_of(store, "runs", 1))
    put_in_place, late, told = repairing._put_in_place, list[subprocess.Popen[str]](), list[str]()

    def put_late(*args: object) -> str:
        late.append(holder(processes, "kept = open(sys.argv[1])", store))
        return put_in_place(*args)  # type: ignore[arg-type]  # as they came

    def tell(line: str) -> None:
        told.append(line)
        use = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT 1 FROM runs')"
        (aside,) = store.parent.glob("store.sqlite.corrupt-*[0-9]")
        found = processes.python(use, str(aside), stderr=subprocess.PIPE)
        assert "locked" in found.communicate(timeout=20)[1]
        late[0].kill()
        late[0].wait()

    monkeypatch.setattr(repairing, "_put_in_place", put_late)
    monkeypatch.setattr(repairing, "TELL_AFTER", 0.05)
    repair(str(project), dry=False, tell=tell)
    assert f"(pid {late[0].pid}) to close the old one" in told[0]
    assert is_whole(store)


def test_a_wait_that_is_cut_short_loses_nothing(
    project: Path, store: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C while others are waited for, the new store is trusted, and the damaged file has been named."""
    registry.add(str(project), Origin.ADDED)
    junk_page(store, leaf_of(store, "runs", 1))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repairing, "_wait_for_stragglers", interrupt)
    answer = ask("stores", "repair", "--yes")
    assert answer.code == 130
    (aside,) = store.parent.glob("store.sqlite.corrupt-*[0-9]")
    assert f"the damaged file is kept: {aside}" in answer.out
    entry = registry.get(str(project))
    assert entry is not None
    assert entry.trusted


class Cut:
    """A function of the system that fails the n-th time."""

    def __init__(self, real: Callable[..., object], number: int) -> None:
        self._real, self._number = real, number
        self.calls = 0

    def __call__(self, *args: object, **options: object) -> object:
        """Call the real one, or fail."""
        self.calls += 1
        if self.calls == self._number:
            raise OSError(5, "cut short")
        return self._real(*args, **options)


@pytest.mark.parametrize("call", ["link", "rename", "fsync", "fchmod", "unlink"])
def test_cut_short_nothing_is_lost(project: Path, store: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Wherever a repair is cut short, the damaged store or the new one stands there, and it can be done again."""
    junk_page(store, leaf_of(store, "runs", 1))
    content, number = store.read_bytes(), 0
    while True:
        cut = Cut(getattr(os, call), number + 1)
        with monkeypatch.context() as context:
            context.setattr(os, call, cut)
            try:
                mend(project)
            except OSError:
                number += 1
                kept = [store, *store.parent.glob("store.sqlite.corrupt-*")]
                assert content in [path.read_bytes() for path in kept]
                if not is_damaged(project):
                    return
                continue
        break
    assert number or call in {"unlink", "link"}  # a removed marker and a link can be done without
    assert is_whole(store)
    assert len(all_rows(store)["runs"]) == 300


def is_damaged(project: Path) -> bool:
    """Tell whether reading all runs meets damage."""
    try:
        with Store(str(project), read_only=True) as opened:
            opened.get_all_runs()
    except (StoreDamaged, sqlite3.DatabaseError):
        return True
    return False


_WRITER = """
import contextlib, json, os, pathlib, sqlite3, sys, time
done = []
print(flush=True)
project = pathlib.Path(sys.argv[1])
while not (done and (project / "enough").exists()):
    number = 10_000 * os.getpid() + len(done)
    try:
        with contextlib.closing(sqlite3.connect(project / ".agent-yes" / "store.sqlite", timeout=0.03)) as store:
            store.execute("INSERT INTO runs (pid, project_id, status) VALUES (?, 1, 'running')", [number])
            store.commit()
            done.append(number)
    except sqlite3.Error as error:
        print(error, file=sys.stderr)
    time.sleep(0.05)  # longer than each has the store open: a repair needs a moment when nobody has
print(json.dumps(done))
"""


def test_writers_meanwhile(project: Path, store: Path, processes: Processes) -> None:
    """Who writes with short connections while a store is repaired finds all its rows in the new one."""
    junk_page(store, leaf_of(store, "runs", 1))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [processes.python(_WRITER, str(project), **pipes) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    done = mend(project)
    (project / "enough").touch()
    assert done.aside is not None
    for writer in writers:
        out, err = writer.communicate(timeout=30)
        assert writer.returncode == 0, err
        written = json.loads(out)
        assert written
        assert not set(written) - {row[0] for row in rows(project, "SELECT pid FROM runs")}
    assert is_whole(store)


@linux
def test_the_daemon_goes_on(project: Path, tmp_path: Path, nursery: Nursery, processes: Processes) -> None:
    """The daemon looks after the other stores, and lets go of a damaged one for its repair."""
    other = tmp_path / "other"
    other.mkdir()
    store = filled(project, 120)
    execute(project, "UPDATE runs SET status = 'completed'")
    for directory in (project, other):
        registry.add(str(directory), Origin.ADDED)
    with Original(project) as damaged, Original(other) as healthy:
        first, second = nursery.spawn(2)
        runs = damaged.create_run(first), healthy.create_run(second)
    daemon = Daemon(processes, tmp_path / "daemon.log")
    daemon.watches((project, runs[0]), (other, runs[1]))
    junk_page(store, leaf_of(store, "runs", 0))
    nursery.end(second, -signal.SIGKILL)
    wait_until(lambda: rows(other, "SELECT status, exit_code FROM runs") == [("crashed", 137)])
    mend(project)
    nursery.end(first, -signal.SIGKILL)
    wait_until(lambda: rows(project, f"SELECT status, exit_code FROM runs WHERE id = {runs[0]}") == [("crashed", 137)])
    assert daemon.stop()[0] == 0


def test_the_rest_of_the_world_goes_on(project: Path, tmp_path: Path, store: Path, ask: Ask) -> None:
    """Until a store is repaired its runs are not known; all others are shown, with a line that names the remedy."""
    other = tmp_path / "other"
    other.mkdir()
    with Original(other) as healthy:
        healthy.create_run(os.getpid())
    for directory in (project, other):
        registry.add(str(directory), Origin.ADDED)
    store.write_bytes(b"no database any more" * 1000)
    remedy = f"is damaged (file is not a database); save what can be read: agent-yes-supervise stores repair {project}"
    for words in (("ls",), ("runs", "list", "--all"), ("projects", "list")):
        answer = ask(*words)
        assert answer.code == 0
        assert len(answer.lines) == 2
        assert remedy in answer.err
    for words in (("why", "1"), ("why", "project#1"), ("runs", "show", "."), ("projects", "show")):
        answer = ask(*words)
        assert (answer.code, answer.out) == (1, "")
        assert remedy in answer.err
    assert remedy.partition(" (")[0] in ask("stores", "list").out
    finding = next(one for one in ask("doctor", "--json").json if "is damaged" in one["text"])
    assert finding["remedy"].endswith(f"stores repair {project}")


def test_what_is_spooled_meanwhile_comes_in(project: Path, store: Path, ask: Ask) -> None:
    """A run under wrap whose store is damaged is kept, and is in the repaired store at the next look."""
    DAMAGES["the magic"](store)
    answer = run_ours("wrap", "--", "sh", "-c", "exit 3")
    assert answer.returncode == 3
    assert f"stores repair {project}" in answer.stderr
    assert ask("stores", "repair", "--yes").code == 0
    (run,) = ask("runs", "list", "--limit", "1", "--json").json
    assert (run["id"], run["exit_code"], run["cli"]) == (301, 3, "sh")


def test_wrap_lets_go_of_its_store(project: Path, store: Path, processes: Processes) -> None:
    """A store can be repaired while an agent runs under wrap; its end is recorded in the new one."""
    agent = processes.ours("wrap", "--", "cat", stdin=subprocess.PIPE)
    (run_id,) = wait_until(lambda: rows(project, "SELECT id FROM runs WHERE id > 300"))[0]
    junk_page(store, leaf_of(store, "runs", 0))
    mend(project)
    assert agent.stdin is not None
    agent.stdin.close()
    assert agent.wait(20) == 0
    assert rows(project, f"SELECT status, exit_code FROM runs WHERE id = {run_id}") == [("completed", 0)]
    assert rows(project, "SELECT pid FROM runs WHERE id = 1") == [(FIRST_PID,)]


INDEX = "sqlite_autoindex_run_process_1"
"""Where a run's token is looked up: damaged, the store can be opened, and takes nothing."""


def test_wrap_lets_go_of_a_store_that_does_not_take_its_run(
    project: Path, store: Path, processes: Processes, ask: Ask
) -> None:
    """The remedy that a wrapper names for a damaged store works while its agent runs."""
    junk_page(store, root_of(store, INDEX))
    agent = processes.ours("wrap", "--", "cat", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert agent.stderr is not None
    assert f"stores repair {project}" in agent.stderr.readline()
    assert ask("stores", "repair", "--yes").code == 0
    agent.communicate(timeout=20)
    assert agent.returncode == 0
    assert rows(project, "SELECT status, exit_code FROM runs WHERE id > 300") == [("completed", 0)]


def test_wrap_lets_go_of_a_store_that_does_not_take_its_end(
    project: Path, store: Path, processes: Processes, ask: Ask
) -> None:
    """So it does while the next try of a series runs, when the store has not taken the end of the one before."""
    once = "if [ -e again ]; then exec cat; fi; touch again; read line; exit 3"
    words = ("--restart", "on-failure", "--", "sh", "-c", once)
    agent = processes.ours("wrap", *words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert agent.stdin is not None
    assert agent.stderr is not None
    wait_until(lambda: (project / "again").exists() and not Path(f"{store}-wal").exists())
    junk_page(store, root_of(store, INDEX))
    agent.stdin.write("\n")
    agent.stdin.flush()
    assert f"stores repair {project}" in agent.stderr.readline()
    wait_until(lambda: len(files.waiting()) == 2)
    assert ask("stores", "repair", "--yes").code == 0
    agent.communicate(timeout=20)
    assert agent.returncode == 0
    ended = [("failed", 3), ("completed", 0)]
    assert rows(project, "SELECT status, exit_code FROM runs WHERE id > 300 ORDER BY id") == ended


def test_wrap_lets_go_of_its_store_after_a_request(project: Path, store: Path, processes: Processes) -> None:
    """An agent that takes its time to end when its own is over does so with its store free to be repaired."""
    agent = processes.ours(
        "wrap", "--timeout", "0.2", "--", "sh", "-c", "trap '' TERM; cat", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    request = "SELECT asked_for FROM run_process WHERE asked_for IS NOT NULL"
    wait_until(lambda: rows(project, request) == [("timeout",)])
    junk_page(store, leaf_of(store, "runs", 0))
    mend(project)
    agent.communicate(timeout=20)
    assert agent.returncode == 0
    assert rows(project, "SELECT status, exit_code FROM runs WHERE id > 300") == [("completed", 0)]
