"""The daemon: whether it runs, since when, of which version, and how much it looks after."""

from __future__ import annotations

import time
from collections.abc import Iterator

from supervisor import __version__
from supervisor.daemon import presence
from supervisor.doctor.finding import Finding, ok, warn

_RESTART = "restart it: systemctl --user restart agent-yes-supervise, or end it and start agent-yes-supervise daemon"


def check_daemon() -> Iterator[Finding]:
    """Find the daemon of this user."""
    found = presence.running()
    if found is None:
        lost = "runs whose wrapper was killed, and those that others record, are settled by nobody"
        remedy = "have it always: agent-yes-supervise service install; or start it: agent-yes-supervise daemon"
        yield warn("daemon", f"no daemon runs: {lost}", remedy)
        return
    since = "" if found.since is None else f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.since))}"
    counts = ""
    if found.watching is not None and found.stores is not None:
        counts = f", watching {_counted(found.watching, 'run')} in {_counted(found.stores, 'store')}"
    yield ok("daemon", f"pid {found.pid or 'unknown'} runs{since}{counts}")
    if found.version != __version__:
        age = "older" if found.is_older_than(__version__) else "newer"
        text = f"the daemon is {age} ({found.version or 'unknown'}) than this command ({__version__})"
        yield warn("version", text, _RESTART if age == "older" else "update this command, or restart the daemon by it")
    else:
        yield ok("version", f"daemon and command are both {__version__}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
