"""Reading ``/proc``: one function per file, each a single read, with the kernel's own errors.

Linux only. Expected errors are `FileNotFoundError` and `ProcessLookupError` (no such process, or gone while we read)
and `PermissionError` (hidepid=1; under hidepid=2 a hidden process looks like none, so absence here proves nothing).
"""

from __future__ import annotations

import os

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

GONE = (FileNotFoundError, ProcessLookupError)
"""What reading a process's file raises when the process is not there, or not visible."""


class Stat:
    """The fields of ``/proc/PID/stat`` that judge a process (proc(5)).

    ``exit_status`` is field 52, a wait(2) status that is real only for a zombie, and only where `exit_status_visible`;
    ``start_ticks`` counts from boot in the reader's time namespace.
    """

    __slots__ = ("exit_status", "pgrp", "ppid", "session", "start_ticks", "state", "threads", "tty")

    def __init__(
        self,
        *,
        state: str,
        ppid: int,
        start_ticks: int,
        threads: int = 1,
        pgrp: int = 0,
        session: int = 0,
        tty: int = 0,
        exit_status: int = 0,
    ) -> None:
        self.state = state
        self.ppid = ppid
        self.pgrp = pgrp
        self.session = session
        self.tty = tty
        self.threads = threads
        self.start_ticks = start_ticks
        self.exit_status = exit_status

    @classmethod
    def parse(cls, raw: bytes) -> Stat:
        """Make one of the file's content.

        The name may hold blanks, brackets and newlines, ``) Z 1 (`` included: only the last bracket ends it
        (moby/moby#27540).
        """
        fields = raw[raw.rindex(b")") + 2 :].split()
        return cls(
            state=fields[0].decode(),
            ppid=int(fields[1]),
            pgrp=int(fields[2]),
            session=int(fields[3]),
            tty=int(fields[4]),
            threads=int(fields[17]),
            start_ticks=int(fields[19]),
            exit_status=int(fields[49]) if len(fields) > 49 else 0,
        )

    @property
    def is_dead(self) -> bool:
        """Whether the whole process is a zombie: a leader thread may be one while its workers live on."""
        return self.state in "ZXx" and self.threads <= 1

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a tracer holds the process."""
        return self.state in "Tt"


def read_stat(pid: int) -> Stat:
    """Read ``/proc/PID/stat``."""
    return Stat.parse(_read(f"/proc/{pid}/stat"))


def processor_ticks(pid: int) -> int:
    """Return the clock ticks of processor time of a process and of its reaped children (proc(5), fields 14 to 17)."""
    raw = _read(f"/proc/{pid}/stat")
    return sum(map(int, raw[raw.rindex(b")") + 2 :].split()[11:15]))


def written_bytes(pid: int) -> int | None:
    """Return how many bytes a process has written anywhere, terminals and pipes too; None where we may not know."""
    try:
        raw = _read(f"/proc/{pid}/io")
        return int(raw.partition(b"wchar:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):  # another user's, gone, or a kernel without it
        return None


def thread_group(pid: int) -> int | None:
    """Return the process that ``pid`` is a thread of (itself for a process), None where that cannot be read."""
    value = status_field(pid, b"Tgid:")
    return int(value) if value else None


def status_field(pid: int, name: bytes) -> bytes | None:
    """Return one line's value of ``/proc/PID/status``, None where it cannot be read."""
    try:
        status = _read(f"/proc/{pid}/status")
    except OSError:
        return None
    for line in status.split(b"\n"):  # the name may hold a carriage return, and behind it what looks like a field
        if line.startswith(name):
            return line[len(name) :].strip()
    return None


def exit_status_visible(pid: int) -> bool:
    """Tell whether the kernel shows us field 52 of that zombie.

    It prints 0 to those who may not trace the process, as if it had exited with 0; reading the namespace link makes
    the same check and says so.
    """
    try:
        os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return False
    return True


def boot_id() -> str | None:
    """Return the random id of this boot; all containers of one kernel share it."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").decode().strip()
    except OSError:
        return None


def pid_max() -> int:
    """Return the number that no process id reaches."""
    try:
        return int(_read("/proc/sys/kernel/pid_max"))
    except OSError:
        return 1 << 22


def namespace(kind: str) -> int | None:
    """Return the inode of one of our own namespaces (``pid``, ``time``), None where the kernel has none."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return None


def is_ours() -> bool:
    """Tell whether ``/proc`` is that of our own PID namespace: a container may have its host's mounted."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def processes() -> list[int]:
    """Return the ids of all visible processes, none where there is no ``/proc``."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def working_directory(pid: int) -> str | None:
    """Return a process's working directory, None where it is hidden, deleted or gone."""
    try:
        path = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None
    return None if path.endswith(" (deleted)") else path


def executable(pid: int) -> str | None:
    """Return the program that a process runs, None where it is hidden, gone, or the process is the kernel's own."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return None


def name(pid: int) -> str | None:
    """Return the name that a process goes by in the kernel (15 bytes at most), None where it is gone."""
    content = _read_whole(f"/proc/{pid}/comm")
    return None if content is None else os.fsdecode(content).removesuffix("\n")


def read_argv(pid: int) -> tuple[str, ...] | None:
    """Return a process's arguments, None where they are hidden or gone; a zombie and the kernel's own have none."""
    content = _read_whole(f"/proc/{pid}/cmdline")
    return None if not content else tuple(os.fsdecode(word) for word in content.rstrip(b"\0").split(b"\0"))


def read_environment(pid: int) -> list[bytes] | None:
    """Return the environment that a process was started with, None where it is hidden or gone."""
    content = _read_whole(f"/proc/{pid}/environ")
    return None if content is None else content.split(b"\0")


def _read_whole(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
