"""What this system is found to tell of processes, and how that reads."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys

import pytest
from kit import Processes
from nursery import Apart, as_root, descriptors, linux, tells_exits

from supervisor.process import pidfd, procfs
from supervisor.process.abilities import Abilities, abilities

FIND_OUT = "from supervisor.process.abilities import abilities; print(abilities())"


def has_children() -> bool:
    """Tell whether this process has any child, a zombie included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@linux
def test_what_is_found_is_so() -> None:
    """Here is a kernel with pidfds and a whole ``/proc``; its name and version are told."""
    found = abilities()
    assert found.system == f"Linux {platform.release()}"
    assert (found.pidfds, found.whole_proc) == (True, True)
    assert found.initial_pid_ns is (procfs.namespace("pid") == 0xEFFFFFFC)
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    assert found.unique_inodes is (release >= (6, 9))


@linux
@tells_exits
def test_exit_statuses_are_found_by_trying() -> None:
    """Where the kernel tells how a reaped process ended, that is found out by such a process."""
    assert abilities().exit_status


@linux
def test_nothing_is_left() -> None:
    """Neither a child nor a zombie of it, nor a descriptor, is left of the trial."""
    abilities()  # the first opens what is kept
    before = descriptors()
    abilities()
    assert descriptors() == before
    assert not has_children()


@linux
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
def test_a_kernel_without_pidfds(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where no pidfd can be opened, that is found, and nothing is left of the trial either."""

    def refuse(_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pidfd, "open_pidfd", refuse)
    before = descriptors()
    found = abilities()
    assert (found.pidfds, found.unique_inodes, found.exit_status) == (False, False, False)
    assert descriptors() == before
    assert not has_children()


@linux
@pytest.mark.parametrize("told", [None, 0, 77])
def test_a_kernel_that_does_not_tell_the_status(monkeypatch: pytest.MonkeyPatch, told: int | None) -> None:
    """No answer about the exit status, and a wrong one, are no ability."""
    monkeypatch.setattr(pidfd, "exit_status", lambda _: told)
    assert abilities().exit_status is False


@linux
def test_a_kernel_without_inodes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all pidfds share one inode, they do not tell processes apart."""
    monkeypatch.setattr(pidfd, "inode", lambda _: None)
    assert abilities().unique_inodes is False


@linux
def test_started_with_children_ignored(processes: Processes) -> None:
    """Who started us may have ignored SIGCHLD, so that the kernel reaps children itself: nothing changes."""
    found = processes.python(
        FIND_OUT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )
    printed, _ = found.communicate(timeout=20)
    assert (printed, found.returncode) == (f"{abilities()}\n", 0)


@linux
@as_root
def test_in_a_namespace_of_its_own(processes: Processes) -> None:
    """In a container the PID namespace is its own; with the machine's ``/proc`` there, that tells nothing."""
    texts = []
    for options in (["--mount-proc"], []):
        found = processes.start(
            *Apart.command("unshare", "--pid", "--fork", *options, sys.executable, "-c", FIND_OUT),
            stdout=subprocess.PIPE,
        )
        printed, _ = found.communicate(timeout=20)
        assert found.returncode == 0
        texts.append(printed)
    assert texts[0].endswith(", in a container's PID namespace\n")
    assert "/proc is not of this namespace and tells nothing" in texts[1]


def test_on_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nothing is tried, and nothing is promised."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("no trial"))
    found = abilities()
    assert not any((found.pidfds, found.unique_inodes, found.exit_status, found.whole_proc))
    assert str(found).startswith("Darwin ")
    assert "found by polling" in str(found)
    assert "/proc" not in str(found)


def told(**otherwise: bool) -> str:
    """Return the line of a system that can do everything, but for what is said otherwise."""
    able = dict.fromkeys(("pidfds", "unique_inodes", "exit_status", "whole_proc", "initial_pid_ns"), True)
    return str(Abilities("Linux 6.18", **{**able, **otherwise}))


def test_the_line_of_a_system_that_can_all() -> None:
    """The best there is reads so."""
    expected = "ends by pidfd, exit status known, identity by pidfd inodes, in the machine's PID namespace"
    assert told() == f"Linux 6.18: {expected}"


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("exit_status", "exit status known only of zombies (needs Linux 6.15)"),
        ("unique_inodes", "identity by start ticks (inodes need Linux 6.9)"),
        ("initial_pid_ns", "in a container's PID namespace"),
        ("whole_proc", "; /proc is not of this namespace and tells nothing"),
        ("pidfds", "no pidfds here; ends are found by polling, without exit status once reaped"),
    ],
)
def test_the_line_names_what_is_missing(missing: str, text: str) -> None:
    """Each missing ability is named, with the kernel that has it."""
    assert text not in told()
    assert text in told(**{missing: False})
