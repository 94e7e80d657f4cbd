"""What the agent has left behind, when it has ended and that is recorded: told, recorded, and ended if asked for."""

from __future__ import annotations

from supervisor.process import leftovers
from supervisor.process.leftovers import Leftover, Run
from supervisor.wrap.signals import is_to_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECOND_LOOK = 0.25
"""Seconds that processes may take to end with their agent before they count as left behind."""

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_ROUNDS = 3
"""How often we look for what has been started while we ended the others."""

_TOLD, _RECORDED = 5, 50


def tidy(run: Run, *, reap: bool, grace: float | None = None, say: Callable[[str], None]) -> Mapping[str, object]:
    """Look what is left of a run, say so in a line, and return what to record of it: nothing where nothing is.

    Args:
        run: the run, whose ending has been recorded.
        reap: whether to end what is left.
        grace: seconds between SIGTERM and SIGKILL, if so; None for `GRACE`.
        say: takes the line.
    """
    gone: dict[tuple[int, int], tuple[Leftover, str]] = {}
    for _ in range(_ROUNDS if reap else 1):
        found = _look_twice(run)
        passing = [one for one in found if not one.lasts and one.descriptor is not None]
        if reap and passing:
            killed = leftovers.end(passing, GRACE if grace is None else grace, hurry=is_to_end)
            gone |= {_key(one): (one, "killed" if one.pid in killed else "ended") for one in passing}
        leftovers.close(found)
        if not passing:
            break
    if gone:
        found = leftovers.look(run)
        leftovers.close(found)
    fates = [fate for key, fate in gone.items() if key not in set(map(_key, found))]
    fates += [(one, "kept" if one.lasts else "left") for one in found]
    if not fates:
        return {}
    say("; ".join(_lines(fates)))
    left = {"left": [_as_recorded(one, fate) for one, fate in fates[:_RECORDED]]}
    return {**left, "left_more": len(fates) - _RECORDED} if len(fates) > _RECORDED else left


def _key(one: Leftover) -> tuple[int, int]:
    return one.pid, one.start_ticks


def _look_twice(run: Run) -> list[Leftover]:
    """Look, and once more after a moment where something is left: much of it is just about to end."""
    found = leftovers.look(run)
    passing = [one for one in found if not one.lasts]
    if not passing:
        return found
    leftovers.wait(passing, SECOND_LOOK, hurry=is_to_end)
    leftovers.close(found)
    return leftovers.look(run)


def _lines(fates: Sequence[tuple[Leftover, str]]) -> list[str]:
    gone = [one for one in fates if one[1] in ("ended", "killed")]
    left = [one for one in fates if one[1] in ("left", "kept")]
    return [_line(which, what) for which, what in ((gone, "ended"), (left, "left")) if which]


def _line(fates: Sequence[tuple[Leftover, str]], what: str) -> str:
    noun = "process" if len(fates) == 1 else "processes"
    told = [_told(one, fate, what) for one, fate in fates[:_TOLD]]
    if len(fates) > _TOLD:
        told.append(f"and {len(fates) - _TOLD} more")
    return f"{len(fates)} {noun} {what}: {', '.join(told)}"


def _told(one: Leftover, fate: str, what: str) -> str:
    return f"{one.pid} {one.name} {_age(one.age)}" + ("" if fate == what else f" ({fate})")


def _age(seconds: float) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{name}"
    return f"{seconds:.0f}s"


def _as_recorded(one: Leftover, fate: str) -> Mapping[str, object]:
    return {"pid": one.pid, "name": one.name, "age": round(one.age, 1), "fate": fate}
