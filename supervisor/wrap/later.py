"""What a wrapper does for records beside the beginning and the end of its own run: evidence, and what others have left.

Loaded when the agent runs, or has ended.
"""

from __future__ import annotations

import sqlite3

from supervisor.errors import StoreError
from supervisor.spool import files
from supervisor.store.addenda import add_evidence
from supervisor.store.connection import open_for_writing
from supervisor.wrap.apart import do_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.nouns import Ending
    from supervisor.store.recording import NewRun

LOCK_WAIT = 0.05
"""Seconds to wait for a store's lock on behalf of others: the agent may end meanwhile."""


def bring_others(directory: str) -> None:
    """Bring what is spooled for a project into its store, as far as that takes it now.

    Where there is no daemon, and nobody asks for a list, a wrapper is the next of ours that comes along. It must not
    have that store open: it is done in a process apart.
    """
    try:
        if not files.waiting():
            return
    except OSError:  # who needs that folder will say what is wrong with it
        return
    do_apart(lambda: _apply(directory))


def _apply(directory: str) -> None:
    from supervisor.spool.applying import apply_spooled  # noqa: PLC0415  loads what we must not keep

    apply_spooled(only=directory, timeout=LOCK_WAIT)


def reserve_space() -> None:
    """Set space aside for the ending: the store and the spool are often on one disk."""
    try:
        files.reserve()
    except OSError:
        return


def add_or_keep(
    run: NewRun, ending: Ending, evidence: Mapping[str, object], *, is_recorded: bool, timeout: float
) -> str | None:
    """Add evidence to an ending in its store; where that is not possible keep it beside the ending.

    Args:
        run: the run.
        ending: its ending, with the evidence.
        evidence: what has become known.
        is_recorded: whether the ending has been in the store: if the run is not there now, it has been deleted.
        timeout: seconds to wait for the store's lock.

    Returns:
        The spool's folder, where it is kept.

    Raises:
        OSError: it cannot be kept either.
    """
    try:
        connection, _ = open_for_writing(run.directory, create=False, timeout=timeout)
        try:
            if add_evidence(connection, run.token, evidence) or is_recorded:
                return None
        finally:
            connection.close()
    except (StoreError, sqlite3.Error):
        pass  # then later
    return files.keep(run, ending, added=True)
