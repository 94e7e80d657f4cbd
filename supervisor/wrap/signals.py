"""The wrapper's part in signals and job control.

The wrapper blocks every signal and takes them one by one, so that none can interrupt a write or be lost in a race.
What the kernel sends to the whole foreground group (Ctrl-C, Ctrl-Z, a resize, a hang-up) reaches the agent by itself;
what a process sends to the wrapper alone is passed on. The two are told apart by siginfo (sigaction(2), si_code).
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these from its start, so what they were before is not known: the agent gets the default."""

_FROM_TERMINAL = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH}
)


class Inherited:
    """The mask and the ignored signals that the wrapper was started with, and that its agent gets."""

    __slots__ = ("_ignores_children", "_mask")

    def __init__(self) -> None:
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


def wait_for(agent: int, *, every: float, due: Callable[[], Callable[[], None] | None]) -> int:
    """Wait for the agent to end, passing on signals and stopping along with it; return its wait(2) status.

    Args:
        agent: its pid, a child of ours.
        every: seconds between calls of what ``due`` returns.
        due: returns work to be done meanwhile, None when there is none (left): then nothing wakes the wrapper.
    """
    while True:
        ended = _changes(agent)
        if ended is not None:
            return ended
        work = due()
        number, passes_on = _next_signal(None if work is None else every)
        if number is None and work is not None:
            work()
        elif number is not None and number != signal.SIGCHLD and passes_on:
            os.kill(agent, number)  # not yet reaped, so its pid is still its own


def end_as(status: int) -> None:
    """End this process as its agent ended: the same exit code, or the same signal, and no second core file.

    Does not return.
    """
    if os.WIFSIGNALED(status):
        import resource  # noqa: PLC0415  rarely needed

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os._exit(128 + number)  # a signal that ends others but not us
    os._exit(os.WEXITSTATUS(status))


def _changes(agent: int) -> int | None:
    """Reap the agent if it has ended; stop with it if it has stopped."""
    while True:
        pid, status = os.waitpid(agent, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            return status
        if _has_terminal():
            os.kill(os.getpid(), signal.SIGSTOP)  # so that the shell sees the job stop; SIGCONT wakes both


def _next_signal(timeout: float | None) -> tuple[int | None, bool]:
    """Take the next signal; tell also whether it must be passed on."""
    if sys.platform == "darwin":
        # No sigwaitinfo there: guess by the kind. Written from sigwait(2); it has not been run.
        number = signal.sigwait(signal.valid_signals())
        return number, number not in _FROM_TERMINAL
    every = signal.valid_signals()
    info = signal.sigwaitinfo(every) if timeout is None else signal.sigtimedwait(every, timeout)
    if info is None:
        return None, False
    # Processes send with a code of 0 or less; what our own writes cause (SIGPIPE, SIGXFSZ) bears our own pid.
    return info.si_signo, info.si_code <= 0 and info.si_pid != os.getpid()


def _has_terminal() -> bool:
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    os.close(descriptor)
    return True
