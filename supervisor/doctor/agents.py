"""The agents that are found on PATH, with their versions."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from supervisor.doctor.finding import Finding, ok, warn

KNOWN = ("claude", "codex", "gemini", "opencode", "copilot", "cursor-agent", "qwen", "grok", "amp", "aider", "goose")
"""Agents that people are known to run; any other command can be wrapped as well."""

TIMEOUT = 10.0
"""Seconds that an agent has to say its version: some take seconds to start."""

_QUIET = {"CI": "1", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1"}
"""Tells agents, as far as they listen, not to look for updates and not to report."""

_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


def check_agents(names: Sequence[str] = KNOWN, *, timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Find which agents are on PATH, and ask all at once for their versions.

    Args:
        names: the agents.
        timeout: seconds that each has.
    """
    found = {name: path for name in names if (path := _on_path(name)) is not None}
    if not found:
        yield warn("agent", f"none of {', '.join(names)} is on PATH", "install one, or give PATH its place")
        return
    with ThreadPoolExecutor(len(found)) as threads:
        answers = list(threads.map(lambda path: _version_of(path, timeout), found.values()))
    for (name, path), (version, trouble) in zip(found.items(), answers, strict=True):
        if trouble:
            yield warn("agent", f"{name} ({path}) {trouble}", f"try it: {path} --version")
        else:
            yield ok("agent", f"{name} {version} ({path})")


def _on_path(name: str) -> str | None:
    """Return where PATH has a command; its relative folders do not count, for a project may hold anything."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if os.path.isabs(folder) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _version_of(path: str, timeout: float) -> tuple[str, str]:
    """Return the version that an agent says, or what keeps it from that."""
    try:
        agent = subprocess.Popen(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_QUIET},
            cwd="/",  # no project's settings
            start_new_session=True,
        )
    except OSError as error:
        return "", f"cannot be started ({error.strerror})"
    try:
        said, _ = agent.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return "", f"does not say its version within {timeout:.0f} seconds"
    finally:
        if agent.poll() is None:  # not reaped, so its group's number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
        if agent.stdout is not None:
            agent.stdout.close()
    if agent.returncode != 0:
        return "", f"fails with {agent.returncode} when asked for its version"
    version = _VERSION.search(said.decode(errors="replace"))
    return version[0] if version else "of unknown version", ""
