"""The service: whether the user's service manager starts the daemon."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator

from supervisor.doctor.finding import Finding, ok, warn

UNIT = "agent-yes-supervise.service"
LINGERING = "/var/lib/systemd/linger"
"""Whose services run while they are logged out, one file a user (loginctl(1), enable-linger)."""

_TIMEOUT = 5.0


def check_service(*, runs_systemd: str = "/run/systemd/system", lingering: str = LINGERING) -> Iterator[Finding]:
    """Find the unit, and whether it is enabled and outlives the login.

    Args:
        runs_systemd: a folder that is there where systemd runs (sd_booted(3)).
        lingering: the folder of those who linger.
    """
    if not os.path.isdir(runs_systemd) or shutil.which("systemctl") is None:
        yield ok("service", "systemd does not run here: start the daemon as this system starts its services")
        return
    state = _asked("systemctl", "--user", "is-enabled", UNIT)
    if state == "enabled":
        yield ok("service", f"{UNIT} is enabled")
    elif state in ("", "not-found"):
        remedy = "install it: agent-yes-supervise service install"
        yield warn("service", f"{UNIT} is not installed, or your service manager does not answer", remedy)
        return
    else:
        yield warn("service", f"{UNIT} is {state}", "install it again: agent-yes-supervise service install")
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.path.exists(os.path.join(lingering, user)):
        yield ok("linger", "it runs also while you are logged out")
    else:
        yield warn("linger", "it ends when you log out", "loginctl enable-linger")


def _asked(*command: str) -> str:
    """Return the first word that a command answers, empty where it does not."""
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip().partition("\n")[0]
