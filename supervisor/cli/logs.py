"""``logs``: what a run's agent wrote."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from supervisor.cli import output
from supervisor.cli.completion import complete_run
from supervisor.cli.spooled import take_spooled
from supervisor.errors import NotFound
from supervisor.log.folder import ERRORS, is_token
from supervisor.views import RunView, find_run

if TYPE_CHECKING:
    from supervisor.log.reader import LogReader

_LOOK_EVERY = 0.1
_ASK_EVERY = 0.5
"""Seconds between two looks at the log, and between two questions whether the run goes on."""


@click.command
@click.argument("run", shell_complete=complete_run)
@click.option("-f", "--follow", is_flag=True, help="Go on as the agent writes, until it has ended.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each stream.")
@click.option("--raw", is_flag=True, help="The bytes as the agent wrote them, control sequences and all.")
def logs(run: str, follow: bool, lines: int | None, raw: bool) -> None:
    """Print what RUN's agent wrote, if it was started with `wrap --log`.

    What it wrote to stderr, where that was redirected, goes to stderr.
    """
    take_spooled()
    view = find_run(run)
    streams = {stream: (_Raw if raw else _Rendered)(reader, stream) for stream, reader in _readers(view).items()}
    for stream in streams.values():
        stream.begin(lines)
    if follow:
        _follow(view, list(streams.values()))
    for stream in streams.values():
        stream.finish()


def _readers(view: RunView) -> dict[str, LogReader]:
    from supervisor.log.lines import readers_of  # noqa: PLC0415  other commands need not wait for it

    process = view.detail.process
    token = process.token if process else None
    readers = readers_of(view.directory, token) if token is not None and is_token(token) else {}
    if not readers:
        raise NotFound(f"{output.run_name(view)} has no log", "start agents with: agent-yes-supervise wrap --log CLI")
    return readers


def _follow(view: RunView, streams: list[_Rendered | _Raw]) -> None:
    asked = time.monotonic()
    while True:
        if sum(stream.advance() for stream in streams):
            continue
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_LOOK_EVERY)
        if time.monotonic() - asked >= _ASK_EVERY:
            asked = time.monotonic()
            if not find_run(f"{view.directory}#{view.detail.run.id}").may_run:
                return


class _Rendered:
    """A stream as lines."""

    def __init__(self, reader: LogReader, stream: str) -> None:
        from supervisor.log.lines import LogLines  # noqa: PLC0415  see _readers

        self._lines = LogLines(reader, self._tell)
        self._kept: deque[str] | None = None
        self._to_stderr = stream == ERRORS

    def begin(self, number: int | None) -> None:
        """Print what is there, or its last lines."""
        if number is None:
            return
        self._kept = deque(maxlen=number)
        self._lines.skip_to_last(number)

    def advance(self) -> bool:
        """Print what has come; tell whether there was any."""
        came = self._lines.advance()
        if not came:
            self._lines.settle()
            self._print_kept()
        return came

    def finish(self) -> None:
        """Print the rest."""
        self._lines.finish()
        self._print_kept()

    def _tell(self, line: str) -> None:
        if self._kept is not None:
            self._kept.append(line)
        else:
            click.echo(output.clean(line), err=self._to_stderr)

    def _print_kept(self) -> None:
        kept, self._kept = self._kept, None
        for line in kept or ():
            self._tell(line)


class _Raw:
    """A stream as bytes."""

    def __init__(self, reader: LogReader, stream: str) -> None:
        self._reader = reader
        self._write: Callable[[bytes], object] = (sys.stderr if stream == ERRORS else sys.stdout).buffer.write

    def begin(self, number: int | None) -> None:
        """Skip to the last lines."""
        if number is not None:
            self._reader.skip_to(_begin_of_last(self._reader, number))

    def advance(self) -> bool:
        """Print what has come; tell whether there was any."""
        data = self._reader.read()
        self._write(data)
        return bool(data)

    def finish(self) -> None:
        """Print the rest."""
        while self.advance():
            pass


def _begin_of_last(reader: LogReader, number: int) -> int:
    """Return the offset in the file of the last so many lines."""
    begins: deque[int] = deque([0], maxlen=number + 1)
    at, ended = 0, True
    while data := reader.read():
        found = data.find(b"\n")
        while found >= 0:
            begins.append(at + found + 1)
            found = data.find(b"\n", found + 1)
        ended = data.endswith(b"\n")
        at += len(data)
    if ended:  # what begins behind the last end of line is no line
        return begins[0]
    return begins[min(1, len(begins) - 1)] if len(begins) > number else begins[0]
