"""From stored rows to data. Whatever a row holds, it becomes a value; what is not of its column's kind is `junk`."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from supervisor.models import Cause, Claim, Ending, Project, Rank, Run, RunProcess, RunStatus, Stamp
from supervisor.store.values import evidence_from, in_ms, request_from, seconds

PROJECT_COLUMNS = "projects.id, dir, cmd, prompt, created_at, updated_at, last_run_at"
RUN_COLUMNS = "runs.id, runs.pid, project_id, runs.status, runs.exit_code, runs.started_at, runs.ended_at, args"
PROCESS_COLUMNS = (
    "token, cli, cwd, host, boot_id, pid_ns, pid_ns_ticks, time_ns, run_process.pid, start_ticks, pidfd_inode,"
    " run_process.started_at, stamped_by, owner_pid, owner_start_ticks, asked_by, asked_for, asked_at, args_added,"
    " resumed_from"
)
ENDING_COLUMNS = (
    "run_ending.status, run_ending.exit_code, cause, rank, run_ending.ended_at, detected_at, settled_by, term_signal,"
    " core_dumped, evidence"
)
N_RUN, N_PROCESS = 8, 20

T = TypeVar("T")

_STATUSES = {status.value: status for status in RunStatus}


def by_newest(column: str) -> str:
    """Return the SQL that orders by a time of either unit, newest first; ids break ties, for seconds are coarse."""
    return f"{in_ms(column)} DESC NULLS LAST, {column.partition('.')[0]}.id DESC"


def project_from(row: tuple[Any, ...]) -> Project:
    """Make a `Project` of the columns in `PROJECT_COLUMNS`."""
    number, directory, cmd, prompt, created, updated, last_run = row
    junk: dict[str, object] = {}
    return Project(
        number,
        _text("dir", directory, junk) or "",
        _text("cmd", cmd, junk) or "",
        None if prompt is None else _text("prompt", prompt, junk),
        _time("created_at", created, junk),
        _time("updated_at", updated, junk),
        None if last_run is None else _time("last_run_at", last_run, junk),
        junk,
    )


def run_from(row: tuple[Any, ...]) -> Run:
    """Make a `Run` of the columns in `RUN_COLUMNS`."""
    number, pid, project, status, code, started, ended, args = row
    junk: dict[str, object] = {}
    if type(pid) is not int:
        junk["pid"], pid = pid, None
    if type(project) is not int:
        junk["project_id"], project = project, None
    if code is not None and type(code) is not int:
        junk["exit_code"], code = code, None
    known = _STATUSES.get(status) if type(status) is str else None
    if known is None:
        junk["status"] = status
    return Run(
        number,
        pid,
        project,
        known,
        code,
        _time("started_at", started, junk),
        None if ended is None else _time("ended_at", ended, junk),
        [] if args == "[]" else _args(args, junk),
        junk,
    )


def process_from(row: tuple[Any, ...]) -> RunProcess | None:
    """Make a `RunProcess` of the columns in `PROCESS_COLUMNS`; None where a left join found none, or no usable pid."""
    token, cli, cwd, host, boot_id, pid_ns, pid_ns_ticks, time_ns, pid, ticks, inode, started, *rest = row
    by, owner, owner_ticks, asked_by, asked_for, asked_at, added, resumed_from = rest
    if type(pid) is not int:
        return None
    stamp = Stamp(
        _kind(host, str),
        _kind(boot_id, str),
        _kind(pid_ns, int),
        _kind(pid_ns_ticks, int),
        _kind(time_ns, int),
        pid,
        _kind(ticks, int),
        _kind(inode, int),
        seconds(started),
    )
    return RunProcess(
        _kind(token, str),
        _kind(cli, str),
        _kind(cwd, str),
        stamp,
        str(by),
        _kind(owner, int),
        _kind(owner_ticks, int),
        request_from(asked_by, asked_for, asked_at),
        () if added is None else tuple(_args(added, {})),
        _kind(resumed_from, int),
    )


def ending_from(row: tuple[Any, ...]) -> Ending | None:
    """Make an `Ending` of the columns in `ENDING_COLUMNS`; None where there is none, or none that makes sense."""
    status, code, cause, rank, ended, detected, by, signal, core, evidence = row
    try:
        return Ending(
            RunStatus(status),
            _kind(code, int),
            Cause(cause),
            Rank(rank),
            seconds(ended) or 0,
            seconds(detected) or 0,
            str(by),
            _kind(signal, int),
            None if core is None else bool(core),
            evidence_from(evidence),
        )
    except ValueError:
        return None


def claim_from(row: tuple[Any, ...]) -> Claim:
    """Make a `Claim` of a row's id, pid, started_at, dir and cmd, followed by `PROCESS_COLUMNS`."""
    number, pid, started, directory, cmd = row[:5]
    process = process_from(row[5:])
    cli = process.cli if process and process.cli else _kind(cmd, str)
    return Claim(number, pid, started, _kind(directory, str), cli, process)


def _kind(value: object, kind: type[T]) -> T | None:
    return value if type(value) is kind else None


def _text(column: str, value: object, junk: dict[str, object]) -> str | None:
    if isinstance(value, str):
        return value
    junk[column] = value
    return None


def _time(column: str, value: object, junk: dict[str, object]) -> float | None:
    time = seconds(value)
    if time is None:
        junk[column] = value
    return time


def _args(stored: object, junk: dict[str, object]) -> list[str]:
    try:
        args = json.loads(stored) if isinstance(stored, str) else None
    except (ValueError, RecursionError):
        args = None
    if isinstance(args, list) and all(isinstance(arg, str) for arg in args):
        return args
    junk["args"] = stored
    return []
