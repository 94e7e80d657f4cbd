"""Writing runs and their endings, on a bare connection.

Imports only what a wrapped agent can afford to wait for before it starts: the standard library's sqlite3 and no
dataclasses. A public function is one short ``BEGIN IMMEDIATE`` transaction: deferred ones fail under many writers even
with a timeout (sqlite.org/lang_transaction.html), and long ones lock out the original, which has no timeout under Bun.
"""

from __future__ import annotations

import json
import time

from supervisor.store.connection import is_lock as is_lock  # noqa: PLC0414  re-export for wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from supervisor.nouns import Ending
    from supervisor.process.stamp import StampColumns


class Transaction:
    """``with Transaction(connection):`` is one BEGIN IMMEDIATE … COMMIT, or ROLLBACK if the block raises."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite itself ends one on a full disk or an I/O error
            self._connection.execute("ROLLBACK")


def now_ms() -> int:
    """Return the wall clock in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def as_stored_text(text: str) -> str | bytes:
    """Return what to bind so that ``CAST(? AS TEXT)`` stores any argument or path unchanged, UTF-8 or not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return text.encode("utf-8", "backslashreplace")
    return text


def as_json_array(args: Sequence[str]) -> str:
    """Return the JSON text of an argument list as the original writes it: compact, and unescaped where it can be."""
    text = json.dumps(list(args), ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(list(args), separators=(",", ":"))
    return text


class NewRun:
    """A run that is about to begin, as the wrapper knows it before the store is touched.

    ``set_default`` makes ``cli`` (and ``prompt``, unless it is None) the project's own; a new project gets them anyway.
    ``environment`` is what may be recorded of the agent's. ``args_added`` are those that ``args`` lacks because we gave
    them to the agent, and ``resumed_from`` is the token of the run that began the series which this one goes on with.
    ``id`` is its row's, once that has begun.
    """

    __slots__ = (
        "args",
        "args_added",
        "cli",
        "cwd",
        "directory",
        "environment",
        "id",
        "owner",
        "prompt",
        "resumed_from",
        "set_default",
        "stamp",
        "token",
    )

    def __init__(
        self,
        *,
        token: str,
        directory: str,
        cli: str,
        args: Sequence[str],
        cwd: str,
        prompt: str | None,
        set_default: bool,
        stamp: StampColumns,
        owner: tuple[int, int | None],
        environment: Mapping[str, str] | None = None,
        args_added: Sequence[str] = (),
        resumed_from: str | None = None,
    ) -> None:
        self.token = token
        self.directory = directory
        self.cli = cli
        self.args = args
        self.cwd = cwd
        self.prompt = prompt
        self.set_default = set_default
        self.stamp = stamp
        self.owner = owner
        self.environment = dict(environment or {})
        self.args_added = list(args_added)
        self.resumed_from = resumed_from
        self.id: int | None = None


def begin_run(connection: sqlite3.Connection, run: NewRun) -> int:
    """Record that a run begins, with its project where that is new, and return its id; known, it stays as it is."""
    with Transaction(connection):
        run_id = _run_of(connection, run)
    run.id = run_id
    return run_id


def finish_run(connection: sqlite3.Connection, run: NewRun, ending: Ending) -> tuple[int, Ending]:
    """Record how an owner's run ended; a token that the store does not know brings the whole run.

    The owner's word outranks every other: whatever status stands there is replaced.

    Returns:
        The run's id, and its ending as it counts: somebody may have asked for it.
    """
    with Transaction(connection):
        run_id = _run_of(connection, run)
        return run_id, _end_by_owner(connection, run_id, ending)


def adopt_run(connection: sqlite3.Connection, run: NewRun, ending: Ending | None) -> int:
    """Record a run that has been kept elsewhere meanwhile, and its ending if it has one; return its id.

    What the store knows already by the run's token stays as it is, so that doing this again changes nothing.
    """
    with Transaction(connection):
        started_at = run.stamp["started_at"]
        run_id = _run_of(connection, run, late=None if started_at is None else as_ms(started_at))
        if ending is not None and not _has_owners_word(connection, run_id):
            _end_by_owner(connection, run_id, ending)
        return run_id


def insert_run(
    connection: sqlite3.Connection, pid: int, project_id: int, args: Sequence[str], *, late: int | None = None
) -> int:
    """Insert a running row as the original's createRun does, inside the caller's transaction; return its id.

    ``late`` is when the run began, in Unix milliseconds, if that is not now.
    """
    run_id = connection.execute(
        "INSERT INTO runs (pid, project_id, status, args) VALUES (?, ?, 'running', ?)",
        (pid, project_id, as_json_array(args)),
    ).lastrowid
    connection.execute(
        "UPDATE projects SET last_run_at = ? WHERE id = ? AND (? IS NULL OR coalesce(last_run_at, 0) < ?)",
        (late or now_ms(), project_id, late, late),
    )
    return run_id or 0


def insert_process(
    connection: sqlite3.Connection,
    run_id: int,
    stamp: StampColumns,
    *,
    by: str,
    owner: tuple[int, int | None] | None = None,
    run: NewRun | None = None,
) -> None:
    """Keep who a run's process is, inside the caller's transaction; what is already kept stays."""
    owner_pid, owner_ticks = owner or (None, None)
    connection.execute(
        "INSERT OR IGNORE INTO run_process (run_id, token, cli, cwd, environment, args_added, resumed_from, host,"
        " boot_id, pid_ns, pid_ns_ticks, time_ns, pid, start_ticks, pidfd_inode, started_at, stamped_by, owner_pid,"
        " owner_start_ticks) VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?,"
        " (SELECT run_id FROM run_process WHERE token = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run_id,
            None if run is None else run.token,
            None if run is None else as_stored_text(run.cli),
            None if run is None else as_stored_text(run.cwd),
            json.dumps(run.environment) if run is not None and run.environment else None,
            as_json_array(run.args_added) if run is not None and run.args_added else None,
            None if run is None else run.resumed_from,
            stamp["host"],
            stamp["boot_id"],
            stamp["pid_ns"],
            stamp["pid_ns_ticks"],
            stamp["time_ns"],
            stamp["pid"],
            stamp["start_ticks"],
            stamp["pidfd_inode"],
            None if stamp["started_at"] is None else as_ms(stamp["started_at"]),
            by,
            owner_pid,
            owner_ticks,
        ),
    )


def _run_of(connection: sqlite3.Connection, run: NewRun, *, late: int | None = None) -> int:
    """Return the id of the run with that token, which is inserted where the store does not know it."""
    known = connection.execute(
        "SELECT run_id, runs.id FROM run_process LEFT JOIN runs ON runs.id = run_id WHERE token = ?", (run.token,)
    ).fetchone()
    if known and known[1] is None:  # the original under Bun has deleted the run, and does not cascade
        for table in ("run_ending", "run_process"):
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", known[:1])
    if known is None and run.id is not None and _forgets(connection, run, run.id):
        insert_process(connection, run.id, run.stamp, by="wrap", owner=run.owner, run=run)
        return run.id
    run_id: int = known[0] if known and known[1] is not None else _insert_run(connection, run, late)
    return run_id


def _forgets(connection: sqlite3.Connection, run: NewRun, run_id: int) -> bool:
    """Tell whether a run's row is there, and its token was known to an earlier connection alone.

    So it is in a store of a newer version (`supervisor.store.schema.shadow`).
    """
    found = connection.execute(
        "SELECT 1 FROM runs, temp.sqlite_master WHERE name = 'run_process' AND id = ? AND pid = ?",
        (run_id, run.stamp["pid"]),
    ).fetchone()
    return found is not None


def _end_by_owner(connection: sqlite3.Connection, run_id: int, ending: Ending) -> Ending:
    ending = heeding_request(connection, run_id, ending)
    connection.execute(
        "UPDATE runs SET status = ?, exit_code = ?, ended_at = ? WHERE id = ?",
        (ending.status, ending.exit_code, as_ms(ending.ended_at), run_id),
    )
    replace_ending(connection, run_id, ending)
    return ending


def _has_owners_word(connection: sqlite3.Connection, run_id: int) -> bool:
    found = connection.execute("SELECT 1 FROM run_ending WHERE run_id = ? AND rank > ?", (run_id, KERNEL)).fetchone()
    return found is not None


def _insert_run(connection: sqlite3.Connection, run: NewRun, late: int | None) -> int:
    run_id = insert_run(connection, run.stamp["pid"], _project_of(connection, run, late), run.args, late=late)
    if run.stamp["started_at"] is not None:  # a locked store may have kept us from writing this any earlier
        connection.execute("UPDATE runs SET started_at = ? WHERE id = ?", (int(run.stamp["started_at"]), run_id))
    insert_process(connection, run_id, run.stamp, by="wrap", owner=run.owner, run=run)
    return run_id


def _project_of(connection: sqlite3.Connection, run: NewRun, late: int | None) -> int:
    """Return the id of the run's project; what has been made its default since a late run began stays."""
    directory, cli = as_stored_text(run.directory), as_stored_text(run.cli)
    prompt = None if run.prompt is None else as_stored_text(run.prompt)
    found = connection.execute("SELECT id FROM projects WHERE dir = CAST(? AS TEXT)", (directory,)).fetchone()
    if found is None:
        return (
            connection.execute(
                "INSERT INTO projects (dir, cmd, prompt) VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT))",
                (directory, cli, prompt),
            ).lastrowid
            or 0
        )
    project_id: int = found[0]
    if run.set_default:
        connection.execute(
            "UPDATE projects SET cmd = CAST(? AS TEXT), prompt = coalesce(CAST(? AS TEXT), prompt), updated_at = ?"
            " WHERE id = ? AND (? IS NULL OR iif(updated_at > 100000000000, updated_at, updated_at * 1000) <= ?)",
            (cli, prompt, late or now_ms(), project_id, late, late),
        )
    return project_id


KERNEL = 2
"""The rank of the kernel's word, as `supervisor.nouns.Rank` has it."""


def heeding_request(connection: sqlite3.Connection, run_id: int, ending: Ending) -> Ending:
    """Return an ending as it counts if somebody has asked for it; whoever writes it need not know of that."""
    asked = connection.execute(
        "SELECT asked_by, asked_for, asked_at FROM run_process WHERE run_id = ? AND asked_at IS NOT NULL", (run_id,)
    ).fetchone()
    if asked is None:
        return ending
    from supervisor.ending import after_request  # noqa: PLC0415  loaded with the ending
    from supervisor.store.values import request_from  # noqa: PLC0415  by then, the agent has been started

    return after_request(ending, request_from(*asked))


def replace_ending(connection: sqlite3.Connection, run_id: int, ending: Ending) -> None:
    """Keep how a run ended, instead of what is kept of that, inside the caller's transaction."""
    connection.execute(
        "INSERT OR REPLACE INTO run_ending (run_id, status, exit_code, ended_at, term_signal, core_dumped, cause, rank,"
        " evidence, settled_by, detected_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run_id,
            ending.status,
            ending.exit_code,
            as_ms(ending.ended_at),
            ending.term_signal,
            ending.core_dumped,
            ending.cause,
            int(ending.rank),
            json.dumps(dict(ending.evidence)),
            ending.settled_by,
            as_ms(ending.detected_at),
        ),
    )


def as_ms(seconds: float) -> int:
    """Return seconds as the whole milliseconds that are stored."""
    return round(seconds * 1000)
