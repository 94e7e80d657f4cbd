"""Give the pid of a watched process that has ended to a new one, again and again; print what was told of both.

Run as the first process of a PID namespace: ``unshare --fork --pid --mount-proc python pid_reuse.py ROUNDS``. Prints a
line per round: the old process's exit code as told, and the new one's verdicts with and without the old one's stamp.
With a project's directory behind it, the rounds are played by rows of its store: a line is what became of both.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from stage import Stage

from supervisor.models import Rank, Stamp
from supervisor.process import facts, judge
from supervisor.process.exits import ExitWatcher
from supervisor.process.judge import Scene, Start, Verdict
from supervisor.process.stamp import stamp_of

_LAST_PID = "/proc/sys/kernel/ns_last_pid"


def born() -> tuple[int, int]:
    """Fork a process that exits with the byte that it is sent; return its pid and the pipe's end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        code = os.read(reader, 1)
        os._exit(code[0] if code else 0)
    os.close(reader)
    return pid, writer


def born_as(pid: int) -> int:
    """Fork a process of that pid; return the pipe's end."""
    while True:
        with open(_LAST_PID, "w", encoding="ascii") as file:
            file.write(str(pid - 1))
        new, writer = born()
        if new == pid:
            return writer
        end(new, writer, 0)


def end(pid: int, writer: int, code: int) -> None:
    """Let a process exit with that code, and reap it."""
    os.write(writer, bytes([code]))
    os.close(writer)
    os.waitpid(pid, 0)


def verdicts(old: Stamp, seen: judge.Facts, scene: Scene) -> list[Verdict]:
    """Judge the old process's row from a look at the new one: with its stamp first, then with less and less of it."""
    assert old.started_at is not None
    blank = Stamp(None, None, None, None, None, old.pid, None, None, None)
    starts = [None, *(Start(old.started_at + late, 0.002) for late in (-86400.0, -100.0, 0.0, 86400.0))]
    return [
        judge.judge(stamp, start, seen, scene, namespace_proven=proven)
        for stamp in (old, None, blank)
        for start in starts
        for proven in (True, False)
    ]


def play(rounds: int) -> None:
    """Play the rounds."""
    scene = facts.scene()
    watcher = ExitWatcher()
    for number in range(rounds):
        code = number % 255 + 1
        pid, writer = born()
        old = Stamp(**stamp_of(pid))
        seen, descriptor = facts.look(pid)
        assert descriptor is not None
        assert seen.stat is not None
        watcher.watch("old", descriptor, pid, seen.stat.start_ticks)
        end(pid, writer, code)
        writer = born_as(pid)

        select.select([watcher], [], [])
        (told,) = watcher.take()
        watcher.forget("old")
        seen, descriptor = facts.look(pid)
        assert descriptor is not None
        watcher.watch("new", descriptor, pid, seen.stat.start_ticks if seen.stat else None)
        found = verdicts(old, seen, scene)
        stamped, bare = found[: len(found) // 3], found[len(found) // 3 :]
        assert watcher.take() == []
        right = os.waitstatus_to_exitcode(told.status) == code if told.status is not None else None
        lines = {verdict.line for verdict in stamped}, {str(verdict.state) for verdict in bare}
        print(right, told.final, *(",".join(sorted(names)) for names in lines), flush=True)
        end(pid, writer, 0)
        watcher.forget("new")
    watcher.close()


def play_rows(rounds: int, directory: Path) -> None:
    """Play the rounds by rows that the original writes, each settled before the next."""
    with Stage(directory) as stage:
        for number in range(rounds):
            code = number % 255 + 1
            pid, writer = born()
            old = stage.run(pid)
            stage.tick()
            end(pid, writer, code)
            writer = born_as(pid)
            new = stage.run(pid)
            if number % 2:
                stage.tick(sweep=True)
            stage.exits()
            stage.tick(sweep=True)
            right = stage.ending(old) == ("crashed", code, "unrecorded", Rank.KERNEL)
            print(right, *stage.row(new), stage.runs.alive, flush=True)
            stage.original.connection.execute("delete from runs where id = ?", [new])
            end(pid, writer, 0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        play_rows(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        play(int(sys.argv[1]))
