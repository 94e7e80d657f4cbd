"""The service: whether the user's service manager starts the daemon."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator

from supervisor.doctor.finding import Finding, ok, warn
from supervisor.errors import ServiceError
from supervisor.service import manager
from supervisor.service.manager import ServiceState

_TIMEOUT = 5.0
"""Seconds that a service manager may take for an answer."""

_INSTALL = "agent-yes-supervise service install"


def _state() -> ServiceState:
    return manager.this_manager(runner=functools.partial(manager.run, timeout=_TIMEOUT)).state()


def check_service(
    *, runs_systemd: str = "/run/systemd/system", ask: Callable[[], ServiceState] = _state
) -> Iterator[Finding]:
    """Find the service, whether it is as an installation would make it, and whether it outlives the login.

    Args:
        runs_systemd: a folder that is there where systemd runs (sd_booted(3)).
        ask: returns how the service is.
    """
    if sys.platform != "darwin" and not os.path.isdir(runs_systemd):
        yield ok("service", "systemd does not run here: start the daemon as this system starts its services")
        return
    try:
        state = ask()
    except ServiceError as error:
        yield warn("service", error.message, error.remedy)
        return
    if state.file is None:
        yield warn("service", f"{state.manager} does not start the daemon", f"install it: {_INSTALL}")
        return
    if not state.up_to_date:
        yield warn("service", f"{state.file} is out of date", f"update it: {_INSTALL}")
    elif not state.enabled:
        yield warn("service", f"{state.file} is not enabled", f"install it again: {_INSTALL}")
    else:
        yield ok("service", f"{state.manager} starts the daemon: {state.file}")
    if state.lingers:
        yield ok("linger", "it runs also while you are logged out")
    elif state.lingers is not None:
        yield warn("linger", "it ends when you log out", "loginctl enable-linger")
