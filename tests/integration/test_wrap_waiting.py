"""A wrapper whose agent runs: it sleeps until something happens, and holds no more than it needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from kit import COMMAND, Processes, run_ours, wait_until
from wrapping import Terminal, agent, calls_are_known, children, sleeps

from supervisor import paths

RUNS = agent("touch", "up", "await", "go", "exit", 0)


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


@calls_are_known
@pytest.mark.parametrize("options", [(), ("--log",)])
def test_nothing_wakes_it(project: Path, processes: Processes, options: tuple[str, ...]) -> None:
    """While nothing happens nothing wakes the wrapper, with or without a log."""
    wrapper = processes.ours("wrap", *options, *RUNS, stdout=subprocess.PIPE)
    wait_until((project / "up").exists)
    wait_until(lambda: sleeps(wrapper.pid))
    (project / "go").touch()
    assert wrapper.wait(20) == 0


@calls_are_known
def test_nothing_wakes_relay_and_shim(project: Path, processes: Processes) -> None:
    """The same on a terminal: neither the relay nor the shim looks at anything by itself."""
    with Terminal(processes, *COMMAND, "wrap", "--log", *RUNS) as terminal:
        wait_until((project / "up").exists)
        (shim,) = children(terminal.program.pid)
        wait_until(lambda: sleeps(terminal.program.pid) and sleeps(shim))
        (project / "go").touch()
        terminal.rest()
        assert terminal.program.wait(20) == 0
