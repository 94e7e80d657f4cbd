"""Some of many in turn, so that what is done to them costs the same each time, however many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice


class Turns:
    """Gives names in turn; when all have been given, it asks for them anew.

    Args:
        names: returns those that there are now, without a name twice.
    """

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names
        self._left: Iterator[str] = iter(())

    def take(self, count: int) -> set[str]:
        """Return the next ``count`` names, or all if there are fewer. Some may be of things that have gone since."""
        taken = set(islice(self._left, count))
        if len(taken) < count:
            self._left = iter(tuple(self._names()))
            taken.update(islice(self._left, count - len(taken)))
        return taken
