"""The command ``wrap``: from its words to the agent."""

from __future__ import annotations

from supervisor.wrap.child import WRAP_FAILED
from supervisor.wrap.launch import directory_of, launch
from supervisor.wrap.messages import say
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
    directory: str | None
    try:
        directory = directory_of(request.project)
    except NotADirectoryError as error:
        say(f"--project {error}: no such directory; give an existing one")
        return WRAP_FAILED
    except OSError:
        directory = None  # deleted under us: the agent may run all the same
    command = request.command
    if not command:
        from supervisor.errors import SuperviseError  # noqa: PLC0415  needed by a bare wrap only
        from supervisor.wrap.default import default_command  # noqa: PLC0415  the same

        try:
            command = default_command(directory, request.prompt)
        except SuperviseError as error:
            say(str(error))
            return WRAP_FAILED
        import shlex  # noqa: PLC0415  the same

        say(f"starting {shlex.join(command)}")
    elif request.prompt is not None:
        command = [*command, request.prompt]
    return launch(command, request, directory=directory)
