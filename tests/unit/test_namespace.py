"""Who can reach a store: processes of other PID namespaces, under whatever name they see it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit import Processes, wait_until
from nursery import Apart, as_root, child_of, child_of_a_namespace, hear, linux

from supervisor.process import facts, namespace, procfs
from supervisor.process.judge import Scene
from supervisor.process.namespace import Mount, on_shared_file_system, only_we_reach

pytestmark = linux

initially = pytest.mark.skipif(
    sys.platform == "linux" and procfs.namespace("pid") != facts.INITIAL_PID_NS,
    reason="needs the initial PID namespace",
)

_ASKS = """
import sys
from supervisor.process import facts, namespace
print(namespace.only_we_reach(sys.argv[1], facts.scene()), flush=True)
"""

_NOBODY_ASKS = """
import os, sys
from supervisor.process import facts, namespace, procfs
scene = facts.scene()
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
for others in ([], [int(sys.argv[2])]):
    procfs.processes = lambda: [os.getpid(), *others]
    print(namespace.only_we_reach(sys.argv[1], scene), flush=True)
"""

_JAILED = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); print(flush=True); sys.stdin.read()"


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Give the test a directory whose name has all that a mount table escapes or may choke on."""
    place = tmp_path / "a b\té\\134\u2003 - \r#"
    place.mkdir()
    return str(place)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the machine have only our own process and those given: others may run tests like these at the same time."""

    def only(*pids: int) -> None:
        monkeypatch.setattr(procfs, "processes", lambda: [os.getpid(), *pids])

    return only


def in_a_mount_namespace(processes: Processes, script: str, *args: str) -> str:
    """Run a shell script with mounts of its own and return its first line."""
    return hear(processes.start("unshare", "--mount", "sh", "-ec", script, "sh", *args, stdout=subprocess.PIPE))


@initially
def test_directory_that_only_we_see(processes: Processes, place: str, only: Callable[..., None]) -> None:
    """A directory that only processes of our own namespace see is ours alone."""
    only(processes.living().pid)
    assert only_we_reach(place, facts.scene())


@initially
@as_root
def test_whole_machine_sees_nothing_of_a_private_mount(processes: Processes, place: str) -> None:
    """A directory in a mount that no other process has is ours alone, whatever else runs on this machine."""
    script = 'mount -t tmpfs none "$1" && exec "$2" -c "$3" "$1"'
    assert in_a_mount_namespace(processes, script, place, sys.executable, _ASKS) == "True"


@as_root
@initially
def test_child_namespace_that_sees_it(processes: Processes, place: str, only: Callable[..., None]) -> None:
    """A process of a child namespace that sees the directory may have written its rows; when it is gone, nobody."""
    child = child_of_a_namespace(processes, "")
    assert len((procfs.status_field(child, b"NSpid:") or b"").split()) == 2
    only(child)
    assert not only_we_reach(place, facts.scene())
    os.kill(child, 9)
    wait_until(lambda: not facts.is_alive(child, None))
    assert only_we_reach(place, facts.scene())


@as_root
@initially
@pytest.mark.parametrize(
    ("script", "ours"),
    [
        ('mount -t tmpfs none "$1"', True),
        ('mount -t tmpfs none "${1%/*}"', True),
        ('mount --bind "$1" /mnt; mount -t tmpfs none "${1%/*}"', False),
        ('mount --bind "${1%/*}" /mnt; mount -t tmpfs none "$1"', False),
        ('mount --bind "${1%/*}" /mnt; mount -t tmpfs none "$1"; mount -t tmpfs none /mnt', True),
        ('mkdir "$1/inner"; mount --bind "$1/inner" /mnt; mount -t tmpfs none "$1"', True),
    ],
    ids=["hidden", "parent hidden", "bound elsewhere", "parent bound elsewhere", "that hidden too", "only a part"],
)
def test_child_namespace_with_other_mounts(
    processes: Processes, place: str, only: Callable[..., None], script: str, ours: bool
) -> None:
    """What counts is whether a child namespace sees the directory itself, under this name or another."""
    only(child_of_a_namespace(processes, script, place))
    assert only_we_reach(place, facts.scene()) is ours


@as_root
@initially
@pytest.mark.parametrize(("root", "ours"), [("", False), ("/..", False), ("/../..", False), ("/inner", True)])
def test_child_namespace_with_another_root(
    processes: Processes, place: str, only: Callable[..., None], root: str, ours: bool
) -> None:
    """A process of a child namespace whose root was changed sees what is below its root, and nothing else."""
    os.mkdir(f"{place}/inner")
    jail = os.path.normpath(place + root)
    outer = processes.start(
        *Apart.command("unshare", "--fork", "--kill-child", "--pid", sys.executable, "-c", _JAILED, jail),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    hear(outer)
    only(child_of(outer))
    assert only_we_reach(place, facts.scene()) is ours


@as_root
def test_child_namespace_of_a_test(processes: Processes) -> None:
    """What a test starts in a child namespace sees no folder of other tests: these would doubt their dead pids."""
    folders, own = Apart.all(), Apart.own
    if folders is None or own is None:
        pytest.skip("the tests' folders are not where pytest has them")
    seen = Path(f"/proc/{child_of_a_namespace(processes, '')}/root{folders}")
    for part in own.relative_to(folders).parts:
        assert os.listdir(seen) == [part]
        seen /= part
    assert set(os.listdir(seen)) == set(os.listdir(own))


@as_root
def test_child_namespace_outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started so where no test runs sees no folder of any test."""
    folders = Apart.all()
    if folders is None or folders.parent != Path(tempfile.gettempdir()):
        pytest.skip("the tests' folders are not where pytest has them")
    monkeypatch.setattr(Apart, "own", None)
    seen = subprocess.run(Apart.command("ls", "-A", str(folders)), capture_output=True, text=True, check=True)
    assert seen.stdout == ""


@as_root
@initially
def test_child_namespace_that_may_not_be_looked_into(processes: Processes) -> None:
    """A process of a child namespace whose root we may not look into counts as seeing the directory."""
    child = child_of_a_namespace(processes, "")
    asked = processes.python(_NOBODY_ASKS, "/usr", str(child), stdout=subprocess.PIPE)
    assert [hear(asked), hear(asked)] == ["True", "False"]


@initially
def test_process_whose_status_cannot_be_read(
    processes: Processes, place: str, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of which we cannot read what namespace it is of may be of a child's; one that is gone is not."""
    process = processes.living()
    only(process.pid)
    monkeypatch.setattr(procfs, "status_field", lambda *_: None)
    monkeypatch.setattr(namespace, "_sees", lambda pid, *_: pid == process.pid)
    assert not only_we_reach(place, facts.scene())
    process.kill()
    process.wait()
    assert only_we_reach(place, facts.scene())


@initially
@pytest.mark.parametrize("error", [PermissionError(13, ""), OSError(24, ""), ValueError()], ids=repr)
def test_mounts_that_cannot_be_read(
    processes: Processes,
    place: str,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """A process of a child namespace whose mounts we cannot read counts as seeing the directory."""
    process = processes.living()
    only(process.pid)
    real = namespace._mounts

    def mounts(pid: int) -> object:
        if pid == process.pid:
            raise error
        return real(pid)

    monkeypatch.setattr(namespace, "_is_of_child", lambda pid: pid == process.pid)
    monkeypatch.setattr(namespace, "_mounts", mounts)
    assert not only_we_reach(place, facts.scene())


@initially
@pytest.mark.parametrize("visible", [[], [1]], ids=["empty", "without ourselves"])
def test_proc_that_shows_no_processes(place: str, monkeypatch: pytest.MonkeyPatch, visible: list[int]) -> None:
    """A listing of processes that lacks even ourselves proves nothing."""
    monkeypatch.setattr(procfs, "processes", lambda: visible)
    assert not only_we_reach(place, facts.scene())


def test_only_the_initial_namespace_sees_all(place: str, only: Callable[..., None]) -> None:
    """From a child namespace its parents' processes cannot be seen, so that nothing is proven."""
    only()
    scene: Scene = replace(facts.scene(), initial_pid_ns=False)
    assert not only_we_reach(place, scene)


def test_foreign_proc_proves_nothing(place: str, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another namespace's ``/proc`` proves nothing."""
    only()
    monkeypatch.setattr(procfs, "is_ours", lambda: False)
    assert not only_we_reach(place, replace(facts.scene(), initial_pid_ns=True))


@as_root
@initially
def test_missing_proc_proves_nothing(processes: Processes, place: str) -> None:
    """Without ``/proc`` nothing is proven."""
    script = 'mount -t tmpfs none "$1" && mount -t tmpfs none /proc && exec "$2" -c "$3" "$1"'
    assert in_a_mount_namespace(processes, script, place, sys.executable, _ASKS) == "False"


@as_root
@initially
@pytest.mark.parametrize(("option", "ours"), [("hidepid=2", False), ("hidepid=1", False), ("hidepid=0", True)])
def test_proc_that_hides_processes_proves_nothing(processes: Processes, place: str, option: str, ours: bool) -> None:
    """Under hidepid a process that sees the directory may not be seen by us."""
    script = f'mount -t tmpfs none "$1" && mount -t proc -o {option} proc /proc && exec "$2" -c "$3" "$1"'
    assert in_a_mount_namespace(processes, script, place, sys.executable, _ASKS) == str(ours)


@initially
def test_directory_that_is_gone(place: str, only: Callable[..., None]) -> None:
    """Nothing is proven of a directory that is not there."""
    only()
    os.rmdir(place)
    assert not only_we_reach(place, facts.scene())


@initially
@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuseblk", "virtiofs", "ceph", "lustre"])
def test_file_system_of_several_hosts(
    place: str, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On a file system that other hosts share nothing is proven by looking at this one."""
    only()
    assert not on_shared_file_system(place)
    assert only_we_reach(place, facts.scene())
    real = namespace._mount_of

    def mount_of(path: str) -> Mount | None:
        mount = real(path)
        return replace(mount, kind=kind) if mount and path == place else mount

    monkeypatch.setattr(namespace, "_mount_of", mount_of)
    assert on_shared_file_system(place)
    assert not only_we_reach(place, facts.scene())


def test_nobody_knows_the_file_system_of_nothing(tmp_path: Path) -> None:
    """A directory that is not there may be on a shared file system."""
    assert on_shared_file_system(str(tmp_path / "none"))


@as_root
def test_mount_of_a_directory_with_any_name(processes: Processes, place: str) -> None:
    """The mount that a directory lies on is found whatever is in its name, and also where one mount hides another."""
    asks = (
        "import sys\n"
        "from supervisor.process import namespace\n"
        "print(*(namespace._mount_of(path).kind for path in sys.argv[1:]))"
    )
    script = (
        'mkdir "$1/in"; mount -t tmpfs none "$1/in"; mkdir "$1/in/x"; '
        'mount -t ramfs none "$1"; mkdir -p "$1/in/x"; cd /; "$2" -c "$3" "$1/in/x" "$1" "${1%/*}" /proc'
    )
    told = in_a_mount_namespace(processes, script, place, sys.executable, asks).split()
    kind = namespace._mount_of(os.path.dirname(place))
    assert kind is not None
    assert told == ["ramfs", "ramfs", kind.kind, "proc"]


def test_line_of_a_mount_table() -> None:
    """A line of a mount table is taken apart, escapes and all."""
    mount = Mount.parse(
        rb"36 35 98:0 /mnt\0401 /a\040b\011c\012d\134e\134040\043" + "é".encode() + b" rw,noatime master:1 - "
        rb"fuse.sshfs user@host:/x\040y rw,hidepid=2,errors=continue"
    )
    assert (mount.number, mount.device, mount.root) == (b"36", b"98:0", b"/mnt 1")
    assert mount.point == b"/a b\tc\nd\\e\\040#" + "é".encode()
    assert (mount.kind, mount.options) == ("fuse.sshfs", "rw,hidepid=2,errors=continue")


@pytest.mark.parametrize("line", [b"", b"36 35 98:0 /", b"36 35 98:0 / / rw", b"36 35 98:0 / / rw - ext4"])
def test_line_that_is_none(line: bytes) -> None:
    """What is no line of a mount table is refused."""
    with pytest.raises(ValueError, match="unpack"):
        Mount.parse(line)


@pytest.mark.parametrize(
    ("root", "point", "inside", "place"),
    [
        (b"/", b"/", b"/a/b", b"/a/b"),
        (b"/", b"/mnt", b"/a/b", b"/mnt/a/b"),
        (b"/a", b"/mnt", b"/a/b", b"/mnt/b"),
        (b"/a", b"/", b"/a/b", b"/b"),
        (b"/a/b", b"/", b"/a/b", b"/"),
        (b"/a/b", b"/mnt", b"/a/b", b"/mnt"),
        (b"/a/b/c", b"/mnt", b"/a/b", None),
        (b"/a", b"/mnt", b"/ab", None),
        (b"/", b"/", b"/", b"/"),
    ],
)
def test_place_in_a_mount(root: bytes, point: bytes, inside: bytes, place: bytes | None) -> None:
    """A mount shows the directories below its root, at its mount point."""
    assert Mount(b"1", b"8:1", root, point, "ext4", "rw").place_of(inside) == place


@pytest.mark.parametrize(
    ("options", "hides"),
    [
        ("rw", False),
        ("rw,hidepid=0", False),
        ("rw,hidepid=off", False),
        ("rw,hidepid=1", True),
        ("rw,hidepid=2,gid=7", True),
        ("rw,hidepid=4", True),
        ("rw,hidepid=noaccess", True),
        ("rw,hidepid=invisible", True),
        ("rw,gid=7,hidepid=ptraceable", True),
    ],
)
def test_options_of_proc(options: str, hides: bool) -> None:
    """Every value of hidepid but 0 hides processes, by number or by name."""
    assert namespace._hides_processes(options) is hides
