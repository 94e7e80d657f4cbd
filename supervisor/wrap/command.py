"""The command ``wrap``: from its words to the agent."""

from __future__ import annotations

import os

from supervisor.errors import SuperviseError
from supervisor.wrap.launch import WRAP_FAILED, directory_of, launch, say
from supervisor.wrap.options import Request, UsageError, parse


def run_words(words: list[str]) -> int:
    """Run what stands behind ``wrap`` on the command line. Returns only on a failure of our own: 125."""
    try:
        request = parse(words)
    except UsageError as error:
        say(f"{error}; see: agent-yes-supervise wrap --help")
        return WRAP_FAILED
    return run(request)


def run(request: Request) -> int:
    """Start the agent and end as it does. Returns only on a failure of our own before that: 125."""
    try:
        directory = directory_of(request.project)
    except NotADirectoryError as error:
        say(f"--project {error}: no such directory; give an existing one")
        return WRAP_FAILED
    except OSError:
        directory = os.environ.get("PWD", "/")  # deleted under us: the agent may run all the same
    command = request.command
    if not command:
        from supervisor.wrap.default import default_command  # noqa: PLC0415  needed by a bare wrap only

        try:
            command = default_command(directory, request.prompt)
        except SuperviseError as error:
            say(str(error))
            return WRAP_FAILED
        import shlex  # noqa: PLC0415  the same

        say("starting " + shlex.join(command).translate(_CONTROLS))
    elif request.prompt is not None:
        command = [*command, request.prompt]
    launch(command, directory=directory, prompt=request.prompt, default=request.default)
    return WRAP_FAILED


_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
"""Stored text must not speak to the terminal."""
