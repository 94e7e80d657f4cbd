"""What a bare ``wrap`` starts: the project's own command, from a store that this user trusts."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3

from supervisor import registry
from supervisor.errors import SuperviseError
from supervisor.masking import is_masked
from supervisor.store.connection import translate
from supervisor.store.store import Store


def default_command(directory: str | None, prompt: str | None) -> list[str]:
    """Return the command of the project at ``directory``: its ``cmd``, and as last argument its prompt if it has one.

    A cloned repository can ship a store, so the command is taken only from a store that we made or that a person
    added, and only if it is a bare name on PATH.

    Args:
        directory: the project's physical directory, None where the current one has been deleted.
        prompt: the prompt to use instead of the stored one, None for the stored one.

    Raises:
        SuperviseError: there is no such project, its store is not trusted, or its command is not to be started.
    """
    if directory is None:
        raise SuperviseError("the current directory has been deleted", "change to an existing one")
    try:
        with Store(directory, read_only=True) as store:
            project = store.get_project_by_dir(directory)
        entry = registry.get(directory)
    except sqlite3.Error as error:
        raise translate(directory, error) from error
    except OSError as error:
        raise SuperviseError(f"the registry cannot be read ({error})", "name the agent") from error
    if project is None:
        raise SuperviseError(f"{directory} is not a project yet", "name the agent: agent-yes-supervise wrap CLI")
    if entry is None or not entry.trusted:
        raise SuperviseError(
            f"the store of {directory} was not made by you, so its command {project.cmd!r} is not started",
            f"trust it (agent-yes-supervise stores add {shlex.quote(directory)}) or name the agent",
        )
    name = project.cmd
    if not _can_be_passed_on(name) or os.path.basename(name) != name or shutil.which(name) is None:
        raise SuperviseError(
            f"the project's command {name!r} is no program on your PATH", "name the agent, with --default"
        )
    prompt = project.prompt if prompt is None else prompt
    if prompt and prompt == project.prompt and is_masked([prompt]):
        raise SuperviseError(
            "the project's prompt held a secret, which is not stored", "give the prompt again: wrap --prompt TEXT"
        )
    if prompt and not _can_be_passed_on(prompt):
        raise SuperviseError("the project's prompt cannot be an argument", "give another one: wrap --prompt TEXT")
    return [name, prompt] if prompt else [name]


def _can_be_passed_on(text: str) -> bool:
    """Tell whether a stored text can be a program's argument: a store can hold NUL, and what this locale cannot say."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
