"""Real agents: the same output and exit code with wrap and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from kit import COMMAND
from wrapping import recorded_run

from supervisor.wrap.sessions import session_of

PREFIX = "AGENT_YES_TEST_NPM_PREFIX"
"""The environment variable that names where npm has installed agents, if they are not on PATH."""


@pytest.fixture
def search_path() -> str:
    """Return a PATH on which claude is."""
    path = os.environ["PATH"]
    if prefix := os.environ.get(PREFIX):
        path = f"{prefix}/bin:{path}"
    if shutil.which("claude", path=path) is None:
        pytest.skip(f"claude is not installed: npm install -g --prefix DIR @anthropic-ai/claude-code, {PREFIX}=DIR")
    return path


def offline(home: Path, search_path: str) -> dict[str, str]:
    """Return the environment of an agent in a home of its own, which is not to ask or fetch anything."""
    return {
        "PATH": search_path,
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
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
