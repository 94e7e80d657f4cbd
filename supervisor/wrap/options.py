"""The options of ``wrap``: one table, which the fast parser here and click's help are both made from."""

from __future__ import annotations


class Option:
    """One option; without a ``metavar`` it is a flag."""

    __slots__ = ("help", "metavar", "name")

    def __init__(self, name: str, metavar: str | None, help: str) -> None:  # noqa: A002  click's word
        self.name = name
        self.metavar = metavar
        self.help = help

    @property
    def key(self) -> str:
        """The option's name as an identifier."""
        return self.name.lstrip("-").replace("-", "_")


OPTIONS = (
    Option("--project", "DIR", "Record the run in the store of DIR, not of the current directory."),
    Option("--prompt", "TEXT", "Store TEXT as the project's prompt and give it to the agent as its last argument."),
    Option("--default", None, "Make CLI the project's default command, which a bare `wrap` starts."),
    Option("--log", None, "Keep what the agent writes in a log; see `logs`."),
    Option("--reap", None, "End what the agent leaves behind: SIGTERM, and SIGKILL after 5 seconds."),
)

_BY_NAME = {option.name: option for option in OPTIONS}


class UsageError(Exception):
    """The words before the agent's name make no sense."""


class Request:
    """What the person asked ``wrap`` to do. ``command`` is empty for the project's default command."""

    __slots__ = ("command", "default", "log", "project", "prompt", "reap")

    def __init__(
        self,
        *,
        command: list[str],
        project: str | None = None,
        prompt: str | None = None,
        default: bool = False,
        log: bool = False,
        reap: bool = False,
    ) -> None:
        self.command = command
        self.project = project
        self.prompt = prompt
        self.default = default
        self.log = log
        self.reap = reap


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
        UsageError: an unknown option, or one without its value.
    """
    values: dict[str, str] = {}
    flags: set[str] = set()
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
            flags.add(option.key)
            continue
        if not equals:
            if position == len(words):
                raise UsageError(f"{name} needs a value: {name} {option.metavar}")
            value = words[position]
            position += 1
        values[option.key] = value
    return Request(
        command=words[position:],
        project=values.get("project"),
        prompt=values.get("prompt"),
        default="default" in flags,
        log="log" in flags,
        reap="reap" in flags,
    )
