"""What goes to the terminal or a pipe: text that cannot speak to a terminal, and JSON with stable keys."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable

import click

from supervisor import __version__
from supervisor.models import RunStatus
from supervisor.views import ProjectView, RunView

_SPEAKS_TO_TERMINALS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of ASCII and Latin-1, those that break lines or turn the direction of text, and what is none."""

_SHOWN_AS = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": " "}
"""Prompts have lines and tabs; everything else that is taken out leaves a mark."""

_DEEPEST = 20
"""Levels of nested JSON of a store that are shown."""


def clean(text: str) -> str:
    """Return text of a store without what a terminal would obey."""
    return _SPEAKS_TO_TERMINALS.sub(lambda match: _SHOWN_AS.get(match[0], "\N{REPLACEMENT CHARACTER}"), text)


def plain(value: object, depth: int = 0) -> object:
    """Return data as strict JSON has it: what a store holds may be infinite, or nested without end."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list | tuple) and depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {name: plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return value


def print_json(data: object) -> None:
    """Print data as JSON, one document; characters that a terminal would obey, or stdout cannot show, are escaped."""
    in_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(plain(data), ensure_ascii=not in_unicode, indent=2 if sys.stdout.isatty() else None)
    click.echo(
        _SPEAKS_TO_TERMINALS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)
    )


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    shown = [(clean(name), clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")


def print_unsettled(number: int) -> None:
    """Say how many running rows are of dead processes, and what to do about it."""
    if number:
        are = "is" if number == 1 else "are"
        click.echo(f"Of the running, {number} {are} dead and not settled yet: agent-yes-supervise scan", err=True)


def print_old_daemon() -> None:
    """Say if the daemon that runs is older than this command: it may not know what this one does."""
    from supervisor.daemon import presence  # noqa: PLC0415  only `ls` says so

    found = presence.running()
    if found is not None and found.is_older_than(__version__):
        version = clean(found.version or "unknown, older")
        what = f"the daemon (pid {found.pid}) is of version {version}, this command of {__version__}"
        click.echo(f"agent-yes-supervise: {what}; start it anew", err=True)


def print_troubles(troubles: Iterable[Exception]) -> None:
    """Say on stderr which stores could not be read; the rest is shown all the same."""
    for trouble in troubles:
        click.echo(f"agent-yes-supervise: {clean(str(trouble))}", err=True)


def run_as_json(view: RunView) -> dict[str, object]:
    """Return a run by the seed's column names, followed by what supervision knows of it."""
    run, process, ending = view.detail.run, view.detail.process, view.detail.ending
    return {
        "id": run.id,
        "pid": run.pid,
        "project_id": run.project_id,
        "status": run.status or _as_json(run.junk.get("status")),
        "exit_code": run.exit_code,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "args": run.args,
        "dir": view.detail.dir,
        "store": view.directory,
        "cli": view.detail.cli,
        "cwd": process.cwd if process else None,
        "args_added": list(process.args_added) if process and process.args_added else None,
        "resumed_from": process.resumed_from if process else None,
        "owner_pid": process.owner_pid if process else None,
        "cause": ending.cause if ending else None,
        "term_signal": ending.term_signal if ending else None,
        "core_dumped": ending.core_dumped if ending else None,
        "rank": ending.rank.name.lower() if ending else None,
        "settled_by": ending.settled_by if ending else None,
        "detected_at": ending.detected_at if ending else None,
        "evidence": dict(ending.evidence) if ending else None,
        "overwritten": view.detail.overwritten,
        "verdict": view.verdict.state if view.verdict else None,
        "reason": view.verdict.reason if view.verdict else None,
        "junk": {column: _as_json(value) for column, value in run.junk.items()} or None,
    }


def project_as_json(view: ProjectView) -> dict[str, object]:
    """Return a project by the seed's column names, followed by its counts; ``unsettled`` rows are dead, not running."""
    summary, project = view.summary, view.summary.project
    return {
        "id": project.id,
        "dir": project.dir,
        "cmd": project.cmd,
        "prompt": project.prompt,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
        "last_run_at": project.last_run_at,
        "store": view.directory,
        "runs": sum(summary.counts.values()),
        "counts": {status.value: summary.counts.get(status, 0) for status in RunStatus},
        "unsettled": view.unsettled,
        "success_rate": summary.success_rate,
        "junk": {column: _as_json(value) for column, value in project.junk.items()} or None,
    }


def run_name(view: RunView) -> str:
    """Return a run's name, as every command takes it."""
    return f"{view.name}#{view.detail.run.id}"


def _as_json(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else repr(value)
