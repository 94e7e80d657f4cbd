"""The record of a wrapped run: begun before the agent, finished after it, and never in its way.

The agent comes first: what goes wrong here becomes one line on stderr, and what the store does not take is kept in the
spool.
"""

from __future__ import annotations

import os
import sqlite3
import time

from supervisor.errors import StoreBusy, StoreError
from supervisor.store import connection as connections, recording
from supervisor.store.files import identity, store_file
from supervisor.wrap.apart import do_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.nouns import Circumstances, Ending, Request
    from supervisor.process.surroundings import OomKills, Surroundings

FIRST_WAIT = 0.25
"""Seconds that an agent's start may wait for a locked store."""

LATER_WAIT = 0.05
LAST_WAIT = 1.0
"""Seconds that the caller of an agent that has ended may wait for a locked store."""

RETRY_EVERY = 0.25
GIVE_UP_AFTER = connections.BUSY_TIMEOUT

SURE_FOR = 60.0
"""Seconds of a run for which a risen count of OOM kills is laid to its own end with certainty."""


class Record:
    """One run's record in its store.

    Args:
        run: what to record.
        warn: takes the one line that says what is not recorded.
    """

    def __init__(self, run: recording.NewRun, warn: Callable[[str], None]) -> None:
        self._run = run
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._created = False
        self._began_trying = time.monotonic()
        self._begun = False
        self._pending = False
        self._announced = False
        self._warned = False
        self._promised = False
        self._kept: str | None = None
        self._unkept: Exception | None = None
        self._ended: Ending | None = None
        self._is_recorded = False
        self._before: Surroundings | None = None
        self._oom_kills: OomKills | None = None
        self._request: Request | None = None

    def begin(self) -> None:
        """Record the beginning, waiting for the store at most `FIRST_WAIT`."""
        self._try_to_begin(FIRST_WAIT)

    def attend(self) -> float | None:
        """Do what is left to do while the agent runs; return the seconds to the next time, None when all is done.

        Try again what a lock has kept from being recorded, and give up with a line after `GIVE_UP_AFTER`. Load now
        what the ending needs: by then this program may have been replaced by another version.
        """
        if self._pending:
            self._try_to_begin(LATER_WAIT)
        if self._pending and time.monotonic() - self._began_trying > GIVE_UP_AFTER:
            self._pending = False
            self._say(StoreBusy(f"{store_file(self._run.directory)} stays locked by another process"))
        if not self._pending:
            self._close()  # an agent runs for hours: a store that nobody has open can be repaired, copied and moved
        try:
            import resource  # noqa: F401, PLC0415  for `supervisor.wrap.signals.end_as`

            import supervisor.ending  # noqa: PLC0415  the agent need not wait for it
            import supervisor.process.tree  # noqa: PLC0415  for `supervisor.wrap.signals`
            import supervisor.store.values  # noqa: PLC0415  for `supervisor.store.recording`
            import supervisor.wrap.leftovers  # noqa: F401, PLC0415  for `supervisor.wrap.launch`
            from supervisor.wrap.later import bring_others, reserve_space  # noqa: PLC0415  with the spool, as above

            self._look_around()
            reserve_space()
            if self._begun:
                bring_others(self._run.directory)
        except Exception as error:  # noqa: BLE001  as everywhere here
            self._say(error)
        return RETRY_EVERY if self._pending else None

    def ask(self, by: str, order: str) -> None:
        """Record that the agent is about to be asked to end, so that its ending says who has done so.

        Args:
            by: who asks.
            order: what for, as `supervisor.ending` knows it.
        """
        try:
            from supervisor.nouns import Request  # noqa: PLC0415  see `attend`
            from supervisor.store.addenda import keep_request  # noqa: PLC0415  the same

            self._request = Request(by, order, time.time())
            if not self._begun:
                return  # the ending will say it
            if self._connection is None:
                self._open(LATER_WAIT)
            assert self._connection is not None  # noqa: S101  _open has set it, or raised
            self._connection.execute(f"PRAGMA busy_timeout = {LATER_WAIT * 1000:.0f}")
            keep_request(self._connection, self._run.token, self._request)
        except Exception:  # noqa: BLE001  as everywhere here; the ending will say it
            return
        finally:
            self._close()

    def finish(self, wait_status: int, *, ended_at: float, refused: int | None) -> Ending | None:
        """Record the ending, and with it the beginning if that could not be recorded.

        Args:
            wait_status: the agent's, as waitpid(2) gives it.
            ended_at: when that was, in Unix seconds.
            refused: the errno with which it could not be started, None where it was.

        Returns:
            The ending as far as it is known, also where it could not be recorded.
        """
        try:
            self._ended = self._ending(wait_status, ended_at, refused)
            written_to = None
            while written_to is None or written_to != identity(self._run.directory):  # what has gone is in no store
                self._ended = self._write(self._ended)
                written_to = self._file
            self._is_recorded = True
            self._announce()
        except Exception as error:  # noqa: BLE001  no trouble of ours may change how the agent's end is seen
            if self._ended is None:
                self._kept = None
            else:
                self._ended = self._as_asked(self._ended)
                self._keep(self._ended)
            self._say(error)
            self._close()
        else:
            self._close()
            self._take_back()
        return self._ended

    @property
    def start_ticks(self) -> int | None:
        """When the agent started, in clock ticks since boot, None where that is not known."""
        return self._run.stamp["start_ticks"]

    def add(self, evidence: Mapping[str, object], what: str) -> None:
        """Add to the ending what has become known since; ``what`` that is, in words, for a line of trouble."""
        try:
            from supervisor.wrap.later import add_or_keep  # noqa: PLC0415  rarely needed

            if self._ended is None:
                return
            self._ended = ended = self._ended.replaced(evidence={**self._ended.evidence, **evidence})
            done = self._is_recorded
            kept = add_or_keep(self._run, ended, evidence, is_recorded=done, timeout=FIRST_WAIT)
            if kept and done:  # else that line has been said of the whole ending
                self._warn(f"{what} is not recorded yet; it is kept in {kept} until it can be")
        except Exception as error:  # noqa: BLE001  as everywhere here
            self._warn(f"{what} is not recorded: {type(error).__name__}: {error}")

    def _as_asked(self, ending: Ending) -> Ending:
        """Return an ending as it counts if somebody has asked for it: a store that takes nothing may still tell."""
        if self._connection is None or not self._begun:
            return ending
        try:
            from supervisor.store.addenda import heeding  # noqa: PLC0415  loaded already

            return heeding(self._connection, self._run.token, ending)
        except Exception:  # noqa: BLE001  as everywhere here
            return ending

    def bring_kept(self) -> None:
        """Bring what is kept of this run into its store, if that takes it now: another is to be linked with it."""
        if self._kept is None:
            return
        try:
            from supervisor.wrap.later import bring_others  # noqa: PLC0415  loaded already

            bring_others(self._run.directory)
        except Exception:  # noqa: BLE001  as everywhere here; it is kept
            return

    def _look_around(self) -> None:
        """Sample what may explain the end: the wrapper shares its agent's terminal, session and memory limits."""
        from supervisor.process import procfs, surroundings  # noqa: PLC0415  the agent runs by now

        if self._before is None and procfs.is_ours():
            own = os.getpid()
            self._before = surroundings.surroundings_of(own, procfs.read_stat(own).tty)
            self._oom_kills = surroundings.OomKills()
            self._oom_kills.follow(self._before.memory)

    def _ending(self, wait_status: int, ended_at: float, refused: int | None) -> Ending:
        from supervisor.ending import after_request, ending_by_owner, explained  # noqa: PLC0415  see `attend`

        ending = explained(ending_by_owner(wait_status, ended_at, refused), self._circumstances(wait_status))
        return after_request(ending, self._request)

    def _circumstances(self, wait_status: int) -> Circumstances:
        from supervisor.nouns import Circumstances  # noqa: PLC0415  see `attend`
        from supervisor.process.surroundings import circumstances_of  # noqa: PLC0415  the same

        if self._before is None or self._oom_kills is None:
            return Circumstances()
        found = circumstances_of(self._before, self._oom_kills, killed=os.WIFSIGNALED(wait_status))
        if found.oom is not None and time.monotonic() - self._began_trying > SURE_FOR:
            # Nothing wakes the wrapper while it waits, so the count may have risen long before this end.
            return found.replaced(oom={**found.oom, "certain": False})
        return found

    def _try_to_begin(self, timeout: float) -> None:
        try:
            deadline = time.monotonic() + timeout
            if self._connection is None:
                self._open(timeout)
            assert self._connection is not None  # noqa: S101  _open has set it, or raised
            self._make_known()
            left = max(1, int((deadline - time.monotonic()) * 1000))
            self._connection.execute(f"PRAGMA busy_timeout = {left}")
            recording.begin_run(self._connection, self._run)
        except Exception as error:  # noqa: BLE001  no trouble of ours may keep the agent from starting
            self._pending = _is_lock(error)
            if self._kept is None:
                self._keep()
            if not self._pending:
                self._say(error)
        else:
            self._begun, self._pending = True, False
            if self._kept is not None:
                self._take_back()

    def _write(self, ending: Ending) -> Ending:
        """Write the ending into the store that stands there now, and return it as it stands there.

        It takes the whole run along where that store does not know it.
        """
        if self._file is not None and self._file != identity(self._run.directory):
            self._close()  # the store we began in is gone
            self._announced = self._created = False
        if self._connection is None:
            self._open(LAST_WAIT)
        assert self._connection is not None  # noqa: S101  _open has set it, or raised
        self._connection.execute(f"PRAGMA busy_timeout = {LAST_WAIT * 1000:.0f}")
        _, written = recording.finish_run(self._connection, self._run, ending)
        return written

    def _keep(self, ending: Ending | None = None) -> None:
        """Keep in the spool what the store does not take."""
        try:
            from supervisor.spool import files  # noqa: PLC0415  rarely needed

            before, self._kept = self._kept, None
            self._kept = files.keep(self._run, ending)
            if before is not None:
                files.remove(self._run.token + files.BEGUN)
        except Exception as error:  # noqa: BLE001  as everywhere here
            self._unkept = error

    def _take_back(self) -> None:
        """Bring to the disk what the store has now, and only then remove it from the spool.

        Whoever finds it there would change nothing.
        """
        try:
            connections.sync(self._run.directory)
            if self._kept is not None:
                from supervisor.spool import files  # noqa: PLC0415  loaded already

                files.remove(self._run.token + files.BEGUN)
                self._kept = None
        except OSError:
            pass  # it is recorded; only a power cut could still take it back

    def _open(self, timeout: float) -> None:
        before = identity(self._run.directory)
        self._created = self._created or before is None
        self._connection, _ = connections.open_for_writing(self._run.directory, timeout=timeout)
        self._file = before or identity(self._run.directory)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _make_known(self) -> None:
        """Make the store known before the row is there: were we killed then, nobody would look after that.

        What that loads is not kept: 3 MiB, for as long as the agent runs.
        """
        if self._announced:
            return
        from supervisor.known import is_known  # noqa: PLC0415  loads faster than `registry`, which is rarely needed

        if self._created or self._file is None or not is_known(self._run.directory, self._file[1]):
            do_apart(self._announce)
        self._announced = True

    def _announce(self) -> None:
        """Make the store known to the daemon."""
        if self._announced:
            return
        self._announced = True
        try:
            from supervisor import registry  # noqa: PLC0415  the row is written by now: here imports may cost something

            registry.add(self._run.directory, registry.Origin.CREATED if self._created else registry.Origin.FOUND)
        except Exception as error:  # noqa: BLE001  as everywhere here
            self._warn(f"the daemon does not learn of this store: {type(error).__name__}: {error}")

    def _say(self, error: Exception) -> None:
        if self._warned and (self._kept is not None or not self._promised):
            return
        self._warned, self._promised = True, self._kept is not None
        if isinstance(error, sqlite3.Error):
            error = connections.translate(self._run.directory, error)
        what = "how this run ends" if self._begun else "this run"
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        if self._kept is not None:
            self._warn(f"{what} is not recorded yet: {reason}; it is kept in {self._kept} until it can be")
        elif self._unkept is not None:
            self._warn(f"{what} is not recorded: {reason}; nor can it be kept for later: {self._unkept}")
        else:
            self._warn(f"{what} is not recorded: {reason}")


def _is_lock(error: Exception) -> bool:
    return isinstance(error, StoreBusy) or (isinstance(error, sqlite3.Error) and connections.is_lock(error))
