"""The place of the attack: PID and mount namespaces of its own, in which it is the first process.

All that it starts is its child or becomes so, pids can be given out again, disks can be full, and nothing outlives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chaos.world import python_path

_MARK = "CHAOS_APART"


def is_apart() -> bool:
    """Tell whether this process is the first one of such a place."""
    return os.environ.get(_MARK) == "1" and os.getpid() == 1


def command() -> list[str]:
    """Return what runs a command there, for whoever may."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ["unshare", *user, "--mount", "--fork", "--pid", "--mount-proc", "--kill-child"]


def run(args: list[str], module: str = "chaos") -> int:
    """Run a module there, and return its exit code."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:  # as nohup leaves it: no agent would end by it
            signal.signal(number, signal.SIG_DFL)
    ours = {**os.environ, _MARK: "1", "PYTHONPATH": python_path()}
    process = subprocess.Popen([*command(), sys.executable, "-m", module, *args], env=ours)
    signal.signal(signal.SIGTERM, lambda *_: process.kill())  # with it goes all that is there
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        return 130


@contextlib.contextmanager
def own_disk(folder: Path, *, keep: bool) -> Iterator[None]:
    """Put a disk of our own on a folder, which nobody outside can see; with ``keep``, its files come to the folder.

    Daemons of others would find our stores by the working directories of our processes.
    """
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    mount_small(folder, "2g")
    try:
        yield
    finally:
        if keep:
            subprocess.run(["cp", "-a", f"{folder}/.", f"/proc/{os.getpid()}/fd/{below}/"], check=False)
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        os.close(below)


def hide_other_tests(scratch: Path) -> None:
    """Take from sight what tests of others have on this machine.

    Their daemons are sure of a dead pid only while no process of another PID namespace can reach their stores.
    """
    for folder in Path(tempfile.gettempdir()).glob("pytest-of-*"):
        if folder not in scratch.parents:
            mount_small(folder, "64k")


def mount_small(folder: Path, size: str) -> None:
    """Put a small file system of its own there."""
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)], check=True, capture_output=True)
