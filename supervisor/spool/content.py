"""What a file of the spool holds, as JSON: a run, and its ending if it has ended; or an ending of a row that is there.

Whatever it holds is checked.
"""

from __future__ import annotations

import json
import math

from supervisor.store.recording import NewRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from supervisor.models import Claim, Ending

FORMAT = 1
"""Raised when what is kept changes its meaning; a file of another format waits for the version that knows it."""

_LARGEST = 1 << 62
_YEAR_9999 = 253_370_764_800


class AnotherFormat(Exception):
    """The file was written by another version."""


def encode(run: NewRun, ending: Ending | None) -> bytes:
    """Return a file's content; any text survives, UTF-8 or not."""
    kept = {name: getattr(run, name) for name in NewRun.__slots__ if name != "id"}  # that is one file's
    ended = None if ending is None else _plain(ending)
    return json.dumps({"format": FORMAT, "run": kept, "ending": ended}).encode()


def encode_settled(directory: str, claim: Claim, ending: Ending) -> bytes:
    """Return the content of a file with the ending of a row.

    Raises:
        TypeError: the row holds what JSON does not.
    """
    row = {name: getattr(claim, name) for name in _ROW}
    return json.dumps({"format": FORMAT, "directory": directory, "row": row, "ending": _plain(ending)}).encode()


def decode(content: bytes) -> tuple[NewRun, Ending | None]:
    """Return the run and the ending that a file holds.

    Raises:
        ValueError: it makes no sense.
        AnotherFormat: another version has written it.
    """
    kept = _loaded(content)
    run = NewRun(**{**_checked("run", kept.get("run"), _RUN), "owner": tuple(kept["run"]["owner"])})
    if kept.get("ending") is None:
        return run, None
    ending = _ending(kept["ending"])
    if ending.rank != _owner():
        raise ValueError("ending: no owner says so")
    return run, ending


def decode_settled(content: bytes) -> tuple[str, Claim, Ending]:
    """Return the project's directory, the row and its ending that a file holds.

    Raises:
        ValueError, AnotherFormat: as `decode`.
    """
    from supervisor.models import Claim  # noqa: PLC0415  brings dataclasses

    kept = _loaded(content)
    if not _is_path(kept.get("directory")):
        raise ValueError("no such directory")
    row, ending = _checked("row", kept.get("row"), _ROW), _ending(kept.get("ending"))
    if ending.rank == _owner():
        raise ValueError("ending: its owner says so, who keeps the run")
    return kept["directory"], Claim(**row, dir=None, cli=None, process=None), ending


def _loaded(content: bytes) -> dict[str, Any]:
    try:
        kept = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(kept, dict) or not _is_whole(kept.get("format")):
        raise ValueError("it says no format")
    if kept["format"] != FORMAT:
        raise AnotherFormat(f"format {kept['format']}")
    return kept


def _plain(ending: Ending) -> dict[str, Any]:
    return {**vars(ending), "evidence": dict(ending.evidence)}


def _owner() -> int:
    from supervisor.nouns import Rank  # noqa: PLC0415  few files hold an ending

    return Rank.OWNER


def _ending(ended: object) -> Ending:
    from supervisor.nouns import Cause, Ending, Rank, RunStatus  # noqa: PLC0415  the same

    kept = _checked("ending", ended, _ENDING)
    status, cause, rank = RunStatus(kept["status"]), Cause(kept["cause"]), Rank(kept["rank"])
    if status is RunStatus.RUNNING:
        raise ValueError("ending: it is none")
    return Ending(**{**kept, "status": status, "cause": cause, "rank": rank})


def _checked(what: str, kept: object, kinds: dict[str, Callable[[object], bool]]) -> dict[str, Any]:
    """Return a JSON object that has exactly these names, each with a value of its kind."""
    if not isinstance(kept, dict) or kept.keys() != kinds.keys():
        raise ValueError(f"{what}: other fields than it should have")
    for name, is_kind in kinds.items():
        if not is_kind(kept[name]):
            raise ValueError(f"{what}: no such {name}")
    return kept


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) < _LARGEST


def _is_moment(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < _YEAR_9999  # type: ignore[arg-type, operator]  # a number


def _or_none(is_kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_kind(value)


def _is_token(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and not value.strip("0123456789abcdef")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and "\0" not in value


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_named_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_identity(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_whole(value[0]) and _or_none(_is_whole)(value[1])


def _is_stamp(value: object) -> bool:
    return bool(_checked("stamp", value, _STAMP))


_STAMP: dict[str, Callable[[object], bool]] = {
    "host": _or_none(_is_text),
    "boot_id": _or_none(_is_text),
    "pid_ns": _or_none(_is_whole),
    "pid_ns_ticks": _or_none(_is_whole),
    "time_ns": _or_none(_is_whole),
    "pid": _is_whole,
    "start_ticks": _or_none(_is_whole),
    "pidfd_inode": _or_none(_is_whole),
    "started_at": _or_none(_is_moment),
}
_RUN: dict[str, Callable[[object], bool]] = {
    "token": _is_token,
    "directory": _is_path,
    "cli": _is_text,
    "args": _are_texts,
    "cwd": _is_text,
    "prompt": _or_none(_is_text),
    "set_default": _is_flag,
    "stamp": _is_stamp,
    "owner": _is_identity,
    "environment": _are_named_texts,
    "args_added": _are_texts,
    "resumed_from": _or_none(_is_token),
}
_ROW: dict[str, Callable[[object], bool]] = {
    "run_id": _is_whole,
    "pid": lambda value: value is None or _is_whole(value) or _is_moment(value) or _is_text(value),
    "started_at": lambda value: value is None or _is_whole(value) or _is_moment(value) or _is_text(value),
}
_ENDING: dict[str, Callable[[object], bool]] = {
    "status": _is_text,
    "exit_code": _or_none(_is_whole),
    "cause": _is_text,
    "rank": _is_whole,
    "ended_at": _is_moment,
    "detected_at": _is_moment,
    "settled_by": _is_text,
    "term_signal": _or_none(_is_whole),
    "core_dumped": _or_none(_is_flag),
    "evidence": lambda value: isinstance(value, dict),
}
