"""A wrapper whose agent runs: it sleeps until something happens, and holds no more than it needs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from kit import COMMAND, Processes, run_ours, wait_until
from wrapping import Terminal, agent, children

from supervisor import paths

RUNS = agent("touch", "up", "await", "go", "exit", 0)
WAITS = {"x86_64": ("128", "7", "271"), "aarch64": ("137", "73")}.get(platform.machine(), ())
"""The numbers of rt_sigtimedwait(2), poll(2) and ppoll(2), each of which takes a time limit as its third argument."""

FOREVER = {0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
"""No time limit: a null pointer, or -1."""

can_tell = pytest.mark.skipif(not WAITS or not os.path.exists("/proc/self/syscall"), reason="no such calls are known")


def sleeps(pid: int) -> bool:
    """Tell whether a process waits for signals or descriptors without a time limit (proc(5), /proc/PID/syscall)."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[0] in WAITS and int(words[3], 16) in FOREVER


def test_what_it_holds(project: Path, processes: Processes) -> None:
    """What making the store known loads is not the wrapper's to keep as long as its agent runs, nor is the maker."""
    run_ours("wrap", "true")
    known = Path(paths.registry_dir())
    shutil.rmtree(known)
    wrapper = processes.ours("wrap", *RUNS)
    wait_until(lambda: known.is_dir() and any(path.suffix == ".json" for path in known.iterdir()))
    wait_until((project / "up").exists)
    wait_until(lambda: len(children(wrapper.pid)) == 1)
    assert "_hashlib" not in Path(f"/proc/{wrapper.pid}/maps").read_text()
    (project / "go").touch()
    assert wrapper.wait(20) == 0


@can_tell
@pytest.mark.parametrize("options", [(), ("--log",)])
def test_nothing_wakes_it(project: Path, processes: Processes, options: tuple[str, ...]) -> None:
    """While nothing happens nothing wakes the wrapper, with or without a log."""
    wrapper = processes.ours("wrap", *options, *RUNS, stdout=subprocess.PIPE)
    wait_until((project / "up").exists)
    wait_until(lambda: sleeps(wrapper.pid))
    (project / "go").touch()
    assert wrapper.wait(20) == 0


@can_tell
def test_nothing_wakes_relay_and_shim(project: Path, processes: Processes) -> None:
    """The same on a terminal: neither the relay nor the shim looks at anything by itself."""
    with Terminal(processes, *COMMAND, "wrap", "--log", *RUNS) as terminal:
        wait_until((project / "up").exists)
        (shim,) = children(terminal.program.pid)
        wait_until(lambda: sleeps(terminal.program.pid) and sleeps(shim))
        (project / "go").touch()
        terminal.rest()
        assert terminal.program.wait(20) == 0
