"""``doctor``: each check against what it is to find, and the whole as a person and a program see it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from kit import Original, Processes, run_ours, wait_until
from nursery import Apart, as_root, linux
from stores import NEWER, execute, place

from supervisor import __version__, paths, registry
from supervisor.daemon import presence
from supervisor.daemon.lock import DaemonLock
from supervisor.doctor import agents, checkup, daemon, environment, machine, service, stores
from supervisor.doctor.finding import Finding, Level, ok
from supervisor.errors import NotFound
from supervisor.process import procfs
from supervisor.process.abilities import Abilities
from supervisor.registry import Origin
from supervisor.service.manager import ServiceState
from supervisor.store.supervision import SupervisedStore

pytestmark = linux

NAMES = ("kernel", "proc", "namespace", "clock", "inotify", "environment", "config", "folders", "daemon", "service")


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a known store, open as the original module has it."""
    with Original(project) as original:
        (project / ".agent-yes").chmod(0o700)
        (project / ".agent-yes" / "store.sqlite").chmod(0o600)
        registry.add(str(project), Origin.ADDED)
        yield original


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Give the test a function that puts a shell script on PATH, which holds nothing else of its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return put


def levels(found: Iterable[Finding]) -> list[tuple[str, str]]:
    """Return which checks have found what level."""
    return [(finding.check, finding.level.value) for finding in found]


def only(found: Iterable[Finding]) -> Finding:
    """Return the one finding; whatever is not ok has a remedy."""
    (finding,) = found
    assert bool(finding.remedy) is (finding.level is not Level.OK)
    return finding


class TestWhole:
    """All checks together."""

    def test_as_lines_and_as_data(self, original: Original, home: Path) -> None:
        """Each line bears its level, and what is not ok its remedy; JSON says the same; a failure ends with 1."""
        told = json.loads(run_ours("doctor", "--json").stdout)
        assert [finding["check"] for finding in told[:9]] == list(NAMES[:9])
        assert {finding["level"] for finding in told} <= {"ok", "warn"}
        assert all(finding["remedy"] for finding in told if finding["level"] != "ok")
        (home / "config" / "agent-yes-supervise").mkdir(parents=True)
        (home / "config" / "agent-yes-supervise" / "config.toml").write_text("x = 1")
        shown = run_ours("doctor")
        assert shown.returncode == 1
        assert re.search(r"(?m)^fail  config +\S+config.toml:1: there is no table x; there are: daemon", shown.stdout)
        assert re.search(rf"(?m)^ok    store +{original.directory}: 0 runs, ", shown.stdout)

    def test_a_check_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has failed, which is a line of its own, and the others are made all the same."""

        def refuse(error: Exception) -> Iterator[Finding]:
            yield ok("first", "fine")
            raise error

        trials = (lambda: refuse(OSError(13, "Denied", "/x")), lambda: refuse(NotFound("nothing", "look")))
        monkeypatch.setattr(checkup, "_CHECKS", (("a", trials[0]), ("b", trials[1])))
        found = list(checkup.check_all())
        assert [(finding.check, finding.level) for finding in found] == [
            ("first", "ok"),
            ("a", "fail"),
            ("first", "ok"),
            ("b", "fail"),
        ]
        assert (found[1].text, found[3].text, found[3].remedy) == ("/x: Denied", "nothing", "look")


class TestMachine:
    """The kernel, /proc, namespaces, the clock, inotify."""

    @pytest.mark.parametrize(
        ("lacks", "level", "says"),
        [
            ((), "ok", "with their exit code"),
            (("unique_inodes",), "warn", "no inodes"),
            (("exit_status", "unique_inodes"), "warn", "the exit code is not known"),
            (("pidfds", "exit_status", "unique_inodes"), "warn", "found by polling"),
        ],
    )
    def test_kernel(self, monkeypatch: pytest.MonkeyPatch, lacks: tuple[str, ...], level: str, says: str) -> None:
        """What an older kernel cannot tell is named."""
        able = Abilities("Linux 6.18", True, True, True, True, True)
        found = dataclasses.replace(able, **dict.fromkeys(lacks, False))  # type: ignore[arg-type]  # all are bool
        monkeypatch.setattr(machine, "abilities", lambda: found)
        finding = only(machine.check_kernel())
        assert finding.level == level
        assert says in finding.text

    @as_root
    @pytest.mark.parametrize(
        ("options", "script", "check", "level"),
        [
            (("--mount",), "mount -t proc -o hidepid=2 proc /proc", "proc", "warn"),
            (("--mount",), "mount -t proc -o hidepid=0 proc /proc", "proc", "ok"),
            (("--pid", "--fork"), "true", "proc", "fail"),
            (("--pid", "--fork", "--mount-proc"), "true", "namespace", "warn"),
        ],
    )
    def test_proc_and_namespace(self, options: tuple[str, ...], script: str, check: str, level: str) -> None:
        """A /proc that hides processes or is another namespace's, and a container, are told."""
        code = (
            "from supervisor.doctor import machine as m\n"
            f"for f in m.check_{check}(): print(f.level, bool(f.remedy) is (f.level != 'ok'))"
        )
        shell = ("sh", "-c", f'{script} && "$0" -c "$1"', sys.executable, code)
        argv = Apart.command("unshare", *options, *shell)
        told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
        assert told.stdout == f"{level} True\n"

    @pytest.mark.usefixtures("home")
    def test_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A clock that was set since the start of the machine is told; one that was never set fails."""
        assert only(machine.check_clock()).level == "ok"
        kept = {"boot_id": procfs.boot_id(), "offset": 1.0, "steps": [1.0, 2.0]}
        Path(paths.state_dir(), "clock.json").write_text(json.dumps(kept))
        assert "set 2 times" in only(machine.check_clock()).text
        monkeypatch.setattr("time.time", lambda: 86400.0)
        finding = only(machine.check_clock())
        assert (finding.level, finding.text) == ("fail", "the clock says 1970-01-02")

    def test_inotify(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a free inotify instance changes of stores wake nobody."""
        assert only(machine.check_inotify()).level == "ok"

        def none_left() -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(machine, "FolderWatch", none_left)
        assert only(machine.check_inotify()).level == "warn"

    @pytest.mark.parametrize(("hard", "expected"), [(1024, [("descriptors", "warn")]), (4096, []), (-1, [])])
    def test_descriptors(self, monkeypatch: pytest.MonkeyPatch, hard: int, expected: list[tuple[str, str]]) -> None:
        """A low limit of open files is told."""
        monkeypatch.setattr("resource.getrlimit", lambda _: (hard, hard))
        assert levels(machine.check_descriptors()) == expected


class TestInstallation:
    """What is installed with us, and our own folders."""

    @pytest.mark.parametrize(
        ("name", "files", "shares"),
        [
            ("supervisor", "supervisor/supervisord.py,,", True),
            ("supervisor", "", True),
            ("other", "supervisor/x.py,,", True),
            ("supervisor-hooks", "supervisor_hooks/x.py,,", False),
            ("agent-yes-supervise", "supervisor/x.py,,", False),
        ],
    )
    def test_distributions(self, tmp_path: Path, name: str, files: str, shares: bool) -> None:
        """Whoever else brings a package called supervisor is named, with the way out."""
        folder = tmp_path / f"{name.replace('-', '_')}-4.3.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 4.3.0\n")
        (folder / "RECORD").write_text(f"{files}\n")
        if files:  # newer Pythons pass over files that are not there
            path = tmp_path / files.rstrip(",")
            path.parent.mkdir()
            path.touch()
        finding = only(environment.check_distributions([str(tmp_path)]))
        assert (finding.level == "fail") is shares
        if shares:
            assert finding.text.startswith(f"{name} 4.3.0 is installed in the same environment")
            assert f"pip uninstall {name}, then reinstall this one" in finding.remedy

    @pytest.mark.usefixtures("home")
    def test_folders(self) -> None:
        """A folder of ours that others can read is told."""
        assert only(environment.check_folders()).level == "ok"
        os.chmod(paths.state_dir(), 0o750)  # noqa: S103  as it should not be
        assert only(environment.check_folders()).level == "warn"


class TestStores:
    """The health of each registered store."""

    @pytest.mark.usefixtures("original")
    def test_a_sound_one(self) -> None:
        """One line says how large it is."""
        assert levels(stores.check_stores()) == [("store", "ok")]

    def test_troubles(self, original: Original, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rights, junk, journal mode, a large WAL and a slow check are each told, in one look."""
        file = original.directory / ".agent-yes" / "store.sqlite"
        for pid, args in ((1, "[]"), ("x", "[]"), (2, "{")):
            original.create_run(pid, args=args)
        original.connection.execute("insert into runs (pid, project_id, status) values (1, 1, 'paused')")
        monkeypatch.setattr(stores, "_LARGE_WAL", 1)
        file.chmod(0o644)
        found = list(stores.check_stores())
        texts = " ".join(finding.text for finding in found)
        assert {finding.level for finding in found} == {Level.WARN}
        assert "others may read its prompts" in texts
        assert "3 of 4 runs have values that make no sense" in texts
        assert "its WAL has grown to" in texts
        assert not [finding for finding in found if "prune" in finding.remedy], "no warning is worth anybody's runs"
        original.connection.execute("pragma journal_mode = delete")
        monkeypatch.setattr(stores, "TIMEOUT", 0.0)
        monkeypatch.setattr("supervisor.store.health._STEPS", 1)
        texts = " ".join(finding.text for finding in stores.check_stores())
        assert "is not in WAL mode" in texts
        assert "too large to be checked within 0 seconds" in texts

    def test_a_damaged_one(self, project: Path) -> None:
        """What SQLite's own check finds is a failure, as is a file that is no database."""
        file = place("bun-866ebbb", project)
        registry.add(str(project), Origin.ADDED)
        content = bytearray(file.read_bytes())
        content[8192:8300] = b"\xff" * 108
        file.write_bytes(content)
        found = [finding for finding in stores.check_stores() if finding.level is Level.FAIL]
        assert found
        assert "is damaged" in found[0].text
        file.write_bytes(b"this is no database" * 1000)
        assert [finding.level for finding in stores.check_stores()] == ["fail"]

    def test_those_that_cannot_be_used(self, original: Original, tmp_path: Path) -> None:
        """A store that is gone, one that is refused, and one of a newer version each have their line."""
        with SupervisedStore(str(original.directory)) as store:
            store.get_all_runs()
        execute(original.directory, *NEWER)
        gone, linked = tmp_path / "a gone", tmp_path / "linked"
        for directory in (gone, linked):
            directory.mkdir()
            registry.add(str(directory), Origin.ADDED)
        (linked / ".agent-yes").symlink_to(original.directory / ".agent-yes")
        by_text = {finding.text: finding for finding in stores.check_stores()}
        missing = by_text[f"there is no store in {gone}"]
        assert (missing.level, missing.remedy) == (Level.WARN, f"agent-yes-supervise stores forget '{gone}'")
        assert by_text[f"{linked}/.agent-yes is a symbolic link"].level is Level.FAIL
        assert any("made by a newer version" in text for text in by_text)

    def test_looking_changes_nothing(self, original: Original) -> None:
        """A store that only the original has written to has only its tables afterwards."""
        list(stores.check_stores())
        tables = original.connection.execute("select name from sqlite_master where name like 'run\\_%' escape '\\'")
        assert tables.fetchall() == []


class TestDaemonAndService:
    """Who looks after the stores."""

    def test_daemon(self, original: Original, processes: Processes, tmp_path: Path) -> None:
        """Whether one runs, since when, and what it watches; another version is told, with what to do."""
        assert only(daemon.check_daemon()).level == "warn"
        original.create_run(processes.living().pid)
        running = Daemon(processes, tmp_path / "log")
        wait_until(lambda: (said := presence.running()) is not None and said.watching == 1)
        one, version = daemon.check_daemon()
        assert re.fullmatch(rf"pid {running.pid} runs since 2\S+ \S+, watching 1 run in 1 store", one.text)
        assert (one.level, version.level) == (Level.OK, Level.OK)

    @pytest.mark.usefixtures("home")
    @pytest.mark.parametrize(("version", "says"), [("0.0.1", "is older (0.0.1)"), ("99.1", "is newer (99.1)")])
    def test_version_skew(self, version: str, says: str) -> None:
        """A daemon of another version than the command is told."""
        lock = DaemonLock()
        Path(paths.daemon_lock()).write_text(json.dumps({"pid": 1, "since": lock.since, "version": version}))
        _, finding = daemon.check_daemon()
        assert finding.level is Level.WARN
        assert f"{says} than this command ({__version__})" in finding.text
        lock.close()

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({}, [("service", "ok")]),
            ({"file": None}, [("service", "warn")]),
            ({"up_to_date": False}, [("service", "warn")]),
            ({"enabled": False}, [("service", "warn")]),
            ({"lingers": True}, [("service", "ok"), ("linger", "ok")]),
            ({"lingers": False}, [("service", "ok"), ("linger", "warn")]),
        ],
    )
    def test_service(self, tmp_path: Path, changed: dict[str, Any], expected: list[tuple[str, str]]) -> None:
        """Whether it is installed, is as it would be installed now, starts by itself, and outlives the login."""
        state = ServiceState("systemd", "/the/unit", up_to_date=True, enabled=True, running=True)
        found = service.check_service(runs_systemd=str(tmp_path), ask=lambda: dataclasses.replace(state, **changed))
        assert levels(found) == expected

    @pytest.mark.usefixtures("home")
    @pytest.mark.parametrize(("script", "says"), [("exit 1", "it ended with 1"), ("exec sleep 9", "no answer within")])
    def test_no_answer(
        self,
        command: Callable[[str, str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        script: str,
        says: str,
    ) -> None:
        """A service manager that does not answer is told, and not waited for; where none runs, nothing is wrong."""
        monkeypatch.setattr(service, "_TIMEOUT", 0.1)
        command("systemctl", script)
        assert says in only(service.check_service(runs_systemd=str(tmp_path))).text
        assert only(service.check_service(runs_systemd=str(tmp_path / "none"))).level == "ok"

    def test_service_of_macos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where launchd is the service manager, nobody asks for systemd."""
        monkeypatch.setattr(sys, "platform", "darwin")
        state = ServiceState("launchd", None, up_to_date=False, enabled=False, running=False)
        assert "launchd does not" in only(service.check_service(runs_systemd="/none", ask=lambda: state)).text


class TestAgents:
    """The agents on PATH."""

    def test_versions(self, command: Callable[[str, str], Path]) -> None:
        """Each that is there says its version; what fails or is silent is told; nothing else is asked."""
        good = command("good", 'echo "good-cli v1.2.3-beta (built today)"')
        command("bad", "echo 9.9; exit 3")
        command("silent", "echo hello")
        found = {
            finding.text.split()[0]: finding for finding in agents.check_agents(("good", "bad", "silent", "absent"))
        }
        assert found["good"] == Finding("agent", Level.OK, f"good 1.2.3-beta ({good})")
        assert "fails with 3" in found["bad"].text
        assert "of unknown version" in found["silent"].text
        assert "absent" not in found

    def test_one_that_hangs(self, command: Callable[[str, str], Path], tmp_path: Path) -> None:
        """An agent that does not answer in time is ended, with what it has started."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        command("hanging", f"exec >{fifo}; sleep 600 & sleep 600")
        finding = only(agents.check_agents(("hanging",), timeout=0.5))
        assert "does not say its version within" in finding.text
        assert select.select([held], [], [], 10)[0], "somebody still has it open"
        assert os.read(held, 1) == b""
        os.close(held)

    def test_all_at_once(self, command: Callable[[str, str], Path], tmp_path: Path) -> None:
        """Agents are asked side by side: two that wait for each other both answer."""
        for own, other in (("a", "b"), ("b", "a")):
            fifo = tmp_path / own
            os.mkfifo(fifo)
            first, second = (f"echo >{fifo}", f"read _ <{tmp_path / other}")
            command(f"agent-{own}", f"{first if own == 'a' else second}; {second if own == 'a' else first}; echo 1.0")
        assert [finding.level for finding in agents.check_agents(("agent-a", "agent-b"))] == ["ok", "ok"]

    def test_a_projects_own_commands_are_not_run(
        self, project: Path, command: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What PATH finds in the current directory only because it says ``.`` is never started."""
        path = command("claude", "touch $PWD/ran; echo 1.0").rename(project / "claude")
        monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
        finding = only(agents.check_agents(("claude",)))
        assert finding.text == "none of claude is on PATH"
        assert path.exists()
        assert not (project / "ran").exists()
