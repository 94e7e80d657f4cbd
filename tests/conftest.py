"""What every test stands on: a home of its own, and no process left behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroups import counted_apart
from kit import Answer, Ask, Original, Processes
from nursery import Apart, Nursery
from stage import Stage
from wrapping import Terminal

from supervisor import db, registry
from supervisor.cli import app
from supervisor.registry import Origin

NOWHERE = "/dev/null/no-home-in-tests"
"""Below a file, so that not even root can make it: a test that forgets its home fails at once."""

_HOMES = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")

for _name in _HOMES:
    os.environ[_name] = NOWHERE
os.environ.pop("AGENT_YES_RUN", None)
os.environ.pop("NO_COLOR", None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of a thousand processes would compile all anew

# What nohup or a runner ignores would be inherited by every agent.
for _signal in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that kill at random be told how often, and repeated."""
    parser.addoption("--instants", default="40", help="at how many instants wrappers are killed")
    parser.addoption("--seed", default=None, help="what made the instants of a run that is to be repeated")


@pytest.fixture(scope="session", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what we start in child namespaces from seeing the stores of tests beside it."""
    Apart.own = tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session", autouse=True)
def counted() -> Iterator[None]:
    """Keep OOM kills of tests beside it from explaining what is killed here."""
    with counted_apart():
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test, and what it starts, an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    return home


@pytest.fixture
def project(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a project's directory to stand in, and close its stores afterwards."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    yield project
    db.close_db()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Start processes; those that still live are ended after the test, and it is asserted that they are gone."""
    with Processes() as processes:
        yield processes


@pytest.fixture
def nursery(processes: Processes) -> Nursery:
    """Give the test agents that are somebody else's children."""
    return Nursery(processes)


@pytest.fixture
def original(project: Path) -> Iterator[Original]:
    """Give the test a known store, open as the original module has it."""
    with Original(project) as original:
        registry.add(str(project), Origin.ADDED)
        yield original


@pytest.fixture
def shell(project: Path, processes: Processes) -> Iterator[Terminal]:
    """Give the test an interactive shell with job control, which leaves its terminal as it is left to it."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    options = ("--norc", "--noprofile", "--noediting", "-i")
    with Terminal(processes, bash, *options, env={**os.environ, "PS1": "", "HISTFILE": "/dev/null"}) as shell:
        yield shell


@pytest.fixture
def stage(project: Path) -> Iterator[Stage]:
    """Give the test a store and a supervisor to drive."""
    with Stage(project) as stage:
        yield stage


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in this process, and give what it answers."""

    def answer(*words: str) -> Answer:
        capsys.readouterr()
        code = app.run(list(words))
        return Answer(code, *capsys.readouterr())

    return answer
