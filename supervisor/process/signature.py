"""Whether a process looks like a run's agent: evidence beside pid and time, for rows that were never bound.

True is evidence that it is; False says that it certainly is not; None, the usual answer, that it may be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.process import procfs
from supervisor.process.token import token_of

_INTERPRETERS = re.compile(
    r"-?(node|nodejs|bun|deno|tsx|python|pypy|ruby|perl|php|java|dotnet|pwsh|npx|npm|pnpm|yarn|uv|uvx|MainThread"
    r"|sh|bash|zsh|fish|dash|ksh|busybox|env|sudo|doas|su|docker|podman|ssh|tmux|screen)(-?[\d.]+t?)?"
)
"""What an agent may run in: a process of such a name is never certainly not one."""


@dataclass(frozen=True, slots=True)
class Looks:
    """What a process shows of itself; a field is None where it is hidden.

    ``in_project`` says whether it works in the directory that the store stands in now, or below.
    """

    argv: tuple[str, ...] | None
    exe: str | None
    cwd: str | None
    token: str | None
    holds_store: bool
    in_project: bool = False


def looks_of(pid: int, store_file: str) -> Looks:
    """Look at what a process shows of itself.

    Args:
        pid: its id.
        store_file: the database; every open WAL connection holds a lock on its ``-shm``.
    """
    cwd = procfs.working_directory(pid)
    project = os.path.dirname(os.path.dirname(os.path.realpath(store_file)))
    return Looks(
        argv=procfs.read_argv(pid),
        exe=procfs.executable(pid),
        cwd=cwd,
        token=token_of(pid),
        holds_store=pid in _holders(store_file),
        in_project=cwd is not None and _is_below(cwd, project),
    )


def is_the_agent(looks: Looks, *, cli: str | None, directory: str | None, token: str | None) -> bool | None:
    """Judge looks against what a row says of its run. Pure.

    Args:
        looks: what the process shows.
        cli: the run's command, as typed; a foreign row may have words behind its name.
        directory: its project's directory, as stored: it may have moved since, or lead through symbolic links.
        token: its token, if it was wrapped.
    """
    if token is not None and looks.token is not None:
        return looks.token == token
    if looks.holds_store:
        return True
    if cli is None or directory is None or looks.argv is None or looks.exe is None or looks.cwd is None:
        return None
    words = [os.path.basename(word) for word in cli.split()]
    if not words or not all(words):
        return None
    names = {os.path.basename(word) for word in (looks.exe, *looks.argv[:2])}
    here = looks.in_project or _is_below(looks.cwd, directory)
    if here and words[0] in names:
        return True
    related = here or any(name in shown for name in words for shown in (looks.exe, *looks.argv))
    if related or any(_INTERPRETERS.fullmatch(word) for word in names):
        return None
    return False


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(folder.rstrip("/") + "/")


def _holders(store_file: str) -> set[int]:
    """Return who has a store open: its WAL connections hold a read lock on byte 128 of the ``-shm`` (wal.c)."""
    try:
        status = os.stat(f"{store_file}-shm")
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return set()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return set(_pids_holding(lines, place))


def _pids_holding(lines: Iterable[str], place: str) -> Iterable[int]:
    for line in lines:
        fields = line.split()
        if "->" in fields or len(fields) < 8 or fields[5] != place or fields[7] == "EOF":
            continue
        if int(fields[6]) <= 128 <= int(fields[7]):  # a reader's locks may stand in one line with it
            yield int(fields[4])
