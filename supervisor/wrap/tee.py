"""The way of capturing without a terminal: a pipe for each redirected stream, kept apart; stdin is never touched."""

from __future__ import annotations

import os
import select
import signal
import stat
import time

from supervisor.log.folder import ERRORS, OUTPUT
from supervisor.wrap.capture import Copy
from supervisor.wrap.channel import PIECE, Channel, Waiter, own_description, wanted_of
from supervisor.wrap.pending import LOOK_EVERY, PendingSignals
from supervisor.wrap.screen import Screen
from supervisor.wrap.signals import is_to_end, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.wrap.signals import Received

_STREAMS = {1: OUTPUT, 2: ERRORS}
_F_SETPIPE_SZ = 1031

LAST = 1.0
"""Seconds that the readers of what an agent wrote before it stopped may take for it."""

_MOST_HELD = 1024 * 1024
"""Bytes that a pipe of ours holds at most (pipe(7), pipe-max-size)."""


def redirected() -> list[int]:
    """Return which of stdout and stderr lead elsewhere than to a terminal.

    One that is closed leads nowhere: the placeholder in its place is not for the agent.
    """
    return [number for number in _STREAMS if os.get_inheritable(number) and not os.isatty(number)]


class Tee:
    """Passes an agent's redirected streams on and copies them to its logs.

    The agent is our child as it always is; only these streams are pipes of ours.

    Args:
        warn: takes a line about what is not logged.
    """

    leaders = ()

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.heard: dict[int, float] = {}
        self._screen = Screen()
        self._status = 0
        streams = redirected()
        if len(streams) == 2 and _is_one(1, 2):
            streams = [1]  # one pipe for both keeps the order in which the agent writes
            self._with_output = True
        else:
            self._with_output = False
        self._copies = {number: Copy(warn) for number in streams}
        self._ends = {number: os.pipe() for number in streams}
        self._channels: list[Channel] = []
        self._waiter = Waiter()
        self._signals: PendingSignals | None = None

    @property
    def last_output(self) -> float:
        """When the agent last wrote something to a pipe, on the monotonic clock; 0 if it has not."""
        return max(copy.taken_at for copy in self._copies.values())

    def fork(self) -> int:
        """Fork; the child's streams are our pipes."""
        try:
            pid = os.fork()
        except OSError:
            for descriptor in (end for ends in self._ends.values() for end in ends):
                os.close(descriptor)
            raise
        if pid == 0:
            for number, (_, writer) in self._ends.items():
                os.dup2(writer, number)
            if self._with_output:
                os.dup2(1, 2)
            return 0
        for number, (reader, writer) in self._ends.items():
            os.close(writer)
            os.set_blocking(reader, False)
            _enlarge(reader)
            target = own_description(number, os.O_WRONLY)
            self._channels.append(Channel(reader, target, self._copies[number].take))
        return pid

    def open(self, directory: str, token: str) -> None:
        """Make a log for each stream."""
        for number, copy in self._copies.items():
            copy.open(directory, token, _STREAMS[number])

    def wait_for(self, agent: int, /, *, after: float, attend: Callable[[], float | None]) -> int:
        """Wait for the agent, passing on what it writes."""
        self._signals = PendingSignals()
        self._status = wait_for(
            agent,
            after=after,
            attend=attend,
            heard=self.heard,
            next_signal=self._next_signal,
            before_stop=self._pass_on_the_rest,
        )
        return self._status

    def drain(self) -> None:
        """Pass on what stands in the pipes, as far as it is taken at once."""
        for channel in self._channels:
            channel.move_at_once(_MOST_HELD)  # more is not the agent's, but of those it has left behind
        self._screen.put_right(self._status)

    def finish(self) -> None:
        """Wait for nothing: `close` does."""

    def close(self, *, patiently: bool) -> None:
        """Leave the pipes to a process that goes on as long as anybody has them: what the agent has left behind.

        Else it would die of its next write, which without us it would not.
        """
        self._pass_on(0.0)
        while patiently and any(channel.is_full for channel in self._channels) and not is_to_end():
            self._pass_on(LOOK_EVERY, with_signals=False)
        if self._signals is not None:
            self._signals.close()
        if self._channels and _fork_apart():
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            try:
                self._let_streams_go()
                while self._channels:
                    self._pass_on(None)
            finally:
                os._exit(0)
        while self._channels:
            self._let_go(self._channels[-1])
        for copy in self._copies.values():
            copy.close()
            copy.tell()

    def _let_streams_go(self) -> None:
        """Keep none of the wrapper's streams but those that are written to, and these not longer than that."""
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for channel in self._channels:
                if channel.target in _STREAMS:
                    channel.target = os.dup(channel.target)
            for number in (0, *_STREAMS):
                os.dup2(nothing, number)
            os.close(nothing)
        except OSError:  # no descriptor is left: who waits for the end of these streams has to wait
            pass

    def _pass_on_the_rest(self) -> None:
        """Pass on what the agent has written before it stopped, unless nobody takes it."""
        until = time.monotonic() + LAST
        while (left := until - time.monotonic()) > 0:
            full = any(channel.is_full for channel in self._channels)
            if not self._pass_on(left if full else 0.0, with_signals=False):
                return

    def _next_signal(self, timeout: float | None) -> Received | None:
        assert self._signals is not None  # noqa: S101  `wait_for` has set it
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            received = self._signals.take()
            left = None if deadline is None else deadline - time.monotonic()
            if received is not None or (left is not None and left <= 0):
                return received
            if self._signals.descriptor is None:
                left = LOOK_EVERY if left is None else min(left, LOOK_EVERY)
            self._pass_on(left)

    def _pass_on(self, timeout: float | None, *, with_signals: bool = True) -> bool:
        """Wait until a stream or a signal has something, and pass on what a stream has; tell whether one did."""
        wanted = wanted_of(self._channels)
        if with_signals and self._signals is not None and self._signals.descriptor is not None:
            wanted[self._signals.descriptor] = select.POLLIN
        ready = {descriptor for descriptor, _ in self._waiter.wait(wanted, timeout)}
        for channel in list(self._channels):
            channel.move(ready)
            if channel.broken or (channel.ended and not channel.is_full):
                # Closed, the pipe tells the agent what its reader told us (SIGPIPE).
                self._let_go(channel)
        return bool(ready)

    def _let_go(self, channel: Channel) -> None:
        self._channels.remove(channel)
        os.close(channel.source)
        if channel.target not in _STREAMS:
            os.close(channel.target)


def _fork_apart() -> bool:
    """Fork a process that is nobody's child to wait for, in a session of its own: out of reach of Ctrl-C.

    Returns:
        Whether we are it.
    """
    try:
        child = os.fork()
    except OSError:
        return False
    if child:
        os.waitpid(child, 0)
        return False
    try:
        os.setsid()
        if os.fork() == 0:
            return True
    except OSError:
        pass
    os._exit(0)


def _is_one(first: int, second: int) -> bool:
    """Tell whether two descriptors lead to one place, so that what is written to both stands in order."""
    one, other = os.fstat(first), os.fstat(second)
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
        return False
    return not stat.S_ISREG(one.st_mode) or _offset(first) == _offset(second)


def _offset(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_CUR)


def _enlarge(reader: int) -> None:
    """Let the pipe hold more, where that can be asked for: fewer turns for much output."""
    try:
        import fcntl  # noqa: PLC0415  the wrapper's side alone needs it

        fcntl.fcntl(reader, _F_SETPIPE_SZ, PIECE)
    except OSError:
        return
