"""What agents keep of their conversations: whether one is there, and which one a try had.

Everything here is another program's, and may be anything: what is read is bounded, and what makes no sense counts as
not there.
"""

from __future__ import annotations

import json
import os
import stat
import time

from supervisor.agents import is_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MISSING, STUB, CONVERSATION = "missing", "stub", "conversation"
"""Of a conversation there is nothing; a file without a turn, which agents do not resume; a turn at least."""

_MOST_BYTES = 16 * 1024 * 1024
"""So much of a file is read to find a turn: the first one may hold pictures."""

_MOST_ENTRIES = 20_000
_MOST_DAYS = 400
_LONGEST_MAP = 65536

_TICK = 0.02
"""Seconds by which a file's time may be behind the clock that we read: that of the kernel's last tick."""

_NO_TURN = ("/", "?", "<session_context>", "<hook_context>")
"""How texts begin that gemini does not take for a turn (its isIgnoredUserContent)."""


class Places:
    """Where agents keep what: their own variables, else below the home.

    Args:
        environment: the agent's.
        cwd: the directory that it works in.
    """

    def __init__(self, environment: Mapping[str, str], cwd: str) -> None:
        self._environment = environment
        self._home = environment.get("HOME") or os.path.expanduser("~")
        self.cwd = cwd

    def _at(self, variable: str, *below: str) -> str:
        given = self._environment.get(variable)
        return self.path(given) if given else os.path.join(self._home, *below)

    def path(self, text: str) -> str:
        """Return a path as an agent means it: ``~`` is its home, and what is relative is so to where it works."""
        if text == "~" or text.startswith("~/"):
            text = self._home + text[1:]
        return os.path.join(self.cwd, text)

    def claude(self) -> str:
        """Return claude's folder."""
        return self._at("CLAUDE_CONFIG_DIR", ".claude")

    def codex(self) -> str:
        """Return codex's folder."""
        return self._at("CODEX_HOME", ".codex")

    def copilot(self) -> str:
        """Return copilot's folder."""
        return self._at("COPILOT_HOME", ".copilot")

    def gemini(self) -> str:
        """Return gemini's folder; its variable names the home above it."""
        return os.path.join(self._at("GEMINI_CLI_HOME"), ".gemini")

    def qwen(self) -> str:
        """Return the folder of qwen's data."""
        return self._at("QWEN_RUNTIME_DIR" if self._environment.get("QWEN_RUNTIME_DIR") else "QWEN_HOME", ".qwen")

    def pi(self) -> str:
        """Return the folder of pi's sessions for the directory, named as pi names it."""
        if self._environment.get("PI_CODING_AGENT_SESSION_DIR"):
            return self._at("PI_CODING_AGENT_SESSION_DIR")
        name = self.cwd.removeprefix("/")
        for mark in "/\\:":
            name = name.replace(mark, "-")
        return os.path.join(self._at("PI_CODING_AGENT_DIR", ".pi", "agent"), "sessions", f"--{name}--")

    def database(self, agent: str) -> str:
        """Return the database of opencode or kilo."""
        folder = os.path.join(self._at("XDG_DATA_HOME", ".local", "share"), agent)
        return os.path.join(folder, self._environment.get(f"{agent.upper()}_DB") or f"{agent}.db")


def state_of(agent: str, session: str, places: Places) -> str:
    """Return what is there of a conversation whose id has been preset.

    Raises:
        OSError: what is there cannot be read.
    """
    if agent == "claude":
        files = _in_each(os.path.join(places.claude(), "projects"), f"{session}.jsonl")
        return _state(files, _is_claudes_turn)
    if agent == "gemini":
        return _state(_gemini_files(places.gemini(), session), _is_geminis_turn)
    if agent == "qwen":
        files = _in_each(os.path.join(places.qwen(), "projects"), "chats", f"{session}.jsonl")
        return _state(files, lambda record: "sessionId" in record)
    if agent == "copilot":
        events = os.path.join(places.copilot(), "session-state", session, "events.jsonl")
        return _state([events], lambda record: record.get("type") == "user.message")
    return _state([session], lambda record: record.get("type") == "session")


def live_claude(pid: int, since: float, places: Places) -> str | None:
    """Return the conversation that a claude was in that has been killed: ``/clear`` begins another than was preset.

    It writes ``sessions/PID.json`` while it lives, and takes it away when it ends by itself.

    Args:
        pid: the process's id; it has ended.
        since: when it was started; an older file is of another process.
        places: where agents keep what.
    """
    file = os.path.join(places.claude(), "sessions", f"{pid}.json")
    try:
        if os.stat(file).st_mtime < since - _TICK:
            return None
        record = json.loads(b"".join(_lines(file, _LONGEST_MAP)))
        session, cwd = record["sessionId"], record["cwd"]
        if not (
            isinstance(session, str) and is_session(session) and isinstance(cwd, str) and _is_same(cwd, places.cwd)
        ):
            return None
        return session if state_of("claude", session, places) == CONVERSATION else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


class Changed:
    """The sessions that have changed in a directory: id and birth of each, and how many more are unreadable."""

    __slots__ = ("sessions", "unreadable")

    def __init__(self, sessions: list[tuple[str, float]], unreadable: int = 0) -> None:
        self.sessions = sessions
        self.unreadable = unreadable


def changed_codex(places: Places, directory: str, since: float) -> Changed:
    """Return codex's sessions: ``sessions/Y/M/D/rollout-TIME-ID.jsonl``, whose first line says what they are."""
    found = Changed([])
    for entry in _rollouts(os.path.join(places.codex(), "sessions"), since):
        try:
            if entry.stat().st_mtime < since - _TICK:
                continue
            payload = _payload(entry.path)
            session, cwd, born = payload["id"], payload["cwd"], _moment(payload["timestamp"])
            if not (isinstance(cwd, str) and isinstance(session, str) and is_session(session)):
                found.unreadable += 1
            elif _is_same(cwd, directory) and isinstance(payload.get("source"), str):  # a subagent's says whose it is
                found.sessions.append((session, born))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            found.unreadable += 1
    return found


def changed_opencode(agent: str, places: Places, directory: str, since: float) -> Changed:
    """Return opencode's or kilo's sessions."""
    import sqlite3  # noqa: PLC0415  only these agents need it

    from supervisor.store.foreign import opencode_sessions  # noqa: PLC0415  the same

    try:
        return Changed(opencode_sessions(places.database(agent), directory, since))
    except (OSError, sqlite3.Error):
        return Changed([])


def has_codex(session: str, places: Places) -> bool:
    """Tell whether a session that codex had is still there."""
    entries = _rollouts(os.path.join(places.codex(), "sessions"), 0)
    return any(entry.name.endswith(f"-{session}.jsonl") for entry in entries)


def _state(files: Iterator[str] | list[str], is_turn: Callable[[dict[str, object]], bool]) -> str:
    state = MISSING
    for file in files:
        if not os.path.lexists(file):
            continue
        state = STUB
        for record in _records(file):
            if is_turn(record):
                return CONVERSATION
    return state


def _is_claudes_turn(record: dict[str, object]) -> bool:
    return record.get("type") in ("user", "assistant") and record.get("isSidechain") is not True


def _is_geminis_turn(record: dict[str, object]) -> bool:
    messages: object = record.get("messages")
    changes = record.get("$set")
    if isinstance(changes, dict):
        messages = changes.get("messages")
    if isinstance(messages, list):
        return any(isinstance(message, dict) and _is_geminis_turn(message) for message in messages)
    if record.get("type") == "gemini":
        return bool(_text(record.get("content")).strip() or record.get("toolCalls") or record.get("thoughts"))
    text = _text(record.get("content")).strip()
    return record.get("type") == "user" and bool(text) and not text.startswith(_NO_TURN)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, dict):
        content = content.get("text", "")
    return content if isinstance(content, str) else ""


def _gemini_files(folder: str, session: str) -> Iterator[str]:
    """Yield the files whose names end as this session's: with the first eight digits of its id."""
    tmp = os.path.join(folder, "tmp")
    for project in _entries(tmp):
        for entry in _entries(os.path.join(project.path, "chats")):
            stem = entry.name.removesuffix("l").removesuffix(".json")
            named = entry.name.startswith("session-") and stem.endswith(f"-{session[:8]}")
            if named and any(record.get("sessionId") == session for record in _records(entry.path, most=1)):
                yield entry.path


def _in_each(folder: str, *below: str) -> Iterator[str]:
    """Yield a file's path in each folder of a folder: agents differ in how they name one after a directory."""
    for entry in _entries(folder):
        yield os.path.join(entry.path, *below)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, at most so much; nothing where there is none."""
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry)
                if len(found) == _MOST_ENTRIES:
                    break
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found


def _rollouts(folder: str, since: float) -> Iterator[os.DirEntry[str]]:
    """Yield codex's files of the days since a moment, the newest day first; a day is that of the local clock."""
    first = time.strftime("%Y/%m/%d", time.localtime(max(0, since - 86400)))
    days = 0
    for year in _numbered(folder):
        for month in _numbered(year.path):
            for day in _numbered(month.path):
                if f"{year.name}/{month.name}/{day.name}" < first or days == _MOST_DAYS:
                    return
                days += 1
                for entry in _entries(day.path):
                    if entry.name.startswith("rollout-") and entry.name.endswith(".jsonl"):
                        yield entry


def _numbered(folder: str) -> list[os.DirEntry[str]]:
    found = [entry for entry in _entries(folder) if entry.name.isdecimal() and entry.name.isascii()]
    return sorted(found, key=lambda entry: entry.name, reverse=True)


def _payload(file: str) -> dict[str, object]:
    for record in _records(file, most=1):
        payload = record.get("payload")
        if record.get("type") == "session_meta" and isinstance(payload, dict):
            return payload
    raise ValueError("no session's file")


def _moment(text: object) -> float:
    """Return a time as JavaScript and Rust write it, ``2026-11-23T13:52:41.300Z``, in Unix seconds."""
    import calendar  # noqa: PLC0415  only codex needs it

    whole, _, fraction = str(text).removesuffix("Z").partition(".")
    date, _, clock = whole.partition("T")
    year, month, day = map(int, date.split("-"))
    hour, minute, second = map(int, clock.split(":"))
    return calendar.timegm((year, month, day, hour, minute, second)) + float(f"0.{fraction or 0}")


def _records(file: str, *, most: int | None = None) -> Iterator[dict[str, object]]:
    """Yield the objects in a file's lines; junk between them is passed over. At most the first ``most`` lines count."""
    for number, line in enumerate(_lines(file, _MOST_BYTES)):
        if number == most:
            return
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _lines(file: str, most: int) -> Iterator[bytes]:
    """Yield a file's lines up to a number of bytes; none of what is no plain file, which might keep us waiting."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        while most > 0 and (line := opened.readline(most)):
            most -= len(line)
            yield line


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
