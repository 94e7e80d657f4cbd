"""The way of capturing on a terminal: the agent gets one of its own, and what passes between the two is copied.

Three processes: this relay, which is the wrapper; the shim, which leads the session on the agent's terminal; and the
agent in a group of its own. The person's terminal passes every byte on while the relay has it, and Ctrl-C, Ctrl-Z and
the like are made into signals by the agent's.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import termios
import time

from supervisor.log.folder import OUTPUT
from supervisor.log.writer import size_mark
from supervisor.wrap import modes, shim
from supervisor.wrap.capture import Copy
from supervisor.wrap.channel import TERMINAL_PIECE, Channel, Waiter, own_description, wanted_of
from supervisor.wrap.pending import LOOK_EVERY, PendingSignals
from supervisor.wrap.signals import is_to_end, send, stop_like
from supervisor.wrap.terminal import Size, Terminal, interrupts_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.wrap.signals import Received

QUIET = 0.1
"""Seconds without output after which an ended agent's terminal is closed on those it has left behind."""

LAST = 1.0
"""Seconds after which that is done even though they go on writing."""

SETTLE = 0.01
"""Seconds without output after which all is shown that an agent wrote before it stopped."""

_LOOK_FOR_FOREGROUND = 0.25


class Relay:
    """Passes everything on between the person's terminal and the agent's.

    Args:
        warn: takes a line about what is not logged.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.leaders: tuple[int, ...] = ()
        self.heard: dict[int, float] = {}
        self._warn = warn
        self._copy = Copy(warn)
        self._outer = Terminal(0, 1)
        self._master, self._slave = os.openpty()
        self._opened = {self._master, self._slave}
        self._flags = memoryview(mmap.mmap(-1, modes.SIZE))
        """Shared with the shim, which undoes them where we cannot."""
        self._modes = modes.Modes(self._flags)
        self._size = Size(self._outer, self._mark_size)
        self._reports = b""
        self._agent = self._shim = 0
        self._report, self._control = -1, -1
        self._status: int | None = None
        self._is_hung_up = self._has_sent_hang_up = False
        self._pidfd = -1
        self._waiter = Waiter()
        self._signals: PendingSignals | None = None

    @property
    def last_output(self) -> float:
        """When the agent last showed something, on the monotonic clock; 0 if it has not."""
        return self._copy.taken_at

    def fork(self) -> int:
        """Fork the shim, and by it the agent; the child's streams are the terminal of its own."""
        self._was_ours = self._outer.is_ours
        try:
            return self._fork()
        except OSError:
            self._close_all()
            raise

    def _fork(self) -> int:
        if self._was_ours:
            termios.tcsetattr(self._slave, termios.TCSANOW, self._outer.settings)
        self._size.follow(self._master)
        self._report, report = os.pipe()
        control, self._control = os.pipe()
        self._opened |= {self._report, report, control, self._control}
        self._shim = os.fork()
        if self._shim == 0:
            shim.become(
                self._slave,
                foreign=(self._master, self._report, self._control),
                report=report,
                control=control,
                settings=self._outer.settings,
                flags=self._flags,
            )
            return 0
        self.leaders = (self._shim,)
        for descriptor in (report, control, self._slave):
            self._close(descriptor)
        try:
            self._agent = shim.agent_told_to(self._report)
        except OSError:
            os.waitpid(self._shim, 0)
            raise
        os.set_blocking(self._master, False)
        self._output = Channel(self._master, self._own(1, os.O_WRONLY), self._seen, piece=TERMINAL_PIECE)
        self._input = Channel(self._own(0, os.O_RDONLY), self._master, self._typed, piece=TERMINAL_PIECE)
        try:
            self._pidfd = os.pidfd_open(self._agent)
            self._opened.add(self._pidfd)
        except (AttributeError, OSError):
            self._pidfd = -1
        return self._agent

    def _own(self, descriptor: int, flags: int) -> int:
        own = own_description(descriptor, flags)
        self._opened |= {own} - {descriptor}
        return own

    def open(self, directory: str, token: str) -> None:
        """Make the log."""
        self._copy.open(directory, token, OUTPUT)
        self._size.tell()

    def wait_for(self, _agent: int, /, *, after: float, attend: Callable[[], float | None]) -> int:
        """Pass on until the agent has ended, its signals too, and stop along with it."""
        self._signals = PendingSignals()
        os.set_blocking(self._report, False)
        self._take_terminal()
        due: float | None = time.monotonic() + after
        while self._status is None:
            left = None if due is None else max(0.0, due - time.monotonic())
            if left == 0:
                pause = attend()
                due = None if pause is None else time.monotonic() + pause
                continue
            self._turn(left)
        return self._status

    def drain(self) -> None:
        """Show what the agent has left unread, as far as it is taken soon; is all shown, give the terminal back."""
        self._show_the_rest(patiently=False)
        if not self._output.is_full:
            self._give_back()

    def finish(self) -> None:
        """Show all, however long that takes, unless somebody wants us to end; then give the terminal back."""
        if self._control >= 0:
            self._show_the_rest(patiently=True)
            self._give_back()

    def _give_back(self) -> None:
        status = self._status or 0
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) > 128:
            try:  # noqa: SIM105  as everywhere here
                os.write(self._output.target, modes.undoing(self._flags))
            except OSError:  # hung up
                pass
        if status == 0 and self._was_ours and self._master >= 0:
            self._outer.settings = termios.tcgetattr(self._master)  # an agent that ended well has meant it: stty is one
        self._outer.give_back()
        if self._master >= 0:
            self._close(self._master)
        try:  # noqa: SIM105  the same
            os.write(self._control, shim.GIVEN_BACK)
        except BrokenPipeError:  # it has been killed
            pass
        self._close(self._control)
        self._control = -1
        os.waitpid(self._shim, 0)

    def _show_the_rest(self, *, patiently: bool) -> None:
        began = heard = time.monotonic()
        while not self._output.ended or self._output.is_full:
            now = time.monotonic()
            if (now - heard > QUIET or now - began > LAST) and not (patiently and self._output.is_full):
                return  # those that the agent has left behind keep its terminal open, or the person's takes nothing
            if self._show_now(QUIET):
                heard = time.monotonic()
            elif is_to_end():  # and stays so, for those who ask afterwards
                return  # somebody wants us to end though the terminal does not take what is left

    def close(self, *, patiently: bool) -> None:  # noqa: ARG002  `finish` waits anyway
        """Close the log and all that has been opened, and say what has gone wrong with the log."""
        self._copy.close()
        self._close_all()
        self._copy.tell()

    def _close(self, descriptor: int) -> None:
        self._opened.remove(descriptor)
        os.close(descriptor)

    def _close_all(self) -> None:
        while self._opened:
            os.close(self._opened.pop())
        if self._signals is not None:
            self._signals.close()

    def _turn(self, timeout: float | None) -> None:
        """Wait until something happens, and see to it."""
        assert self._signals is not None  # noqa: S101  `wait_for` has set it
        channels = [] if self._output.ended else [self._output]
        if self._is_hung_up:
            pass
        elif self._outer.is_taken or self._input.is_full:
            channels.append(self._input)
        elif not self._input.ended:
            # In the background: nothing tells that the shell brings us to the foreground while we run.
            timeout = _LOOK_FOR_FOREGROUND if timeout is None else min(timeout, _LOOK_FOR_FOREGROUND)
            self._take_terminal()
        ready = self._wait(channels, timeout)
        for channel in channels:
            channel.move(ready)
        if not self._is_hung_up and (self._input.ended or self._output.broken):
            self._lose_terminal()
        if self._report in ready:
            self._hear_shim()
        if self._signals.descriptor in ready or self._signals.descriptor is None:
            while self._status is None and (received := self._signals.take()) is not None:
                self._obey(received)

    def _wait(self, channels: list[Channel], timeout: float | None) -> dict[int, int]:
        wanted = wanted_of(channels)
        if self._report >= 0:
            wanted[self._report] = select.POLLIN
        if self._signals is not None and self._signals.descriptor is not None:
            wanted[self._signals.descriptor] = select.POLLIN
        else:
            timeout = LOOK_EVERY if timeout is None else min(timeout, LOOK_EVERY)
        return dict(self._waiter.wait(wanted, timeout))

    def _seen(self, data: bytes) -> None:
        self._copy.take(data)
        try:
            self._modes.follow(data)
        except Exception:  # noqa: BLE001  no output may end the wrapper of a running agent
            return

    def _typed(self, data: bytes) -> None:
        for number in interrupts_in(data, self._master):
            self.heard[number] = time.monotonic()

    def _hear_shim(self) -> None:
        told = os.read(self._report, 4096)
        if not told:
            self._wait_without_shim()
            return
        *lines, self._reports = (self._reports + told).split(b"\n")
        for status in map(int, lines):
            if os.WIFSTOPPED(status):
                self._stop(os.WSTOPSIG(status))
            else:
                self._status = status
                self._close(self._report)
                self._report = -1

    def _obey(self, received: Received) -> None:
        """Do what a signal asks for: most reach the agent."""
        number, by_kernel = received.number, received.code > 0
        if number == signal.SIGCHLD or received.sender == os.getpid():
            return  # what our own writes cause bears our own pid
        self.heard[number] = time.monotonic()
        if number == signal.SIGWINCH:
            if not self._size.follow(self._master) and not by_kernel:
                send(self._agent, number)
        elif by_kernel and number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP):
            self._send_to_group(number)  # as our terminal has done with our group
        else:
            if number == signal.SIGCONT:
                self._take_terminal()
            send(self._agent, number)
        if number == signal.SIGHUP:
            self._has_sent_hang_up = True
            if by_kernel:
                self._send_to_group(signal.SIGCONT)

    def _stop(self, number: int) -> None:
        """Stop along with the agent, as its terminal would have stopped our group; go on when we are continued."""
        until = time.monotonic() + LAST
        while self._show_now(SETTLE) and time.monotonic() < until:
            pass
        was_ours = self._outer.is_ours
        self._outer.give_back()
        stopping = signal.SIGTSTP if number == signal.SIGSTOP else number
        if was_ours and number != signal.SIGSTOP:
            os.killpg(0, stopping)
        continued = stop_like(stopping)
        self._take_terminal()
        if continued or number != signal.SIGSTOP:
            # Where we were not stopped because nobody would continue us the agent would not have been either.
            self._send_to_group(signal.SIGCONT)

    def _show_now(self, timeout: float) -> bool:
        """Wait for output whatever signals have come, and show it; tell whether something has moved."""
        channel = self._output
        ready = dict(self._waiter.wait(wanted_of([channel]), timeout))
        channel.move(ready)
        return (channel.source in ready or channel.target in ready) and not channel.ended

    def _send_to_group(self, number: int) -> None:
        try:
            os.killpg(self._agent, number)
        except (PermissionError, ProcessLookupError):  # it has become another user's, or leads no group any more
            send(self._agent, number)

    def _take_terminal(self) -> None:
        self._outer.take()
        self._size.follow(self._master)

    def _mark_size(self, lines: int, columns: int) -> None:
        self._copy.note(size_mark(lines, columns))

    def _lose_terminal(self) -> None:
        """Hang up on the agent: the person's terminal has gone, if it is not only another's for now."""
        if not self._outer.is_ours:
            self._input.ended = self._outer.is_taken = False
            return
        self._is_hung_up = self._output.ended = True
        os.kill(self._shim, shim.HANG_UP_SILENTLY if self._has_sent_hang_up else shim.HANG_UP)
        self._output.drop()
        self._input.drop()
        self._close(self._master)
        self._master = -1

    def _wait_without_shim(self) -> None:
        """Wait for the agent's end when somebody has killed the shim, upon which the kernel has hung up on the agent.

        It has another parent now, so that only the kernel can tell its status. Where it does not, the row is left to
        the daemon, which may know more.
        """
        from supervisor.wrap.orphan import status_of  # noqa: PLC0415  hardly ever needed

        self._close(self._report)
        self._report = -1
        if self._pidfd >= 0 and self._signals is not None:
            self._status = status_of(self._pidfd, self._agent, signals=self._signals, meanwhile=self._show_now)
        if self._status is None:
            self._outer.give_back()
            self._warn("the leader of this run's session was killed: how the run ends is left to the daemon")
            os._exit(125)
