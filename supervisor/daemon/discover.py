"""Finding stores that nobody has made known: those of live processes' working directories."""

from __future__ import annotations

import logging
import os

from supervisor import registry
from supervisor.process import procfs
from supervisor.registry import Origin
from supervisor.store.files import store_file

log = logging.getLogger(__name__)


def discover(known: set[str]) -> None:
    """Register the store of every working directory that a live process of this user stands in.

    Args:
        known: directories that are registered already.
    """
    own, looked_at = os.geteuid(), set(known)
    for pid in procfs.processes():
        directory = procfs.working_directory(pid)
        if directory is None or directory in looked_at:
            continue
        looked_at.add(directory)
        try:
            if os.stat(f"/proc/{pid}").st_uid == own and os.stat(store_file(directory)).st_uid == own:
                registry.add(directory, Origin.FOUND)
                log.info("found a store in %s", directory)
        except OSError:
            continue
