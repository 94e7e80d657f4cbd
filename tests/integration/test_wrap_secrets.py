"""Secrets on a wrapped command's line, and in its environment, reach the agent and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import Daemon
from kit import Processes, run_ours, wait_until
from wrapping import recorded_run, recorded_runs

from supervisor.masking import MASK
from supervisor.spool import files
from supervisor.spool.applying import apply_spooled

SECRETS = {
    "flag": "flag-secret-1",
    "pair": "pair-secret-2",
    "header": "header-secret-3",
    "url": "url-secret-4",
    "shape": "ghp_" + "Secr3t5" * 6,
    "prompt": "sk-ant-api03-" + "Secr3t6" * 6,
    "known": "known-secret-7",
    "environment": "environment-secret-8",
    "name": "innocent-value-9",
}
ARGUMENTS = [
    *("--api-key", SECRETS["flag"], f"token={SECRETS['pair']}", "-H", f"Authorization: Bearer {SECRETS['header']}"),
    *(f"https://me:{SECRETS['url']}@host/", f"use {SECRETS['shape']}", f"and {SECRETS['known']}"),
]
PROMPT = f"deploy with {SECRETS['prompt']}"
VARIABLES = {"MY_API_KEY": SECRETS["known"], "OTHER_TOKEN": SECRETS["environment"], "INNOCENT": SECRETS["name"]}


def holding(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder that hold a text, by name or content."""
    found = [path for path in folder.rglob("*") if text in path.name]
    return found + [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("where", ["store", "spool"])
def test_nothing_is_stored(
    project: Path, processes: Processes, tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    """After a run with secrets neither store nor spool, registry, log or message has one; the agent got them all."""
    daemon = Daemon(processes, project.parent / "log")
    if where == "spool":
        (project / ".agent-yes").write_text("mine")
    got = tmp_path_factory.mktemp("got") / "words"
    script = 'printf "%s\\n" "$@" "$MY_API_KEY" "$OTHER_TOKEN" >"$GOT"'
    words = ["wrap", "--prompt", PROMPT, "sh", "-c", script, "sh", *ARGUMENTS]
    ended = run_ours(*words, env={**os.environ, **VARIABLES, "GOT": str(got)})
    assert (ended.returncode, ended.stdout) == (0, "")
    assert got.read_text().splitlines() == [*ARGUMENTS, PROMPT, SECRETS["known"], SECRETS["environment"]]
    if where == "spool":
        (name,) = files.waiting()
        assert MASK in Path(files.folder(), name).read_text()
        assert nothing_in(project.parent, ended.stderr)
        (project / ".agent-yes").unlink()
        assert apply_spooled().troubles == []
    wait_until(lambda: recorded_run(project)["status"] == "completed")
    daemon.stop()
    shown = run_ours("runs", "show", ".", "--json").stdout + run_ours("why", ".").stdout
    assert nothing_in(project.parent, ended.stderr + shown + daemon.log())
    run = recorded_run(project)
    assert run["prompt"] == f"deploy with {MASK}"
    assert json.loads(run["args"])[3:] == [
        *("--api-key", MASK, f"token={MASK}", "-H", f"Authorization: {MASK}", f"https://me:{MASK}@host/"),
        *(f"use {MASK}", f"and {MASK}", f"deploy with {MASK}"),
    ]


def nothing_in(folder: Path, said: str) -> bool:
    """Assert that no file below a folder holds a secret, nor what has been said; true, to stand in an assertion."""
    for secret in SECRETS.values():
        assert holding(folder, secret) == []
        assert secret not in said
    return True


def test_says_that_it_is_masked(project: Path) -> None:
    """A run with masked arguments says that it cannot be started again from its record, and nothing offers that."""
    run_ours("wrap", "false", "--api-key", "X")
    assert "it cannot be started again from this record" in run_ours("runs", "show", ".").stdout
    told = run_ours("why", ".").stdout
    assert "start it again by hand: its arguments held secrets, which are not stored" in told
    assert "wrap false" not in told
    run_ours("wrap", "false", "--fast")
    assert "again from this record" not in run_ours("runs", "show", ".").stdout
    assert "wrap false --fast" in run_ours("why", ".").stdout


def test_masked_prompt_is_not_given_to_an_agent(project: Path) -> None:
    """A bare wrap gives no agent a prompt that is not the one that was typed."""
    run_ours("wrap", "--prompt", PROMPT, "echo")
    bare = run_ours("wrap")
    assert (bare.returncode, bare.stdout, len(recorded_runs(project))) == (125, "", 1)
    assert "the project's prompt held a secret, which is not stored; give the prompt again" in bare.stderr
    assert run_ours("wrap", "--prompt", "hello").stdout == "hello\n"


def test_environment(project: Path) -> None:
    """Of the environment a few variables are recorded that hold no secret, and shown; of others not even the name."""
    given = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TERM": "xterm", "LANG": "C.UTF-8", **VARIABLES}
    given |= {name: os.environ[name] for name in os.environ if name.startswith("XDG_")}
    run_ours("wrap", "true", env={**given, "NODE_VERSION": "v" * 10000})
    shown = json.loads(run_ours("runs", "show", "--json", ".").stdout)["environment"]
    assert shown == {"PATH": given["PATH"], "TERM": "xterm", "LANG": "C.UTF-8", "NODE_VERSION": "v" * 8192}
    assert re.search(
        rf"^with PATH +{re.escape(given['PATH'][:20])}", run_ours("runs", "show", ".").stdout, re.MULTILINE
    )
    assert not any(name.encode() in (project / ".agent-yes" / "store.sqlite").read_bytes() for name in VARIABLES)


REPORTS = """
import sys
from supervisor.cli.bug import report

try:
    1 / 0
except ZeroDivisionError:
    print(report(sys.argv[1:]))
"""


def test_report_of_a_bug(home: Path) -> None:
    """The report of a bug of ours holds the words of the command line without their secrets."""
    command = [sys.executable, "-c", REPORTS, "wrap", *ARGUMENTS]
    reported = subprocess.run(command, env={**os.environ, **VARIABLES}, capture_output=True, text=True, check=True)
    path = reported.stdout.strip()
    assert MASK in Path(path).read_text()
    assert nothing_in(home, "")
