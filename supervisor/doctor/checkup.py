"""All checks, in the order in which a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from supervisor.doctor import agents, daemon, environment, machine, service, stores
from supervisor.doctor.finding import Finding, fail
from supervisor.errors import SuperviseError

_CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("kernel", machine.check_kernel),  # forks, so before any thread is started
    ("proc", machine.check_proc),
    ("namespace", machine.check_namespace),
    ("clock", machine.check_clock),
    ("inotify", machine.check_inotify),
    ("descriptors", machine.check_descriptors),
    ("environment", environment.check_distributions),
    ("config", environment.check_config),
    ("folders", environment.check_folders),
    ("daemon", daemon.check_daemon),
    ("service", service.check_service),
    ("store", stores.check_stores),
    ("agent", agents.check_agents),
)


def check_all() -> Iterator[Finding]:
    """Yield what each check finds, as soon as it is found. A check that cannot be made has failed."""
    for name, check in _CHECKS:
        try:
            yield from check()
        except SuperviseError as error:
            yield fail(name, error.message, error.remedy)
        except OSError as error:
            text = f"{error.filename or 'the system refuses'}: {error.strerror or error}"
            yield fail(name, text, "check the path and its rights")
