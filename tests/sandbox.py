"""A real systemd for tests, with an ordinary user whose manager lingers, in namespaces and a cgroup of its own.

The command ``systemd-sandbox`` makes it. It is no part of the project: it is found on PATH, or in the folder
``shared/tools`` beside the project.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from kit import wait_until
from nursery import Apart

ROOT = Path(__file__).parents[1]
CANNOT = 77
"""The command's exit code where the machine cannot host it."""

UNIT = "agent-yes-supervise.service"


def command() -> str | None:
    """Return the command's path, None where it is not there."""
    return shutil.which("systemd-sandbox") or shutil.which(ROOT.parent / "shared" / "tools" / "systemd-sandbox")


needs_sandbox = pytest.mark.skipif(
    sys.platform != "linux" or command() is None or os.geteuid() != 0,
    reason="needs root, and systemd-sandbox on PATH or in ../shared/tools",
)


class Sandbox:
    """The sandbox, booted. ``shared`` is a folder that both sides see by the same path; its user may write there."""

    def __init__(self) -> None:
        self.shared = Path(tempfile.mkdtemp(prefix="ays-sandbox-"))
        self._group = _groups() / self.shared.name
        environ = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        environ["SYSTEMD_SANDBOX"] = str(self.shared / "state")
        environ["SYSTEMD_SANDBOX_BIND"] = f"{self.shared}/world:{sys.prefix}"
        environ["HOME"] = "/"
        self._environ = environ
        self.world = self.shared / "world"
        self.world.mkdir()
        for folder in (self.shared, self.world):
            folder.chmod(0o755)

    def __enter__(self) -> Sandbox:
        self._group.mkdir()
        # A cgroup tree of its own: two sandboxes in one would end each other's services.
        up = (
            'echo $$ >"$1/cgroup.procs" && exec unshare --mount --cgroup sh -c'
            ' \'umount "$1" && mount -t cgroup2 none "$1" && exec "$2" up\' sh "$2" "$3"'
        )
        words = Apart.command("sh", "-c", up, "sh", str(self._group), str(_groups()), str(command()))
        done = self._call(*words, timeout=50)
        if done.returncode != 0:
            self.__exit__()
        if done.returncode == CANNOT:
            pytest.skip(f"no systemd here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return self

    def __exit__(self, *_: object) -> None:
        self._call(str(command()), "down")
        wait_until(lambda: _removed(self._group))  # its processes are just ending
        shutil.rmtree(self.shared)

    def user(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the ordinary user."""
        return self._call(*self.as_user(*argv))

    def root(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        return self._call(str(command()), "root", *argv)

    def as_user(self, *argv: str) -> tuple[str, ...]:
        """Return the words that run a command inside as the ordinary user, for `environ`."""
        return (str(command()), "user", *argv)

    @property
    def environ(self) -> dict[str, str]:
        """What the words of `as_user` need."""
        return self._environ

    def systemctl(self, *words: str) -> str:
        """Ask the user's manager, and return its answer; it must have one."""
        done = self.user("systemctl", "--user", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def property(self, name: str) -> str:
        """Return a property of our unit."""
        return self.systemctl("show", f"--property={name}", "--value", UNIT)

    def _call(self, *argv: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        # Files, not pipes: what has been booted keeps them open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environ,
                timeout=timeout,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(argv, done.returncode, out.read(), err.read())


def _groups() -> Path:
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.is_dir() else unified.parent


def _removed(group: Path) -> bool:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()
