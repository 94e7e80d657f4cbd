"""A fake agent: does what its arguments say, step by step, with the standard library alone.

Steps, each with its arguments:

    say TEXT            write TEXT and a newline to stdout
    report FILE         write a JSON object of what was inherited to FILE (made by a rename, so never half there)
    trap SIGNAL         from now on write the signal's name to stdout when it comes
    ignore SIGNAL       ignore it
    take SIGNAL         wait until a trapped signal has come, as often as asked so far
    line                read a line from stdin and write it to stdout in brackets
    copy                copy stdin to stdout, byte by byte as it is
    await FILE          wait until FILE is there
    touch FILE          make FILE
    send SIGNAL WHOM    send a signal to ``self``, ``group`` or ``parent``
    spawn COMMAND       start a command of the shell as a child
    exit N              end with an exit code

As claude, with its files, its errors and their codes:

    converse WHEN ARGS  begin or take up the conversation that ARGS (a JSON list) name, and keep its turns at the
                        ``start`` of each, with its ``reply``, or ``never``; a prompt in ARGS is the first turn
    turn TEXT           take another turn of the person's
    reply               answer the turn with ``hist=N``, the number of turns of the conversation
    clear               begin another conversation
    bye                 say how to go on, and end
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

came: collections.Counter[int] = collections.Counter()
asked: collections.Counter[int] = collections.Counter()


def number_of(name: str) -> int:
    """Return a signal's number, given as such, or as TERM, RTMIN and so on."""
    return int(name) if name.isdigit() else int(signal.Signals[f"SIG{name}"])


def note(number: int, _frame: FrameType | None) -> None:
    """Count a signal and say so."""
    came[number] += 1
    say(signal.Signals(number).name)


def say(text: str) -> None:
    """Write a line, in one piece."""
    os.write(1, os.fsencode(text) + b"\n")


def inherited() -> dict[str, object]:
    """Return what a process is given by the one that started it; texts are decoded as Latin-1, byte by byte."""
    with open("/proc/self/environ", "rb") as file:
        environment = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0")[:-1])
    with open("/proc/self/cmdline", "rb") as file:
        arguments = file.read().split(b"\0")[:-1]
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "pgid": os.getpgrp(),
        "sid": os.getsid(0),
        "cwd": os.getcwd(),
        "umask": umask,
        "environment": {name.decode("latin-1"): value.decode("latin-1") for name, value in environment.items()},
        "arguments": [argument.decode("latin-1") for argument in arguments],
        "descriptors": [number for number in range(64) if is_open(number)],
        "foreground": foreground(),
    }


def foreground() -> int | None:
    """Return the group in the foreground of stdin, None where that is not our terminal."""
    try:
        return os.tcgetpgrp(0)
    except OSError:
        return None


def is_open(descriptor: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def report(path: str) -> None:
    """Write what was inherited."""
    found = inherited()
    with open(f"{path}.draft", "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.rename(f"{path}.draft", path)


def take(name: str) -> None:
    """Wait for a trapped signal."""
    number = number_of(name)
    asked[number] += 1
    while came[number] < asked[number]:
        time.sleep(0.002)


def line() -> None:
    """Read a line, a byte at a time so that nothing behind it is taken."""
    read = b""
    while not read.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        read += byte
    say(f"[{os.fsdecode(read.strip())}]")


def wait_for_file(path: str) -> None:
    """Wait until a file is there."""
    while not os.path.lexists(path):
        time.sleep(0.002)


def send(name: str, whom: str) -> None:
    """Send a signal."""
    os.kill({"self": os.getpid(), "group": 0, "parent": os.getppid()}[whom], number_of(name))


class Conversation:
    """A conversation as claude keeps it."""

    def __init__(self) -> None:
        self.folder = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.environ["HOME"], ".claude")
        place = "".join(letter if letter.isalnum() else "-" for letter in os.getcwd())
        self.project = os.path.join(self.folder, "projects", place)
        self.id = ""
        self.kept = ""
        self.unkept: list[dict[str, object]] = []

    def file(self, number: str) -> str:
        """Return where a conversation is kept."""
        return os.path.join(self.project, f"{number}.jsonl")

    def turns(self) -> list[dict[str, object]]:
        """Return the person's turns."""
        records = self.unkept
        if os.path.exists(self.file(self.id)):
            with open(self.file(self.id), encoding="utf-8") as file:
                records = [*map(json.loads, file), *records]
        return [record for record in records if record["type"] == "user"]

    def add(self, kind: str, text: str, *, keep: bool) -> None:
        """Say something in it, and keep all that has been said."""
        self.unkept.append({"type": kind, "isSidechain": False, "message": {"content": text}, "sessionId": self.id})
        if keep:
            os.makedirs(self.project, exist_ok=True)
            with open(self.file(self.id), "a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in self.unkept)
            self.unkept = []

    def enter(self, number: str) -> None:
        """Be in a conversation from now on, and leave word of that."""
        self.id = number
        os.makedirs(os.path.join(self.folder, "sessions"), exist_ok=True)
        with open(self.map, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "sessionId": number, "cwd": os.getcwd(), "status": "idle"}, file)

    @property
    def map(self) -> str:
        """Where claude says while it lives which conversation it is in."""
        return os.path.join(self.folder, "sessions", f"{os.getpid()}.json")


conversation: Conversation


def refuse(reason: str) -> None:
    """Say why not, and end as claude does."""
    os.write(2, f"{reason}\n".encode())
    os._exit(1)


def converse(when: str, words: str) -> None:
    """Find the conversation."""
    global conversation
    conversation, args = Conversation(), json.loads(words)
    given = dict(itertools.pairwise(args))
    new, old = given.get("--session-id"), given.get("--resume")
    if "--continue" in args:
        files = [os.path.join(conversation.project, name) for name in os.listdir(conversation.project)]
        if not files:
            refuse("No conversation found to continue")
        old = os.path.basename(max(files, key=os.path.getmtime)).removesuffix(".jsonl")
    if new and old:
        refuse("Error: --session-id can only be used with --continue or --resume if --fork-session is also specified.")
    if new and not re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", new):
        refuse("Error: Invalid session ID. Must be a valid UUID.")
    if new and os.path.exists(conversation.file(new)):
        refuse(f"Error: Session ID {new} is already in use.")
    conversation.enter(new or old or another_id())
    if old and not conversation.turns():
        refuse(f"No conversation found with session ID: {old}")
    conversation.kept = when
    taken = {"-p", "--continue", "--session-id", "--resume", new, old}
    for prompt in (word for word in args if word not in taken):
        turn(prompt)


def turn(text: str) -> None:
    """Hear the person."""
    conversation.add("user", text, keep=conversation.kept == "start")


def another_id() -> str:
    """Return an id of its own making."""
    text = os.urandom(16).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def reply() -> None:
    """Answer."""
    say(f"hist={len(conversation.turns())}")
    conversation.add("assistant", "yes", keep=conversation.kept != "never")


def bye() -> None:
    """End as claude does."""
    say(f"Resume this session with:\nclaude --resume {conversation.id}")
    os.unlink(conversation.map)
    os._exit(0)


STEPS: dict[str, Callable[..., object]] = {
    "say": say,
    "report": report,
    "trap": lambda name: signal.signal(number_of(name), note),
    "ignore": lambda name: signal.signal(number_of(name), signal.SIG_IGN),
    "take": take,
    "line": line,
    "copy": lambda: shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer),
    "await": wait_for_file,
    "touch": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)),
    "send": send,
    "spawn": lambda command: os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", command),
    "converse": converse,
    "turn": turn,
    "reply": reply,
    "clear": lambda: conversation.enter(another_id()),
    "bye": bye,
    "exit": lambda code: os._exit(int(code)),
}


def main(words: Iterator[str]) -> None:
    """Do what the words say."""
    for word in words:
        step = STEPS[word]
        code = getattr(step, "__code__")  # noqa: B009  every step is a function of ours
        step(*(next(words) for _ in range(code.co_argcount)))


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
