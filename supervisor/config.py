"""The settings of ``config.toml``: their kinds, defaults and limits, and what is wrong in a file, by line.

Nothing needs the file: each setting has a default. What the command line says comes before what the file says.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from supervisor import paths
from supervisor.errors import SuperviseError

_LARGEST = 64 * 1024
"""Bytes that are read: what is larger is no configuration of ours."""


class Problem(NamedTuple):
    """What is wrong at a line of the file, and what to do about it."""

    line: int
    message: str
    remedy: str


class ConfigError(SuperviseError):
    """The file cannot be used. ``problems`` are all that is wrong in it; the message is the first of them."""

    def __init__(self, path: str, problems: list[Problem]) -> None:
        first, more = problems[0], len(problems) - 1
        place = f"{path}:{first.line}" if first.line else path
        rest = f" (and {more} more: agent-yes-supervise config check)" if more else ""
        super().__init__(f"{place}: {first.message}", f"{first.remedy}{rest}")
        self.path = path
        self.problems = problems


def _switch(default: bool, says: str) -> Any:
    return field(default=default, metadata={"says": says})


def _number(default: float, least: float, most: float, says: str) -> Any:
    return field(default=default, metadata={"says": says, "least": least, "most": most})


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """How the daemon looks after stores."""

    sweep_every: float = _number(30.0, 0.1, 86400, "seconds between looks at everything, as a safety net")
    discover: bool = _switch(True, "look also after stores in the working directories of live processes")


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How long records and logs are kept."""

    nightly: bool = _switch(True, "let the daemon delete each night what is older than this")
    runs_days: int = _number(90, 1, 36500, "days that the record of an ended run is kept; a project's newest stays")
    logs_days: int = _number(14, 1, 36500, "days that the log of an ended run is kept")
    logs_mib: int = _number(1024, 1, 1 << 20, "MiB that all logs may take; the oldest go first")


@dataclass(frozen=True, slots=True)
class WrapConfig:
    """How ``wrap`` starts agents again, and ends them."""

    max_restarts: int = _number(5, 0, 1 << 30, "restarts without a healthy run between, after which it gives up")
    restart_delay: float = _number(1.0, 0.001, 86400, "seconds before the first restart; each further one doubles them")
    longest_delay: float = _number(300.0, 0.001, 86400, "seconds that they come to at most")
    healthy_after: float = _number(60.0, 0.001, 86400, "seconds after which a run counts as healthy: all starts anew")
    grace: float = _number(10.0, 0.001, 86400, "seconds between SIGTERM and SIGKILL at a timeout")


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How ``wrap`` runs one agent, in the table named by it."""

    log: bool = _switch(False, "keep what it writes in a log, as with --log")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, by table; ``agents`` has one for each agent that the file names."""

    daemon: DaemonConfig = DaemonConfig()
    retention: RetentionConfig = RetentionConfig()
    wrap: WrapConfig = WrapConfig()
    agents: Mapping[str, AgentConfig] = field(default_factory=dict)


def load(path: str | None = None) -> Config:
    """Read the settings; a file that is not there leaves all at their defaults.

    Args:
        path: the file, by default the user's own.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has keys or values that mean nothing.
    """
    path = paths.config_file() if path is None else path
    try:
        text = _read(path)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(path, [Problem(0, error.strerror or str(error), "check the file and its rights")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [Problem(line, "this is not UTF-8", "save the file as UTF-8")]) from error
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise ConfigError(path, [_of_syntax(text, error)]) from error
    problems: list[Problem] = []
    config = _config_from(raw, text, problems)
    if problems:
        raise ConfigError(path, sorted(problems))
    return config


def as_toml(config: Config) -> str:
    """Return settings as a file that says what each is for."""
    lines: list[str] = []
    tables = {table.name: getattr(config, table.name) for table in dataclasses.fields(config)}
    agents = tables.pop("agents")
    for name, values in (*tables.items(), *((f"agents.{_as_key(agent)}", agents[agent]) for agent in agents)):
        lines += ["", f"[{name}]"]
        for key in dataclasses.fields(values):
            value = getattr(values, key.name)
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            lines.append(f"{f'{key.name} = {shown}':<24} # {key.metadata['says']}")
    return "\n".join(lines[1:]) + "\n"


def _as_key(name: str) -> str:
    """Return a name as TOML has it in the name of a table."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name).replace("\x7f", "\\u007f")


def _read(path: str) -> str:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a FIFO would wait for a writer
        raise OSError(0, "this is not a file")
    if status.st_size > _LARGEST:
        raise OSError(0, "this is too large for a configuration")
    with open(path, "rb") as file:
        return file.read(_LARGEST).decode("utf-8").replace("\r\n", "\n")


def _of_syntax(text: str, error: Exception) -> Problem:
    """Return a problem of a file that is not TOML: the last line is meant where the parser names none."""
    lines = text.count("\n") + (not text.endswith("\n"))
    message, at, place = str(error).partition(" (at ")
    number = place.removeprefix("line ").partition(",")[0]
    line = int(number) if at and number.isdigit() else lines
    return Problem(max(1, line), f"this is not TOML ({message[:1].lower()}{message[1:]})", "write KEY = VALUE there")


def _config_from(raw: dict[str, Any], text: str, problems: list[Problem]) -> Config:
    tables: dict[str, Any] = {}
    known = {table.name: table for table in dataclasses.fields(Config)}
    for name, values in raw.items():
        if name not in known:
            problems.append(_unknown(text, (name,), list(known), "table"))
        elif not isinstance(values, dict):
            line = _line_of(text, (name,))
            problems.append(Problem(line, f"{name} is a table, not {_kind(values)}", f"write [{name}]"))
        elif name == "agents":
            tables[name] = _agents_from(values, text, problems)
        else:
            tables[name] = _table_from(type(known[name].default), (name,), values, text, problems)
    return Config(**tables)


def _agents_from(raw: dict[str, Any], text: str, problems: list[Problem]) -> dict[str, AgentConfig]:
    agents = {}
    for name, values in raw.items():
        path = ("agents", name)
        if isinstance(values, dict):
            agents[name] = _table_from(AgentConfig, path, values, text, problems)
        else:
            message = f"agents.{name} is a table, not {_kind(values)}"
            problems.append(Problem(_line_of(text, path), message, f"write [agents.{_as_key(name)}]"))
    return agents


def _table_from(kind: Any, table: tuple[str, ...], raw: dict[str, Any], text: str, problems: list[Problem]) -> Any:
    known = {key.name: key for key in dataclasses.fields(kind)}
    values = {}
    for name, value in raw.items():
        path = (*table, name)
        if name not in known:
            problems.append(_unknown(text, path, list(known), "key"))
            continue
        wanted = _wanted(known[name], value)
        if wanted is None:
            values[name] = float(value) if isinstance(known[name].default, float) else value
        else:
            message = f"{'.'.join(path)} must be {wanted}, not {_kind(value)}"
            remedy = f"write for example {name} = {str(known[name].default).lower()}"
            problems.append(Problem(_line_of(text, path), message, remedy))
    return kind(**values)


def _wanted(key: dataclasses.Field[Any], value: object) -> str | None:
    """Return what a key's value must be, None for one that is so."""
    if isinstance(key.default, bool):
        return None if isinstance(value, bool) else "true or false"
    kinds, name = ((int, float), "a number") if isinstance(key.default, float) else (int, "a whole number")
    least, most = key.metadata["least"], key.metadata["most"]
    fits = isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
    return None if fits else f"{name} from {least} to {most}"


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"


def _unknown(text: str, key: tuple[str, ...], known: list[str], what: str) -> Problem:
    import difflib  # noqa: PLC0415  only a mistake needs it

    close = difflib.get_close_matches(key[-1], known, 1)
    remedy = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
    return Problem(_line_of(text, key), f"there is no {what} {'.'.join(key)}", remedy)


def _line_of(text: str, key: tuple[str, ...]) -> int:
    """Return the line at which a key of a valid file is set, from 1.

    The parser tells no positions. But the lines up to some line are TOML themselves wherever a statement ends, so the
    key is set by the first statement with which it appears.
    """
    lines, begins = text.split("\n"), 0
    for end in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        for name in key:
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None:
            return begins + 1
        begins = end
    return 1
