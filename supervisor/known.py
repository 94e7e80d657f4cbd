"""Whether the daemon knows of a store: the one look at the registry that a wrapped agent can afford to wait for."""

from __future__ import annotations

import json
import os

from supervisor import paths


def is_known(directory: str, inode: int) -> bool:
    """Tell whether the store of a project is in the registry, and is the very one that became known.

    Args:
        directory: the project's real path.
        inode: of the store's file now.
    """
    try:
        with open(paths.registry_file(directory), "rb") as file:
            entry = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(entry, dict) and entry.get("inode") == inode and entry.get("dir") == os.fspath(directory)
