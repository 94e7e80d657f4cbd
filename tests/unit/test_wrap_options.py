"""The options of wrap: the fast parser and click's are made from one table, and must read alike."""

from __future__ import annotations

import shlex

import click
import pytest

from supervisor.cli.app import cli
from supervisor.cli.wrap import request_of, wrap
from supervisor.wrap.options import OPTIONS, Request, UsageError, asks_for_help, parse

HELP, REFUSED = "help", "refused"

Read = tuple[list[str], str | None, str | None, bool, bool]

COMMAND_LINES: list[tuple[list[str], Read | str]] = [
    ([], ([], None, None, False, False)),
    (["claude"], (["claude"], None, None, False, False)),
    (
        ["claude", "--help", "--version", "--", "-x"],
        (["claude", "--help", "--version", "--", "-x"], None, None, False, False),
    ),
    (["claude", "-h"], (["claude", "-h"], None, None, False, False)),
    (["claude", "--default", "--project", "x"], (["claude", "--default", "--project", "x"], None, None, False, False)),
    (["claude", ""], (["claude", ""], None, None, False, False)),
    (["", "x"], (["", "x"], None, None, False, False)),
    (["-"], (["-"], None, None, False, False)),
    (["-", "--default"], (["-", "--default"], None, None, False, False)),
    (["--", "claude"], (["claude"], None, None, False, False)),
    (["--", "--default"], (["--default"], None, None, False, False)),
    (["--", "--help"], (["--help"], None, None, False, False)),
    (["--", "--", "x"], (["--", "x"], None, None, False, False)),
    (["--"], ([], None, None, False, False)),
    (["--default", "claude"], (["claude"], None, None, True, False)),
    (["--default", "--default", "claude"], (["claude"], None, None, True, False)),
    (["--default", "--", "claude", "--"], (["claude", "--"], None, None, True, False)),
    (["--project", "/d", "claude", "-p"], (["claude", "-p"], "/d", None, False, False)),
    (["--project=/d", "claude"], (["claude"], "/d", None, False, False)),
    (["--project=", "claude"], (["claude"], "", None, False, False)),
    (["--project", "", "claude"], (["claude"], "", None, False, False)),
    (["--project=a=b", "claude"], (["claude"], "a=b", None, False, False)),
    (["--project", "a", "--project", "b", "claude"], (["claude"], "b", None, False, False)),
    (["--prompt", "fix it", "claude"], (["claude"], None, "fix it", False, False)),
    (["--prompt=-h", "claude"], (["claude"], None, "-h", False, False)),
    (["--prompt", "--help", "claude"], (["claude"], None, "--help", False, False)),
    (["--prompt", "--", "claude"], (["claude"], None, "--", False, False)),
    (["--prompt", "--default", "claude"], (["claude"], None, "--default", False, False)),
    (["--prompt", "x"], ([], None, "x", False, False)),
    (["--default", "--prompt", "x", "--project", "/d", "a", "b"], (["a", "b"], "/d", "x", True, False)),
    (["--log", "claude", "--log"], (["claude", "--log"], None, None, False, True)),
    (["--log", "--default", "claude"], (["claude"], None, None, True, True)),
    (["--log=yes", "claude"], REFUSED),
    (["--timeout", "soon", "claude"], REFUSED),
    (["--timeout=0", "claude"], REFUSED),
    (["--idle-timeout=-1", "claude"], REFUSED),
    (["--idle-timeout", "1e3", "claude"], REFUSED),
    (["--max-restarts", "-1", "claude"], REFUSED),
    (["--max-restarts", "", "claude"], REFUSED),
    (["--restart", "always", "claude"], REFUSED),
    (["--restart"], REFUSED),
    (["--fresh=1", "claude"], REFUSED),
    (["--help"], HELP),
    (["-h"], HELP),
    (["--default", "-h"], HELP),
    (["--default", "--help", "claude"], HELP),
    (["--project", "/d", "--help"], HELP),
    (["--project=/d", "--help", "claude"], HELP),
    (["--project"], REFUSED),
    (["--prompt"], REFUSED),
    (["--default", "--prompt"], REFUSED),
    (["--default=yes", "claude"], REFUSED),
    (["--defaul", "claude"], REFUSED),
    (["--no-default", "claude"], REFUSED),
    (["--nosuch", "claude"], REFUSED),
    (["--nosuch=x", "claude"], REFUSED),
    (["--nosuch", "--help"], REFUSED),
    (["-p", "claude"], REFUSED),
    (["---", "claude"], REFUSED),
]

each = pytest.mark.parametrize(
    ("words", "expected"), [pytest.param(*line, id=shlex.join(line[0]) or "nothing") for line in COMMAND_LINES]
)


def as_read(request: Request) -> Read:
    """Return a request as the table spells it."""
    return request.command, request.project, request.prompt, request.default, request.log


@each
def test_fast_parser(words: list[str], expected: Read | str) -> None:
    """The fast parser reads every command line as the table says."""
    if asks_for_help(words):
        assert expected == HELP
        return
    try:
        assert as_read(parse(words)) == expected
    except UsageError:
        assert expected == REFUSED


@each
def test_click(words: list[str], expected: Read | str, capsys: pytest.CaptureFixture[str]) -> None:
    """Click reads every command line as the table says, so that its help tells the truth."""
    group = click.Context(cli, **cli.context_settings)
    try:
        context = wrap.make_context("wrap", list(words), parent=group)
        assert as_read(request_of(**context.params)) == expected
    except click.exceptions.Exit:
        assert expected == HELP
        assert "Usage:" in capsys.readouterr().out
    except click.UsageError:
        assert expected == REFUSED


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The help shows each option of the table with the name of its value and the beginning of its text."""
    with pytest.raises(click.exceptions.Exit):
        wrap.make_context("wrap", ["--help"])
    shown = capsys.readouterr().out
    for option in OPTIONS:
        assert f"{option.name} {option.metavar or ''}".strip() in shown
        assert option.help[:20] in " ".join(shown.split())


@pytest.mark.parametrize("words", [["--nosuch"], ["--project"], ["--default=1"]])
def test_refusals_name_the_option(words: list[str]) -> None:
    """What is wrong is said with the option's name."""
    with pytest.raises(UsageError, match=words[0].partition("=")[0]):
        parse(words)


RESTART = {"restart": "on-failure"}
FURTHER = [
    (["--reap", "claude"], {"reap": True}),
    (["claude", "--reap"], {}),
    (["--reap", "--", "--reap"], {"reap": True}),
    (["--restart", "on-crash", "claude"], {"restart": "on-crash"}),
    (["--restart=on-failure", "--max-restarts=0", "--fresh", "claude"], {**RESTART, "max_restarts": 0, "fresh": True}),
    (["--restart", "never", "claude"], {}),
    (["--timeout", "90", "claude"], {"timeout": 90.0}),
    (["--timeout", "1.5h", "--idle-timeout=10m", "claude"], {"timeout": 5400.0, "idle_timeout": 600.0}),
    (["--timeout", "2d", "claude", "--timeout", "x"], {"timeout": 172800.0}),
]
DEFAULTS = {
    "reap": False,
    "restart": "never",
    "max_restarts": None,
    "fresh": False,
    "timeout": None,
    "idle_timeout": None,
}


@pytest.mark.parametrize(("words", "said"), FURTHER, ids=shlex.join)
def test_further_options(words: list[str], said: dict[str, object]) -> None:
    """What the other options say is read alike by both, and is the agent's own word behind its name."""
    context = wrap.make_context("wrap", list(words), parent=click.Context(cli, **cli.context_settings))
    read = [parse(words), request_of(**context.params)]
    for one in read:
        assert {key: getattr(one, key) for key in DEFAULTS} == {**DEFAULTS, **said}
    assert read[0].command == read[1].command != []
