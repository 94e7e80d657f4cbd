"""What a shell gets at a Tab: from click's answer to what stands on the command line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from kit import COMMAND, Original, run_ours
from stores import execute

from supervisor import registry
from supervisor.cli import app, shells
from supervisor.cli.completion import VARIABLE
from supervisor.registry import Origin

HOSTILE = "it's $(touch pwned) *"
"""What a directory may be called."""

Ask = Callable[[str], list[str]]


@pytest.fixture
def stores(project: Path, tmp_path: Path) -> Iterator[Path]:
    """Give the test three known stores: here with runs 1 and 2, of which 2 runs; api with run 1; a hostile one."""
    for directory in (project, tmp_path / "api", tmp_path / HOSTILE):
        directory.mkdir(exist_ok=True)
        with Original(directory) as original:
            original.create_run(4242)
        registry.add(str(directory), Origin.ADDED)
        execute(directory, "update runs set status = 'failed'")
    with Original(project) as here:
        here.create_run(4243)
    (tmp_path / "api").touch()
    yield project


@pytest.fixture
def ask() -> Ask:
    """Give the test a function that returns what may follow a line, each as its type and value."""
    shells.register()
    kind = get_completion_class("bash")

    def answer(line: str) -> list[str]:
        *words, typed = line.split(" ")
        found = kind(app.cli, {}, "agent-yes-supervise", VARIABLE).get_completions(words, typed)
        return [item.value if item.type == "plain" else f"<{item.type} {item.value}>" for item in found]

    return answer


@pytest.mark.usefixtures("stores")
class TestCandidates:
    """What may stand where."""

    @pytest.mark.parametrize("command", ["why", "logs", "runs show", "runs rm", "runs rm --force 1"])
    def test_runs(self, ask: Ask, command: str) -> None:
        """Runs here are named by their id, the latest first, those of other stores with their project."""
        assert ask(f"{command} ")[:2] == ["2", "1"]
        assert set(ask(f"{command} ")) == {"2", "1", "api#1", f"{HOSTILE}#1"}
        assert ask(f"{command} a") == ["api#1"]
        assert ask(f"{command} api#") == ["api#1"]
        assert ask(f"{command} api#2") == []
        assert ask(f"{command} nothing#") == []

    @pytest.mark.parametrize("command", ["stop", "kill"])
    def test_running_runs(self, ask: Ask, command: str) -> None:
        """What can be ended is what its row says runs."""
        assert ask(f"{command} ") == ["2"]
        assert ask(f"{command} project#") == ["project#2"]

    def test_projects_and_stores(self, ask: Ask, tmp_path: Path) -> None:
        """Projects go by their short names, where none fits any directory; stores also by their path."""
        for command in ("projects show", "projects rm", "runs list --project", "scan --dir", "prune --project"):
            assert ask(f"{command} ap") == ["api"]
            assert ask(f"{command} ./x") == ["<dir ./x>"]
        assert set(ask("stores forget ")) == {"api", "project", HOSTILE}
        assert ask(f"stores forget {tmp_path}/a") == [f"{tmp_path}/api"]
        assert ask("stores add x") == ["<dir x>"]
        assert ask("stores add --scan x") == ["<dir x>"]

    def test_commands_and_options(self, ask: Ask) -> None:
        """Our own commands, options and choices are click's to find."""
        assert "runs" in ask("")
        assert ask("compl") == ["completion"]
        assert ask("completion f") == ["fish"]
        assert ask("runs list --status fa") == ["failed"]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("wrap --pro", ["--project", "--prompt"]),
            ("wrap --project ", ["<dir >"]),
            ("wrap ", ["<command 0>"]),
            ("wrap cla", ["<command 0>"]),
            ("wrap --prompt hello --project /x cla", ["<command 0>"]),
            ("wrap -- ", ["<command 0>"]),
            ("wrap claude ", ["<command 1>"]),
            ("wrap claude --con", ["<command 1>"]),
            ("wrap --project=/x claude --project ", ["<command 2>"]),
            ("wrap -- claude -p ./x", ["<command 2>"]),
        ],
    )
    def test_wrap(self, ask: Ask, line: str, expected: list[str]) -> None:
        """Up to the agent's name the words are ours, from there on the agent's."""
        assert ask(line) == expected

    def test_trouble_gives_no_candidates(self, ask: Ask, stores: Path, tmp_path: Path) -> None:
        """Broken and vanished stores, and names that would speak to a terminal, are passed over."""
        (tmp_path / "api" / ".agent-yes" / "store.sqlite").write_bytes(b"no database" * 100)
        shutil.rmtree(tmp_path / HOSTILE)
        evil = tmp_path / "x\x1b]0;y\n"
        evil.mkdir()
        with Original(evil) as original:
            original.create_run(1)
        registry.add(str(evil), Origin.ADDED)
        assert ask("why ") == ["2", "1"]
        assert ask("projects show x") == ["<dir x>"]
        stores.rename(tmp_path / "moved")
        shutil.rmtree(tmp_path / "moved")
        assert ask("why ") == []


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the command under test on PATH by both its names."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("agent-yes-supervise", "ays"):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def needs(shell: str) -> pytest.MarkDecorator:
    """Skip a test where a shell is missing."""
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}")


def said_by(*command: str) -> str:
    """Return what a shell prints, and let it complain of nothing."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.mark.usefixtures("stores", "ours")
class TestShells:
    """The scripts, in the shells themselves."""

    @needs("bash")
    def test_bash(self, stores: Path) -> None:
        """Candidates come quoted, so that no directory's name is ever run; behind wrap the shell takes over."""
        script = """
            eval "$(ays completion bash)"
            compopt() { echo "compopt $*"; }
            ask() {
                COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _agent_yes_supervise ays
                printf '%s\\n' "${COMPREPLY[@]}" | sort -u
            }
            complete -p ays agent-yes-supervise
            ask ays why "it"; eval "echo ${COMPREPLY[0]}"
            ask ays why ap
            ask ays projects show ./
            ask ays wrap mkfif
            ask ays wrap claude ./
            _command_offset() { echo "offset $*"; }
            ask ays wrap --project /x claude --model ""
        """
        lines = said_by("bash", "--norc", "--noprofile", "-c", script).splitlines()
        assert lines == [
            "complete -o nosort -F _agent_yes_supervise ays",
            "complete -o nosort -F _agent_yes_supervise agent-yes-supervise",
            "it\\'s\\ \\$\\(touch\\ pwned\\)\\ \\*#1",
            f"{HOSTILE}#1",
            "api#1",
            "compopt -o dirnames",
            "",
            "mkfifo",
            "compopt -o default",
            "",
            "offset 4",
            "",
        ]
        assert not (stores / "pwned").exists()

    @needs("zsh")
    def test_zsh(self) -> None:
        """The script tells zsh the same, in zsh's words."""
        script = """
            compdef() { print compdef $*; }
            compadd() { print -r compadd $plain; }
            _describe() { print -rl -- described $described; }
            _path_files() { print path $*; }
            _normal() { print -r normal $CURRENT "$words"; }
            eval "$(ays completion zsh)"
            ask() { words=("$@"); CURRENT=$#; _agent_yes_supervise; }
            ask ays why ap
            ask ays projects show ./
            ask ays wrap --project /x claude --model ""
            ask ays wrap cla
            ask ays completion f
        """
        assert said_by("zsh", "-fc", script).splitlines() == [
            "compdef _agent_yes_supervise agent-yes-supervise ays",
            "described",
            "api#1:failed: claude",
            "path -/",
            "normal 3 claude --model ",
            "normal 1 cla",
            "compadd fish",
        ]

    @needs("fish")
    def test_fish(self, stores: Path) -> None:
        """Asked what may follow a line, fish knows."""
        (stores / "subfolder").mkdir()
        script = """
            ays completion fish | source
            complete -C "ays why ap"
            complete -C "ays projects show ./sub"
            complete -C "ays wrap mkfif" | string match -r '^\\S+'
            complete -C "ays wrap cat ./subf" | string match -r '^\\S+'
            complete -C "agent-yes-supervise completion fi"
        """
        assert said_by("fish", "--no-config", "-c", script).splitlines() == [
            "api#1\tfailed: claude",
            "./subfolder/\tDirectory",
            "mkfifo",
            "./subfolder/",
            "fish",
        ]

    def test_a_shell_that_is_not_known(self) -> None:
        """Another shell's name is a usage error that names those that are known."""
        ended = run_ours("completion", "tcsh")
        assert ended.returncode == 2
        assert "'bash', 'zsh', 'fish'" in ended.stderr
