"""Short names of projects: the tails of their directories' paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable


def short_names(directories: Iterable[str]) -> dict[str, str]:
    """Return for each directory the shortest tail of its path that no other one ends with."""
    tails = {directory: _tails(directory) for directory in directories}
    owners = Counter(tail for own in tails.values() for tail in own)
    return {
        directory: next((tail for tail in own if tail and owners[tail] == 1), directory)
        for directory, own in tails.items()
    }


def _tails(directory: str) -> list[str]:
    parts = directory.strip("/").split("/")
    return ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]


def is_tail(word: str, directory: str) -> bool:
    """Tell whether a word is a tail of a directory's path."""
    return not os.path.isabs(word) and word.strip("/") in _tails(directory)


def is_named(word: str, directory: str) -> bool:
    """Tell whether a word is a directory's path, or a tail of it."""
    return directory == word.rstrip("/") or is_tail(word, directory)
