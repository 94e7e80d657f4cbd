"""Programs side by side in tmux: directly, under wrap, and under wrap with a log; what stands on their screens."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from kit import COMMAND, Processes, wait_until
from wrapping import end_runs

SIDES: dict[str, tuple[str, ...]] = {
    "direct": (),
    "plain": (*COMMAND, "wrap"),
    "logged": (*COMMAND, "wrap", "--log"),
}
LINES, COLUMNS = 24, 80
PROMPT = "$"

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None or shutil.which("bash") is None, reason="needs tmux and bash"
)


class Server:
    """A tmux of one's own.

    Args:
        processes: what ends it.
    """

    def __init__(self, processes: Processes) -> None:
        self._folder = tempfile.mkdtemp(prefix="ays-")  # not below a test's folder: a socket's path is short
        self._processes = processes
        self._pid = 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            self.tell("kill-server")
        shutil.rmtree(self._folder)

    def tell(self, *words: str) -> str:
        """Give tmux an order and return what it answers."""
        environment = {"TMUX_TMPDIR": self._folder, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"}
        command = ["tmux", "-u", "-L", "test", "-f", "/dev/null", *words]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert told.returncode == 0, told.stderr
        return told.stdout

    def open(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Open a session with one pane."""
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        words = shlex.join(["env", "-i", *(f"{key}={value}" for key, value in environment.items()), *command])
        self.tell("new-session", "-d", "-s", name, *size, "-c", str(folder), words)
        if not self._pid:
            self._pid = self._processes.adopt(int(self.tell("display-message", "-p", "#{pid}")))


class Side:
    """A shell in a pane, in whose directory ``go`` starts a program, in one of `SIDES`.

    Args:
        server: where.
        name: which of `SIDES`.
        home: its home, in which it stands in ``work``.
        environment: more variables.
    """

    def __init__(self, server: Server, name: str, home: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.work = home / "work"
        self._server = server
        (home / "bin").mkdir(parents=True)
        self.work.mkdir()
        go = home / "bin" / "go"
        go.write_text(f'#!/bin/sh\nexec {shlex.join(SIDES[name])} "$@"\n')
        go.chmod(0o755)
        variables = {
            **environment,
            "PATH": f"{home}/bin:{environment.get('PATH', os.environ['PATH'])}",
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "LC_ALL": "C.UTF-8",
            "TERM": "screen-256color",
            "PS1": f"{PROMPT} ",
        }
        server.open(name, ["bash", "--norc", "--noprofile"], self.work, variables)

    def type(self, text: str) -> None:
        """Type a text."""
        for number, line in enumerate(text.split("\n")):
            if number:
                self.press("Enter")
            if line:
                self._server.tell("send-keys", "-t", self.name, "-l", line)

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._server.tell("send-keys", "-t", self.name, *keys)

    def paste(self, text: str) -> None:
        """Paste a text, in brackets if the program has asked for them."""
        self._server.tell("set-buffer", text)
        self._server.tell("paste-buffer", "-p", "-t", self.name)

    def resize(self, lines: int, columns: int) -> None:
        """Change the size of the pane."""
        self._server.tell("resize-window", "-t", self.name, "-x", str(columns), "-y", str(lines))

    def screen(self) -> list[str]:
        """Return what is shown, line by line."""
        return [line.rstrip() for line in self._server.tell("capture-pane", "-p", "-t", self.name).splitlines()]

    def is_at_prompt(self) -> bool:
        """Tell whether the shell waits for a command."""
        return [line for line in self.screen() if line][-1:] == [PROMPT]

    def is_clear(self) -> bool:
        """Tell whether nothing else is shown than the prompt."""
        return self.is_at_prompt() and self.screen()[0] == PROMPT

    def modes(self) -> dict[str, str]:
        """Return what of the terminal is switched on."""
        names = ("alternate_on", "cursor_flag", "mouse_any_flag", "keypad_cursor_flag", "keypad_flag")
        values = self._server.tell("display-message", "-p", "-t", self.name, ",".join(f"#{{{name}}}" for name in names))
        return dict(zip(names, values.strip().split(","), strict=True))

    def expect(self, text: str, timeout: float = 20.0) -> None:
        """Wait until a text is shown."""
        try:
            wait_until(lambda: any(text in line for line in self.screen()), timeout)
        except AssertionError:
            raise AssertionError("\n".join([f"{self.name} does not show {text!r}:", *self.screen()])) from None

    def settings(self) -> str:
        """Ask the shell how its terminal is set, rows and columns too; it is at its prompt."""
        file = self.work / "settings"
        file.unlink(missing_ok=True)
        self.type("stty -a >draft && mv draft settings\n")
        wait_until(file.exists)
        return file.read_text()


Normalise = Callable[[list[str]], list[str]]


class SideBySide:
    """The same at once on all `SIDES`.

    Args:
        processes: what ends them.
        folder: where their homes are made.
        environment: more variables.
        timeout: seconds within which something is to be seen.
    """

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        timeout: float = 20.0,
    ) -> None:
        self._timeout = timeout
        self._server = Server(processes)
        self._folder = folder
        self._environment = environment or {}
        self.sides: list[Side] = []

    def __enter__(self) -> SideBySide:
        self._server.__enter__()
        for name in SIDES:
            self.sides.append(Side(self._server, name, self._folder / name, self._environment))
        self.see(PROMPT)
        self._before = [side.settings() for side in self.sides]
        self.type("clear\n")
        for side in self.sides:
            wait_until(side.is_clear)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
        for side in self.sides:
            end_runs(side.work)

    def type(self, text: str) -> None:
        """Type a text."""
        for side in self.sides:
            side.type(text)

    def press(self, *keys: str) -> None:
        """Press keys."""
        for side in self.sides:
            side.press(*keys)

    def paste(self, text: str) -> None:
        """Paste a text."""
        for side in self.sides:
            side.paste(text)

    def resize(self, lines: int, columns: int) -> None:
        """Change the size."""
        for side in self.sides:
            side.resize(lines, columns)

    def expect(self, text: str) -> None:
        """Wait until each shows a text, whatever else."""
        for side in self.sides:
            side.expect(text, self._timeout)

    def see(self, text: str, normalise: Normalise = lambda lines: lines, *, gone: str | None = None) -> list[str]:
        """Wait until all show a text, a second one no longer, and all the same; return what."""
        shown: list[list[str]] = []

        def is_same() -> bool:
            shown[:] = [normalise(side.screen()) for side in self.sides]
            first = "\n".join(shown[0])
            return text in first and (gone is None or gone not in first) and all(other == shown[0] for other in shown)

        try:
            wait_until(is_same, self._timeout)
        except AssertionError:
            parts = [f"{text!r} is not shown by all alike; direct:", *shown[0]]
            for side, other in zip(self.sides[1:], shown[1:], strict=True):
                parts += difflib.unified_diff(shown[0], other, "direct", side.name, lineterm="")
            raise AssertionError("\n".join(parts)) from None
        return shown[0]

    def ended(self, code: int) -> None:
        """See that the program has ended with a code, and left each terminal as it was."""
        for side in self.sides:
            wait_until(side.is_at_prompt, self._timeout)
        self.type('echo "code $?"\n')
        self.expect(f"code {code}")
        modes = [side.modes() for side in self.sides]
        assert modes == [modes[0]] * len(SIDES)
        assert [side.settings() for side in self.sides] == self._before


def numbers_aside(lines: list[str]) -> list[str]:
    """Return lines with every number replaced by a sign, and the room that it took by a space."""
    return [re.sub(r"\s+", " ", re.sub(r"\d+(?:[.,:]\d+)*[a-z]?", "#", line)).strip() for line in lines]
