"""What a word names, and what is read of many stores at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kit import Original, Processes, dead_pid, rows
from stores import execute, place

from supervisor import db, registry
from supervisor.errors import NotFound, StoreDamaged, StoreRefused
from supervisor.models import RunStatus
from supervisor.process.judge import State
from supervisor.views import (
    find_project,
    find_project_view,
    find_run,
    known_directories,
    projects_of,
    runs_of,
    short_names,
    trouble_of,
)

NOBODY = 3_999_999
"""A pid that no row of these tests has by chance."""


def open_project(directory: Path) -> db.Project:
    """Make a project with a store of its own, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    db.get_db(directory)
    return db.upsert_project(str(directory), "claude")


def ended_run(project: db.Project, pid: int = NOBODY, status: str = "completed", code: int = 0) -> int:
    """Record a run that has ended in the store of the last opened project; return its id."""
    run = db.create_run(pid, project.id, [])
    db.update_run_status(run.id, status, code)
    return run.id


def spoil(directory: Path, page: int = 1) -> None:
    """Put noise in the place of one page of a store."""
    db.close_db()
    with (directory / ".agent-yes" / "store.sqlite").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"no page of a database" * 195)


@pytest.fixture
def shops(project: Path, tmp_path: Path) -> dict[str, Path]:
    """Give the test three projects whose names are alike, each with one ended run; it stands in none of them."""
    shops = {name: tmp_path / name for name in ("a/shop", "b/shop", "b/my#shop")}
    for directory in shops.values():
        ended_run(open_project(directory))
    return shops


@pytest.mark.parametrize(
    ("directories", "names"),
    [
        (["/w/a"], ["a"]),
        (["/w/a", "/w/b"], ["a", "b"]),
        (["/w/x/a", "/w/y/a"], ["x/a", "y/a"]),
        (["/w/a", "/w/b/a"], ["w/a", "b/a"]),
        (["/a", "/b/a"], ["/a", "b/a"]),
        (["/w/ba", "/w/a"], ["ba", "a"]),
        (["/"], ["/"]),
        (["/", "/w"], ["/", "w"]),
        ([], []),
    ],
)
def test_short_names(directories: list[str], names: list[str]) -> None:
    """A directory's short name is the shortest tail of its path, of whole names, that no other one ends with."""
    assert short_names(directories) == dict(zip(directories, names, strict=True))


def test_short_names_of_many() -> None:
    """Every one of thousands of directories has a name that is its own."""
    directories = [f"/srv/{number % 7}/customers/{number % 100}/app{number}/src" for number in range(3000)]
    names = short_names(directories)
    assert len(set(names.values())) == 3000
    assert names["/srv/1/customers/1/app1/src"] == "app1/src"


def test_run_by_its_id_here(project: Path) -> None:
    """A bare number is an id in the store of the current directory."""
    here = open_project(project)
    ended_run(here)
    assert ended_run(here) == 2
    for word in ("2", "#2"):
        view = find_run(word)
        assert (view.directory, view.name, view.detail.run.id, view.verdict) == (str(project), "project", 2, None)


def test_newest_run_here(project: Path) -> None:
    """A dot is the newest run of the current directory, whatever its id."""
    here = open_project(project)
    first, second = ended_run(here), ended_run(here)
    assert find_run(".").detail.run.id == second
    execute(project, f"UPDATE runs SET started_at = started_at + 60 WHERE id = {first}")
    assert find_run(".").detail.run.id == first


@pytest.mark.parametrize(
    ("word", "where"), [("a/shop#1", "a/shop"), ("b/shop#1", "b/shop"), ("my#shop#1", "b/my#shop")]
)
def test_run_by_short_name(shops: dict[str, Path], word: str, where: str) -> None:
    """PROJECT#ID is a run of the project with that tail, also where its name has a # itself."""
    view = find_run(word)
    assert (view.directory, f"{view.name}#{view.detail.run.id}") == (str(shops[where]), word)


def test_run_by_path(shops: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PROJECT may be a path, absolute or from here, with or without a last slash."""
    assert find_run(f"{shops['a/shop']}#1").directory == str(shops["a/shop"])
    monkeypatch.chdir(tmp_path / "a")
    assert find_run("./shop#1").directory == str(shops["a/shop"])
    assert find_run("../b/my#shop/#1").directory == str(shops["b/my#shop"])
    assert find_run("../b/shop#.").directory == str(shops["b/shop"])


def test_run_in_an_unknown_store(project: Path, home: Path, tmp_path: Path) -> None:
    """A store need not be registered to be read by its path."""
    with Original(tmp_path) as original:
        original.create_run(NOBODY)
    assert find_run(f"{tmp_path}#1").detail.run.pid == NOBODY


@pytest.mark.parametrize(
    "word",
    ["x", "-1", "9" * 30, "#", "", "1.5", " 1", "\u0661", "pid", "PID:1", "shop#", "shop#x", "shop#-1", "shop#pid:1"],
)
def test_words_that_name_no_run(project: Path, word: str) -> None:
    """A word of another form is refused, and the forms are told."""
    with pytest.raises(NotFound, match=r"names no run; give an id, PROJECT#ID, pid:N, or \."):
        find_run(word)


@pytest.mark.parametrize("word", ["pid:", "pid:x", "pid:-1", "pid:1.5", "pid:" + "9" * 30])
def test_words_that_name_no_process(project: Path, word: str) -> None:
    """What follows pid: must be a number that can be one."""
    with pytest.raises(NotFound, match=r"names no process; give pid:N"):
        find_run(word)


def test_run_that_is_not_there(shops: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not exist, a project without a store, and one that nobody knows, each say what to do."""
    with pytest.raises(NotFound, match=r"there is no run 99 in .*/a/shop; see: agent-yes-supervise runs list"):
        find_run("a/shop#99")
    for word in ("1", "."):
        with pytest.raises(NotFound, match=r"there are no runs in .*/project; name one by PROJECT#ID"):
            find_run(word)
    with pytest.raises(NotFound, match=r"'nowhere' is no known project; see: agent-yes-supervise projects list"):
        find_run("nowhere#1")
    open_project(Path.cwd())
    with pytest.raises(NotFound, match=r"there is no run yet in .*/project"):
        find_run(".")


def test_run_by_the_pid_of_its_process(shops: dict[str, Path], processes: Processes) -> None:
    """pid:N is the run whose process is alive with that pid, in whatever store; ended ones with it do not matter."""
    pid = processes.living().pid
    project = open_project(shops["b/shop"])
    ended_run(project, pid)
    alive = db.create_run(pid, project.id)
    view = find_run(f"pid:{pid}")
    assert (view.directory, view.detail.run.id) == (str(shops["b/shop"]), alive.id)
    assert view.verdict is not None
    assert view.verdict.state is State.ALIVE


def test_run_by_the_pid_that_it_had(shops: dict[str, Path]) -> None:
    """pid:N is the only ended run that had it, where none runs with it."""
    run_id = ended_run(open_project(shops["b/shop"]), 4_111_111)
    assert find_run("pid:4111111").detail.run.id == run_id


def test_run_by_a_pid_that_several_had(shops: dict[str, Path]) -> None:
    """Several runs with a pid are an error that lists them, by names that each name one."""
    with pytest.raises(NotFound, match=f"several runs had pid {NOBODY}: .*; name one of them") as caught:
        find_run(f"pid:{NOBODY}")
    listed = caught.value.message.partition(": ")[2].split(", ")
    assert sorted(listed) == ["a/shop#1", "b/shop#1", "my#shop#1"]
    assert {find_run(name).directory for name in listed} == {str(path) for path in shops.values()}


def test_a_list_of_matches_has_an_end(project: Path) -> None:
    """Very many matches are not all listed: the error stays one line."""
    here = open_project(project)
    for _ in range(25):
        ended_run(here)
    with pytest.raises(NotFound, match=r"#16 and 15 more; name one"):
        find_run(f"pid:{NOBODY}")


def test_run_by_a_pid_that_none_had(shops: dict[str, Path]) -> None:
    """A pid of no run says so; while a store cannot be read, nothing is claimed about it."""
    with pytest.raises(NotFound, match="no known run has pid 5"):
        find_run("pid:5")
    spoil(shops["a/shop"])
    with pytest.raises(NotFound, match=r"no run with pid 5 in the stores that can be read; see: .* stores list"):
        find_run("pid:5")


def test_project_by_tail_or_path(shops: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A project is named by any tail of its path that is its own, or by its path."""
    assert find_project("a/shop") == str(shops["a/shop"])
    assert find_project("my#shop/") == str(shops["b/my#shop"])
    assert find_project(str(shops["b/shop"])) == str(shops["b/shop"])
    monkeypatch.chdir(shops["b/shop"])
    assert find_project(".") == str(shops["b/shop"])
    link = tmp_path / "link"
    link.symlink_to(shops["a/shop"])
    assert find_project(str(link)) == str(shops["a/shop"])


def test_project_that_is_not_one(shops: dict[str, Path]) -> None:
    """A tail of several projects lists them; half a name, or an absolute path of nothing, names none."""
    with pytest.raises(NotFound, match=r"'shop' names several projects: .*/a/shop, .*/b/shop; give more of the path"):
        find_project("shop")
    for word in ("hop", "/shop", "/a/shop", "a", "shop/a"):
        with pytest.raises(NotFound, match="is no known project"):
            find_project(word)


def test_project_of_a_moved_directory(shops: dict[str, Path], tmp_path: Path) -> None:
    """A project whose directory has been moved is found where its store is now, and by the path that it had."""
    db.close_db()
    moved = tmp_path / "moved"
    shops["a/shop"].rename(moved)
    registry.add(str(moved), registry.Origin.ADDED)
    for word in ("moved", str(moved)):
        assert find_project_view(word).summary.project.dir == str(shops["a/shop"])
    shutil.rmtree(moved / ".agent-yes")
    with pytest.raises(NotFound):
        find_project_view("moved")


def test_project_kept_in_another_store(project: Path) -> None:
    """A project whose own store is nowhere is named by its path or a tail of it, in the store that keeps it."""
    open_project(project)
    db.upsert_project("/old/place/shed", "codex")
    for word in ("/old/place/shed", "place/shed", "shed"):
        view = find_project_view(word)
        assert (view.directory, view.summary.project.cmd) == (str(project), "codex")
    assert find_project_view(None).summary.project.dir == str(project)


def test_store_of_several_strangers(project: Path) -> None:
    """A store that keeps several projects, none of its own directory, lists them."""
    db.get_db(project)
    for name in ("one", "two"):
        db.upsert_project(f"/old/{name}", "codex")
    with pytest.raises(NotFound, match=r"names several projects: /old/\w+, /old/\w+; give the path of one"):
        find_project_view(None)


def test_copies_of_a_store(project: Path, tmp_path: Path) -> None:
    """A project that several stores keep is told by the stores' directories."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        db.get_db(tmp_path / name)
        db.upsert_project("/old/shed", name)
    with pytest.raises(NotFound, match=r"'shed' names several projects: .*/one, .*/two; give the path of one"):
        find_project_view("shed")
    assert find_project_view("two").summary.project.cmd == "two"


def test_known_directories(shops: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known are the registered stores, by their real paths, and the one here; also where here has been removed."""
    known = sorted(str(directory) for directory in shops.values())
    assert known_directories() == known
    original = tmp_path / "original"
    original.mkdir()
    Original(original).close()
    monkeypatch.chdir(original)
    assert known_directories() == sorted([*known, str(original)])
    shutil.rmtree(original)
    assert known_directories() == known


def test_removed_current_directory(shops: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that has been removed only what is relative to it is refused."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for word in ("1", "./x#1"):
        with pytest.raises(NotFound, match="the current directory has been removed; go to one that exists"):
            find_run(word)
    assert find_run(f"{shops['a/shop']}#1").detail.run.id == 1


def test_unreadable_stores_hide_no_others(shops: dict[str, Path], tmp_path: Path) -> None:
    """A damaged store and a symbolic link are told, a missing store is passed over, and the rest is shown."""
    damaged, linked, missing = (shops[name] for name in ("a/shop", "b/shop", "b/my#shop"))
    good = tmp_path / "good"
    ended_run(open_project(good))
    spoil(damaged)
    (linked / ".agent-yes").rename(tmp_path / "elsewhere")
    (linked / ".agent-yes").symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(missing / ".agent-yes")
    overview = runs_of(known_directories())
    assert [view.directory for view in overview.runs] == [str(good)]
    assert [type(trouble) for trouble in overview.troubles] == [StoreDamaged, StoreRefused]
    found, troubles = projects_of(known_directories())
    assert [view.directory for view in found] == [str(good)]
    assert [trouble.message for trouble in troubles] == [trouble.message for trouble in overview.troubles]


def test_store_that_spoils_while_it_is_read(shops: dict[str, Path]) -> None:
    """A store whose tables turn out damaged after it was opened is told like one that cannot be opened."""
    ((page,),) = rows(shops["a/shop"], "SELECT rootpage FROM sqlite_master WHERE name = 'runs'")
    spoil(shops["a/shop"], page=page)
    assert trouble_of(str(shops["a/shop"])) is None
    overview = runs_of(known_directories())
    assert len(overview.runs) == 2
    assert "is damaged" in overview.troubles[0].message


def test_runs_across_stores_are_ordered_and_limited(shops: dict[str, Path]) -> None:
    """Runs of several stores are merged newest first, whatever unit a start has, and the limit is theirs together."""
    starts = {"a/shop": 1_795_000_000, "b/shop": 1_795_000_002_000, "b/my#shop": 1_795_000_001}
    for name, start in starts.items():
        execute(shops[name], f"UPDATE runs SET started_at = {start}")
    overview = runs_of(known_directories(), limit=2)
    assert [view.name for view in overview.runs] == ["b/shop", "my#shop"]
    assert overview.more
    assert not runs_of(known_directories(), limit=3).more
    assert not runs_of(known_directories()).more


def test_verdicts_are_given_for_running_rows_only(project: Path, processes: Processes) -> None:
    """A running row has the verdict on its process; an ended one has none and may not run, whoever has its pid now."""
    here, pid = open_project(project), processes.living().pid
    ended_run(here, pid)
    db.create_run(pid, here.id)
    db.create_run(dead_pid(), here.id)
    dead, alive, ended = runs_of([str(project)]).runs
    assert [view.verdict and view.verdict.state for view in (ended, alive, dead)] == [None, State.ALIVE, State.DEAD]
    assert [view.may_run for view in (ended, alive, dead)] == [False, True, False]


def test_run_that_ends_while_it_is_looked_at(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is settled between two reads is shown as ended, never as running."""
    here = open_project(project)
    run = db.create_run(dead_pid(), here.id)
    from supervisor.store.supervision import SupervisedStore

    claims = SupervisedStore.running_claims

    def settled_meanwhile(store: SupervisedStore) -> object:
        found = claims(store)
        db.update_run_status(run.id, "failed", 3)
        return found

    monkeypatch.setattr(SupervisedStore, "running_claims", settled_meanwhile)
    (view,) = runs_of([str(project)]).runs
    assert (view.detail.run.status, view.verdict) == (RunStatus.FAILED, None)


def test_run_that_begins_while_others_are_looked_at(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins between two reads has no verdict yet, and may run."""
    here = open_project(project)
    from supervisor.store.supervision import SupervisedStore

    def begun_meanwhile(store: SupervisedStore) -> list[object]:
        db.create_run(NOBODY, here.id)
        return []

    monkeypatch.setattr(SupervisedStore, "running_claims", begun_meanwhile)
    (view,) = runs_of([str(project)]).runs
    assert view.verdict is None
    assert view.may_run
    assert projects_of([str(project)])[0][0].unsettled == 0


def test_projects_count_the_dead(project: Path, processes: Processes) -> None:
    """A project's running rows of dead processes are counted apart, each with its own project."""
    here = open_project(project)
    other = db.upsert_project("/old/shed", "codex")
    db.create_run(processes.living().pid, here.id)
    for owner in (here, other, other):
        db.create_run(dead_pid(), owner.id)
    found, _ = projects_of([str(project)])
    assert {view.summary.project.id: (view.summary.counts["running"], view.unsettled) for view in found} == {
        here.id: (2, 1),
        other.id: (2, 2),
    }


def test_reading_makes_no_store(project: Path) -> None:
    """Looking at a directory without a store makes none, and finds nothing."""
    assert runs_of([str(project)]).runs == []
    assert projects_of([str(project)]) == ([], [])
    assert list(project.iterdir()) == []


def test_odd_rows_are_judged_and_named(project: Path) -> None:
    """Rows with junk in any column are read, judged unknown, and can be named like others."""
    place("bun-866ebbb-odd", project)
    views = runs_of([str(project)]).runs
    assert len(views) == 19
    running = [view for view in views if view.detail.run.status is RunStatus.RUNNING]
    assert {view.verdict.state for view in running if view.verdict} == {State.UNKNOWN}
    assert all(find_run(str(view.detail.run.id)).key == view.key for view in views)
