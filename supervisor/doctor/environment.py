"""The installation: what else is installed with us, the settings, and our own folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from importlib import metadata

from supervisor import paths
from supervisor.config import ConfigError, load
from supervisor.doctor.finding import Finding, fail, ok, warn

_OURS = "agent-yes-supervise"
_OUR_PACKAGE = "supervisor"


def check_distributions(search: Iterable[str] | None = None) -> Iterator[Finding]:
    """Find whether another distribution installs a package of our name into this environment, as supervisord does.

    Args:
        search: where to look, by default where Python does.
    """
    found = metadata.distributions() if search is None else metadata.distributions(path=list(search))
    others = {}
    for distribution in found:
        name = distribution.metadata["Name"] or "?"
        if name != _OURS and _installs_our_package(distribution):
            others[name] = distribution.version
    for name, version in sorted(others.items()):
        what = "supervisord" if name == "supervisor" else "it"
        yield fail(
            "environment",
            f"{name} {version} is installed in the same environment: {what} and this program overwrite each other",
            f"give each its own: pip uninstall {name}, then reinstall this one, and pipx install {name}",
        )
    if not others:
        yield ok("environment", "no other distribution in this environment has our package's name")


def check_config() -> Iterator[Finding]:
    """Find whether the settings can be read."""
    file = paths.config_file()
    try:
        load(file)
    except ConfigError as error:
        yield fail("config", error.message, error.remedy)
    else:
        yield ok("config", f"{file} is fine" if os.path.lexists(file) else "no config.toml: all settings at defaults")


def check_folders() -> Iterator[Finding]:
    """Find whether our own folder is there for us alone."""
    folder = paths.state_dir()
    status = os.stat(folder)
    if status.st_uid != os.geteuid():
        yield fail("folders", f"{folder} belongs to another user (uid {status.st_uid})", "take ownership: chown")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield fail("folders", f"{folder} cannot be written", f"chmod 700 {folder}")
    elif stat.S_IMODE(status.st_mode) & 0o077:
        yield warn("folders", f"{folder} can be read by others", f"chmod 700 {folder}")
    else:
        yield ok("folders", f"{folder} is yours alone")


def _installs_our_package(distribution: metadata.Distribution) -> bool:
    if distribution.metadata["Name"] == _OUR_PACKAGE:
        return True
    return any(file.parts[:1] == (_OUR_PACKAGE,) for file in distribution.files or ())
