"""The shim: the process between the relay and the agent that leads the session on the agent's terminal.

It is there so that job control works: the group of an agent that led the session itself would be orphaned, and the
kernel discards Ctrl-Z in such a one (setpgid(2)). It is forked from the wrapper and never returns into its code.

It tells the relay the agent's pid and then each wait(2) status, a line each. The relay asks by SIGUSR1 or SIGUSR2
before it closes the terminal on purpose; without that, a hang-up means that the relay has died. A SIGHUP alone is none:
at a logout systemd sends one to every process of the session (systemd.kill(5), SendSIGHUP=).
"""

from __future__ import annotations

import errno
import os
import signal
import termios
from fcntl import ioctl

from supervisor.wrap.modes import undoing
from supervisor.wrap.terminal import is_raw, is_same, put_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.wrap.modes import Flags
    from supervisor.wrap.terminal import Settings

HANG_UP, HANG_UP_SILENTLY = signal.SIGUSR1, signal.SIGUSR2
"""The relay is about to close the terminal: the agent is to get a SIGHUP, or has got it already."""

GIVEN_BACK = b"x"
"""What the relay says when it has put the person's terminal right itself."""


def become(
    slave: int, *, foreign: tuple[int, ...], report: int, control: int, settings: Settings, flags: Flags
) -> None:
    """Be the shim, in a fork of the wrapper; return in the agent, which the shim forks, and nowhere else.

    Args:
        slave: the agent's terminal.
        foreign: the relay's descriptors.
        report: see `attend`, as for the others.
        control: the same.
        settings: the same.
        flags: the same.
    """
    code = 1
    agent = -1
    try:
        for descriptor in foreign:
            os.close(descriptor)
        agent = fork_agent(slave, with_errors=is_same(1, 2))
        if agent:
            attend(agent, slave, report=report, control=control, outer=1, settings=settings, flags=flags)
            code = 0
    finally:
        if agent:
            os._exit(code)


def fork_agent(slave: int, *, with_errors: bool) -> int:
    """Lead a session on a terminal, and fork the agent in a group of its own, in the foreground.

    Args:
        slave: the terminal.
        with_errors: whether the agent's stderr is that terminal too.

    Returns:
        0 in the agent, its pid in the shim.
    """
    os.setsid()
    ioctl(slave, termios.TIOCSCTTY, 0)
    agent = os.fork()
    if agent == 0:
        os.setpgid(0, 0)
        for number in (0, 1, 2) if with_errors else (0, 1):
            os.dup2(slave, number)
        return 0
    try:  # noqa: SIM105  as everywhere here
        os.setpgid(agent, agent)
    except PermissionError:  # it has done so itself, and become another program
        pass
    os.tcsetpgrp(slave, agent)
    return agent


def attend(agent: int, slave: int, *, report: int, control: int, outer: int, settings: Settings, flags: Flags) -> None:
    """Be the shim until the agent has ended and the relay knows it, or the relay has died.

    Every signal is blocked. All other descriptors are closed: what the wrapper was given stays open no longer for us.

    Args:
        agent: its pid.
        slave: its terminal.
        report: where to tell its pid and statuses.
        control: says `GIVEN_BACK` when the relay has done all that is its own, and ends when it has died.
        outer: the person's terminal, to be put right if the relay cannot.
        settings: what that is to be set to.
        flags: the modes that the agent has set, as the relay sees them.
    """
    _close_all_but(slave, report, control, outer)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _tell(report, agent)
    asked = {HANG_UP: False, HANG_UP_SILENTLY: False}
    while True:
        number = signal.sigwait({signal.SIGCHLD, signal.SIGHUP, *asked})
        if number == signal.SIGCHLD:
            for status in _changes(agent):
                _tell(report, status)
                if not os.WIFSTOPPED(status):
                    if not _leave(agent, slave, control):
                        _put_right(outer, settings, flags)
                    return
        elif number == signal.SIGHUP:
            if not _is_hung_up(slave):
                continue
            asked = {asking: was or asking in signal.sigpending() for asking, was in asked.items()}
            if not any(asked.values()):
                _put_right(outer, settings, flags)
                return  # the kernel now tells the agent's group, as for any session whose leader ends
            if asked[HANG_UP]:
                _send_to_group(agent, signal.SIGHUP)
            _send_to_group(agent, signal.SIGCONT)
        else:
            asked[signal.Signals(number)] = True


def agent_told_to(report: int) -> int:
    """Return the agent's pid as the shim tells it at first, and leave the rest: the agent may have ended already.

    Raises:
        OSError: the shim has failed.
    """
    told = b""
    while not told.endswith(b"\n"):
        digit = os.read(report, 1)
        if not digit:
            raise OSError(errno.EIO, "its terminal cannot be led")
        told += digit
    return int(told)


def _send_to_group(agent: int, number: int) -> None:
    for send in (os.killpg, os.kill):
        try:
            send(agent, number)
        except (PermissionError, ProcessLookupError):  # it has become another user's, or leads no group any more
            continue
        return


def _is_hung_up(slave: int) -> bool:
    """Tell whether a terminal's other side is closed; the kernel makes it unusable before it tells us by SIGHUP."""
    try:
        termios.tcgetattr(slave)
    except termios.error:
        return True
    return False


def _changes(agent: int) -> list[int]:
    """Return what has become of the agent: stops, and its end, after which it stays a zombie that keeps its pid."""
    changes: list[int] = []
    while True:
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13; it has not been run
            pid, status = os.waitpid(agent, os.WUNTRACED | os.WNOHANG)
            return [status] if pid else []
        peek = os.waitid(os.P_PID, agent, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        if peek is None:
            return changes
        if peek.si_code == os.CLD_EXITED:
            return [*changes, peek.si_status << 8]
        if peek.si_code != os.CLD_STOPPED:
            return [*changes, peek.si_status | (0x80 if peek.si_code == os.CLD_DUMPED else 0)]
        try:
            stop = os.waitid(os.P_PID, agent, os.WSTOPPED | os.WNOHANG)  # unlike waitpid it never reaps
        except ChildProcessError:  # killed since then, it has no stop to tell of
            continue
        if stop is not None:
            changes.append(stop.si_status << 8 | 0x7F)


def _leave(agent: int, slave: int, control: int) -> bool:
    """Let the relay read what the agent has left, then let go of the agent, without a hang-up for its children.

    Returns:
        Whether the relay has lived to put the person's terminal right.
    """
    try:  # noqa: SIM105  the same
        os.tcsetpgrp(slave, os.getpgrp())  # the hang-up at a leader's end goes to the foreground
    except OSError:  # hung up already
        pass
    os.close(slave)
    told = os.read(control, 1)
    try:  # noqa: SIM105  the same
        os.waitpid(agent, os.WNOHANG)
    except ChildProcessError:  # macOS: reaped already
        pass
    return told == GIVEN_BACK


def _put_right(outer: int, settings: Settings, flags: Flags) -> None:
    """Give the person's terminal back, for the relay was killed; a shell restores only settings, maybe first."""
    try:
        os.write(outer, undoing(flags))
        if is_raw(termios.tcgetattr(outer)):
            put_back(outer, settings)
    except (OSError, termios.error):
        return


def _tell(report: int, number: int) -> None:
    try:  # noqa: SIM105  the same
        os.write(report, b"%d\n" % number)
    except BrokenPipeError:  # the relay has died
        pass


def _close_all_but(*kept: int) -> None:
    at = 0
    for number in sorted(kept):
        os.closerange(at, number)
        at = number + 1
    os.closerange(at, _highest() + 1)


def _highest() -> int:
    """Return the highest descriptor that is open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return max(map(int, os.listdir(folder)))
        except (OSError, ValueError):
            continue
    return 1024
