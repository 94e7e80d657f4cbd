"""What a service manager is given: unit and property list as they are compared with golden files, and the commands."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit import DATA, run_ours
from sandbox import ROOT

from supervisor import __version__
from supervisor.daemon import parking
from supervisor.errors import ServiceError
from supervisor.service import launchd, manager, unit
from supervisor.service.launchd import Launchd
from supervisor.service.systemd import Systemd

GOLDEN = DATA / "service"
COMMAND = ["/opt/py thon/100%/$bin/python3", "-P", "-m", "supervisor", "daemon"]
ENVIRONMENT = {"PATH": '/home/ann/.local/bin:/opt/a "b"\\c/$d/100%:/usr/bin', "XDG_STATE_HOME": "/home/ann/.state"}


class Answers:
    """Runs no command, and answers as given, by the words that a command begins with; ``ran`` are all commands."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.ran: list[str] = []
        self._answers = {name.replace("_", " "): answer for name, answer in answers.items()}

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Answer a command."""
        words = shlex.join(command)
        self.ran.append(words)
        known = (answer for name, answer in self._answers.items() if re.sub(r"--\w+ ", "", words).startswith(name))
        code, text = next(known, (0, ""))
        return subprocess.CompletedProcess(command, code, text, text if code else "")


def golden(name: str) -> str:
    """Return a golden file, with our version where it stands."""
    return (GOLDEN / name).read_text().replace("VERSION", __version__)


class TestUnit:
    """The systemd unit."""

    @pytest.mark.parametrize("version", [252, 254])
    def test_rendered_unit(self, version: int) -> None:
        """The unit has the user's command and environment, quoted; gradual restarts where systemd knows of them."""
        text = unit.render(unit.shipped(), command=COMMAND, environment=ENVIRONMENT, version=version)
        assert text == golden(f"systemd-{version}.service")

    def test_the_shipped_unit_is_the_readable_one(self) -> None:
        """What is rendered is the file in the folder systemd."""
        assert unit.shipped() == (ROOT / "systemd" / unit.UNIT).read_text()

    def test_every_directive_is_explained(self) -> None:
        """The folder's README names each directive of the unit, and those that a newer systemd gets."""
        text = unit.render(unit.shipped(), command=COMMAND, environment=ENVIRONMENT, version=254)
        directives = set(re.findall(r"^(\w+)=", text, re.MULTILINE))
        explained = (ROOT / "systemd" / "README.md").read_text()
        assert {name for name in directives if f"`{name}=" not in explained} == set()

    def test_what_is_parked_fits(self) -> None:
        """The unit allows what the daemon parks, and all names together fit into one variable (128 KiB, execve(2))."""
        assert f"\nFileDescriptorStoreMax={parking.ROOM}\n" in unit.shipped()
        assert parking.ROOM * (parking.LONGEST_NAME + 1) + len("LISTEN_FDNAMES=") < 128 * 1024


class TestSystemd:
    """Installing under systemd, with its answers given; a real one is asked in test_service_in_systemd.py."""

    def test_where_the_manager_looks(self) -> None:
        """The unit goes where the manager looks for it, whatever our own environment says."""
        answers = Answers(**{"systemctl_show-environment": (0, "HOME=/h\nX=\n")})
        assert Systemd(runner=answers).plan().path == f"/h/.config/systemd/user/{unit.UNIT}"
        answers = Answers(**{"systemctl_show-environment": (0, "HOME=/h\nXDG_CONFIG_HOME=/c\n")})
        assert Systemd(runner=answers).plan().path == f"/c/systemd/user/{unit.UNIT}"

    def test_no_manager_is_an_error_with_a_remedy(self) -> None:
        """Where no user manager answers, that is said, with what to do instead."""
        answers = Answers(**{"systemctl_show-environment": (1, "Failed to connect to bus: No medium found\n")})
        with pytest.raises(ServiceError, match=r"No medium found; log in .* agent-yes-supervise daemon"):
            Systemd(runner=answers).plan()

    @pytest.mark.parametrize(("linger", "known"), [("yes\n", True), ("no\n", False), ("", None)])
    def test_lingering(self, home: Path, linger: str, known: bool | None) -> None:
        """Whether the manager outlives the last session is asked of logind."""
        answers = Answers(**{"systemctl_show-environment": (0, f"HOME={home}\n"), "loginctl": (0, linger)})
        assert Systemd(runner=answers).state().lingers is known

    @pytest.mark.parametrize(
        ("shown", "since"), [("Mon 2026-11-23 17:16:09 UTC", 1795454169.0), ("n/a", None), ("", None)]
    )
    def test_since_when_it_runs(self, home: Path, shown: str, since: float | None) -> None:
        """The start is read as each systemd shows it: only from 251 on can it be asked for as a number."""
        running = f"ActiveState=active\nMainPID=17\nActiveEnterTimestamp={shown}\n"
        environment = (0, f"HOME={home}\n")
        answers = Answers(**{"systemctl_show-environment": environment, "env_TZ=UTC_systemctl_show": (0, running)})
        state = Systemd(runner=answers).state()
        assert (state.running, state.pid, state.since) == (True, 17, since)
        assert "--timestamp" not in " ".join(answers.ran)


class TestLaunchd:
    """The launchd agent. launchd itself has not been tried."""

    def test_rendered_property_list(self) -> None:
        """The property list is as in the golden file, and holds what the docs promise."""
        text = launchd.render(command=COMMAND, environment=ENVIRONMENT, stderr="/logs/daemon.stderr")
        assert text == golden("launchd.plist")
        agent = plistlib.loads(text.encode())
        assert agent["KeepAlive"] == {"SuccessfulExit": False}
        assert agent["ProgramArguments"] == COMMAND
        assert agent["EnvironmentVariables"] == ENVIRONMENT
        assert (agent["ProcessType"], agent["ThrottleInterval"]) == ("Background", 10)

    def test_the_steps(self, home: Path) -> None:
        """It is loaded, and unloaded first where it was installed before; removing it leaves no file."""
        answers = Answers(launchctl_print=(0, "\tstate = running\n\tpid = 17\n"))
        service, domain = Launchd(runner=answers), f"gui/{os.getuid()}"
        path = home / "Library" / "LaunchAgents" / "agent-yes-supervise.plist"
        assert service.install().path == str(path)
        first = [f"launchctl bootstrap {domain} {path}", f"launchctl enable {domain}/agent-yes-supervise"]
        assert answers.ran[:2] == first
        arguments = plistlib.loads(path.read_bytes())["ProgramArguments"]
        assert arguments[:5] == [sys.executable, "-P", "-m", "supervisor", "daemon"]
        assert arguments[5:] == ["--log-file", str(home / "state/agent-yes-supervise/logs/daemon.log")]
        state = service.state()
        assert (state.running, state.pid, state.up_to_date, state.text) == (True, 17, True, "running")
        answers.ran.clear()
        service.install()
        assert answers.ran[:2] == [f"launchctl bootout {domain}/agent-yes-supervise", first[0]]
        assert service.uninstall() == [f"launchctl bootout {domain}/agent-yes-supervise", f"rm {path}"]
        assert not path.exists()
        assert service.uninstall() == []


class TestEnvironment:
    """What the service gets of the shell's environment."""

    def test_path(self) -> None:
        """Absolute folders stay, each once and in order; what depends on a directory or breaks a line does not."""
        path = "/home/ann/.nvm/bin:.:/usr/bin::bin:/usr/bin:/bad\nline:/bin"
        assert manager.daemon_environment({"PATH": path}) == {"PATH": "/home/ann/.nvm/bin:/usr/bin:/bin"}

    def test_where_files_are(self) -> None:
        """A daemon looks where the commands of that shell look, or there would be two registries."""
        environ = {"PATH": "/bin", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c", "SECRET": "x"}
        expected = {"PATH": "/bin", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"}
        assert manager.daemon_environment(environ) == expected

    def test_a_file_is_replaced_whole(self, tmp_path: Path) -> None:
        """A file is written by rename, and nothing else is left beside it."""
        path = tmp_path / "folder" / "unit"
        for text in ("one", "two"):
            manager.write(str(path), text)
        assert path.read_text() == "two"
        assert [file.name for file in path.parent.iterdir()] == ["unit"]


@pytest.mark.parametrize("command", ["install", "uninstall", "status", "logs"])
def test_no_manager_at_all(home: Path, command: str) -> None:
    """Without systemctl one line says so, with what to do instead; the exit code is that of a user's error."""
    done = run_ours("service", command, env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 1
    assert re.fullmatch(r"agent-yes-supervise: .* there is no systemctl; .* agent-yes-supervise daemon\n", done.stderr)


def test_a_dry_run_only_prints(home: Path, tmp_path: Path) -> None:
    """``--dry-run`` prints the unit on stdout, and what would be done on stderr, and does nothing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    systemctl = tools / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ "$2" != show-environment ] || echo HOME={home}\n')
    systemctl.chmod(0o755)
    done = run_ours("service", "install", "--dry-run", env={**os.environ, "PATH": f"{tools}:/bin"})
    assert done.returncode == 0, done.stderr
    assert f"ExecStart={sys.executable} -P -m supervisor daemon\n" in done.stdout
    assert f"Environment=PATH={tools}:/bin\n" in done.stdout
    assert f"would write {home}/.config/systemd/user/agent-yes-supervise.service:\n" in done.stderr
    assert "would run systemctl --user restart agent-yes-supervise.service\n" in done.stderr
    assert (tmp_path / "asked").read_text() == "--version\n--user show-environment\n"
    assert not (home / ".config").exists()
