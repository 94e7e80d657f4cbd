"""The options of ``wrap``: one table, which the fast parser here and click's help are both made from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Option:
    """One option; without a ``metavar`` it is a flag, and one with bars in it lists all that may be said."""

    __slots__ = ("_kind", "help", "metavar", "name")

    def __init__(self, name: str, metavar: str | None, help: str, kind: Callable[[str], Any] = str) -> None:  # noqa: A002  click's word
        self.name = name
        self.metavar = metavar
        self.help = help
        self._kind = kind

    @property
    def key(self) -> str:
        """The option's name as an identifier."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def choices(self) -> list[str]:
        """All that may be said, if that is a closed list."""
        return self.metavar.split("|") if self.metavar and "|" in self.metavar else []

    def read(self, text: str) -> Any:
        """Return the value that a word says.

        Raises:
            ValueError: it says none.
        """
        if self.choices and text not in self.choices:
            raise ValueError(f"{text!r} is none of {', '.join(self.choices)}")
        return self._kind(text)


def _span(text: str) -> float:
    """Read a time span as seconds."""
    unit = _UNITS.get(text[-1:])
    number = text if unit is None else text[:-1]
    seconds = float(number) * (unit or 1) if number.isascii() and number.replace(".", "", 1).isdigit() else 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is no time span; give for example 90s, 30m or 2h")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{text!r} is no number")
    return int(text)


OPTIONS = (
    Option("--project", "DIR", "Record the run in the store of DIR, not of the current directory."),
    Option("--prompt", "TEXT", "Store TEXT as the project's prompt and give it to the agent as its last argument."),
    Option("--default", None, "Make CLI the project's default command, which a bare `wrap` starts."),
    Option("--log", None, "Keep what the agent writes in a log; see `logs`."),
    Option("--reap", None, "End what the agent leaves behind: SIGTERM, and SIGKILL after 5 seconds."),
    Option("--restart", "never|on-crash|on-failure", "Start the agent again when it ends so.  [default: never]"),
    Option("--max-restarts", "N", "Give up after N restarts without a healthy minute.  [default: 5]", _count),
    Option("--fresh", None, "Let a restarted agent begin a new conversation: add nothing to its arguments."),
    Option("--timeout", "TIME", "End the agent after TIME (90s, 30m, 2h): SIGTERM, then SIGKILL.", _span),
    Option("--idle-timeout", "TIME", "The same when it has done and written nothing for TIME.", _span),
)

_BY_NAME = {option.name: option for option in OPTIONS}


class UsageError(Exception):
    """The words before the agent's name make no sense."""


class Request:
    """What the person asked ``wrap`` to do.

    ``command`` is empty for the project's default command. ``timeout`` and ``idle_timeout`` are in seconds; what was
    not said is None, and ``restart`` is then ``never``.

    Args:
        command: the agent's name and arguments.
        values: of the options that were given, by their keys.
    """

    def __init__(self, command: list[str], values: Mapping[str, Any]) -> None:
        self.command = command
        self.project: str | None = values.get("project")
        self.prompt: str | None = values.get("prompt")
        self.default = bool(values.get("default"))
        self.log = bool(values.get("log"))
        self.reap = bool(values.get("reap"))
        self.restart: str = values.get("restart") or "never"
        self.max_restarts: int | None = values.get("max_restarts")
        self.fresh = bool(values.get("fresh"))
        self.timeout: float | None = values.get("timeout")
        self.idle_timeout: float | None = values.get("idle_timeout")


def asks_for_help(words: list[str]) -> bool:
    """Tell whether a request for help stands among the wrapper's own options, and not as the value of one."""
    position = 0
    while position < len(words):
        word = words[position]
        if word in ("--help", "-h"):
            return True
        option = _BY_NAME.get(word.partition("=")[0])
        if option is None:
            return False
        position += 1 if option.metavar is None or "=" in word else 2
    return False


def parse(words: list[str]) -> Request:
    """Parse what stands behind ``wrap``; everything from the agent's name on is the agent's, untouched.

    Raises:
        UsageError: an unknown option, or one without its value, or with one that makes no sense.
    """
    values: dict[str, Any] = {}
    position = 0
    while position < len(words) and words[position].startswith("-") and words[position] != "-":
        word = words[position]
        position += 1
        if word == "--":
            break
        name, equals, value = word.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            raise UsageError(f"wrap has no option {name}; options of the agent stand behind its name")
        if option.metavar is None:
            if equals:
                raise UsageError(f"{name} takes no value")
            values[option.key] = True
            continue
        if not equals:
            if position == len(words):
                raise UsageError(f"{name} needs a value: {name} {option.metavar}")
            value = words[position]
            position += 1
        try:
            values[option.key] = option.read(value)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    return Request(words[position:], values)
