"""A series of tries goes on with one conversation: with an agent that keeps its own as claude does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from wrapping import fake_claude

from supervisor.wrap.sessions import Session, session_of

KILLED = -signal.SIGKILL
DIE = ("send", "KILL", "self")


class Series:
    """Starts an agent again and again, as a session says."""

    def __init__(self, program: Path, *args: str) -> None:
        self._program = program
        session = session_of(str(program), args, cwd=os.getcwd(), environment=dict(os.environ), started_at=time.time())
        assert session is not None
        self._session: Session = session
        self._pid: int | None = None

    def next(self) -> tuple[list[str], int, str]:
        """Start it, and return with which arguments, how it has ended, and what it has said."""
        args, added = self._session.first() if self._pid is None else self._session.again(self._pid)
        assert set(added) <= set(args)
        with subprocess.Popen(
            [self._program, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as agent:
            said, _ = agent.communicate(timeout=20)
        self._pid = agent.pid
        return args, agent.returncode, said.strip()


def test_kept_at_the_start(project: Path) -> None:
    """A try that is killed in the middle of its turn has been kept, and is gone on with."""
    series = Series(fake_claude(project, DIE, ["reply", *DIE], ["reply", "bye"]), "-p", "fix")
    first, code, said = series.next()
    assert (first[0], first[2:], code, said) == ("--session-id", ["-p", "fix"], KILLED, "")
    resumed = ["--resume", first[1], "-p", "fix"]
    assert series.next() == (resumed, KILLED, "hist=2")
    assert series.next() == (resumed, 0, f"hist=3\nResume this session with:\nclaude --resume {first[1]}")


def test_kept_with_the_reply(project: Path) -> None:
    """A try that is killed before it has kept anything is started again under the same id, which is then resumed."""
    series = Series(fake_claude(project, DIE, ["reply", *DIE], keeps="reply"), "-p", "fix")
    first = series.next()
    assert first[1:] == (KILLED, "")
    assert series.next() == (first[0], KILLED, "hist=1")
    assert series.next() == (["--resume", *first[0][1:]], KILLED, "hist=2")


def test_never_kept(project: Path) -> None:
    """An agent that keeps nothing starts again the same each time, and is never refused."""
    series = Series(fake_claude(project, ["reply", *DIE], keeps="never"), "-p", "fix")
    first = series.next()
    assert first[1:] == (KILLED, "hist=1")
    assert series.next() == series.next() == first


def test_the_prompt_is_sent_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the conversation is shown again, and the prompt that it begins with is no second turn."""
    monkeypatch.setattr(os, "isatty", lambda _descriptor: True)
    series = Series(fake_claude(project, ["reply", *DIE]), "fix")
    (_, number, _), *_ = series.next()
    assert series.next() == (["--resume", number], KILLED, "hist=1")


@pytest.mark.parametrize(
    ("last", "goes_on"), [(["turn", "more", "reply"], True), ([], False)], ids=["kept", "not kept"]
)
def test_another_conversation(project: Path, monkeypatch: pytest.MonkeyPatch, last: list[str], goes_on: bool) -> None:
    """A conversation that the person has begun meanwhile is the one to go on with, if it has been kept."""
    monkeypatch.setattr(os, "isatty", lambda _descriptor: True)
    series = Series(fake_claude(project, ["reply", "clear", *last, *DIE], ["turn", "on", "reply", *DIE]), "fix")
    (_, first, _), *_ = series.next()
    (word, number), code, said = series.next()
    assert (word, number != first, code, said) == ("--resume", goes_on, KILLED, "hist=2")
    assert series.next() == (["--resume", number], KILLED, "hist=3")


def test_ended_by_itself(project: Path) -> None:
    """A try that has failed by itself leaves no word of what it was in, and is gone on with by its id."""
    series = Series(fake_claude(project, ["reply", "exit", "3"]), "-p", "fix")
    first, code, _ = series.next()
    assert code == 3
    assert series.next() == (["--resume", first[1], "-p", "fix"], 3, "hist=2")
