"""The place of the attack: PID and mount namespaces of its own, in which it is the first process.

All that it starts is its child or becomes so, pids can be given out again, disks can be full, and nothing outlives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from nursery import Apart

from chaos.world import python_path

_MARK = "CHAOS_APART"


def is_apart() -> bool:
    """Tell whether this process is the first one of such a place."""
    return os.environ.get(_MARK) == "1" and os.getpid() == 1


def command(*words: str) -> list[str]:
    """Return what runs a command there, for whoever may; no tests' folders but those of ours are to be seen.

    The daemons of other tests are sure of a dead pid only while no process of another PID namespace can reach their
    stores: what they have is hidden before there is one.
    """
    user = () if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")
    return [*user, *Apart.command("unshare", "--fork", "--pid", "--mount-proc", "--kill-child", *words)]


def python(module: str, args: Iterable[str]) -> list[str]:
    """Return what runs a module there; it needs `surroundings`."""
    return command(sys.executable, "-m", module, *args)


def surroundings() -> dict[str, str]:
    """Return the environment of what runs there."""
    return {**os.environ, _MARK: "1", "PYTHONPATH": python_path()}


def is_possible() -> bool:
    """Tell whether we may make such a place."""
    try:
        return subprocess.run(command("true"), capture_output=True, check=False).returncode == 0
    except OSError:  # no unshare
        return False


def run(module: str, args: Iterable[str], seconds: float) -> int:
    """Run a module there, for that long at most, and return its exit code."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:  # as nohup leaves it: no agent would end by it
            signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(python(module, args), env=surroundings())
    signal.signal(signal.SIGTERM, lambda *_: process.kill())  # with it goes all that is there
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"FAILED: not over after {seconds:g} s", flush=True)
        return 1
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


def mount_small(folder: Path, size: str) -> None:
    """Put a small file system of its own there."""
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)], check=True, capture_output=True)
