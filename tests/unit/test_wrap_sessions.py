"""Which arguments a restarted agent gets, for every agent that keeps conversations, and whatever it has kept."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from kit import Processes
from nursery import linux

from supervisor.agents import AGENTS
from supervisor.process import procfs
from supervisor.wrap.arguments import parse
from supervisor.wrap.sessions import Session, session_of

OLD = "0a0a0a0a-2222-4333-8444-555555555555"
NEW = "0b0b0b0b-2222-4333-8444-555555555555"
LIVES = "echo; read line"
"""A program of the shell that says it is up, and lives until its standard input ends."""

ID = "ID"
"""Stands for the id that a session has made."""

PRESET = ("claude", "copilot", "gemini", "pi", "qwen")


class Setting:
    """A home, a directory to work in, and the environment of an agent there."""

    def __init__(self, home: Path, cwd: Path) -> None:
        self.home = home
        self.cwd = cwd
        self.environment = {"HOME": str(home), "AGENT_YES_RUN": "0" * 32}

    def session(self, cli: str, *args: str, started_at: float | None = None) -> Session | None:
        """Return the session of an agent with these arguments."""
        at = time.time() if started_at is None else started_at
        return session_of(cli, args, cwd=str(self.cwd), environment=self.environment, started_at=at)

    def begun(self, cli: str, *args: str) -> tuple[Session, str]:
        """Return a session that has been started, and the id that it has given."""
        session = self.session(cli, *args)
        assert session is not None
        _, added = session.first()
        return session, added[-1] if added else ""

    def write(self, path: str, *records: object) -> Path:
        """Write a file below the home, a line for each record."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return file

    def talk(self, cli: str, session: str) -> Path:
        """Keep what an agent keeps of a conversation that has had a turn."""
        if cli == "claude":
            begun = {"type": "queue-operation", "sessionId": session}
            turn = {"type": "user", "isSidechain": False, "message": {"content": "hi"}, "sessionId": session}
            return self.write(f".claude/projects/-work/{session}.jsonl", begun, turn)
        if cli == "gemini":
            turn = {"id": "1", "type": "user", "content": [{"text": "hi"}]}
            name = f"session-2026-11-23T13-54-{session[:8]}.jsonl"
            return self.write(f".gemini/tmp/work/chats/{name}", {"sessionId": session, "kind": "main"}, turn)
        if cli == "qwen":
            return self.write(f".qwen/projects/-work/chats/{session}.jsonl", {"sessionId": session, "type": "user"})
        if cli == "copilot":
            turns = [{"type": "session.start"}, {"type": "user.message"}]
            return self.write(f".copilot/session-state/{session}/events.jsonl", *turns)
        return self.write(session, {"type": "session", "cwd": str(self.cwd)}, {"type": "message"})

    def codex(self, session: str, *, age: float = 0, folder: str = ".codex", **payload: object) -> Path:
        """Keep what codex keeps of a conversation that was begun so many seconds ago."""
        now = time.time() - age
        born = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        known = {"id": session, "timestamp": born, "cwd": str(self.cwd), "source": "cli", **payload}
        day = time.strftime("%Y/%m/%d", time.localtime(now))
        line = {"timestamp": born, "type": "session_meta", "payload": known}
        return self.write(f"{folder}/sessions/{day}/rollout-2026-11-23T13-52-41-{session}.jsonl", line)

    def opencode(self, *rows: tuple[str, str, str | None, float, float], name: str = "opencode") -> Path:
        """Keep what opencode keeps: id, directory, parent, birth and last change of each session."""
        file = self.home / ".local" / "share" / name / f"{name}.db"
        file.parent.mkdir(parents=True)
        connection = sqlite3.connect(file)
        with connection:
            connection.execute(
                "CREATE TABLE session (id text PRIMARY KEY, directory text NOT NULL, parent_id text,"
                " time_created integer NOT NULL, time_updated integer NOT NULL)"
            )
            milliseconds = [(*row[:3], int(row[3] * 1000), int(row[4] * 1000)) for row in rows]
            connection.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?)", milliseconds)
        connection.close()
        return file


@pytest.fixture
def setting(home: Path, tmp_path: Path) -> Setting:
    """Return where an agent works."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    return Setting(home, cwd)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the agent a terminal."""
    monkeypatch.setattr(os, "isatty", lambda _descriptor: True)


def before(*sessions: str) -> Callable[[list[str]], list[str]]:
    """Return what puts the ids of sessions back to what stands for them in the tables."""
    return lambda words: [ID if word in sessions else word for word in words]


# The first start.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("claude", "--session-id ID"),
        ("/opt/bin/claude", "--session-id ID"),
        ("claude fix", "--session-id ID fix"),
        ("claude -p fix --model opus", "--session-id ID -p fix --model opus"),
        ("claude --add-dir a b -- fix", "--session-id ID --add-dir a b -- fix"),
        ("claude -- mcp", "--session-id ID -- mcp"),
        ("claude --model mcp fix", "--session-id ID --model mcp fix"),
        ("gemini -y", "--session-id ID -y"),
        ("qwen -m m -i fix", "--session-id ID -m m -i fix"),
        ("copilot -p fix --allow-all-tools", "--session-id ID -p fix --allow-all-tools"),
        ("pi -p fix", "--session ID -p fix"),
        ("codex fix", "fix"),
        ("codex exec fix", "exec fix"),
        ("opencode run fix", "run fix"),
        ("kilo", ""),
    ],
)
def test_first_start(setting: Setting, line: str, expected: str) -> None:
    """An agent that takes an id gets one, ahead of everything else; the others start as typed."""
    cli, *args = line.split()
    session = setting.session(cli, *args)
    assert session is not None
    found, added = session.first()
    assert before(*added[1:])(found) == expected.split()
    assert len(added) == (2 if ID in expected else 0)
    if "--session-id" in added:
        assert uuid.UUID(added[1]).version == 4


def test_ids_differ(setting: Setting) -> None:
    """Each series has a conversation of its own."""
    assert setting.begun("claude")[1] != setting.begun("claude")[1]


@pytest.mark.parametrize(
    "line",
    [
        *("claude -c", "claude --continue fix", "claude -r", "claude --resume x fix", "claude --resume=x"),
        *("claude --session-id x", "claude --session-id=x", "claude -p --no-session-persistence fix", "claude --help"),
        *("claude -v", "claude -pc fix", "claude --fork-session", "claude --from-pr 1", "claude -w", "claude --bg fix"),
        *("claude mcp list", "claude --verbose doctor", "claude --newest-option mcp list", "claude --model x update"),
        *("codex resume --last", "codex resume x", "codex exec resume x fix", "codex -m x exec review", "codex login"),
        *("codex --version", "codex -hm x", "codex exec --ephemeral fix", "codex --remote ws://x", "codex --worktree"),
        *("codex exec --newest-option fix", "gemini -r latest", "gemini --list-sessions", "gemini mcp list"),
        *("qwen --chat-recording=false", "qwen --no-chat-recording", "qwen -c", "qwen auth", "copilot --resume"),
        *("copilot --continue", "copilot --session-id=x", "copilot update", "copilot --acp", "opencode -s x"),
        *("opencode run -c fix", "opencode run --attach http://x fix", "opencode serve", "kilo --continue"),
        *("pi --no-session", "pi --session x", "pi -r", "pi --fork x", "pi list", "pi --export x", "pi --list-models"),
        *("bash -c true", "vim", "claude-code", "./claude/", ""),
    ],
)
def test_no_room(setting: Setting, line: str) -> None:
    """Where the person has chosen the conversation, wants none, or runs no agent that we know, nothing is added."""
    cli, *args = line.split() or [""]
    assert setting.session(cli, *args) is None


def test_no_directory(setting: Setting) -> None:
    """Where the current directory has been deleted nothing is added."""
    assert session_of("claude", [], cwd="", environment=setting.environment, started_at=0) is None


# A restart, of an id of ours.


@pytest.mark.parametrize("cli", PRESET)
def test_nothing_was_kept(setting: Setting, terminal: None, cli: str) -> None:
    """A try that has ended before it kept anything is started again the same, with the same id and the prompt."""
    session, _ = setting.begun(cli, "--model", "m", "fix this")
    first = session.first()
    assert session.again(1) == first
    assert session.again(None) == first


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("claude", "--resume ID"),
        ("claude fix", "--resume ID"),
        (
            "claude --dangerously-skip-permissions fix --model opus",
            "--resume ID --dangerously-skip-permissions --model opus",
        ),
        ("claude --model opus -- fix", "--resume ID --model opus"),
        ("claude --debug api fix", "--resume ID --debug api"),
        ("claude --add-dir a b --verbose fix", "--resume ID --add-dir a b --verbose"),
        ("claude --newest-option what fix", "--resume ID --newest-option what"),
        ("claude --newest-option=what fix", "--resume ID --newest-option=what"),
        ("claude --no-such fix", "--resume ID --no-such"),
        ("claude -p fix", "--resume ID -p fix"),
        ("claude --print -- fix", "--resume ID --print -- fix"),
        ("gemini -y fix this", "--resume ID -y"),
        ("gemini -i fix -m x", "--resume ID -m x"),
        ("gemini -p fix", "--resume ID -p fix"),
        ("qwen fix", "--resume ID fix"),
        ("qwen -i fix", "--resume ID"),
        ("qwen -p fix", "--resume ID -p fix"),
        ("copilot -i fix --yolo", "--session-id ID --yolo"),
        ("copilot --interactive=fix", "--session-id ID"),
        ("copilot -p fix", "--session-id ID -p fix"),
        ("pi @notes.md fix", "--session ID"),
        ("pi -nt -t read fix", "--session ID -nt -t read"),
        ("pi --mode json fix", "--session ID --mode json fix"),
    ],
)
def test_resume(setting: Setting, terminal: None, line: str, expected: str) -> None:
    """What was kept is resumed by its id; the prompt goes again only to an agent that nobody else could talk to."""
    cli, *args = line.split()
    session, number = setting.begun(cli, *args)
    setting.talk(cli, number)
    for pid in (1, None):
        found, added = session.again(pid)
        assert before(number)(found) == expected.split()
        assert before(number)(added) == expected.split()[:2]


@pytest.mark.parametrize("closed", [0, 1])
@pytest.mark.parametrize("cli", ["claude", "gemini", "pi"])
def test_without_a_terminal(setting: Setting, monkeypatch: pytest.MonkeyPatch, cli: str, closed: int) -> None:
    """An agent whose input or output is redirected works without asking, so it needs its prompt."""
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor != closed)
    session, number = setting.begun(cli, "fix")
    setting.talk(cli, number)
    assert session.again(1)[0][-1] == "fix"


def test_gemini_in_ci(setting: Setting, terminal: None) -> None:
    """Gemini asks nobody where CI is set, whatever terminal it has."""
    setting.environment["CI"] = "true"
    session, number = setting.begun("gemini", "fix")
    setting.talk("gemini", number)
    assert session.again(1)[0] == ["--resume", number, "fix"]


@pytest.mark.parametrize(
    ("cli", "records"),
    [
        ("claude", []),
        ("claude", [{"type": "queue-operation"}, {"type": "summary"}]),
        ("claude", [{"type": "user", "isSidechain": True}]),
        ("gemini", [{"$set": {"messages": [{"type": "user", "content": [{"text": "<session_context>\nToday"}]}]}}]),
        ("gemini", [{"type": "user", "content": "/help"}, {"type": "info", "content": "help"}]),
    ],
)
def test_nothing_to_resume(setting: Setting, terminal: None, cli: str, records: list[object]) -> None:
    """Claude and gemini refuse an id that has a file without a turn, either way: they get another one."""
    session, number = setting.begun(cli, "fix")
    file = setting.talk(cli, number)
    file.write_text("".join(json.dumps(record) + "\n" for record in [{"sessionId": number}, *records]))
    found, added = session.again(1)
    assert found == ["--session-id", added[1], "fix"]
    assert added[1] != number
    setting.talk(cli, added[1])
    assert session.again(1)[0] == ["--resume", added[1]]


@pytest.mark.parametrize(
    "record", [{"$set": {"messages": [{"type": "gemini", "content": "yes"}]}}, {"type": "gemini", "toolCalls": [1]}]
)
def test_geminis_turns(setting: Setting, terminal: None, record: object) -> None:
    """Gemini resumes what holds a word of its own too, wherever that stands."""
    session, number = setting.begun("gemini")
    setting.write(f".gemini/tmp/x/chats/session-2026-{number[:8]}.jsonl", {"sessionId": number}, record)
    assert session.again(1)[0] == ["--resume", number]


def test_geminis_file_of_another(setting: Setting, terminal: None) -> None:
    """Gemini's file names hold only a part of the id; what is in it decides."""
    session, number = setting.begun("gemini")
    setting.talk("gemini", number[:8] + OLD[8:])
    assert session.again(1)[0] == ["--session-id", number]


@pytest.mark.parametrize("cli", ["copilot", "pi", "qwen"])
def test_empty_files(setting: Setting, terminal: None, cli: str) -> None:
    """Copilot, pi and qwen begin anew under the same id where nothing has been said."""
    session, number = setting.begun(cli, "-m", "x")
    first = session.first()
    setting.talk(cli, number).write_text("")
    assert session.again(1) == first


@pytest.mark.parametrize(
    ("cli", "variable", "moved"),
    [
        ("claude", "CLAUDE_CONFIG_DIR", ".claude"),
        ("gemini", "GEMINI_CLI_HOME", "."),
        ("qwen", "QWEN_HOME", ".qwen"),
        ("qwen", "QWEN_RUNTIME_DIR", ".qwen"),
        ("copilot", "COPILOT_HOME", ".copilot"),
    ],
)
def test_own_variables(setting: Setting, tmp_path: Path, terminal: None, cli: str, variable: str, moved: str) -> None:
    """An agent's own variable says where its conversations are, and nothing is looked for elsewhere."""
    setting.environment["HOME"] = str(tmp_path / "nowhere")
    setting.environment[variable] = str(setting.home / moved)
    session, number = setting.begun(cli)
    assert session.again(1)[1][0] == "--session-id"
    setting.talk(cli, number)
    assert session.again(1)[0] == [*AGENTS[cli].resume, number]
    setting.environment[variable] = str(tmp_path / "nowhere")
    session, number = setting.begun(cli)
    setting.talk(cli, number)
    assert session.again(1)[1][0] == "--session-id"


# pi, whose conversations have a path.


@pytest.mark.parametrize(
    ("variables", "args", "expected"),
    [
        ({}, [], "home/.pi/agent/sessions/--{cwd}--"),
        ({"PI_CODING_AGENT_DIR": "~/p"}, [], "home/p/sessions/--{cwd}--"),
        ({"PI_CODING_AGENT_DIR": "~/p", "PI_CODING_AGENT_SESSION_DIR": "~/s"}, [], "home/s"),
        ({"PI_CODING_AGENT_SESSION_DIR": "~/s"}, ["--session-dir", "here"], "work/here"),
    ],
)
def test_where_pi_keeps_it(
    setting: Setting, tmp_path: Path, variables: dict[str, str], args: list[str], expected: str
) -> None:
    """Pi's conversation lies where pi keeps its own, in a folder that is there, so that its list shows it."""
    setting.environment |= variables
    _, path = setting.begun("pi", *args)
    folder, _, name = path.rpartition("/")
    assert folder == str(tmp_path / expected.format(cwd=str(setting.cwd)[1:].replace("/", "-")))
    assert os.listdir(folder) == []
    stamp, _, number = name.removesuffix(".jsonl").partition("_")
    assert time.strptime(stamp, "%Y-%m-%dT%H-%M-%S-000Z")
    assert str(uuid.UUID(number)) == number


def test_pi_without_a_place(setting: Setting) -> None:
    """Where pi's folder cannot be made pi starts as typed, and again."""
    (setting.home / ".pi").write_text("in the way")
    session = setting.session("pi", "fix")
    assert session is not None
    assert session.first() == session.again(1) == (["fix"], [])


# claude, that was in another conversation than the one it began with.


def live(setting: Setting, pid: int = 4711, **record: object) -> Path:
    """Leave what a killed claude leaves of the conversation that it was in."""
    known = {"pid": pid, "sessionId": NEW, "cwd": str(setting.cwd), **record}
    return setting.write(f".claude/sessions/{pid}.json", known)


def test_cleared(setting: Setting, terminal: None) -> None:
    """The conversation that a killed claude was in is resumed, and stays the one of the series."""
    session, number = setting.begun("claude", "fix")
    setting.talk("claude", number)
    setting.talk("claude", NEW)
    live(setting)
    assert session.again(4712)[0] == ["--resume", number]
    session, number = setting.begun("claude", "fix")
    live(setting)
    assert session.again(4711)[0] == ["--resume", NEW]
    assert session.again(None)[0] == ["--resume", NEW]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda setting: os.utime(live(setting), (1, 1)),
        lambda setting: live(setting, cwd="/elsewhere"),
        lambda setting: live(setting, sessionId="../../x"),
        lambda setting: live(setting, sessionId=[]),
        lambda setting: live(setting, sessionId=OLD),
        lambda setting: live(setting).write_text("[" * 9999),
        lambda setting: live(setting).write_text("[]"),
        lambda setting: live(setting).unlink(),
    ],
    ids=["older", "elsewhere", "no id", "junk", "no conversation", "deep", "a list", "gone"],
)
def test_not_cleared(setting: Setting, terminal: None, spoil: Callable[[Setting], object]) -> None:
    """What is left of another process, or makes no sense, changes nothing."""
    setting.talk("claude", NEW)
    session, number = setting.begun("claude")
    setting.talk("claude", number)
    spoil(setting)
    assert session.again(4711)[0] == ["--resume", number]


# Agents that take no id: the one that the try before had is found.


@linux
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("codex", "resume ID"),
        ("codex fix", "resume ID"),
        ("codex -m x --no-daemon fix", "resume ID -m x --no-daemon"),
        ("codex fix -i a.png b.png -a never", "resume ID -a never"),
        ("codex exec fix", "exec resume ID fix"),
        ("codex e --json -s read-only fix", "e -s read-only resume ID --json fix"),
        ("codex -m x exec --color=never -oout fix", "-m x exec --color=never resume ID -oout fix"),
        ("codex exec fix -i a.png b.png", "exec resume ID fix -i a.png -i b.png"),
        ("codex exec -- -fix", "exec resume ID -- -fix"),
    ],
)
def test_codex(setting: Setting, terminal: None, line: str, expected: str) -> None:
    """Codex goes on with the session that it has begun, by its own order of words, for as many tries as it takes."""
    cli, *args = line.split()
    session, _ = setting.begun(cli, *args)
    setting.codex(OLD, age=90)
    os.utime(setting.codex(OLD, age=90), (1, 1))
    setting.codex(NEW)
    for _ in range(2):
        found, added = session.again(1)
        assert before(NEW)(found) == expected.split()
        assert added == ["resume", NEW]


@linux
def test_codex_elsewhere(setting: Setting, terminal: None) -> None:
    """Codex's own folder, and the directory that it is told to work in, are heeded."""
    setting.environment["CODEX_HOME"] = str(setting.home / "c")
    for args in (["-C", "sub"], ["--cd=sub"], ["-Csub"]):
        session, _ = setting.begun("codex", *args)
        setting.codex(OLD, folder="c")
        setting.codex(NEW, folder="c", cwd=str(setting.cwd / "sub"))
        assert session.again(1)[0] == ["resume", NEW, *args]


@linux
@pytest.mark.parametrize(
    "keep",
    [
        lambda _setting: None,
        lambda setting: (setting.codex(OLD), setting.codex(NEW)),
        lambda setting: setting.codex(NEW, age=90),
        lambda setting: os.utime(setting.codex(NEW), (1, 1)),
        lambda setting: setting.codex(NEW, cwd="/elsewhere"),
        lambda setting: setting.codex(NEW, source={"subagent": {"parent_thread_id": OLD}}),
        lambda setting: (setting.codex(NEW), setting.codex(OLD).write_text("{}")),
        lambda setting: (setting.codex(NEW).write_text("junk"), setting.codex(OLD).write_text("{}")),
    ],
    ids=["none", "two", "begun before", "unchanged", "elsewhere", "subagent", "one and junk", "junk"],
)
def test_codex_in_doubt(setting: Setting, terminal: None, keep: Callable[[Setting], object]) -> None:
    """Where it cannot be told for sure which session was the try's, codex starts as typed."""
    session, _ = setting.begun("codex", "fix")
    keep(setting)
    assert session.again(1) == (["fix"], [])


@linux
@pytest.mark.parametrize(
    ("line", "expected"), [("codex fix", "resume --last"), ("codex exec fix", "exec resume --last fix")]
)
def test_last_resort(setting: Setting, terminal: None, line: str, expected: str) -> None:
    """One session has changed since the start, in a form that we do not know: it is the last one."""
    cli, *args = line.split()
    session, _ = setting.begun(cli, *args)
    setting.codex(NEW).write_text('{"type": "another"}\n')
    assert session.again(1) == (expected.split(), ["resume", "--last"])


@linux
def test_the_next_try(setting: Setting, terminal: None) -> None:
    """What could not be told after one try is no hindrance after the next."""
    session = setting.session("codex", "fix", started_at=time.time() - 1)
    assert session is not None
    kept = [setting.codex(number) for number in (OLD, NEW)]
    assert session.again(1) == (["fix"], [])
    for file in kept:
        os.utime(file, (time.time() - 0.5, time.time() - 0.5))
    setting.codex("0c0c0c0c-2222-4333-8444-555555555555")
    assert session.again(1)[1] == ["resume", "0c0c0c0c-2222-4333-8444-555555555555"]


@linux
def test_deleted_meanwhile(setting: Setting, terminal: None) -> None:
    """A session that is no longer there is not asked for."""
    session, _ = setting.begun("codex", "fix")
    file = setting.codex(NEW)
    assert session.again(1)[1] == ["resume", NEW]
    file.unlink()
    assert session.again(1) == (["fix"], [])


@linux
@pytest.mark.parametrize(
    "keep", [lambda setting: setting.codex(NEW), lambda setting: setting.codex(NEW).write_text("{}")]
)
@pytest.mark.parametrize(
    ("argv", "variables", "alone"),
    [
        (["codex"], {}, False),
        (["node"], {}, False),
        (["/opt/codex.exe"], {"AGENT_YES_RUN": "1" * 32}, False),
        (["codex"], {"AGENT_YES_RUN": "0" * 32}, True),
        (["codex", "app-server"], {}, True),
        (["claude"], {}, True),
    ],
    ids=["another", "a script", "of another run", "of the same run", "a daemon", "another kind"],
)
def test_others_in_the_directory(
    setting: Setting,
    terminal: None,
    tmp_path: Path,
    processes: Processes,
    keep: Callable[[Setting], object],
    argv: list[str],
    variables: dict[str, str],
    alone: bool,
) -> None:
    """Where another agent of the kind works in the directory, what has changed may be its."""
    script = tmp_path / "codex"
    script.write_text(LIVES)
    command = ["node", str(script)] if argv == ["node"] else [argv[0], "-c", LIVES, *argv]
    session, _ = setting.begun("codex", "fix")
    keep(setting)
    living = processes.start(
        *command, executable="/bin/sh", cwd=setting.cwd, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert living.stdout is not None
    living.stdout.readline()
    assert bool(session.again(1)[1]) is alone


# opencode and kilo, which keep everything in one database.


@linux
@pytest.mark.parametrize("cli", ["opencode", "kilo"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "--session ses_new00001"),
        ("--prompt fix -m x", "--session ses_new00001 -m x"),
        ("run fix", "run --session ses_new00001 fix"),
        ("run -m x -- fix", "run --session ses_new00001 -m x -- fix"),
    ],
)
def test_opencode(setting: Setting, terminal: None, cli: str, line: str, expected: str) -> None:
    """The one session of the directory that has been begun since is gone on with."""
    session, _ = setting.begun(cli, *line.split())
    now, here = time.time() + 0.01, str(setting.cwd)
    setting.opencode(
        ("ses_old00001", here, None, 1, 2),
        ("ses_new00001", here, None, now, now),
        ("ses_sub00001", here, "ses_new00001", now, now),
        ("ses_far00001", "/elsewhere", None, now, now),
        name=cli,
    )
    for _ in range(2):
        assert session.again(1) == (expected.split(), ["--session", "ses_new00001"])


@linux
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "sub"),
        ({}, "run --dir sub fix"),
        ({"XDG_DATA_HOME": "{home}/.local/share"}, "sub"),
        ({"OPENCODE_DB": "{db}"}, "sub"),
    ],
)
def test_opencode_elsewhere(setting: Setting, terminal: None, variables: dict[str, str], line: str) -> None:
    """Its own variables, and the project that it is given, are heeded."""
    now, began = time.time(), time.time() - 1
    sub = str(setting.cwd / "sub")
    db = setting.opencode(("ses_new00001", sub, None, now, now), ("ses_far00001", str(setting.cwd), None, now, now))
    moved = {name: value.format(home=setting.home, db=db) for name, value in variables.items()}
    if moved:
        setting.environment |= {"HOME": "/nowhere", **moved}
    session = setting.session("opencode", *line.split(), started_at=began)
    assert session is not None
    assert session.again(1)[1] == ["--session", "ses_new00001"]


@linux
@pytest.mark.parametrize("spoil", ["two", "begun before", "junk", "another form", "locked", "gone", "folder", "view"])
def test_opencode_in_doubt(setting: Setting, terminal: None, spoil: str) -> None:
    """Where it cannot be told, or the database not be read, opencode starts as typed, and soon."""
    session, _ = setting.begun("opencode", "--prompt", "fix")
    now, here = time.time() + 0.01, str(setting.cwd)
    rows = [("ses_new00001", here, None, 1.0 if spoil == "begun before" else now, now)]
    if spoil == "two":
        rows.append(("ses_new00002", here, None, now, now))
    db = setting.opencode(*rows)
    connection = sqlite3.connect(db, isolation_level=None)
    if spoil == "junk":
        db.write_bytes(b"junk" * 999)
    elif spoil == "another form":
        connection.execute("ALTER TABLE session RENAME COLUMN directory TO place")
    elif spoil == "locked":
        connection.execute("BEGIN EXCLUSIVE")
    elif spoil in ("gone", "folder"):
        db.unlink()
        if spoil == "folder":
            db.mkdir()
    elif spoil == "view":
        connection.execute("ALTER TABLE session RENAME TO kept")
        connection.execute(
            "CREATE VIEW session AS WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM endless)"
            " SELECT kept.* FROM kept, endless WHERE n < 0"
        )
    began = time.monotonic()
    assert session.again(1) == (["--prompt", "fix"], [])
    assert time.monotonic() - began < 5
    connection.close()


# Whatever lies there.


@pytest.mark.parametrize("cli", PRESET)
@pytest.mark.parametrize("kind", ["fifo", "folder", "link to itself", "junk", "deep", "no text"])
def test_odd_files(setting: Setting, terminal: None, cli: str, kind: str) -> None:
    """Whatever stands where a conversation should be, an answer comes at once and starts the agent."""
    session, number = setting.begun(cli, "fix")
    file = setting.talk(cli, number)
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link to itself":
        file.symlink_to(file)
    else:
        file.write_bytes({"junk": b"{}\n7\n[]\n", "deep": b"[" * 99999, "no text": b"\xff\x00\xfe\n" * 999}[kind])
    found, added = session.again(1)
    assert found[-1] == "fix"
    assert len(added) in (0, 2)


@given(st.sampled_from(sorted(AGENTS)), st.data())
def test_any_arguments(cli: str, data: st.DataObject) -> None:
    """Whatever is typed can be taken apart, and put together again it is the same."""
    agent = AGENTS[cli]
    known = sorted(agent.one | agent.many | agent.maybe | agent.flags | agent.headless | agent.runs)
    args = data.draw(st.lists(st.sampled_from([*known, "--", "-", "-xyz", "--unknown", "--m=1"]) | st.text()))
    parsed = parse(agent, args)
    if parsed is None:
        return
    assert parsed.with_added([]) == args
    added = parsed.with_added(["A"])
    added.remove("A")
    assert added == args
    shorter = parsed.resumed([], prompt=False)
    assert len(shorter) <= len(args) or agent.run_only


@linux
def test_unseen_processes(setting: Setting, terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other processes cannot be seen there may be another agent."""
    monkeypatch.setattr(procfs, "is_ours", lambda: False)
    session, _ = setting.begun("codex", "fix")
    setting.codex(NEW)
    assert session.again(1) == (["fix"], [])
