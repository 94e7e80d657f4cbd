"""Waiting for processes to end on macOS: one kqueue, by process id.

Written from kqueue(2) and XNU's bsd/kern/kern_event.c (filt_procattach, filt_proc); **it has not been run**: we have no
macOS. The system tells an exit status to the parent and to whoever may send the process SIGKILL; anybody else is
refused (EACCES) and learns of the end alone. Events are edge-triggered: a process that is ending already cannot be
watched (ESRCH), and is left to polling.
"""

from __future__ import annotations

import errno
import select
import sys
from collections.abc import Hashable

from supervisor.process.exits import Exit, ExitWatcher

_NOTE_EXITSTATUS = 0x04000000
_NOTE_EXIT_DETAIL = 0x02000000
_KILLED_FOR_MEMORY = 0x00020000
"""NOTE_EXIT_MEMORY: ended by jetsam, the system's own OOM killer."""

if sys.platform == "darwin":

    class KqueueWatcher(ExitWatcher):
        """Does by process id what `ExitWatcher` does by pidfd."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self._keys: dict[int, Hashable] = {}
            self._pids: dict[Hashable, int] = {}

        def __len__(self) -> int:
            return len(self._keys)

        def fileno(self) -> int:
            """Return the descriptor that turns readable when `take` has something to tell."""
            return self._kqueue.fileno()

        def watch_pid(self, key: Hashable, pid: int) -> bool:
            """Watch a process by its id, which the caller verifies again afterwards; tell whether that is possible."""
            self.forget(key)
            for notes in (select.KQ_NOTE_EXIT | _NOTE_EXITSTATUS | _NOTE_EXIT_DETAIL, select.KQ_NOTE_EXIT):
                flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
                try:
                    self._kqueue.control([select.kevent(pid, select.KQ_FILTER_PROC, flags, notes)], 0)
                except OSError as error:
                    if error.errno != errno.EACCES:
                        return False
                else:
                    self._keys[pid], self._pids[key] = key, pid
                    return True
            return False

        def forget(self, key: Hashable) -> None:
            """Stop watching a process; an unknown key is no error."""
            pid = self._pids.pop(key, None)
            if pid is None:
                return
            del self._keys[pid]
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_DELETE, select.KQ_NOTE_EXIT)
            try:
                self._kqueue.control([event], 0)
            except OSError:
                return  # it has fired, and is gone by itself

        def take(self) -> list[Exit]:
            """Return the processes that have ended since the last call, without waiting."""
            exits = []
            for event in self._kqueue.control(None, max(1, len(self._keys)), 0):
                key = self._keys.get(event.ident)
                if key is not None:
                    status = event.data & 0xFFFF if event.fflags & _NOTE_EXITSTATUS else None
                    source = "kqueue, killed for memory" if event.data & _KILLED_FOR_MEMORY else "kqueue"
                    exits.append(Exit(key, status, final=True, source=source))
            return exits

        def rearm(self) -> None:
            """Do nothing: what has ended is told once, and what cannot be watched is polled."""

        def close(self) -> None:
            """Forget all and close the kqueue."""
            self._kqueue.close()


def exit_watcher() -> ExitWatcher:
    """Return what waits for ends on this system."""
    if sys.platform == "darwin":
        return KqueueWatcher()
    return ExitWatcher()
