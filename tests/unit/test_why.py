"""Why a run ended, as a person is told: honest for every cause, and whatever a store holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from kit import Ask, Original, Processes, dead_pid
from nursery import linux
from stores import ending, execute, new_run

from supervisor.cli.output import clean
from supervisor.models import Cause, Ending, Rank, Run, RunDetail, RunProcess, RunStatus, Stamp
from supervisor.process.judge import State, Verdict
from supervisor.store import recording
from supervisor.store.supervision import SupervisedStore
from supervisor.why import Account, account_of, signal_text

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\r\n\x00evil"
ENDED = 1_795_500_000.25
LEFT = {"pid": 5, "name": "node x.js", "age": 1.5, "fate": "left"}
BY_OWN_WORDS = {
    Cause.EXITED: "it exited by itself",
    Cause.STOPPED: "it was stopped",
    Cause.KILLED: "it was killed",
    Cause.OOM_KILLED: "out of memory",
    Cause.SIGNALLED: "a signal ended it",
    Cause.TIMED_OUT: "longer than it was allowed to",
    Cause.STALLED: "did nothing for longer",
    Cause.LOST: "it is gone, nobody knows how",
    Cause.REBOOTED: "the machine was rebooted",
    Cause.PID_REUSED: "another process has its pid",
    Cause.UNRECORDED: "without recording that",
    Cause.NOT_STARTED: "it could not be started",
}
SESSION = "11111111-2222-4333-8444-555555555555"
SURE = {Rank.OWNER: "certain: recorded by", Rank.KERNEL: "certain: the kernel's", Rank.INFERENCE: "inferred: "}


@pytest.fixture(autouse=True)
def _in_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are told as in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def detail(
    status: RunStatus | None = RunStatus.CRASHED,
    *,
    code: int | None = None,
    settled: Ending | None = None,
    cli: str | None = "tool",
    directory: str | None = "/home/me/project",
    pid: int | None = 4711,
    args: list[str] | None = None,
    junk: dict[str, object] | None = None,
) -> RunDetail:
    """Return all that a store knows of a run; by default, of one that somebody else has called crashed."""
    found = Run(7, pid, 1, status, code, ENDED - 100, ENDED, args or [], junk or {})
    return RunDetail(found, directory, cli, None, settled)


def settled(cause: Cause = Cause.LOST, rank: Rank = Rank.KERNEL, **given: Any) -> RunDetail:
    """Return a run that has been settled so, as its row says too."""
    known = {name: given.pop(name) for name in ("cli", "directory", "args") if name in given}
    found = ending(rank, cause=cause, **{"ended_at": ENDED, "detected_at": ENDED + 0.01, **given})
    return detail(found.status, code=found.exit_code, settled=found, **known)


def with_process(found: RunDetail, added: list[str], *, cwd: str | None = None) -> RunDetail:
    """Return a run with what `wrap` has added to its arguments."""
    process = RunProcess(
        "token",
        found.cli,
        cwd,
        Stamp(None, None, None, None, None, 1, None, None, None),
        "wrap",
        1,
        1,
        args_added=tuple(added),
    )
    return replace(found, process=process)


def told(found: RunDetail, verdict: Verdict | None = None, *, name: str = "project#7") -> Account:
    """Return what is told of a run, which is always fit for a person."""
    account = account_of(found, verdict, name=name)
    assert account.what
    json.dumps(asdict(account))
    return account


# Every cause, and who says so.


@pytest.mark.parametrize("rank", Rank)
@pytest.mark.parametrize("cause", Cause)
def test_every_cause_by_everyones_word(cause: Cause, rank: Rank) -> None:
    """Each cause is told in words of its own, with how sure that is, by whom, and what to do next."""
    account = told(settled(cause, rank, settled_by="daemon"))
    assert account.what.startswith("project#7 (tool) crashed: ")
    assert BY_OWN_WORDS[cause] in account.what
    assert account.sure.startswith(SURE[rank])
    assert account.evidence == ["settled by daemon"]
    assert account.exit == "exit status unknown"
    assert account.cause.endswith(".")
    assert account.next


def test_every_cause_differs() -> None:
    """No two causes are told alike."""
    accounts = [told(settled(cause)) for cause in Cause]
    assert len({account.what for account in accounts}) == len({account.cause for account in accounts}) == len(Cause)
    assert BY_OWN_WORDS.keys() == set(Cause)


@pytest.mark.parametrize(
    ("status", "word"),
    [(RunStatus.COMPLETED, "completed"), (RunStatus.FAILED, "failed"), (RunStatus.CRASHED, "crashed")],
)
def test_the_status_is_told(status: RunStatus, word: str) -> None:
    """The first sentence says whether the run was completed, failed or crashed."""
    assert told(settled(Cause.EXITED, status=status, exit_code=3)).what.startswith(f"project#7 (tool) {word}: ")


@pytest.mark.parametrize(
    ("late", "text"),
    [(0, "known at once"), (0.04, "known at once"), (0.3, "known 0.3 s later"), (61, "known 61.0 s later")],
)
def test_when_and_how_late_it_was_known(late: float, text: str) -> None:
    """The moment of death is told to the millisecond, and how much later it was known."""
    account = told(settled(Cause.KILLED, detected_at=ENDED + late))
    assert account.when == f"2026-11-24 06:00:00.250, {text}"


@pytest.mark.parametrize("milliseconds", [0, 1, 123, 999])
def test_milliseconds_are_told_as_stored(milliseconds: int) -> None:
    """A stored moment loses nothing on its way to the reader."""
    stored = (1_795_500_000_000 + milliseconds) / 1000
    assert f":00.{milliseconds:03d}," in told(settled(Cause.KILLED, ended_at=stored, detected_at=stored)).when


def test_an_inferred_end_has_no_moment() -> None:
    """Nobody knows when a run ended that was found gone."""
    account = told(settled(Cause.LOST, Rank.INFERENCE, detected_at=ENDED))
    assert account.when == "noticed 2026-11-24 06:00:00.250; it ended before that"


@pytest.mark.parametrize("moment", [0.0, -1e10, 2.5e11, 1e17, float("nan"), float("inf")])
def test_impossible_moments(moment: float) -> None:
    """A moment that no calendar has is told as a number."""
    account = told(settled(Cause.LOST, ended_at=moment, detected_at=moment))
    assert account.when


# Signals.


@pytest.mark.parametrize("number", range(1, 65))
def test_every_signal_by_name_and_meaning(number: int) -> None:
    """Each signal is told by its name, number and meaning, as far as it has them."""
    text = signal_text(number)
    assert f", signal {number}" in text
    try:
        assert text.startswith(f"{signal.Signals(number).name}, ")
    except ValueError:
        assert text.startswith("a real-time signal, ")
    meaning = signal.strsignal(number)
    assert meaning is None or text.endswith(f"({meaning})")


@pytest.mark.parametrize("number", [0, -1, 65, 1000, 10**30])
def test_numbers_that_are_no_signals(number: int) -> None:
    """A store may say that any number was the signal."""
    assert signal_text(number) == f"an unknown signal, signal {number}"


@pytest.mark.parametrize(
    ("number", "code", "core", "text"),
    [
        (11, 139, True, "ended by SIGSEGV, signal 11 (Segmentation fault) and dumped core; a shell shows 139"),
        (9, 137, False, "ended by SIGKILL, signal 9 (Killed); a shell shows 137"),
        (35, 163, None, "ended by a real-time signal, signal 35 (Real-time signal 1); a shell shows 163"),
        (9, None, None, "ended by SIGKILL, signal 9 (Killed)"),
        (None, 3, None, "exit code 3"),
        (None, 0, None, "exit code 0"),
        (None, None, None, "exit status unknown"),
    ],
)
def test_the_exit(number: int | None, code: int | None, core: bool | None, text: str) -> None:
    """The exit is told as the kernel gave it, and as a shell shows it."""
    assert told(settled(term_signal=number, exit_code=code, core_dumped=core)).exit == text


# Evidence.

CERTAIN = {"certain": True, "counter": "/sys/fs/cgroup/a: oom_kill", "before": 2, "after": 3}
PROBABLE = {**CERTAIN, "certain": False, "counter": "/proc/vmstat: oom_kill"}


def test_out_of_memory_for_certain() -> None:
    """With its own group's counter risen, memory was the reason, and the counter is shown."""
    account = told(settled(Cause.OOM_KILLED, term_signal=9, exit_code=137, evidence={"oom": CERTAIN}))
    assert account.evidence[0] == "/sys/fs/cgroup/a: oom_kill rose from 2 to 3 while it died"
    assert account.cause == "The kernel ran out of memory and killed it."
    assert "probab" not in " ".join([account.what, account.cause, account.sure])
    assert "memory" in account.next[0]


@pytest.mark.parametrize("oom", [PROBABLE, {}, None, "x", {"certain": "yes"}])
def test_out_of_memory_probably(oom: object) -> None:
    """With only the machine's counter risen, or with none that is known, it is said to be probable."""
    account = told(settled(Cause.OOM_KILLED, evidence={} if oom is None else {"oom": oom}))
    assert "probably" in account.cause
    assert "only probable" in account.sure


def test_memory_is_no_matter_where_somebody_asked() -> None:
    """A run that was asked to end is as sure as any, even if memory ran short."""
    account = told(settled(Cause.STOPPED, evidence={"oom": PROBABLE, "asked_by": "me (0), pid 5", "asked_for": "kill"}))
    assert account.sure == told(settled(Cause.STOPPED)).sure
    assert "it was asked to end by me (0), pid 5" in account.evidence
    assert "the request was: kill" in account.evidence


@pytest.mark.parametrize(
    ("evidence", "term_signal", "text"),
    [
        ({}, 15, "nothing shows who sent it"),
        ({}, 13, "nobody read any more"),
        ({"asked_by": "me"}, 15, "asked it to end"),
        ({"asked_by": "me", "shutdown": True, "terminal_gone": "x"}, 1, "asked it to end"),
        ({"shutdown": True}, 15, "being shut down"),
        ({"terminal_gone": "/dev/pts/1"}, 1, "terminal was closed"),
        ({"session_gone": "/s/session-1.scope"}, 15, "session ended"),
        ({"terminal_gone": "/dev/pts/1", "session_gone": "/s/session-1.scope"}, 1, "terminal was closed"),
    ],
)
def test_who_stopped_it(evidence: dict[str, object], term_signal: int, text: str) -> None:
    """Who stopped a run is said where it is known, and else that it is not."""
    assert text in told(settled(Cause.STOPPED, term_signal=term_signal, evidence=evidence)).cause


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("source", "pidfd exit info", "its end was read from: pidfd exit info"),
        ("bound", "F15", "known by this: it is the very process that was recorded"),
        ("bound", "F99", "bound: F99"),
        ("line", "F7", "judged by line F7"),
        ("reason", "there is no such process", "there is no such process"),
        ("terminal_gone", "/dev/pts/3", "its terminal, /dev/pts/3, has been closed"),
        ("session_gone", "/s/session-3.scope", "its login session, /s/session-3.scope, has ended"),
        ("shutdown", True, "being shut down"),
        ("suspended_seconds", 60, "slept for 60 s"),
        ("clock_stepped_seconds", -3600, "set by -3600 s"),
        ("error", "ENOENT", "the system said: ENOENT"),
        ("left", [LEFT, {**LEFT, "fate": "kept"}], "it left processes behind: 5 node x.js (left), 5 node x.js (kept)"),
        ("left", [LEFT, {"pid": 5}], "left: [{"),
        ("left", [LEFT, 7], "left: [{"),
        ("left", "many", "left: many"),
        ("left_more", 3, "and 3 more"),
        ("phase_of_the_moon", "full", "phase_of_the_moon: full"),
        ("weight", 3.5, "weight: 3.5"),
        ("nothing", None, "nothing: None"),
        ("list", [1, 2], "list: [1, 2]"),
        ("source", {"deep": "x"}, "source: {'deep': 'x'}"),
        ("shutdown", None, "shutdown: None"),
        ("oom", "yes", "oom: yes"),
        ("oom", {"counter": "x"}, "oom: {'counter': 'x'}"),
        ("", "x", "x"),
        ("error", "{value} {0} {x.y}", "the system said: {value} {0} {x.y}"),
    ],
)
def test_each_piece_of_evidence(name: str, value: object, text: str) -> None:
    """Known evidence is told in a sentence, unknown and broken pieces as they are."""
    first, last = told(settled(evidence={name: value})).evidence
    assert text in first
    assert last == "settled by test"


def test_books_of_evidence() -> None:
    """However much a store holds, what is told fits a screen, and says that there is more."""
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"x": deep, "y": ["z" * 1000] * 100}
    found = {f"{number}": "x" * 100_000 for number in range(1000)}
    account = told(settled(evidence={"deep": deep, "reason": "r" * 100_000, **found}, settled_by="s" * 10_000))
    assert len(account.evidence) == 52
    assert account.evidence[-2] == "and 952 more pieces: see --json"
    assert all(len(piece) <= 600 for piece in account.evidence)
    assert account.evidence[1].endswith("…")


# Runs that are not settled, or no longer so.

ALIVE = Verdict(State.ALIVE, "F15", "it is the very process that was recorded", bind=True)
DEAD = Verdict(State.DEAD, "F7", "there is no such process", Cause.LOST)
UNKNOWN = Verdict(State.UNKNOWN, "F8", "there is no such process here, but it may be in another PID namespace")


def test_a_run_that_runs() -> None:
    """Of a living run it is said that it runs, and how that is known."""
    account = told(detail(RunStatus.RUNNING), ALIVE)
    assert account.what == "project#7 (tool) has not ended: it runs."
    assert account.sure == "pid 4711: it is the very process that was recorded"
    assert account.next == []
    assert told(detail(RunStatus.RUNNING)).what == account.what, "written after the look"


def test_a_run_that_is_dead_and_not_settled() -> None:
    """Of a dead one it is said that nobody has recorded that, and how to."""
    account = told(detail(RunStatus.RUNNING), DEAD)
    assert "has ended, and that is not recorded yet" in account.what
    assert account.evidence == ["pid 4711: there is no such process"]
    assert "agent-yes-supervise scan" in account.next[0]


def test_a_run_that_nobody_can_judge() -> None:
    """Where nothing is known, that is said, with what was checked; never a crash."""
    account = told(detail(RunStatus.RUNNING), UNKNOWN)
    assert account.what == f"Unknown; checked: {UNKNOWN.reason}."
    assert account.evidence == ["pid 4711"]
    assert "never called crashed" in account.sure
    assert account.next[0].endswith("agent-yes-supervise runs rm --force 'project#7'")


@pytest.mark.parametrize("junk", ["12; rm -rf /", b"\x00\xff", 1.5, "x" * 100_000])
@pytest.mark.parametrize("verdict", [ALIVE, DEAD, UNKNOWN])
def test_a_pid_that_is_none(junk: object, verdict: Verdict) -> None:
    """Junk in the place of a pid is shown as what it is, in so many characters."""
    account = told(detail(RunStatus.RUNNING, pid=None, junk={"pid": junk}), verdict)
    shown = " ".join([*account.evidence, account.sure])
    assert repr(junk)[:10] in shown
    assert len(shown) < 1000


@pytest.mark.parametrize("name", ["my project#7", "x; rm -rf ~#7", "$(evil)#7", "it's#7"])
def test_a_name_that_a_shell_would_obey(name: str) -> None:
    """What is offered to be pasted is quoted: projects may have any name."""
    account = told(detail(RunStatus.RUNNING), UNKNOWN, name=name)
    assert shlex.split(account.next[0].partition("gone: ")[2]) == ["agent-yes-supervise", "runs", "rm", "--force", name]


def test_a_run_that_only_its_owner_knows() -> None:
    """Of a run that the original module has ended, the row's word is all there is."""
    account = told(detail(RunStatus.FAILED, code=3))
    assert account.what == "project#7 (tool) ended: failed, with exit code 3."
    assert account.when == "2026-11-24 06:00:00.250"
    assert account.cause == "Its owner recorded this, and no more."
    assert account.evidence == []
    assert "without an exit code" in told(detail(RunStatus.COMPLETED)).what
    assert told(detail(RunStatus.COMPLETED)).next == []


def test_a_run_that_its_owner_has_overwritten() -> None:
    """The owner has the last word; what was settled before is evidence."""
    found = detail(RunStatus.COMPLETED, code=0, settled=ending(Rank.KERNEL, cause=Cause.KILLED, settled_by="daemon"))
    account = told(found)
    assert account.what == "project#7 (tool) ended: completed, with exit code 0."
    assert account.evidence == ["before that, daemon had settled it: crashed, killed"]
    assert account.sure == "as sure as its owner was"


def test_a_row_without_a_status() -> None:
    """A row whose status is junk says nothing: neither that it runs nor that it has ended."""
    account = told(detail(None, junk={"status": "ended?", "exit_code": "x"}))
    assert "nobody can say whether it has ended" in account.what
    assert account.evidence == ["its row holds junk for status: 'ended?'", "its row holds junk for exit_code: 'x'"]
    assert account.next == []


def test_a_row_of_junk() -> None:
    """Whatever a row holds, there is an account of it."""
    junk = dict.fromkeys(("pid", "status", "exit_code", "started_at", "ended_at", "args"), b"\xff" * 100_000)
    found = Run(7, None, None, None, None, None, None, [], junk)
    account = told(RunDetail(found, None, None, None, None))
    assert account.what.startswith("project#7 (an unknown command)")
    assert len(account.evidence) == len(junk)
    assert all(len(piece) <= 600 for piece in account.evidence)


def test_a_command_like_a_book() -> None:
    """A command without end does not fill the screen."""
    assert len(told(settled(cli="x" * 100_000)).what) < 1000


# What to do next.


@pytest.mark.parametrize(
    ("cli", "words"),
    [
        ("claude", "claude --continue"),
        ("/usr/local/bin/claude", "/usr/local/bin/claude --continue"),
        ("codex", "codex resume --last"),
        ("gemini", "gemini --resume latest"),
        ("qwen", "qwen --continue"),
        ("copilot", "copilot --continue"),
        ("opencode", "opencode --continue"),
        ("kilo", "kilo --continue"),
        ("pi", "pi --continue"),
    ],
)
def test_how_an_agent_goes_on(cli: str, words: str) -> None:
    """An agent that keeps its conversations goes on by its own arguments, whatever it was started with."""
    account = told(settled(Cause.KILLED, cli=cli, args=["-p", "hello"]))
    expected = f"go on with its conversation: cd /home/me/project && agent-yes-supervise wrap {words}"
    assert account.next[-1] == expected


@pytest.mark.parametrize(
    ("cli", "added", "words"),
    [
        ("claude", ["--session-id", SESSION], f"claude --resume {SESSION}"),
        ("/opt/claude", ["--resume", SESSION], f"/opt/claude --resume {SESSION}"),
        ("codex", ["resume", SESSION], f"codex resume {SESSION}"),
        ("codex", ["resume", "--last"], "codex resume --last"),
        ("gemini", ["--session-id", SESSION], f"gemini --resume {SESSION}"),
        ("qwen", ["--session-id", SESSION], f"qwen --resume {SESSION}"),
        ("copilot", ["--session-id", SESSION], f"copilot --session-id {SESSION}"),
        (
            "opencode",
            ["--session", "ses_df7505de5ffe2ScIr4zDko5CQD"],
            "opencode --session ses_df7505de5ffe2ScIr4zDko5CQD",
        ),
        ("pi", ["--session", "/home/me/a b.jsonl"], "pi --session '/home/me/a b.jsonl'"),
        ("claude", ["--session-id"], "claude --continue"),
        ("claude", ["--session-id", "$(evil)"], "claude --continue"),
        ("claude", ["--session-id", "--dangerously-skip-permissions"], "claude --continue"),
        ("pi", ["--session", "/home/\x1b[2J.jsonl"], "pi --continue"),
    ],
)
def test_which_conversation_an_agent_goes_on_with(cli: str, added: list[str], words: str) -> None:
    """Where `wrap` has added the id of a conversation that very one is named, and never anything else."""
    account = told(with_process(settled(Cause.KILLED, cli=cli, args=["-p", "hello"]), added))
    assert account.next[-1] == (f"go on with its conversation: cd /home/me/project && agent-yes-supervise wrap {words}")


def test_the_conversation_that_was_asked_for() -> None:
    """An id that the person gave is as good as one that was added."""
    account = told(settled(Cause.KILLED, cli="claude", args=["--resume", SESSION]))
    assert account.next[-1].endswith(f"wrap claude --resume {SESSION}")


def test_where_an_agent_goes_on() -> None:
    """Conversations belong to the directory that the agent worked in, which need not be that of its store."""
    found = with_process(settled(Cause.KILLED, cli="claude"), ["--session-id", SESSION], cwd="/home/me/else where")
    assert told(found).next[-1] == (
        "go on with its conversation: cd '/home/me/else where'"
        f" && agent-yes-supervise wrap --project /home/me/project claude --resume {SESSION}"
    )


@pytest.mark.parametrize("stored", ["junk", "{}", "[1]", "7", "[" * 9999, json.dumps(["--session-id", SESSION])])
def test_what_was_added_as_stored(project: Path, stored: str) -> None:
    """What a store says was added is read as far as it makes sense."""
    with SupervisedStore(str(project)) as store:
        run_id = recording.begin_run(store.connection, new_run(project, args=[]))
        store.connection.execute("UPDATE run_process SET args_added = ? WHERE run_id = ?", (stored, run_id))
        (found,) = store.details(run_id=run_id)
    assert found.process is not None
    assert list(found.process.args_added) == (["--session-id", SESSION] if SESSION in stored else [])


def test_how_a_command_starts_again() -> None:
    """Any other command starts again as it was typed, quoted for a shell, whatever it looks like."""
    account = told(settled(cli="./run me", directory="/home/me/my $project", args=["a b", "$(evil)", "-x", ""]))
    where, _, again = account.next[-1].partition(": ")[2].partition(" && ")
    assert shlex.split(where) == ["cd", "/home/me/my $project"]
    assert shlex.split(again) == ["agent-yes-supervise", "wrap", "./run me", "a b", "$(evil)", "-x", ""]


def test_a_command_that_looks_like_an_option() -> None:
    """A stored command is never taken for an option of wrap."""
    again = told(settled(cli="--default", args=["x"])).next[-1].partition(" && ")[2]
    assert shlex.split(again) == ["agent-yes-supervise", "wrap", "--", "--default", "x"]


def test_what_cannot_be_started_again_is_not_offered() -> None:
    """Without a command, a directory or readable arguments there is nothing to offer; nor is there for a success."""
    assert not any("wrap" in step for step in told(detail(cli=None)).next)
    assert not any("wrap" in step for step in told(detail(directory=None)).next)
    assert not any("wrap" in step for step in told(detail(junk={"args": "{broken"})).next)
    assert any("--continue" in step for step in told(detail(cli="claude", junk={"args": "{broken"})).next)
    assert told(settled(Cause.EXITED, status=RunStatus.COMPLETED, exit_code=0)).next == []
    assert [step for step in told(settled(Cause.NOT_STARTED)).next if "wrap" in step] == []


@pytest.mark.parametrize(
    ("cause", "given", "text"),
    [
        (Cause.KILLED, {}, f"journalctl --since @{int(ENDED) - 60} --until @{int(ENDED) + 60}"),
        (Cause.SIGNALLED, {"core_dumped": True}, "core dump"),
        (Cause.LOST, {}, "under wrap"),
        (Cause.PID_REUSED, {}, "under wrap"),
        (Cause.NOT_STARTED, {}, "on PATH"),
    ],
)
def test_what_helps_with_each_cause(cause: Cause, given: dict[str, Any], text: str) -> None:
    """The first step is the one that the cause asks for, at the time in question."""
    assert text in told(settled(cause, **given)).next[0]


def test_no_core_no_hint() -> None:
    """Where no core was dumped, nobody is sent to look for one."""
    assert not any("core" in step for step in told(settled(Cause.SIGNALLED, core_dumped=False)).next)


# The command.


def settle(project: Path, found: Ending, **of: Any) -> None:
    """Record a wrapped run that ended so."""
    with SupervisedStore(str(project)) as store:
        recording.finish_run(store.connection, new_run(project, **of), found)


KILLED = ending(
    Rank.OWNER,
    cause=Cause.OOM_KILLED,
    exit_code=137,
    term_signal=9,
    core_dumped=False,
    ended_at=ENDED,
    detected_at=ENDED,
    settled_by="wrap",
    evidence={"source": "waitpid", "oom": CERTAIN},
)


def test_the_command_tells_it(project: Path, ask: Ask) -> None:
    """``why`` tells what ended, when, how, for what cause, with which evidence, how sure that is, and what to do."""
    settle(project, KILLED)
    answer = ask("why", "1")
    assert (answer.code, answer.err) == (0, "")
    first, empty, *lines = answer.out.splitlines()
    assert (first, empty) == ("project#1 (claude) crashed: out of memory.", "")
    names = [line.split("  ")[0] for line in lines]
    assert names == ["when", "exit", "cause", "evidence", "", "", "how sure", "next", ""]
    assert all(line[9] == " " and line[10] != " " for line in lines), "the values stand in one column"
    assert "/sys/fs/cgroup/a: oom_kill rose from 2 to 3 while it died" in answer.out
    assert "wrap claude --continue" in lines[-1]


RUN_KEYS = {
    *("args_added", "resumed_from"),
    *("id", "pid", "project_id", "status", "exit_code", "started_at", "ended_at", "args", "dir", "store", "cli"),
    *("cwd", "owner_pid", "cause", "term_signal", "core_dumped", "rank", "settled_by", "detected_at", "evidence"),
    *("overwritten", "verdict", "reason", "junk"),
}


def test_the_command_as_json(project: Path, ask: Ask) -> None:
    """As JSON there is the run with the keys of every list, and the account as the text has it."""
    settle(project, KILLED)
    answer = ask("why", "1", "--json")
    found = json.loads(answer.out)
    assert found.keys() == {*RUN_KEYS, "why"}
    logged = {"last_output": None, "last_errors": None}
    assert found["why"].keys() == {*(field.name for field in fields(Account)), *logged}
    assert found["why"].keys() == {"what", "when", "exit", "cause", "evidence", "sure", "next", *logged}
    assert {name: found["why"][name] for name in logged} == logged
    assert (found["cause"], found["evidence"]["oom"]) == ("oom-killed", CERTAIN)
    assert found["why"]["what"] in ask("why", "1").out


def test_what_a_store_holds_does_not_reach_the_terminal(project: Path, ask: Ask) -> None:
    """Control characters in any text of a store are shown as marks, each line stays one, and JSON escapes them."""
    evidence = {"asked_by": HOSTILE, "error": HOSTILE, HOSTILE: HOSTILE, "deep": [HOSTILE], "oom": {"certain": HOSTILE}}
    found = ending(Rank.OWNER, cause=Cause.STOPPED, settled_by=HOSTILE, evidence=evidence)
    settle(project, found, cli=HOSTILE, args=[HOSTILE])
    answer = ask("why", "1")
    assert answer.code == 0
    assert "evil" in answer.out
    assert clean(answer.out.replace("\n", "")) == answer.out.replace("\n", "")
    assert len(answer.out.splitlines()) == 13
    as_json = ask("why", "1", "--json").out
    assert clean(as_json.rstrip("\n")) == as_json.rstrip("\n")
    assert json.loads(as_json)["evidence"]["asked_by"] == HOSTILE


@pytest.mark.parametrize(
    "evidence",
    [
        *("{", "[]", "5", "null", '{"oom": 5}', '{"oom": {}}', '{"source": null}', '{"bound": [' * 500, "[" * 100_000),
        *('{"x": 1e400, "y": NaN}', '{"shutdown": {"value": 1}}', '{"oom": {"counter": {}, "before": [], "after": 0}}'),
        '{"deep": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_broken_evidence(project: Path, ask: Ask, evidence: str) -> None:
    """Evidence that a stranger's store ships, whatever it is, spoils nothing else."""
    settle(project, KILLED)
    execute(project, f"UPDATE run_ending SET evidence = '{evidence}'")
    answer = ask("why", "1")
    assert (answer.code, answer.err) == (0, "")
    assert "out of memory" in answer.out
    assert json.loads(ask("why", "1", "--json").out)["why"]["what"]


@pytest.mark.parametrize(
    "change",
    [
        *("status = 'x'", "status = 5", "status = x'ff'", "pid = 'x'", "pid = -5", "exit_code = 'x'", "ended_at = 'x'"),
        *("ended_at = 1e300", "started_at = x'00'", "args = '{'", "project_id = 99"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_broken_rows(project: Path, ask: Ask, change: str, running: bool) -> None:
    """A row that anybody could have written is told about, ended or not."""
    settle(project, KILLED)
    if running:
        execute(project, "DELETE FROM run_ending", "UPDATE runs SET status = 'running', exit_code = NULL")
    execute(project, "PRAGMA foreign_keys = OFF", f"UPDATE runs SET {change}")
    answer = ask("why", "1")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out


def test_a_run_that_is_not_there(project: Path, ask: Ask) -> None:
    """A word that names no run is the user's error, in one line."""
    settle(project, KILLED)
    answer = ask("why", "99")
    assert (answer.code, answer.out) == (1, "")
    assert re.fullmatch(r"agent-yes-supervise: there is no run 99 in .*; see: .*\n", answer.err)


@linux
def test_real_runs_that_have_not_ended(project: Path, ask: Ask, processes: Processes) -> None:
    """Of running rows the truth of this moment is told: it runs, it is gone, or nobody can say."""
    with Original(project) as original:
        alive = original.create_run(processes.living().pid)
        dead = original.create_run(dead_pid())
        unknown = original.create_run(1)
    assert "has not ended: it runs." in ask("why", str(alive)).out
    assert "has ended, and that is not recorded yet" in ask("why", str(dead)).out
    assert ask("why", str(unknown)).out.startswith("Unknown; checked: its pid is that of init or of ourselves.\n")
    assert json.loads(ask("why", str(alive), "--json").out)["verdict"] == "alive"


def test_the_newest_by_a_dot(project: Path, ask: Ask) -> None:
    """A dot names the newest run of the project that one stands in."""
    settle(project, KILLED)
    settle(project, ending(Rank.OWNER, cause=Cause.KILLED), token="t2", pid=4999002)  # noqa: S106  no password
    assert "project#2 (claude) crashed: it was killed." in ask("why", ".").out
    assert os.path.basename(os.getcwd()) == "project"
