"""The commands that show, and those that delete: what they say of real stores, and that reading changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import COMMAND, Answer, Ask, Original, Processes, dead_pid, rows, run_ours
from rich.cells import cell_len
from stores import ending, execute, new_run, place, stamp

from supervisor import db, registry
from supervisor.cli.output import clean
from supervisor.models import Cause, Rank, RunStatus
from supervisor.process.stamp import stamp_of
from supervisor.store import connection as connections, recording

ANSI = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\r\n\x00evil"
LISTS = (
    ("ls",),
    ("ls", "--all"),
    ("runs", "list"),
    ("runs", "list", "--all"),
    ("runs", "active", "--all"),
    ("runs", "crashed", "--all"),
    ("projects", "list"),
    ("stores", "list"),
)


@pytest.fixture
def shelf(project: Path, tmp_path: Path, processes: Processes) -> dict[str, Path]:
    """Fill a home; the test stands in ``web``.

    ``web`` has, by id: completed, failed with 3, OOM-killed, running, and one whose process is dead. ``api`` is the
    original's, with a live row, a dead one, and junk. ``odd`` holds the odd rows of a checked-in store.
    """
    shelf = {"web": project, "api": tmp_path / "api", "odd": tmp_path / "odd"}
    living = processes.living().pid
    db.get_db(project)
    web = db.upsert_project(str(project), "claude", "run all tests")
    for status, code in (("completed", 0), ("failed", 3)):
        db.update_run_status(db.create_run(dead_pid(), web.id, ["-p", status]).id, status, code)
    oom_killed_run(project)
    db.create_run(living, web.id, ["--continue"])
    db.create_run(dead_pid(), web.id)
    shelf["api"].mkdir()
    with Original(shelf["api"]) as original:
        original.create_run(living)
        original.create_run(dead_pid(), started_at=int(time.time() - 60))
        original.create_run("x", args="[junk")
    shelf["odd"].mkdir()
    place("bun-866ebbb-odd", shelf["odd"])
    for name in ("api", "odd"):
        registry.add(str(shelf[name]), registry.Origin.FOUND)
    return shelf


def oom_killed_run(directory: Path) -> None:
    """Record a run as wrap does, that the kernel has killed for want of memory."""
    connection, _ = connections.open_for_writing(str(directory))
    begun = new_run(directory, stamp=stamp(dead_pid(), started_at=time.time() - 90), args=["--resume", "it's"])
    recording.begin_run(connection, begun)
    fields: dict[str, Any] = {"exit_code": 137, "cause": Cause.OOM_KILLED, "ended_at": time.time() - 29.5}
    end = ending(Rank.OWNER, status=RunStatus.CRASHED, term_signal=9, evidence={"oom_kill": 1}, **fields)
    recording.finish_run(connection, begun, end)
    connection.close()


def on_terminal(*words: str, columns: int = 80, **environment: str) -> Answer:
    """Run a command on a terminal of so many columns; its messages are kept apart."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    env.pop("COLUMNS", None)
    with subprocess.Popen(
        [*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, env=env
    ) as process:
        os.close(theirs)
        out = b"".join(read_all(ours))
        err = process.stderr.read() if process.stderr else b""
    os.close(ours)
    return Answer(process.returncode, out.decode().replace("\r\n", "\n"), err.decode())


def read_all(descriptor: int) -> Iterator[bytes]:
    """Read a terminal until its last user has gone, which it reports as an error."""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            return
        if not data:
            return
        yield data


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_empty_lists_say_what_to_do(project: Path, ask: Ask, words: tuple[str, ...]) -> None:
    """A list with nothing in it prints no data, and says on stderr what to do next; that is no error."""
    answer = ask(*words)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.count("\n") == 1
    assert "agent-yes-supervise wrap CLI" in answer.err or "agent-yes-supervise stores add DIR" in answer.err
    answer = ask(*words, "--json")
    assert (answer.code, answer.json) == (0, [])


def test_empty_list_with_a_filter(shelf: dict[str, Path], ask: Ask) -> None:
    """Where a filter leaves nothing, it is not said that there are no runs."""
    execute(shelf["web"], "DELETE FROM runs WHERE status = 'failed'")
    assert ask("runs", "list", "--status", "failed").err.startswith(f"No run matches in {shelf['web']}.")


def test_ls_shows_what_runs_and_what_ended_badly(shelf: dict[str, Path], ask: Ask) -> None:
    """``ls`` shows the running rows of all projects with the truth about each, then what ended badly."""
    answer = ask("ls")
    assert answer.code == 0
    shown = {line.split()[0]: line.split()[1] for line in answer.lines[1:]}
    assert answer.lines[0].split() == ["RUN", "STATUS", "EXIT", "CAUSE", "PID", "SINCE", "COMMAND"]
    assert {name: shown[f"project#{name}"] for name in "2345"} == {
        "2": "failed",
        "3": "crashed",
        "4": "running",
        "5": "dead",
    }
    assert "project#1" not in shown
    assert (shown["api#1"], shown["api#3"], shown["odd#1"]) == ("running", "unknown", "unknown")
    statuses = list(shown.values())
    ended = [status in ("failed", "crashed") for status in statuses]
    assert ended == sorted(ended)


def test_ls_explains_doubts(shelf: dict[str, Path], ask: Ask) -> None:
    """Below ``ls`` stands why rows are unknown, those of one reason together, and how dead ones are settled."""
    err = ask("ls").err.splitlines()
    unknown = [line for line in err if line.startswith("unknown: ")]
    assert 1 <= len(unknown) <= 4
    assert any(line.endswith("its pid is no process id") and " more: " in line for line in unknown)
    assert re.fullmatch(r"Of the running, \d+ (is|are) dead and not settled yet: agent-yes-supervise scan", err[-1])


def test_ls_all_shows_what_ended_well(shelf: dict[str, Path], ask: Ask) -> None:
    """``ls --all`` shows also the completed runs of the last day, and nothing older."""
    assert "project#1" in ask("ls", "--all").names
    execute(shelf["web"], "UPDATE runs SET ended_at = ended_at - 90000000 WHERE id < 3")
    names = ask("ls", "--all").names
    assert "project#1" not in names
    assert "project#2" not in names
    assert "project#3" in names


def test_ls_orders_the_ended_by_their_end(shelf: dict[str, Path], ask: Ask) -> None:
    """What ended last stands first among the ended, however long it ran."""
    now = int(time.time() * 1000)
    execute(shelf["web"], f"UPDATE runs SET started_at = 1795000000, ended_at = {now} WHERE id = 2")
    names = [name for name in ask("ls").names if name in ("project#2", "project#3")]
    assert names == ["project#2", "project#3"]


def test_ls_does_not_flood(project: Path, ask: Ask) -> None:
    """Very many bad ends are cut to the latest ones, with a word where the others are."""
    db.get_db(project)
    db.upsert_project(str(project), "claude")
    db.create_run(dead_pid(), 1)
    row = "SELECT 300, 1, 'crashed', unixepoch(), unixepoch() * 1000 - value FROM generate_series"
    numbers = " UNION ALL ".join(f"SELECT {number} AS value" for number in range(60))
    row = f"SELECT 300, 1, 'crashed', unixepoch(), unixepoch() * 1000 - value FROM ({numbers})"
    execute(project, f"INSERT INTO runs (pid, project_id, status, started_at, ended_at) {row}")
    answer = ask("ls")
    assert len(answer.names) == 51
    assert answer.names[1] == "project#2"
    assert answer.err.endswith("More have ended in the last day: agent-yes-supervise runs list --all --since 1d\n")


def test_ls_as_json(shelf: dict[str, Path], ask: Ask) -> None:
    """``ls --json`` gives the same runs, each with its row's status and the verdict beside it, and no explanations."""
    answer = ask("ls", "--json")
    assert answer.err == ""
    found = {(Path(one["store"]).name, one["id"]): one for one in answer.json}
    assert len(found) == len(answer.json) == len(ask("ls").names)
    dead = found["project", 5]
    assert (dead["status"], dead["verdict"], dead["exit_code"], dead["ended_at"]) == ("running", "dead", None, None)
    assert found["project", 4]["verdict"] == "alive"
    assert found["api", 3]["junk"] == {"pid": "x", "args": "[junk"}


def test_ls_watch_shows_it_anew(shelf: dict[str, Path], processes: Processes) -> None:
    """``ls --watch`` shows everything again and again until Ctrl-C, which is 130."""
    watching = processes.ours("ls", "--watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stdout is not None
    assert watching.stderr is not None
    headings = 0
    for line in watching.stdout:
        headings += line.startswith("RUN ")
        if headings == 2:
            break
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    assert "Traceback" not in watching.stderr.read()


def test_runs_list_shows_the_runs_here(shelf: dict[str, Path], ask: Ask) -> None:
    """``runs list`` shows this directory's runs, newest first, with how each ended."""
    answer = ask("runs", "list")
    assert answer.lines[0].split() == ["RUN", "STATUS", "EXIT", "CAUSE", "STARTED", "TOOK", "PID", "COMMAND"]
    assert answer.names == ["project#5", "project#4", "project#2", "project#1", "project#3"]
    oom = next(line for line in answer.lines if line.startswith("project#3"))
    assert re.fullmatch(
        r"""project#3\s+crashed\s+137\s+oom-killed\s+1m 3\ds ago\s+1m 0s\s+\d+\s+claude --resume 'it'"'"'s'""", oom
    )
    failed = next(line for line in answer.lines if line.startswith("project#2"))
    assert failed.split()[1:3] == ["failed", "3"]


def test_runs_list_is_ordered_in_mixed_units(project: Path, ask: Ask) -> None:
    """Newest first holds whatever unit each start is stored in, and ids break ties."""
    with Original(project) as original:
        for start in (1_795_000_000, 1_795_000_001_500, 1_795_000_001, 1_795_000_001_500, 1_794_999_999_999, 5):
            original.create_run("x", started_at=start)
    assert ask("runs", "list").names == [f"project#{number}" for number in (4, 2, 3, 1, 5, 6)]
    assert [one["started_at"] for one in ask("runs", "list", "--json").json][:3] == [
        1_795_000_001.5,
        1_795_000_001.5,
        1_795_000_001,
    ]


def test_runs_list_is_limited(project: Path, ask: Ask) -> None:
    """Without a limit fifty runs are shown, and on stderr how to see more, with ``--json`` too; 0 is all of them."""
    with Original(project) as original:
        for _ in range(60):
            original.create_run("x")
    execute(project, "UPDATE runs SET status = 'completed', ended_at = 1")
    more = "There are more runs than these: --limit N shows the newest N, --limit 0 all\n"
    answer = ask("runs", "list")
    assert (len(answer.names), answer.names[0], answer.err) == (50, "project#60", more)
    answer = ask("runs", "list", "--json")
    assert (len(answer.json), answer.err) == (50, more)
    assert ask("runs", "list", "--limit", "3").names == ["project#60", "project#59", "project#58"]
    assert ask("runs", "list", "--limit", "60").err == ""
    answer = ask("runs", "list", "--limit", "0")
    assert (len(answer.names), answer.err) == (60, "")


def test_runs_list_by_status(shelf: dict[str, Path], ask: Ask) -> None:
    """``--status`` may be given more than once."""
    assert ask("runs", "list", "--status", "failed").names == ["project#2"]
    assert ask("runs", "list", "--status", "failed", "--status", "crashed").names == ["project#2", "project#3"]


def test_runs_list_since(shelf: dict[str, Path], ask: Ask) -> None:
    """``--since`` takes a span, a date, or a date and time."""
    execute(shelf["web"], "UPDATE runs SET started_at = unixepoch() - 7200 WHERE id < 4")
    assert sorted(ask("runs", "list", "--since", "1h").names) == ["project#4", "project#5"]
    assert len(ask("runs", "list", "--since", "3h").names) == 5
    assert len(ask("runs", "list", "--since", "1.5d").names) == 5
    assert len(ask("runs", "list", "--since", "2001-01-01").names) == 5
    assert ask("runs", "list", "--since", "2999-12-31T12:00").names == []


def test_runs_of_other_projects(shelf: dict[str, Path], ask: Ask) -> None:
    """``--project`` shows the runs of one other project, by its tail or path, and ``--all`` those of every one."""
    assert sorted(ask("runs", "list", "--project", "api").names) == ["api#1", "api#2", "api#3"]
    assert ask("runs", "list", "--project", str(shelf["api"])) == ask("runs", "list", "--project", "api")
    answer = ask("runs", "list", "--all", "--json")
    assert {Path(one["store"]).name for one in answer.json} == {"project", "api", "odd"}
    assert len(answer.json) == 5 + 3 + 19


def test_runs_active_and_crashed(shelf: dict[str, Path], ask: Ask) -> None:
    """``runs active`` lists the rows that say running, ``runs crashed`` the crashed ones."""
    assert ask("runs", "active").names == ["project#5", "project#4"]
    assert [one["verdict"] for one in ask("runs", "active", "--json").json] == ["dead", "alive"]
    assert ask("runs", "crashed").names == ["project#3"]
    assert [(one["id"], one["cause"]) for one in ask("runs", "crashed", "--all", "--json").json][:1] == [
        (3, "oom-killed")
    ]


def test_runs_show(shelf: dict[str, Path], ask: Ask) -> None:
    """``runs show`` tells all of one run: how it ended, who says so, and what shows it."""
    fields = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in ask("runs", "show", "3").lines)
    assert fields["run"] == "project#3"
    assert fields["status"] == "crashed"
    assert (fields["exit code"], fields["cause"], fields["signal"]) == ("137", "oom-killed", "SIGKILL")
    assert (fields["took"], fields["settled by"], fields["evidence oom_kill"]) == ("1m 0s", "test (owner)", "1")
    assert fields["command"] == """claude --resume 'it'"'"'s'"""
    assert (fields["project"], fields["directory"]) == (str(shelf["web"]), str(shelf["web"]))
    assert "store of" not in fields
    assert ask("runs", "show", "project#3", "--json").json["evidence"] == {"oom_kill": 1}


def test_runs_show_a_running_one(shelf: dict[str, Path], ask: Ask) -> None:
    """Of a running row it is told what is known of its process, and why."""
    out = ask("runs", "show", "5").out
    assert re.search(r"^status +dead$", out, re.MULTILINE)
    assert re.search(r"^process +dead: there is no such process$", out, re.MULTILINE)
    assert re.search(r"^process +alive: ", ask("runs", "show", "4").out, re.MULTILINE)


def test_runs_show_an_overwritten_one(shelf: dict[str, Path], ask: Ask) -> None:
    """Where the owner has overwritten a settled ending, both are told."""
    db.update_run_status(3, "completed", 0)
    out = ask("runs", "show", "3").out
    assert re.search(r"^cause +overwritten$", out, re.MULTILINE)
    assert re.search(r"^settled +crashed with 137, oom-killed; then ", out, re.MULTILINE)
    assert ask("runs", "show", "3", "--json").json["overwritten"] is True


def test_junk_is_shown_as_junk(shelf: dict[str, Path], ask: Ask) -> None:
    """Rows with junk are shown as such among the others, by every command, and spoil nothing."""
    answer = ask("runs", "list", "--project", "odd")
    assert (answer.code, len(answer.names)) == (0, 19)
    lines = {line.split()[0]: line for line in answer.lines[1:]}
    assert 'junk: "paused"' in lines["odd#16"]
    assert 'junk: "x"' in lines["odd#7"]
    assert "claude (junk: [not json)" in lines["odd#8"]
    assert lines["odd#19"].endswith("  ?")
    found = {one["id"]: one for one in ask("runs", "list", "--project", "odd", "--json").json}
    assert (found[16]["status"], found[16]["junk"]) == ("paused", {"status": "paused"})
    assert (found[6]["pid"], found[6]["junk"]) == (None, {"pid": 1.5})
    assert found[15]["args"] == ["\ud800"]
    for number in found:
        assert ask("runs", "show", f"odd#{number}").code == 0
        assert ask("runs", "show", f"odd#{number}", "--json").code == 0


def test_projects_list(shelf: dict[str, Path], ask: Ask) -> None:
    """``projects list`` counts each project's runs by status, the most recently run first."""
    answer = ask("projects", "list")
    counts = ["RUNS", "RUNNING", "COMPLETED", "FAILED", "CRASHED"]
    assert answer.lines[0].split() == ["PROJECT", *counts, "SUCCESS", "LAST", "RUN", "STORE", "OF", "COMMAND"]
    assert answer.lines[1].split()[:7] == [str(shelf["web"]), "5", "2", "1", "1", "1", "33%"]
    odd = next(line for line in answer.lines if line.startswith("/home/dev/odd"))
    assert odd.split()[-2:] == [str(shelf["odd"]), "claude"]
    api = next(line for line in answer.lines if line.startswith(str(shelf["api"])))
    assert api.split()[1:] == ["3", "3", "0", "0", "0", "claude"]
    assert re.fullmatch(r"Of the running, \d are dead and not settled yet: agent-yes-supervise scan\n", answer.err)


def test_projects_list_as_json(shelf: dict[str, Path], ask: Ask) -> None:
    """``projects list --json`` gives counts, success rate and the last run in Unix seconds."""
    web, odd, api = ask("projects", "list", "--json").json
    assert web["counts"] == {"running": 2, "completed": 1, "failed": 1, "crashed": 1}
    assert (web["runs"], web["unsettled"], web["prompt"]) == (5, 1, "run all tests")
    assert web["success_rate"] == pytest.approx(1 / 3)
    assert abs(web["last_run_at"] - time.time()) < 60
    assert (api["last_run_at"], api["success_rate"], api["store"]) == (None, None, str(shelf["api"]))
    assert (odd["dir"], odd["store"]) == ("/home/dev/odd", str(shelf["odd"]))


def test_projects_show(shelf: dict[str, Path], ask: Ask) -> None:
    """``projects show`` tells all of one project: this one, or the one that is named."""
    answer = ask("projects", "show")
    fields = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in answer.lines)
    assert (fields["project"], fields["command"], fields["prompt"]) == (str(shelf["web"]), "claude", "run all tests")
    assert [fields[name] for name in ("runs", *RunStatus)] == ["5", "2", "1", "1", "1"]
    assert fields["success rate"] == "33%"
    assert "ago)" in fields["last run"] or "(now)" in fields["last run"]
    assert answer.err.startswith("Of the running, 1 is dead")
    assert ask("projects", "show", "api", "--json").json["dir"] == str(shelf["api"])
    odd = ask("projects", "show", "/home/dev/odd").out
    assert re.search(r"^junk status +1$", odd, re.MULTILINE)
    assert re.search(rf"^store of +{shelf['odd']}$", odd, re.MULTILINE)


def test_stores_list(shelf: dict[str, Path], ask: Ask) -> None:
    """``stores list`` shows how each store came to be known, whether it is trusted, and what is wrong with it."""
    (shelf["odd"] / ".agent-yes" / "store.sqlite").write_bytes(b"junk" * 2000)
    answer = ask("stores", "list")
    assert answer.code == 0
    lines = {Path(line.split()[0]).name: line for line in answer.lines[1:]}
    assert lines["project"].split()[1] == "created"
    assert lines["project"].endswith("  yes")
    assert lines["api"].split()[1] == "found"
    assert lines["api"].endswith("  no")
    assert "is damaged" in lines["odd"]
    found = {Path(one["dir"]).name: one for one in ask("stores", "list", "--json").json}
    assert list(found["api"]) == ["dir", "origin", "added_at", "exists", "trusted", "trouble"]
    assert (found["project"]["trusted"], found["project"]["trouble"]) == (True, None)
    assert "is damaged" in found["odd"]["trouble"]


def test_stores_add_and_forget(project: Path, tmp_path: Path, ask: Ask) -> None:
    """A store is added by hand and trusted, by its real path, and forgotten by its path or tail; the file stays."""
    shed = tmp_path / "shed"
    shed.mkdir()
    Original(shed).close()
    (tmp_path / "link").symlink_to(shed)
    assert ask("stores", "add", str(tmp_path / "link")) == Answer(0, "", f"added {shed}\n")
    (known,) = ask("stores", "list", "--json").json
    assert (known["dir"], known["origin"], known["trusted"]) == (str(shed), "added", True)
    assert ask("stores", "forget", "shed") == Answer(0, "", f"forgot {shed}\n")
    assert ask("stores", "list", "--json").json == []
    assert (shed / ".agent-yes" / "store.sqlite").exists()
    answer = ask("stores", "forget", str(shed))
    assert (answer.code, answer.out) == (1, "")
    assert "is not in the registry; see: agent-yes-supervise stores list" in answer.err


def test_stores_forget_a_missing_one(project: Path, tmp_path: Path, ask: Ask) -> None:
    """A store whose directory is gone can still be forgotten."""
    shed = tmp_path / "shed"
    shed.mkdir()
    Original(shed).close()
    ask("stores", "add", str(shed))
    (shed / ".agent-yes").rename(tmp_path / "gone")
    shed.rmdir()
    assert "missing" in ask("stores", "list").out or "there is no" in ask("stores", "list").out
    assert ask("stores", "forget", str(shed)).code == 0


def test_stores_add_refuses_what_is_no_store(project: Path, tmp_path: Path, ask: Ask) -> None:
    """A directory without a store, one that does not exist, and a store that is a symbolic link are not added."""
    shed, linked = tmp_path / "shed", tmp_path / "linked"
    for directory in (shed, linked):
        directory.mkdir()
    Original(shed).close()
    (linked / ".agent-yes").symlink_to(shed / ".agent-yes")
    for directory, why in (
        (project, "there is no store in"),
        (tmp_path / "nowhere", "there is no"),
        (linked, "is a symbolic link"),
    ):
        answer = ask("stores", "add", str(directory))
        assert (answer.code, answer.out) == (1, "")
        assert why in answer.err
    assert ask("stores", "list", "--json").json == []


def test_stores_scan(project: Path, tmp_path: Path, ask: Ask) -> None:
    """``stores add --scan`` finds the stores below a folder without trusting them, and tells which were new."""
    for name in ("a", "deep/er/b", "node_modules/c"):
        (tmp_path / "code" / name).mkdir(parents=True)
        Original(tmp_path / "code" / name).close()
    ask("stores", "add", str(tmp_path / "code" / "a"))
    answer = ask("stores", "add", "--scan", str(tmp_path / "code"))
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.splitlines() == [
        f"added {tmp_path / 'code/deep/er/b'}",
        f"2 stores below {tmp_path / 'code'}, 1 of them new",
    ]
    found = {Path(one["dir"]).name: (one["origin"], one["trusted"]) for one in ask("stores", "list", "--json").json}
    assert found == {"a": ("added", True), "b": ("found", False)}
    assert ask("stores", "add", "--scan", str(project)).err == f"0 stores below {project}, 0 of them new\n"
    answer = ask("stores", "add", "--scan", str(tmp_path / "nowhere"))
    assert answer == Answer(
        1, "", f"agent-yes-supervise: there is no directory {tmp_path / 'nowhere'}; check the path\n"
    )


def test_runs_rm(shelf: dict[str, Path], ask: Ask) -> None:
    """``runs rm`` deletes ended runs, and rows whose process is dead, and says which."""
    assert ask("runs", "rm", "1", "project#2", "5", "1") == Answer(
        0, "", "deleted project#1\ndeleted project#2\ndeleted project#5\n"
    )
    assert rows(shelf["web"], "SELECT id FROM runs ORDER BY id") == [(3,), (4,)]
    ask("runs", "rm", "3")
    assert rows(shelf["web"], "SELECT count(*) FROM run_ending") == [(0,)]


@pytest.mark.parametrize("name", ["4", "api#1", "odd#1"])
def test_runs_rm_spares_what_may_run(shelf: dict[str, Path], ask: Ask, name: str) -> None:
    """A run that is alive, or of which that cannot be known, is deleted with ``--force`` only; else nothing is."""
    answer = ask("runs", "rm", "1", name)
    assert (answer.code, answer.out) == (1, "")
    assert "may still be running; end it first, or use --force" in answer.err
    assert rows(shelf["web"], "SELECT count(*) FROM runs") == [(5,)]
    assert ask("runs", "rm", "--force", name).code == 0
    assert ask("runs", "show", name).code == 1


def test_projects_rm(shelf: dict[str, Path], ask: Ask) -> None:
    """``projects rm`` wants ``--yes`` where nobody can be asked, and ``--force`` while a run may be alive."""
    answer = ask("projects", "rm", "project", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == ("agent-yes-supervise: one of its runs may still be running; end them first, or use --force\n")
    ask("runs", "rm", "4", "--force")
    answer = ask("projects", "rm", "project")
    assert answer.code == 1
    assert answer.err == (
        f"agent-yes-supervise: this deletes {shelf['web']} with the record of 4 runs; say so with --yes\n"
    )
    assert ask("projects", "rm", "project", "--yes") == Answer(0, "", f"deleted {shelf['web']}\n")
    assert rows(shelf["web"], "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM projects)") == [(0, 0)]
    assert ask("projects", "rm", "api", "--yes", "--force").code == 0


def test_projects_rm_minds_its_own_runs(project: Path, processes: Processes, ask: Ask) -> None:
    """A live run of another project in the same store is no reason to keep this one, and stays."""
    db.get_db(project)
    here, other = db.upsert_project(str(project), "claude"), db.upsert_project("/old/shed", "codex")
    db.update_run_status(db.create_run(dead_pid(), other.id).id, "completed", 0)
    db.create_run(processes.living().pid, here.id)
    assert ask("projects", "rm", "/old/shed", "--yes").code == 0
    assert ask("projects", "rm", ".", "--yes").code == 1
    assert rows(project, "SELECT dir FROM projects") == [(str(project),)]


@pytest.mark.parametrize(("typed", "code", "left"), [("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 0)])
def test_projects_rm_asks(project: Path, processes: Processes, typed: str, code: int, left: int) -> None:
    """On a terminal ``projects rm`` asks, and takes only yes for yes."""
    with Original(project) as original:
        original.create_run("x")
    execute(project, "UPDATE runs SET status = 'completed'")
    ours, theirs = pty.openpty()
    asking = processes.ours("projects", "rm", ".", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed.encode())
    said = b"".join(read_all(ours)).decode()
    os.close(ours)
    assert asking.wait(10) == code
    assert f"Delete {project} with the record of 1 run? [y/N]: " in said
    assert ("nothing has been deleted" in said) == bool(code)
    assert rows(project, "SELECT count(*) FROM projects") == [(left,)]


@pytest.fixture
def hostile(project: Path, tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project whose directory, command, prompt, arguments and evidence try to speak to the terminal."""
    name = HOSTILE.replace("\x00", "")
    directory = tmp_path / name
    directory.mkdir()
    monkeypatch.chdir(directory)
    db.get_db(directory)
    db.upsert_project(str(directory), HOSTILE, HOSTILE)
    db.upsert_project(HOSTILE, HOSTILE)
    db.create_run(processes.living().pid, 1, [HOSTILE])
    db.create_run(dead_pid(), 1, [HOSTILE])
    connection, _ = connections.open_for_writing(str(directory))
    begun = new_run(directory, stamp=stamp_of(os.getpid()), args=[HOSTILE], cli=HOSTILE, cwd=HOSTILE)
    recording.begin_run(connection, begun)
    evidence = {HOSTILE: HOSTILE, "nested": [HOSTILE, {HOSTILE: math_nonsense()}]}
    recording.finish_run(connection, begun, ending(Rank.OWNER, settled_by=HOSTILE, evidence=evidence))
    connection.execute("UPDATE runs SET ended_at = unixepoch() * 1000")
    connection.close()
    db.create_run(dead_pid(), 1)
    execute(directory, "INSERT INTO runs (pid, project_id, status, args) VALUES (x'1b5b324a', 1, x'1b5b324a', x'1b')")
    return directory


def math_nonsense() -> list[float]:
    """Return numbers that JSON does not have."""
    return [float("inf"), float("nan")]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_hostile_text_is_harmless(hostile: Path, ask: Ask, as_json: bool) -> None:
    """Nothing that stores or paths hold reaches the terminal as more than text, by any command or error."""
    shows = [("runs", "show", str(number)) for number in (1, 2, 3, 4, 5)]
    reading = [*LISTS, *shows, ("projects", "show")]
    writing = [
        ("projects", "show", HOSTILE.replace("\x00", "")),
        ("runs", "show", f"{HOSTILE}#1".replace("\x00", "")),
        ("runs", "show", HOSTILE),
        ("runs", "list", "--project", f"x{HOSTILE}".replace("\x00", "")),
        ("projects", "rm", "."),
        ("runs", "rm", "1"),
        ("runs", "rm", "3"),
        ("stores", "add", "."),
        ("stores", "add", "--scan", ".."),
        ("stores", "forget", "."),
        ("projects", "rm", ".", "--yes", "--force"),
    ]
    for words in [(*words, "--json") for words in reading] if as_json else reading + writing:
        answer = ask(*words)
        for text in (answer.out, answer.err):
            assert clean(text).replace("↵", "\n") == text.replace("↵", "\n"), words
        assert answer.code in (0, 1), words
        if as_json:
            assert answer.code == 0
            assert "evil" in json.dumps(answer.json)
        elif words in reading:
            assert "evil" in answer.out


@pytest.mark.parametrize(
    "words", [("ls",), ("runs", "list", "--all"), ("projects", "list"), ("stores", "list")], ids=" ".join
)
def test_hostile_text_keeps_its_line(hostile: Path, words: tuple[str, ...]) -> None:
    """On a terminal too, only our own colours are sent, and every row is one line that fits."""
    answer = on_terminal(*words)
    text = ANSI.sub("", answer.out)
    assert all(clean(line) == line and cell_len(line) <= 80 for line in text.splitlines())
    assert text.count("\n") == 1 + len(ask_json(*words))


def ask_json(*words: str) -> list[Any]:
    """Return what a command says of itself in JSON."""
    found: list[Any] = json.loads(run_ours(*words, "--json").stdout)
    return found


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_fit_the_terminal(shelf: dict[str, Path], columns: int) -> None:
    """On a terminal every line of a table fits, and names stay whole where there is room for them."""
    long = ["--append-system-prompt", "x" * 500, "你好" * 100]
    db.create_run(dead_pid(), 1, long)
    for words in (("ls",), ("projects", "list")):
        answer = on_terminal(*words, columns=columns)
        lines = ANSI.sub("", answer.out).splitlines()
        assert len(lines) > 2
        assert max(map(cell_len, lines)) <= columns
        assert columns < 80 or any("project" in line for line in lines)


def test_colour_is_for_terminals(shelf: dict[str, Path]) -> None:
    """Statuses are coloured on a terminal only, and not where NO_COLOR or a dumb terminal asks for none."""
    assert "\x1b[31mcrashed" in on_terminal("ls").out
    assert "\x1b[36mrunning" in on_terminal("ls").out
    assert "\x1b" not in on_terminal("ls", NO_COLOR="1").out
    assert "\x1b" not in on_terminal("ls", TERM="dumb").out
    assert "\x1b" not in run_ours("ls").stdout
    assert "\x1b" not in run_ours("ls", env={**os.environ, "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}).stdout


def test_reader_that_leaves(project: Path, processes: Processes) -> None:
    """A reader that takes one line and leaves, as head does, ends a long list quietly, as SIGPIPE would."""
    with Original(project) as original:
        original.connection.execute("BEGIN")
        for _ in range(300):
            original.create_run("x", args=json.dumps(["y" * 1000]))
        original.connection.execute("COMMIT")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # which drops the error
    for words in (("runs", "list", "--limit", "0"), ("runs", "list", "--json", "--limit", "0"), ("runs", "show", "1")):
        listing = processes.ours(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.read(1)
        listing.stdout.close()
        code, said = listing.wait(20), listing.stderr.read()
        assert code == 141 if words[1] == "list" else code in (0, 141)
        assert [line for line in said.splitlines() if "unknown" not in line and "more" not in line] == []


def snapshot(directories: list[Path]) -> list[tuple[str, int, bytes]]:
    """Return the files of some stores, with their times and bytes, but for what SQLite keeps beside them."""
    files = [file for directory in directories for file in sorted((directory / ".agent-yes").iterdir())]
    return [
        (str(file), file.stat().st_mtime_ns, file.read_bytes())
        for file in files
        if not file.name.endswith(("-wal", "-shm"))
    ]


def test_reading_changes_nothing(shelf: dict[str, Path], tmp_path: Path, ask: Ask) -> None:
    """Commands that show leave the stores as they are: bytes, times and rows, migrations and live WALs included."""
    db.close_db()
    names = ("bun-866ebbb", "node-866ebbb", "bun-cbaec88", "bun-866ebbb-wal")
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
        place(other.name, other)
        registry.add(str(other), registry.Origin.FOUND)
    directories = [*shelf.values(), *others]
    before, count = snapshot(directories), len(ask("runs", "list", "--all", "--limit", "0", "--json").json)
    shows = [("runs", "show", "."), ("runs", "show", "bun-866ebbb-wal#1"), ("projects", "show"), ("stores", "list")]
    for words in (*LISTS, *shows):
        for more in ((), ("--json",)):
            assert ask(*words, *more).code == 0
    assert snapshot(directories) == before
    assert len(ask("runs", "list", "--all", "--limit", "0", "--json").json) == count
    assert sum(rows(directory, "SELECT count(*) FROM runs")[0][0] for directory in directories) == count


def test_commands_work_as_installed(shelf: dict[str, Path]) -> None:
    """The command itself, as a process of its own and without a daemon, prints what the tests above see."""
    answer = run_ours("runs", "list", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [one["id"] for one in json.loads(answer.stdout)] == [5, 4, 2, 1, 3]
    ascii_only = run_ours("runs", "list", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ascii_only.returncode, len(ascii_only.stdout.splitlines())) == (0, 6)


def test_closed_and_full_outputs(project: Path, shelf: dict[str, Path]) -> None:
    """A closed stdout is no error; one that cannot be written is, in one line."""
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *COMMAND, "ls"], capture_output=True, text=True, check=False
    )
    assert closed.returncode == 0
    assert "Traceback" not in closed.stderr
    with open("/dev/full", "w", encoding="utf-8") as full:
        answer = subprocess.run([*COMMAND, "runs", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.count("No space left on device; free some space") == 1
    assert "Exception ignored" not in answer.stderr
