"""What a configuration may say, and what is said of one that says anything else."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import platformdirs
import pytest

from supervisor import paths
from supervisor.config import AgentConfig, Config, ConfigError, as_toml, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the test the path of a configuration that is not there yet."""
    return tmp_path / "config.toml"


def complaint(file: Path, text: str | bytes) -> str:
    """Return what is said of a file with that content, without its path."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    return str(caught.value).removeprefix(str(file))


def test_none_is_needed(file: Path) -> None:
    """Without a file, and with an empty one, every setting has its default."""
    assert load(str(file)) == Config()
    file.write_text("# nothing yet\n")
    assert load(str(file)) == Config()


def test_what_it_sets(file: Path) -> None:
    """What the file sets counts, a whole number also where a fraction may stand; the rest has its default."""
    file.write_text("[daemon]\nsweep_every = 5\n[retention]\nnightly = false\nruns_days = 7\n")
    config = load(str(file))
    assert (config.daemon.sweep_every, config.daemon.discover) == (5.0, True)
    assert isinstance(config.daemon.sweep_every, float)
    assert (config.retention.nightly, config.retention.runs_days, config.retention.logs_days) == (False, 7, 14)


def test_as_a_file(file: Path) -> None:
    """Settings written as a file read as the same settings, and each says what it is for."""
    text = as_toml(Config())
    file.write_text(text)
    assert load(str(file)) == Config()
    assert all("#" in line for line in text.splitlines() if "=" in line)


def test_agents(file: Path) -> None:
    """Each agent has a table of its own, whatever it is called, and is written as a file so too."""
    file.write_text("[agents.claude]\nlog = true\n[agents.codex]\n['agents'.'a \"b\"']\nlog = true\n")
    config = load(str(file))
    expected = {"claude": AgentConfig(log=True), "codex": AgentConfig(), 'a "b"': AgentConfig(log=True)}
    assert config == Config(agents=expected)
    file.write_text(as_toml(config))
    assert load(str(file)) == config


@pytest.mark.parametrize("folder", [None, "", "relative", "/x", "/ x "])
def test_place(folder: str | None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies where platformdirs says, though nobody waits for it."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if folder is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
    assert paths.config_file() == str(platformdirs.user_config_path(paths.APP, appauthor=False) / "config.toml")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[agents]\nclaude = true\n", 2, "agents.claude is a table, not true; write [agents.claude]"),
        ("[agents.claude]\n\nlog = 1\n", 3, "agents.claude.log must be true or false, not 1"),
        ("[agents.claude]\nlgo = true\n", 2, "there is no key agents.claude.lgo; did you mean log?"),
        ("[wrap]\ngrace = 0\n", 2, "wrap.grace must be a number from 0.001 to 86400, not 0"),
        ("[daemon]\nsweep_evry = 3\n", 2, "there is no key daemon.sweep_evry; did you mean sweep_every?"),
        ("[daemon]\n\n# a remark\nzzz = 3\n", 4, "there is no key daemon.zzz; there are: sweep_every, discover"),
        ("\n[deamon]\nsweep_every = 3\n", 2, "there is no table deamon; did you mean daemon?"),
        ("x = [\n  1,\n  2,\n]\n", 1, "there is no table x; there are: daemon, retention, wrap, agents"),
        ("[daemon]\n[retention]\nzzz = [\n1,\n\n]\nlogs_days = 3\n", 3, "there is no key retention.zzz"),
        ("daemon.discover = true\nretention.zzz = 1\n", 2, "there is no key retention.zzz"),
        ("retention = {runs_days = 3, zzz = 1}\n", 1, "there is no key retention.zzz"),
        ("\r\n[daemon]\r\nzzz = 3\r\n", 3, "there is no key daemon.zzz"),
        ("daemon = 3\n", 1, "daemon is a table, not 3; write [daemon]"),
        ('[daemon]\nsweep_every = "5s"\n', 2, "daemon.sweep_every must be a number from 0.1 to 86400, not a string"),
        ("[daemon]\nsweep_every = true\n", 2, "must be a number from 0.1 to 86400, not true"),
        ("[daemon]\nsweep_every = nan\n", 2, "must be a number from 0.1 to 86400, not nan"),
        ("[daemon]\nsweep_every = 0.01\n", 2, "not 0.01; write for example sweep_every = 30.0"),
        ("[daemon]\ndiscover = 1\n", 2, "daemon.discover must be true or false, not 1; write for example discover = t"),
        ("[retention]\nruns_days = 1.5\n", 2, "retention.runs_days must be a whole number from 1 to 36500, not 1.5"),
        ("[retention]\nruns_days = 0\n", 2, "not 0; write for example runs_days = 90"),
        ("[retention]\nruns_days = true\n", 2, "must be a whole number from 1 to 36500, not true"),
        ("[retention]\nruns_days = []\n", 2, "not a list"),
        ("[retention]\nruns_days = {}\n", 2, "not a table"),
        ("[retention]\nruns_days = 2026-01-01\n", 2, "not a date or time"),
        ("[daemon]\nsweep_every 3\n", 2, "this is not TOML (expected '=' after a key in a key/value pair)"),
        ('[daemon]\n\nx = """\n', 3, "this is not TOML"),
        (b"[daemon]\n# \xff\n", 2, "this is not UTF-8"),
    ],
)
def test_what_means_nothing(file: Path, text: str | bytes, line: int, says: str) -> None:
    """An unknown name, a wrong kind, a value out of bounds or a broken file is named with its line and a remedy."""
    said = complaint(file, text)
    assert said.startswith(f":{line}: ")
    assert says in said
    assert "; " in said


def test_all_that_is_wrong(file: Path) -> None:
    """Each problem is kept, by line; the first stands in the message, with the number of the others."""
    said = complaint(file, "[retention]\nzzz = 1\nnightly = 1\n\n[other]\n")
    assert said.startswith(":2: ")
    assert said.endswith("(and 2 more: agent-yes-supervise config check)")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [problem.line for problem in caught.value.problems] == [2, 3, 5]


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder, a FIFO, which would wait for a writer, and an endless file are refused."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    large = tmp_path / "large"
    large.write_bytes(b"#" * 70_000)
    for path, says in (tmp_path, "this is not a file"), (fifo, "this is not a file"), (large, "too large"):
        with pytest.raises(ConfigError, match=says):
            load(str(path))


def test_nesting_without_end(file: Path) -> None:
    """What would overflow the parser's stack is called broken like anything else."""
    assert "this is not TOML" in complaint(file, "x = " + "[" * 20_000)


def test_a_line_is_where_its_statement_begins(file: Path) -> None:
    """Whatever stands before and within it, the line named is the statement's first: each one of a file in turn."""
    statements = ["[a]", "b = 1", "c = '''\nx = 1\n'''", "# d", "", "[e.f]", "g = [\n1, # h\n]", '"i j" = {k = 1}']
    text = "\n".join(statements) + "\n"
    raw = tomllib.loads(text)
    assert set(raw) == {"a", "e"}
    said = complaint(file, text)
    assert said.startswith(":1: there is no table a")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [problem.line for problem in caught.value.problems] == [1, 8]
