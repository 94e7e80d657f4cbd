"""What a bare ``wrap`` starts: the project's own command, from a store that this user trusts."""

from __future__ import annotations

import os
import shlex
import shutil

from supervisor import registry
from supervisor.errors import SuperviseError
from supervisor.store.store import Store


def default_command(directory: str, prompt: str | None) -> list[str]:
    """Return the command of the project at ``directory``: its ``cmd``, and as last argument its prompt if it has one.

    A cloned repository can ship a store, so the command is taken only from a store that we made or that a person
    added, and only if it is a bare name on PATH.

    Args:
        directory: the project's physical directory.
        prompt: the prompt to use instead of the stored one, None for the stored one.

    Raises:
        SuperviseError: there is no such project, its store is not trusted, or its command is not to be started.
    """
    with Store(directory, read_only=True) as store:
        project = store.get_project_by_dir(directory)
    if project is None:
        raise SuperviseError(f"{directory} is not a project yet", "name the agent: agent-yes-supervise wrap CLI")
    entry = registry.get(directory)
    if entry is None or not entry.trusted:
        raise SuperviseError(
            f"the store of {directory} was not made by you, so its command {project.cmd!r} is not started",
            f"trust it (agent-yes-supervise stores add {shlex.quote(directory)}) or name the agent",
        )
    if os.path.basename(project.cmd) != project.cmd or shutil.which(project.cmd) is None:
        raise SuperviseError(
            f"the project's command {project.cmd!r} is no program on your PATH", "name the agent, with --default"
        )
    prompt = project.prompt if prompt is None else prompt
    return [project.cmd, prompt] if prompt else [project.cmd]
