"""The service in a real systemd: installed from the wheel by an ordinary user, killed, hung, restarted, removed.

One sandbox is booted for all of it, and the tests go on from one another in the order in which they stand.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kit import Original, Processes, rows, wait_until
from nursery import Nursery, linux
from sandbox import ROOT, UNIT, Sandbox, needs_sandbox

pytestmark = [linux, needs_sandbox, pytest.mark.root]

USER = 1729
BASE = str(getattr(sys, "_base_executable", sys.executable))
"""The interpreter below our own environment."""


class Home(Sandbox):
    """A sandbox with our wheel installed for its user, and a project of that user's."""

    def __enter__(self) -> Home:
        self.venv = self.world / "venv"
        self.project = self.world / "project"
        with ThreadPoolExecutor(1) as beside:
            installed = beside.submit(self._install)
            super().__enter__()
            self.wheel = installed.result()
        self.project.mkdir()
        with Original(self.project):
            pass
        for path in (self.project, *self.project.rglob("*")):
            os.chown(path, USER, USER)
        seen = self.ours("--version")
        if seen.returncode != 0:
            self.__exit__()
            pytest.skip(f"the sandbox's user cannot run what is installed here: {seen.stderr.strip()}")
        return self

    def _install(self) -> Path:
        """Install the wheel as pipx does, into an environment of its own; only what it depends on is ours."""
        wheel, python = _built(self.world), str(self.venv / "bin" / "python")
        subprocess.run([BASE, "-m", "venv", "--without-pip", str(self.venv)], check=True)
        install = ("install", "--quiet", "--no-deps", "--no-index", str(wheel))
        subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
        (packages,) = self.venv.glob("lib/python*/site-packages")
        (dependencies,) = Path(sys.prefix).glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(f"{dependencies}\n")
        return wheel

    def ours(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run our command as the user, in the project."""
        return self.user("env", "-C", str(self.project), str(self.venv / "bin/agent-yes-supervise"), *words)

    def row(self, run: int) -> tuple[object, ...]:
        """Return a run's status and exit code, and who settled it."""
        sql = (
            "select runs.status, runs.exit_code, settled_by from runs left join run_ending on run_id = id where id = ?"
        )
        return rows(self.project, sql, (run,))[0]

    def follows(self, running: int) -> None:
        """Wait until the daemon says that so many run."""
        wait_until(lambda: self.property("StatusText").startswith(f"{running} running"))


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """Boot the sandbox."""
    with Home() as home:
        yield home


@pytest.fixture
def nursery(home: Home) -> Iterator[Nursery]:
    """Give the test agents that run inside, as the user."""
    with Processes() as processes:
        yield Nursery(processes, python=home.as_user(sys.executable), env=home.environ)


@pytest.fixture
def original(home: Home) -> Iterator[Original]:
    """Give the test the user's store, open as the original module has it."""
    with Original(home.project) as original:
        yield original


def test_the_wheel_has_the_unit(home: Home) -> None:
    """What is installed from is in the wheel, word for word."""
    with zipfile.ZipFile(home.wheel) as wheel:
        assert wheel.read(f"supervisor/service/{UNIT}") == (ROOT / "systemd" / UNIT).read_bytes()


def test_install_starts_it_and_says_so(home: Home) -> None:
    """In a fresh home one command installs the unit, enables and starts it, and tells how to undo that."""
    assert home.ours("service", "status").returncode == 1
    done = home.ours("service", "install")
    assert done.returncode == 0, done.stderr
    assert f"wrote  /home/dev/.config/systemd/user/{UNIT}" in done.stdout
    assert "0 running in 1 store; 0 settled since the start" in done.stdout  # that of the directory it stands in
    assert re.search(r"^running +pid \d+, since \d{4}-", done.stdout, re.MULTILINE)
    assert re.search(r"^lingers +yes$", done.stdout, re.MULTILINE)
    assert re.search(r"^undo +agent-yes-supervise service uninstall$", done.stdout, re.MULTILINE)
    assert home.property("ActiveState") == "active"
    assert home.property("UnitFileState") == "enabled"
    command = Path(f"/proc/{_outer(home)}/cmdline").read_bytes().split(b"\0")[:-1]
    assert command == [bytes(home.venv / "bin/python"), b"-P", b"-m", b"supervisor", b"daemon"]


def test_the_units_are_flawless(home: Home) -> None:
    """systemd-analyze has nothing to say of the installed unit, nor of the shipped one."""
    shipped = home.world / UNIT
    text = (ROOT / "systemd" / UNIT).read_text()
    shipped.write_text(text.replace("/usr/bin/env agent-yes", f"/usr/bin/env {home.venv}/bin/agent-yes"))
    for unit in (f"/home/dev/.config/systemd/user/{UNIT}", str(shipped)):
        done = home.user("systemd-analyze", "--user", "verify", unit)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_sees_what_the_user_sees(home: Home) -> None:
    """Hardened as it is, the daemon stands in the namespaces of the user's own processes."""

    def namespaces(pid: str) -> dict[str, str]:
        return {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/ns").iterdir()}

    daemon = _outer(home)
    manager = re.findall(r"^PPid:\s(\d+)$", Path(f"/proc/{daemon}/status").read_text(), re.MULTILINE)[0]
    assert namespaces(daemon) == namespaces(manager)
    assert "NoNewPrivs:\t1" in Path(f"/proc/{daemon}/status").read_text()


def test_it_comes_back_after_a_new_login_and_settles(home: Home) -> None:
    """The user's manager goes and comes: the daemon runs; an agent and its wrapper killed are settled, and logged."""
    assert home.root("systemctl", "restart", f"user@{USER}.service").returncode == 0
    wait_until(lambda: home.user("systemctl", "--user", "is-active", UNIT).stdout == "active\n")
    with Processes() as processes:
        code = "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(100)"
        words = (f"{home.venv}/bin/agent-yes-supervise", "wrap", "--project", str(home.project), sys.executable)
        command = home.as_user(*words, "-c", code)
        wrapper = processes.start(*command, env=home.environ, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert wrapper.stdout is not None
        agent, owner = wrapper.stdout.readline().split()
        home.follows(1)
        assert home.user("kill", "-KILL", owner, agent).returncode == 0
    wait_until(lambda: home.row(1)[0] != "running")
    assert home.row(1) == ("crashed", 137, "daemon")
    line = rf"settled {re.escape(str(home.project))}#1 \(.*, pid {agent}\): crashed with 137, killed; "
    wait_until(lambda: re.search(line, home.ours("service", "logs").stdout))
    (priority,) = set(_priorities(home, "settled "))
    assert priority == "6"


def test_killed_it_comes_back_and_nothing_is_lost(home: Home, original: Original, nursery: Nursery) -> None:
    """SIGKILL to the daemon: systemd starts another; running agents are untouched, and one that ended is right."""
    agents = nursery.spawn(2)
    runs = [original.create_run(agent) for agent in agents]
    home.follows(2)
    before = home.property("MainPID")
    wait_until(lambda: home.property("NFileDescriptorStore") == "2")
    home.user("kill", "-KILL", before)
    nursery.exit(agents[0], 42)
    nursery.reap(agents[0])
    wait_until(lambda: home.property("MainPID") not in ("0", before) and home.property("ActiveState") == "active")
    wait_until(lambda: home.row(runs[0])[0] != "running")
    assert home.row(runs[0]) == ("crashed", 42, "daemon")
    assert home.row(runs[1])[0] == "running"
    home.follows(1)
    nursery.exit(agents[1], 3)
    nursery.reap(agents[1])
    wait_until(lambda: home.row(runs[1]) == ("crashed", 3, "daemon"))
    wait_until(lambda: home.property("NFileDescriptorStore") == "0")


def test_hung_it_is_replaced(home: Home) -> None:
    """A stopped daemon pets no watchdog: systemd ends it and starts another."""
    with _drop_in(home, "[Service]\nWatchdogSec=0.5\nRestartSec=0.1\n"):
        before = home.property("MainPID")
        home.user("kill", "-STOP", before)
        wait_until(lambda: home.property("MainPID") not in ("0", before) and home.property("ActiveState") == "active")
        assert "watchdog" in home.user("journalctl", "--user", "--unit", UNIT, "--lines=30").stdout.lower()


def test_a_restart_misses_no_exit(home: Home, original: Original, nursery: Nursery) -> None:
    """Of fifty agents ten end, each with a code of its own, while the daemon is restarted: all fifty rows are right."""
    agents = nursery.spawn(50)
    runs = {agent: original.create_run(agent) for agent in agents}
    wait_until(lambda: home.property("NFileDescriptorStore") == "50")
    gap, go = home.world / "gap", home.world / "go"
    wait = f"[Service]\nExecStartPre=/bin/sh -c 'touch {gap}; until test -e {go}; do sleep 0.02; done'\n"
    home.world.chmod(0o777)
    with _drop_in(home, wait, restart=False), Processes() as processes:
        restart = processes.start(*home.as_user("systemctl", "--user", "restart", UNIT), env=home.environ)
        wait_until(gap.exists)
        codes = dict(zip(agents[::5], range(101, 111), strict=True))
        for agent, code in codes.items():
            nursery.exit(agent, code)
            nursery.reap(agent)
        go.touch()
        assert restart.wait(30) == 0
        wait_until(lambda: not any(home.row(runs[agent])[0] == "running" for agent in codes))
    found = {agent: home.row(runs[agent])[:2] for agent in agents}
    assert found == {agent: ("crashed", codes[agent]) if agent in codes else ("running", None) for agent in agents}
    home.follows(40)
    assert home.property("NFileDescriptorStore") == "40"


def test_a_daemon_in_its_way_is_named(home: Home) -> None:
    """Where a person's own daemon runs, an installation says that this keeps the service from coming up."""
    home.systemctl("stop", UNIT)
    with Processes() as processes:
        words = home.as_user(str(home.venv / "bin/agent-yes-supervise"), "daemon")
        daemon = processes.start(*words, env=home.environ, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert daemon.stderr is not None
        wait_until(lambda: "supervising" in (daemon.stderr.readline() if daemon.stderr else ""))
        done = home.ours("service", "install")
        assert done.returncode == 1
        assert "does not come up: a daemon is running already: pid " in done.stderr
        home.user("pkill", "-TERM", "-f", "agent-yes-supervise daemon")
        daemon.wait(20)
    assert home.ours("service", "install").returncode == 0


def test_uninstall_leaves_nothing_but_stores(home: Home) -> None:
    """No unit, no link, no process; what was recorded stays."""
    daemon = home.property("MainPID")
    done = home.ours("service", "uninstall")
    assert done.returncode == 0, done.stderr
    left = home.user("find", "/home/dev/.config/systemd", "/run/user/1729/systemd", "-name", "agent-yes*").stdout
    assert left == ""
    assert home.user("kill", "-0", daemon).returncode != 0
    assert home.property("LoadState") == "not-found"
    assert home.row(1)[0] == "crashed"
    again = home.ours("service", "uninstall")
    assert (again.returncode, again.stdout) == (0, "")
    assert "No service is installed." in again.stderr


def _built(folder: Path) -> Path:
    """Return the wheel of this source, built from a copy: the build leaves nothing in the project."""
    source = folder / "source"
    source.mkdir()
    for name in ("supervisor", "systemd"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _outer(home: Home) -> str:
    """Return the daemon's pid as it is outside."""
    inner = home.property("MainPID")
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            pids = re.findall(r"^NSpid:\t(\d+)\t(\d+)$", status.read_text(), re.MULTILINE)
            if pids and pids[0][1] == inner and str(home.venv) in (status.parent / "cmdline").read_text():
                return str(pids[0][0])
    raise AssertionError(f"no process is {inner} inside")


def _priorities(home: Home, words: str) -> list[str]:
    """Return the priorities of the journal's lines that begin with some words."""
    journal = home.user("journalctl", "--user", "--unit", UNIT, "--output=export").stdout
    entries = (dict(re.findall(r"^(PRIORITY|MESSAGE)=(.*)$", entry, re.MULTILINE)) for entry in journal.split("\n\n"))
    return [entry["PRIORITY"] for entry in entries if entry.get("MESSAGE", "").startswith(words)]


@contextlib.contextmanager
def _drop_in(home: Home, text: str, *, restart: bool = True) -> Iterator[None]:
    """Change the unit for a while."""
    folder = f"/home/dev/.config/systemd/user/{UNIT}.d"
    home.user("mkdir", folder)
    home.user("sh", "-c", f"cat >{folder}/test.conf <<'END'\n{text}END\n")
    home.systemctl("daemon-reload")
    if restart:
        home.systemctl("restart", UNIT)
    try:
        yield
    finally:
        home.user("rm", "-r", folder)
        home.systemctl("daemon-reload")
