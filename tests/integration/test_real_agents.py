"""Real agents: the same output and exit code with wrap and without."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from kit import COMMAND, Processes
from multiplexer import COLUMNS, LINES, SideBySide, needs_tmux
from wrapping import recorded_run

from supervisor.wrap.sessions import session_of

PREFIX = "AGENT_YES_TEST_NPM_PREFIX"
"""The environment variable that names where npm has installed agents, if they are not on PATH."""

PACKAGES = {
    "claude": "@anthropic-ai/claude-code",
    "pi": "@earendil-works/pi-coding-agent",
    "qwen": "@qwen-code/qwen-code",
}
ALONE = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "PI_OFFLINE": "1",
}
"""The variables by which agents leave the network and their own installation alone."""


def path_with(name: str) -> str:
    """Return a PATH on which an agent is; skip the test where it is not installed."""
    path = os.environ["PATH"]
    if prefix := os.environ.get(PREFIX):
        path = f"{prefix}/bin:{path}"
    if shutil.which(name, path=path) is None:
        pytest.skip(f"{name} is not installed: npm install -g --prefix DIR {PACKAGES[name]}, {PREFIX}=DIR")
    return path


@pytest.fixture
def search_path() -> str:
    """Return a PATH on which claude is."""
    return path_with("claude")


def offline(home: Path, search_path: str) -> dict[str, str]:
    """Return the environment of an agent in a home of its own, which is not to ask or fetch anything."""
    return {
        "PATH": search_path,
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        **ALONE,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["--version"], 0, "Claude Code"), (["-p", "hi"], 1, "Not logged in"), (["--nosuchflag"], 1, "--nosuchflag")],
    ids=["version", "prompt", "unknown option"],
)
def test_claude(project: Path, tmp_path: Path, search_path: str, arguments: list[str], code: int, says: str) -> None:
    """Claude, in a home where nobody has logged in, says and answers the same under wrap, and is recorded."""
    ended: list[subprocess.CompletedProcess[bytes]] = []
    for prefix in ([], [*COMMAND, "wrap"]):
        home = tmp_path / f"home-{len(ended)}"
        home.mkdir()
        environment = offline(home, search_path)
        ended.append(
            subprocess.run(
                [*prefix, "claude", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=50,
                check=False,
            )
        )
    direct, wrapped = ended
    assert (wrapped.returncode, wrapped.stdout, wrapped.stderr) == (direct.returncode, direct.stdout, direct.stderr)
    assert direct.returncode == code
    assert says.encode() in direct.stdout + direct.stderr
    run = recorded_run(project)
    assert (run["cli"], json.loads(run["args"]), run["exit_code"]) == ("claude", arguments, code)
    assert run["status"] == ("failed" if code else "completed")


def test_claude_goes_on(project: Path, home: Path, search_path: str) -> None:
    """Claude takes the id that it is given, keeps its turn under it, and takes that up again at the next start."""
    settings = {"hasCompletedOnboarding": True, "theme": "dark"}
    trust = {str(project): {"hasTrustDialogAccepted": True}}
    (home / ".claude.json").write_text(json.dumps({**settings, "projects": trust}))
    environment = offline(home, search_path)
    session = session_of("claude", ["-p", "hi"], cwd=str(project), environment=environment, started_at=time.time())
    assert session is not None
    args, (_, number) = session.first()
    files = []
    for expected in (["--session-id", number, "-p", "hi"], ["--resume", number, "-p", "hi"]):
        assert args == expected
        agent = subprocess.run(
            ["claude", *args],
            env=environment,
            executable=shutil.which("claude", path=search_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (agent.returncode, agent.stdout, agent.stderr) == (1, "Not logged in · Please run /login\n", "")
        files.append(list((home / ".claude" / "projects").rglob("*.jsonl")))
        args, _ = session.again(None)
    assert files[0] == files[1]
    assert [file.stem for file in files[0]] == [number]
    records = map(json.loads, files[0][0].read_text().splitlines())
    assert [record["message"]["content"] for record in records if record["type"] == "user"].count("hi") == 2


def by_chance_aside(lines: list[str]) -> list[str]:
    """Return lines without the words that claude picks by chance, and its sessions' ids."""
    text = re.sub(r"✻ \w+ for \d+s", "✻ Worked", "\n".join(lines))
    text = re.sub(r'Try ".*"', "", text)
    return re.sub(r"--resume [0-9a-f-]{36}", "--resume ID", text).split("\n")


def last_words(lines: list[str]) -> list[str]:
    """Return what claude says at last; whether ``/exit`` stands above it depends on how far it had got."""
    lines = by_chance_aside(lines)
    return lines[lines.index("Resume this session with:") :] if "Resume this session with:" in lines else []


@needs_tmux
@pytest.mark.timeout(180)
def test_claude_in_tmux(project: Path, tmp_path: Path, processes: Processes, search_path: str) -> None:
    """Claude's screen is the same directly, under wrap and with a log, and each terminal is left as it was."""
    with SideBySide(processes, tmp_path / "sides", {**ALONE, "PATH": search_path}, timeout=50) as sides:
        for side in sides.sides:
            trusted = {str(side.work): {"hasTrustDialogAccepted": True}}
            known = {"hasCompletedOnboarding": True, "theme": "dark", "projects": trusted}
            (side.work.parent / ".claude.json").write_text(json.dumps(known))
        sides.type("go claude\n")
        sides.see("for shortcuts", by_chance_aside)
        sides.type("typed ")
        sides.see("typed", by_chance_aside)
        sides.paste("and\npasted")
        sides.see("pasted", by_chance_aside)
        sides.press("Enter")
        sides.see("Please run /login", by_chance_aside)
        sides.resize(20, 60)
        sides.see("Please run /login", by_chance_aside)
        sides.resize(LINES, COLUMNS)
        sides.type("not sent")
        sides.see("not sent", by_chance_aside)
        sides.press("C-c")
        sides.see("pasted", by_chance_aside, gone="not sent")
        sides.press("C-z")
        sides.see("Stopped", by_chance_aside)
        sides.type("fg\n")
        sides.see("pasted", by_chance_aside, gone="Stopped")
        sides.type("/exit\n")
        sides.see("claude --resume ID", last_words)
        sides.ended(0)


@needs_tmux
@pytest.mark.timeout(180)
def test_pi_in_tmux(project: Path, tmp_path: Path, processes: Processes) -> None:
    """The same for pi."""
    with SideBySide(processes, tmp_path / "sides", {**ALONE, "PATH": path_with("pi")}, timeout=50) as sides:
        sides.type("go pi\n")
        sides.see("No models available")
        sides.type("typed ")
        sides.see("typed")
        sides.paste("and\npasted")
        sides.see("pasted")
        sides.resize(20, 60)
        sides.see("pasted")
        sides.resize(LINES, COLUMNS)
        sides.see("pasted")
        sides.press("C-c")
        sides.see("unknown", gone="pasted")
        sides.press("C-z")
        sides.see("Stopped")
        sides.type("fg\n")
        sides.see("unknown", gone="Stopped")
        sides.press("C-d")
        sides.ended(0)
