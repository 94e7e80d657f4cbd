"""The wrapper's part in signals and job control.

The wrapper blocks every signal and takes them one by one, so that none can interrupt a write or be lost in a race.
What the kernel sends to the whole foreground group (Ctrl-C, Ctrl-Z, a resize, a hang-up) reaches the agent by itself;
what a process sends to the wrapper is passed on. The two are told apart by siginfo (sigaction(2), si_code).
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these from its start, so what they were before is not known: the agent gets the default."""

TOLD_TO_END = frozenset({signal.SIGTERM, signal.SIGHUP})
"""Signals that end an agent, and so go to all of its processes: not every launcher passes them on, or ends by them."""

INTERRUPTED = frozenset({signal.SIGINT, signal.SIGQUIT})
"""Signals of a person's keys."""

_FROM_TERMINAL = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH}
)


class Inherited:
    """The mask and the ignored signals that the wrapper was started with, and that its agent gets."""

    __slots__ = ("_ignores_children", "_mask", "ignored")

    def __init__(self) -> None:
        self.ignored = frozenset(
            number
            for number in signal.valid_signals() - {*_PYTHON_IGNORES}
            if signal.getsignal(number) == signal.SIG_IGN
        )
        """What is not for us: blocked, such a signal comes all the same."""
        self._mask: Iterable[int] = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        # With SIGCHLD ignored the kernel reaps our child itself and its exit status is lost (wait(2), notes).
        self._ignores_children = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        if self._ignores_children:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def restore(self) -> None:
        """Make signals what they were; for the child, just before its exec."""
        if self._ignores_children:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in _PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def wait_for(
    agent: int,
    *,
    after: float,
    attend: Callable[[], float | None],
    heard: dict[int, float],
    next_signal: Callable[[float | None], Received | None] | None = None,
    before_stop: Callable[[], object] = lambda: None,
) -> int:
    """Wait for the agent to end, passing on signals and stopping along with it; return its wait(2) status.

    Args:
        agent: its pid, a child of ours.
        after: seconds to the first call of ``attend``.
        attend: does work meanwhile; returns the seconds to its next call, None when there is no more: then nothing
            but signals wakes the wrapper.
        heard: is told when each signal came to us last, on the monotonic clock, but for the agent's own.
        next_signal: waits for the next signal, None if there is none for so many seconds; for those who do more
            than wait meanwhile.
        before_stop: does what is to be done before we stop along.
    """
    next_signal = next_signal or take_next
    due: float | None = time.monotonic() + after
    while (status := _ended(agent, before_stop)) is None:
        received = next_signal(None if due is None else max(0.0, due - time.monotonic()))
        if received is None:
            pause = attend()
            due = None if pause is None else time.monotonic() + pause
            continue
        if is_from_outside(received, agent):
            heard[received.number] = time.monotonic()
        if _is_to_be_passed_on(received, agent):
            send(agent, received.number)
            if received.number == signal.SIGHUP and received.code > 0:
                # The kernel's SIGCONT that comes with it may be lost: a stop of our own discards it (signal(7)).
                send(agent, signal.SIGCONT)
    return status


def hear_pending(heard: dict[int, float], agent: int) -> None:
    """Take the signals that have come and nobody has taken, when the agent has ended.

    Args:
        heard: as in `wait_for`.
        agent: its pid.
    """
    while signal.sigpending():
        received = take_next(0.0)
        if received is None:
            return
        if received.sender != agent and is_from_outside(received, agent):
            heard[received.number] = time.monotonic()


def is_to_end() -> bool:
    """Tell whether a signal waits by which somebody wants us to end; for when the agent has.

    One that we were started to ignore (SIGHUP under nohup) is not for us: blocked, it waits all the same.
    """
    waiting = signal.sigpending() & (TOLD_TO_END | INTERRUPTED)
    return any(signal.getsignal(number) != signal.SIG_IGN for number in waiting)


def end_as(status: int) -> NoReturn:
    """End this process as its agent ended: the same exit code, or the same signal, and no second core file."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _forbid_core()
        try:  # noqa: SIM105  as everywhere here
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):  # SIGKILL, and those that the C library keeps to itself
            pass
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os._exit(128 + number)  # a signal that ends others but not us
    os._exit(os.WEXITSTATUS(status))


class Received:
    """A signal that we took, and what siginfo says of its sender; ``code`` is positive where that is the kernel."""

    __slots__ = ("code", "number", "sender")

    def __init__(self, number: int, code: int, sender: int) -> None:
        self.number = number
        self.code = code
        self.sender = sender


def _ended(agent: int, before_stop: Callable[[], object]) -> int | None:
    """Reap the agent if it has ended; stop with it if it has stopped."""
    status = _change(agent)
    while status is not None and (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
        woken = False
        if os.WIFSTOPPED(status):
            before_stop()
            woken = stop_like(os.WSTOPSIG(status))
        else:
            take(signal.SIGCONT)  # sent to the group, it would reach the agent a second time
        status = _change(agent)
        if woken and status is None:  # who continued us has not continued the agent, but meant it
            send(agent, signal.SIGCONT)
    return status


def _change(agent: int) -> int | None:
    pid, status = os.waitpid(agent, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
    return status if pid else None


def stop_like(number: int) -> bool:
    """Stop, so that the shell sees the job stopped; return when continued, telling whether we were stopped at all.

    Unlike SIGSTOP these do not stop an orphaned process group, which nobody would continue (setpgid(2), notes).
    """
    if take(signal.SIGCONT):  # we have been stopped with the agent and continued already
        return True
    if number == signal.SIGSTOP:
        number = signal.SIGTSTP
    before = signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.signal(number, before)  # what we were started with, for the agents to come
    return take(signal.SIGCONT)


def take(number: int) -> bool:
    """Take a signal if it is pending, and tell whether it was."""
    pending = number in signal.sigpending()
    if pending:
        signal.sigwait({number})
    return pending


def take_next(timeout: float | None) -> Received | None:
    """Take the next signal, all of them blocked; None if there is none for ``timeout`` seconds.

    Not by sigtimedwait(2): where a stop (signal(7)) interrupts it until its time is over, CPython returns what happens
    to lie on its stack, as the EINTR of the last moment counts as a signal there.
    """
    if timeout is None:
        return _take_one()
    if timeout <= 0:
        return _take_one() if signal.sigpending() & signal.valid_signals() else None
    began = time.monotonic()
    alarm, every = signal.getitimer(signal.ITIMER_REAL)  # alarm(2) outlives the exec by which we were started
    is_alarm = 0 < alarm <= timeout
    signal.setitimer(signal.ITIMER_REAL, max(alarm if is_alarm else timeout, 1e-6))
    received = _take_one()
    rung = signal.setitimer(signal.ITIMER_REAL, 0)[0] == 0
    if rung and received.number != signal.SIGALRM:
        take(signal.SIGALRM)
    if rung and is_alarm and received.number == signal.SIGALRM:
        alarm = every  # that was it, and the next one comes then
    elif alarm:
        alarm = max(alarm - (time.monotonic() - began), 1e-6)
    if alarm:
        signal.setitimer(signal.ITIMER_REAL, alarm, every)
    return None if rung and not is_alarm and received.number == signal.SIGALRM else received


def _take_one() -> Received:
    if sys.platform == "darwin":
        # No sigwaitinfo there: guess by the kind. Written from sigwait(2); it has not been run.
        number = signal.sigwait(signal.valid_signals())
        return Received(number, int(number in _FROM_TERMINAL), 0)
    info = signal.sigwaitinfo(signal.valid_signals())
    return Received(info.si_signo, info.si_code, info.si_pid)


def _is_to_be_passed_on(received: Received, agent: int) -> bool:
    if received.number == signal.SIGCHLD:
        return False
    if received.code > 0:  # from the kernel: all but what it sends to one process has reached the agent too
        if received.number in (signal.SIGHUP, signal.SIGCONT):  # a hang-up comes to the session's leader alone
            return os.getsid(0) == os.getpid()
        return received.number == signal.SIGALRM  # alarm(2) outlives the exec by which we were started
    return is_from_outside(received, agent)


def is_from_outside(received: Received, agent: int) -> bool:
    """Tell whether a signal comes from the kernel, or from a process that is neither ours nor the agent's."""
    # What our own writes cause (SIGPIPE, SIGXFSZ) bears our own pid.
    own = received.sender == os.getpid() or _descends_from(agent, received.sender)
    return received.code > 0 or not own


def _descends_from(agent: int, pid: int) -> bool:
    """Tell whether a process is the agent or below it: what those send to their own group has reached the agent."""
    if sys.platform != "linux":
        return False
    from supervisor.process import procfs  # noqa: PLC0415  loaded already

    try:
        while pid not in (agent, os.getpid(), 0):
            pid = procfs.read_stat(pid).ppid
    except (OSError, ValueError):
        return False
    return pid == agent


def _family_of(agent: int) -> list[tuple[int, int]]:
    try:
        from supervisor.process import tree  # noqa: PLC0415  loaded by `supervisor.wrap.record.Record.attend`

        return tree.family_of(agent)
    except (ImportError, OSError):  # no descriptor is left, or we have been uninstalled: then to the agent alone
        return []


def send(agent: int, number: int) -> None:
    """Send the agent, which has not been reaped, a signal, and one that is to end it to all below it.

    What a process sends to our whole group looks like what it sends to us, and comes twice, as under timeout(1).
    """
    _send(agent, number, _family_of(agent) if number in TOLD_TO_END else [])


def send_to_all(agent: int, number: int) -> bool:
    """Send the agent, which has not been reaped, and all below it a signal; tell whether it may be sent one."""
    return _send(agent, number, _family_of(agent))  # once the agent has ended nobody could tell


def _send(agent: int, number: int, family: list[tuple[int, int]]) -> bool:
    permitted = True
    try:
        os.kill(agent, number)
    except PermissionError:  # it has become another user's
        permitted = False
    if family:
        from supervisor.process import tree  # noqa: PLC0415  loaded already

        tree.signal_family(family, number)
    return permitted


def _forbid_core() -> None:
    """Set the limit of core files so that none is written.

    A program in core_pattern gets one in spite of the limit 0, but not of 1 (fs/coredump.c, "recursive crashes").
    """
    try:
        import resource  # noqa: PLC0415  rarely needed

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        least = 0 if hard == 0 or sys.platform == "darwin" else 1
        resource.setrlimit(resource.RLIMIT_CORE, (least, hard))
    except (ImportError, OSError):  # no descriptor is left: better a second core than another end
        pass
