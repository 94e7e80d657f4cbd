"""The registry: which stores are known, how they came to be, and that its loss stops nobody."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import platformdirs
import pytest
from kit import Original, Processes
from stores import place, race

from supervisor import paths, registry
from supervisor.errors import NotFound, StoreMissing
from supervisor.registry import Entry, Origin

ADDED, CREATED, FOUND = Origin.ADDED, Origin.CREATED, Origin.FOUND

ADDS = """
import json, sys
from supervisor import registry
print(flush=True)
sys.stdin.read()
for number in range(20):
    registry.add(f"{sys.argv[1]}/{number}", registry.Origin.FOUND)
print(json.dumps(None))
"""
"""A program that makes twenty stores known."""


@pytest.fixture
def store(project: Path) -> Path:
    """Give the test a store that is not known yet, and return its file."""
    return place("bun-866ebbb", project)


def files() -> list[Path]:
    """Return the registry's files."""
    return sorted(Path(paths.registry_dir()).iterdir())


def test_add(project: Path, store: Path) -> None:
    """A store is known by its project's real path, since now, and with the inode that its file has."""
    before = time.time()
    entry = registry.add(str(project), FOUND)
    assert (entry.dir, entry.origin, entry.inode) == (str(project), FOUND, store.stat().st_ino)
    assert before <= entry.added_at <= time.time()
    assert registry.entries() == [entry]
    assert registry.get(str(project)) == entry
    assert entry.exists


def test_entries(project: Path) -> None:
    """Known stores come by directory, one for each, however they were named."""
    assert registry.entries() == []
    for name in ("b", "a", "c"):
        (project / name).mkdir()
        (project / f"link to {name}").symlink_to(project / name)
        registry.add(str(project / f"link to {name}"), FOUND)
        registry.add(f"{project}/{name}/../{name}/", FOUND)
    assert [entry.dir for entry in registry.entries()] == [str(project / name) for name in "abc"]


def test_files_are_private(project: Path) -> None:
    """The state folder and the registry are their owner's alone, and hold one file per store and nothing else."""
    old = os.umask(0)
    try:
        registry.add(str(project), FOUND)
    finally:
        os.umask(old)
    (file,) = files()
    folders = [Path(paths.state_dir()), Path(paths.registry_dir())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (*folders, file)] == [0o700, 0o700, 0o600]
    assert file.suffix == ".json"
    assert json.loads(file.read_text())["dir"] == str(project)


def test_get_of_an_unknown_directory(project: Path) -> None:
    """A directory that is not known has no entry."""
    registry.add(str(project), FOUND)
    assert registry.get(str(project.parent)) is None


@pytest.mark.parametrize("before", list(Origin))
@pytest.mark.parametrize("after", list(Origin))
def test_the_stronger_origin_stays(project: Path, store: Path, before: Origin, after: Origin) -> None:
    """What a person added stays added, what we made is more than what was found; and weaker news change nothing."""
    strength = [FOUND, CREATED, ADDED]
    first = registry.add(str(project), before)
    second = registry.add(str(project), after)
    stronger = max(before, after, key=strength.index)
    assert second.origin == stronger
    assert (second == first) == (stronger == before)
    assert registry.get(str(project)) == second


@pytest.mark.parametrize(("origin", "trusted"), [(FOUND, False), (CREATED, True), (ADDED, True)])
def test_trust(project: Path, store: Path, origin: Origin, trusted: bool) -> None:
    """Stores that we made or a person added are trusted, those that were only found are not."""
    assert registry.add(str(project), origin).trusted is trusted


def test_trust_ends_with_the_file(project: Path, store: Path, tmp_path: Path) -> None:
    """Another file in the store's place is not trusted, nor is none; seeing it again says only that it was found."""
    entry = registry.add(str(project), ADDED)
    other = shutil.copyfile(store, tmp_path / "other")
    os.replace(other, store)
    assert not entry.trusted
    again = registry.add(str(project), FOUND)
    assert (again.origin, again.trusted) == (FOUND, False)
    assert registry.add(str(project), ADDED).trusted
    store.unlink()
    assert not registry.entries()[0].trusted
    assert not registry.entries()[0].exists


def test_nothing_is_not_trusted(project: Path) -> None:
    """An entry made where no store was is not trusted, whatever its origin, until a store is added there."""
    entry = registry.add(str(project), CREATED)
    assert (entry.inode, entry.trusted, entry.exists) == (None, False, False)
    place("bun-866ebbb", project)
    assert not entry.trusted
    assert registry.add(str(project), ADDED).trusted


def test_add_by_hand(project: Path, tmp_path: Path) -> None:
    """A person adds a store that is there; where there is none, the error says so and nothing is added."""
    Original(project).close()
    assert registry.add_by_hand(str(project)).origin is ADDED
    with pytest.raises(StoreMissing, match="there is no store in"):
        registry.add_by_hand(str(tmp_path))
    assert [entry.dir for entry in registry.entries()] == [str(project)]


def test_forget(project: Path, store: Path) -> None:
    """A forgotten store is not known any more, stays on disk, and cannot be forgotten twice."""
    registry.add(str(project), ADDED)
    registry.forget(str(project))
    assert registry.entries() == []
    assert store.is_file()
    with pytest.raises(NotFound, match="is not in the registry; see: agent-yes-supervise stores list"):
        registry.forget(str(project))


def test_a_store_that_is_gone_can_be_forgotten(project: Path, store: Path) -> None:
    """A store stays known when its directory is gone, and can be forgotten then."""
    gone = project / "gone"
    gone.mkdir()
    registry.add(str(gone), FOUND)
    gone.rmdir()
    assert [entry.exists for entry in registry.entries()] == [False]
    registry.forget(str(gone))
    assert registry.entries() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b'{"dir": "/a", "origin": "stolen", "added_at": 1, "inode": 1}',
        b'{"dir": "/a", "origin": "added", "added_at": "then", "inode": 1}',
        b'{"dir": 7, "origin": "added", "added_at": 1, "inode": 1}',
        b'{"dir": "a", "origin": "added", "added_at": 1, "inode": 1}',
        b'{"dir": "/a\\u0000", "origin": "added", "added_at": 1, "inode": 1}',
        b'{"dir": "/a\\ud800", "origin": "added", "added_at": 1, "inode": 1}',
        b'{"dir": "/a", "origin": "added", "added_at": 1' + 400 * b"0" + b', "inode": 1}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_an_unreadable_entry_is_passed_over(project: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file that makes no sense is named in a warning and hides no other entry; adding its store mends it."""
    entry = registry.add(str(project), FOUND)
    other = project / "other"
    other.mkdir()
    registry.add(str(other), FOUND)
    broken = next(file for file in files() if json.loads(file.read_text())["dir"] == str(other))
    broken.write_bytes(content)
    assert registry.entries() == [entry]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{broken} is no registry entry" in caplog.text
    assert registry.add(str(other), FOUND).dir == str(other)
    assert len(registry.entries()) == 2


def test_other_files_are_none_of_ours(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Drafts and strangers' files in the registry are not read."""
    registry.add(str(project), FOUND)
    (Path(paths.registry_dir()) / "draft.json.17.4711").write_text("{")
    (Path(paths.registry_dir()) / "README").write_text("{")
    assert len(registry.entries()) == 1
    assert caplog.text == ""


def test_directories_of_any_name(project: Path) -> None:
    """A directory whose name is not UTF-8, or looks like JSON, is known by it all the same."""
    names = sorted((os.fsdecode(b"\xff\xe2\x82"), 'a "quoted"\nname', "проект 🧪"))
    for name in names:
        os.mkdir(f"{project}/{name}")
        registry.add(f"{project}/{name}", FOUND)
    assert sorted(entry.dir for entry in registry.entries()) == [f"{project}/{name}" for name in names]
    for name in names:
        registry.forget(f"{project}/{name}")
    assert files() == []


def test_a_failed_write_leaves_no_draft(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that cannot be written raises, keeps the old one, and leaves nothing half-made behind."""
    old = registry.add(str(project), FOUND)
    target = files()[0]
    target.unlink()
    target.mkdir()  # so that the rename fails
    with pytest.raises(OSError, match="directory"):
        registry.add(str(project), ADDED)
    assert files() == [target]
    target.rmdir()
    assert registry.add(str(project), FOUND).dir == old.dir


@pytest.mark.parametrize(("created", "origin"), [(True, CREATED), (False, FOUND)])
def test_announce(project: Path, store: Path, created: bool, origin: Origin) -> None:
    """A writer's store is known as made where the writer has made it, and as found otherwise."""
    registry.announce(str(project), created)
    assert [(entry.dir, entry.origin) for entry in registry.entries()] == [(str(project), origin)]


def test_announce_only_warns(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the registry cannot be written, one warning says what that means, and nothing is raised."""
    (project / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "file" / "state"))
    registry.announce(str(project), False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{project} is not known to the daemon" in caplog.text
    with pytest.raises(OSError, match="Not a directory"):
        registry.add(str(project), FOUND)


def test_who_comes_late_weakens_nothing(project: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that add a store at once leave the stronger origin there, whoever is the last to write."""
    read, looks = registry._read, list[str]()

    def read_too_early(path: str) -> Entry | None:
        if looks:
            return read(path)
        looks.append(path)
        registry.add(str(project), CREATED)
        return None

    monkeypatch.setattr(registry, "_read", read_too_early)
    assert registry.add(str(project), FOUND).origin is CREATED
    assert [entry.origin for entry in registry.entries()] == [CREATED]
    assert len(files()) == 1


def test_several_processes_add_at_once(project: Path, processes: Processes) -> None:
    """Any number of processes may make stores known at once, the same ones too; no lock, no draft, no loss."""
    race(processes, *[(ADDS, str(project))] * 4)
    assert len(registry.entries()) == 20
    assert len(files()) == 20


def test_scan(project: Path) -> None:
    """Every folder below that has a store is found, the folder itself and nested ones included, in order."""
    having = [project, project / "a", project / "a" / "nested", project / "dev" / "b", project / "sys", project / "é"]
    for directory in reversed(having):
        directory.mkdir(parents=True, exist_ok=True)
        Original(directory).close()
    (project / "c" / ".agent-yes").mkdir(parents=True)
    (project / "d").mkdir()
    (project / "d" / ".agent-yes").touch()
    assert list(registry.scan(str(project))) == [str(directory) for directory in having]
    assert list(registry.scan(str(project / "d"))) == []
    assert list(registry.scan(str(project / "missing"))) == []
    assert registry.entries() == []


@pytest.mark.parametrize("name", ["node_modules", ".git", ".venv", "__pycache__", ".agent-yes"])
def test_scan_passes_over(project: Path, name: str) -> None:
    """Folders in which nobody works are not looked into."""
    directory = project / name / "package"
    directory.mkdir(parents=True)
    Original(directory).close()
    assert list(registry.scan(str(project))) == []


def test_scan_follows_no_links(project: Path, tmp_path: Path) -> None:
    """A store behind a symbolic link is not found: neither below a linked folder nor in one that is linked itself."""
    real = tmp_path / "real"
    real.mkdir()
    Original(real).close()
    (project / "link").symlink_to(real)
    (project / "linked store").mkdir()
    (project / "linked store" / ".agent-yes").symlink_to(real / ".agent-yes")
    (project / "loop").symlink_to(project)
    assert list(registry.scan(str(project))) == []


@pytest.mark.parametrize("kernel", ["/proc", "/sys", "/dev"])
def test_scan_leaves_the_kernels_files_alone(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the root on, the kernel's own folders are not looked into."""
    folders = [kernel[1:], "home"]
    monkeypatch.setattr(os, "walk", lambda folder: iter([(folder, folders, [])]))
    assert list(registry.scan("/")) == []
    assert folders == ["home"]


def test_paths(home: Path) -> None:
    """Everything of ours lies in one private folder below the platform's folder for state."""
    state = home / "state" / "agent-yes-supervise"
    assert paths.state_dir() == str(state)
    assert paths.registry_dir() == str(state / "registry")
    assert paths.log_dir() == str(state / "logs")
    assert paths.daemon_lock() == str(state / "daemon.lock")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.iterdir())} == {
        "agent-yes-supervise": 0o700,
        "registry": 0o700,
        "logs": 0o700,
    }


@pytest.mark.parametrize("home", ["/h", "/h/", "/", "", "h", "~", None])
@pytest.mark.parametrize("given", ["/s", "/s/", "/s/../t", "", "  ", "s", "~/s", None])
def test_paths_are_where_the_platform_wants_them(
    monkeypatch: pytest.MonkeyPatch, home: str | None, given: str | None
) -> None:
    """The folders for state and settings are those that platformdirs names, whatever the environment says."""
    for name, value in (("HOME", home), ("XDG_STATE_HOME", given), ("XDG_CONFIG_HOME", given)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    made: list[str] = []
    monkeypatch.setattr(os, "makedirs", lambda path, **_: made.append(path))
    folder = paths.state_dir()
    assert [folder] == made == [platformdirs.user_state_dir(paths.APP, appauthor=False)]
    assert paths.config_file() == os.path.join(platformdirs.user_config_dir(paths.APP, appauthor=False), "config.toml")


def test_digests_are_alike(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A registry's file has the same name whichever module of Python has made the digest."""
    found = paths.registry_file("/a/project")
    for missing in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert paths.registry_file("/a/project") == found


@pytest.mark.parametrize("path", [paths.state_dir, paths.registry_dir, paths.log_dir, paths.daemon_lock])
def test_default_paths_raise_in_tests(path: object) -> None:
    """A test that has asked for no home of its own cannot touch anyone's."""
    assert callable(path)
    with pytest.raises(NotADirectoryError):
        path()
    with pytest.raises(NotADirectoryError):
        registry.entries()


def test_an_entry_is_data() -> None:
    """An entry cannot be changed."""
    with pytest.raises(AttributeError):
        Entry("/a", FOUND, 1.0, None).dir = "/b"  # type: ignore[misc]  # that is the point


def test_an_inode_that_is_used_again(project: Path) -> None:
    """A store put in place of ours is not trusted for having got the same inode."""
    folder = project / ".agent-yes"
    for _ in range(20):
        Original(project).close()
        entry = registry.add(str(project), CREATED)
        shutil.rmtree(folder)
        Original(project).close()
        if (folder / "store.sqlite").stat().st_ino == entry.inode:
            break
        shutil.rmtree(folder)
    else:
        pytest.skip("this file system does not use inodes again at once")
    if entry.handle is None:
        pytest.skip("this file system has no handles")
    assert not entry.trusted
    registry.announce(str(project), created=False)
    assert not (registry.get(str(project)) or entry).trusted
    assert registry.add_by_hand(str(project)).trusted
