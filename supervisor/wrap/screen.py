"""The person's terminal, put right when an agent that a signal has ended could not do so itself.

Nothing stands between the agent and the terminal, so nobody knows what it has switched on: everything is switched off
that a shell's prompt cannot live with, by sequences that change nothing where nothing is on.
"""

from __future__ import annotations

import os

from supervisor.wrap.readiness import write_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHOW_WITHIN = 0.1
"""Seconds that a terminal may take to be ready for output: one that is held up (Ctrl-S) must not hold us up."""

_UNDO = b"".join(
    (
        b"\x1b\\",  # ends a title or the like that was broken off
        b"\x1b[?2026l",  # no more holding back of what is drawn
        *(b"\x1b[?%dl" % mode for mode in (1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016)),  # the mouse, the focus
        b"\x1b[?2004l\x1b[?2031l\x1b[?1l\x1b>",  # bracketed paste, reports of colours, keys of applications
        b"\x1b[<u\x1b[>4m",  # keys as kitty's protocol and xterm's modifyOtherKeys report them
        b"\x1b7\x1b[r\x1b[?6l\x1b8",  # the whole screen scrolls
        # Leaving the other screen goes to where the cursor stood at its entry, however long ago: enter it before, which
        # is nothing where it has been entered.
        b"\x1b[?1049h\x1b[?1049l",
        b"\x1b[?7h\x1b[?25h\x1b[0 q\x1b(B\x0f\x1b[m",  # wrapping, the cursor and its shape, characters, colours
    )
)


class Screen:
    """The terminal that the agent is about to get, as it is now; nothing where it is not ours to put right.

    Made before the agent can have touched it.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._settings: list[Any] = []
        terminal = next((number for number in (0, 1) if os.isatty(number)), None)
        if terminal is None or not _is_in_foreground(terminal):
            return
        try:
            import termios  # noqa: PLC0415  an agent without a terminal does not wait for it

            self._settings = termios.tcgetattr(terminal)
            self._descriptor = terminal
        except Exception:  # noqa: BLE001, S110  no trouble of ours may keep the agent from starting
            pass

    def put_right(self, status: int) -> None:
        """Put the terminal right after its agent's end, if we are still in its foreground.

        An agent that has ended well has meant what it left: ``stty`` is one. After a failure the settings are what they
        were before; after a signal, which a shell in between reports as 128 and its number, the modes of the screen are
        switched off, too.

        Args:
            status: the agent's, as waitpid(2) gives it.
        """
        if self._descriptor is None or status == 0 or not _is_in_foreground(self._descriptor):
            return
        import termios  # noqa: PLC0415  loaded already

        try:
            if termios.tcgetattr(self._descriptor) != self._settings:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._settings)
        except termios.error:  # it has been closed
            return
        by_signal = os.WIFSIGNALED(status) or os.WEXITSTATUS(status) > 128
        if by_signal and os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb":
            write_at_once(1, _UNDO, within=SHOW_WITHIN)


def _is_in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not the controlling terminal, or none any more
        return False
