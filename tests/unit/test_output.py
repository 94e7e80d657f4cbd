"""What is shown of runs, projects and times: harmless text, strict JSON of stable keys, few words, tables that fit."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from stores import ending, stamp

from supervisor.cli import output, texts
from supervisor.cli.table import print_table
from supervisor.models import Cause, Project, ProjectSummary, Rank, Run, RunDetail, RunProcess, RunStatus, Stamp
from supervisor.process.judge import State, Verdict
from supervisor.views import ProjectView, RunView

MARK = "\N{REPLACEMENT CHARACTER}"
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HOSTILE = f"\x1b]0;owned\x07\x1b[2J\x9b31m\x7f{BIDI}\u2028\u2029\x00\ud800"
DAY = 86_400


def view(*, verdict: Verdict | None = None, detail: dict[str, Any] | None = None, **fields: Any) -> RunView:
    """Return a run to show; by default, one that has completed."""
    run: dict[str, Any] = {
        "id": 7,
        "pid": 4242,
        "project_id": 1,
        "status": RunStatus.COMPLETED,
        "exit_code": 0,
        "started_at": 1_795_500_000,
        "ended_at": 1_795_500_090.25,
        "args": ["-p", "it's done"],
    }
    more = {"dir": "/srv/web", "cli": "claude", "process": None, "ending": None, **(detail or {})}
    return RunView("/srv/web", "web", RunDetail(Run(**{**run, **fields}), **more), verdict)


def of_state(state: State) -> Verdict:
    """Return a verdict."""
    return Verdict(state, "F0", "for a reason")


def printed(monkeypatch: pytest.MonkeyPatch, data: object, encoding: str = "utf-8") -> str:
    """Return what `output.print_json` writes, as a stdout of that encoding gives it on."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    output.print_json(data)
    stream.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    "character", [chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), *map(ord, BIDI))], ids=ascii
)
def test_clean_marks_what_a_terminal_would_obey(character: str) -> None:
    """Control characters of ASCII (C0, DEL) and Latin-1 (C1), and those that turn text around, leave a mark."""
    assert output.clean(f"a{character}b") == f"a{MARK}b"


def test_clean_keeps_text_on_one_line() -> None:
    """Newlines are shown as an arrow and tabs as spaces; other breaks of lines leave a mark."""
    assert output.clean("a\nb\tc") == "a\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}b c"
    assert output.clean("a\rb\vc\fd\x85e\u2028f\u2029g") == MARK.join("abcdefg")


def test_clean_keeps_the_rest() -> None:
    """Text of every script, emoji and combining characters are left as they are; lone surrogates are not text."""
    text = "grüße 你好 שלום 🚀 e\u0301 \\x1b"
    assert output.clean(text) == text
    assert output.clean("\ud800\udcff") == MARK * 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1", "cp1252"])
def test_json_is_valid_whatever_text_holds(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """JSON gives back any text unchanged, in every encoding of stdout, without a character that a terminal obeys."""
    data = {"text": HOSTILE, "lines": "a\nb\tc", "scripts": "grüße 你好 🚀", "\x1bkey\u202e": ["\udcff"]}
    text = printed(monkeypatch, data, encoding)
    assert json.loads(text) == data
    assert output.clean(text.rstrip("\n")) == text.rstrip("\n")


def test_json_keeps_scripts_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout can show them, letters of other scripts are not escaped."""
    assert printed(monkeypatch, ["grüße 你好"]) == '["grüße 你好"]\n'


def test_json_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """What JSON does not have, infinities and endless nesting, is given as text."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    strict: Callable[[str], object] = pytest.fail
    text = printed(monkeypatch, {"numbers": [math.inf, -math.inf, math.nan, 1.5, 10**30], "deep": deep})
    found = json.loads(text, parse_constant=strict)
    assert found["numbers"] == ["inf", "-inf", "nan", 1.5, 10**30]
    assert "…" in text


def test_json_of_a_run_has_stable_keys() -> None:
    """A run's JSON begins with the columns of its table and has every key whether or not its value is known."""
    columns = "id pid project_id status exit_code started_at ended_at args"
    process = "dir store cli cwd args_added resumed_from owner_pid"
    end = "cause term_signal core_dumped rank settled_by detected_at evidence overwritten verdict reason junk"
    keys = f"{columns} {process} {end}".split()
    assert list(output.run_as_json(view())) == keys
    assert list(output.run_as_json(view(verdict=of_state(State.ALIVE), detail={"ending": ending()}))) == keys


def test_json_of_a_run() -> None:
    """A run's JSON gives times in seconds with their fraction, and null for what is not known."""
    found = output.run_as_json(view())
    assert (found["started_at"], found["ended_at"]) == (1_795_500_000, 1_795_500_090.25)
    assert (found["status"], found["exit_code"], found["args"]) == ("completed", 0, ["-p", "it's done"])
    assert (found["dir"], found["store"], found["cli"]) == ("/srv/web", "/srv/web", "claude")
    process = "cwd args_added resumed_from owner_pid"
    unknown = f"{process} cause term_signal core_dumped rank settled_by detected_at evidence verdict reason junk"
    assert [found[key] for key in unknown.split()] == [None] * 14
    assert found["overwritten"] is False


def test_json_of_a_settled_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settled run's JSON says why it ended, who says so, and what shows it."""
    fields: dict[str, Any] = {"status": RunStatus.CRASHED, "exit_code": 137, "cause": Cause.OOM_KILLED}
    end = ending(Rank.KERNEL, term_signal=9, core_dumped=False, evidence={"oom_kill": [2, None]}, **fields)
    found = json.loads(
        printed(monkeypatch, output.run_as_json(view(status=RunStatus.CRASHED, exit_code=137, detail={"ending": end})))
    )
    assert (found["cause"], found["term_signal"], found["core_dumped"]) == ("oom-killed", 9, False)
    assert (found["rank"], found["settled_by"], found["evidence"]) == ("kernel", "test", {"oom_kill": [2, None]})
    assert found["overwritten"] is False


def test_json_of_junk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a column holds that is not of its kind is given beside it, bytes and infinities too."""
    junk = {"pid": b"\xff", "status": b"\x1b[2J", "exit_code": math.inf, "args": "[broken"}
    shown = view(pid=None, status=None, exit_code=None, args=[], junk=junk)
    found = json.loads(printed(monkeypatch, output.run_as_json(shown)))
    assert (found["pid"], found["exit_code"], found["args"]) == (None, None, [])
    assert found["status"] == "b'\\x1b[2J'"
    assert found["junk"] == {"pid": "b'\\xff'", "status": "b'\\x1b[2J'", "exit_code": "inf", "args": "[broken"}


def test_json_of_a_project() -> None:
    """A project's JSON begins with the columns of its table and has every status among its counts."""
    project = Project(3, "/srv/web", "claude", None, 1.0, 2.0, None)
    found = output.project_as_json(ProjectView("/srv/web", ProjectSummary(project, {"completed": 3, "failed": 1}), 0))
    keys = "id dir cmd prompt created_at updated_at last_run_at store runs counts unsettled success_rate junk"
    assert list(found) == keys.split()
    assert found["counts"] == {"running": 0, "completed": 3, "failed": 1, "crashed": 0}
    assert (found["runs"], found["success_rate"], found["last_run_at"], found["junk"]) == (4, 0.75, None, None)


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        (None, "running"),
        (of_state(State.ALIVE), "running"),
        (of_state(State.DEAD), "dead"),
        (of_state(State.UNKNOWN), "unknown"),
    ],
)
def test_status_of_a_running_row(verdict: Verdict | None, shown: str) -> None:
    """A row that says running is shown as what is known of its process: running, dead or unknown."""
    running = view(status=RunStatus.RUNNING, exit_code=None, ended_at=None, verdict=verdict)
    assert texts.status_text(running) == shown


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CRASHED])
def test_status_of_an_ended_row(status: RunStatus) -> None:
    """A row that has ended is shown as it says."""
    assert texts.status_text(view(status=status)) == status.value


def test_junk_is_shown_as_such() -> None:
    """A status, a pid, an exit code or arguments of no kind we know are named junk, and cut where they are long."""
    junk = {"status": "paused", "pid": 1.5, "exit_code": b"\x00", "args": "[broken"}
    shown = view(status=None, pid=None, exit_code=None, args=[], junk=junk)
    assert texts.status_text(shown) == 'junk: "paused"'
    assert texts.pid_text(shown) == "junk: 1.5"
    assert texts.exit_text(shown) == "junk: b'\\x00'"
    assert texts.command_text(shown) == "claude (junk: [broken)"
    assert len(texts.status_text(view(status=None, junk={"status": "x" * 9999}))) < 40


def test_command_is_shown_as_it_is_typed() -> None:
    """Arguments are quoted so that they can be typed again; a run whose command nobody knows has a question mark."""
    assert texts.command_text(view()) == "claude -p 'it'\"'\"'s done'"
    assert texts.command_text(view(args=[], detail={"cli": None})) == "?"


def test_cause_of_an_ended_run() -> None:
    """The cause is shown as settled; of a running row, or one that nobody has settled, there is none."""
    end = ending(status=RunStatus.CRASHED, exit_code=None, cause=Cause.LOST)
    settled = view(status=RunStatus.CRASHED, exit_code=None, detail={"ending": end})
    assert texts.cause_text(settled) == "lost"
    assert texts.settled_text(settled) == ""
    assert texts.cause_text(view()) == ""
    assert texts.cause_text(view(status=RunStatus.RUNNING, exit_code=None, detail={"ending": end})) == ""


def test_overwritten_ending() -> None:
    """Where a run's owner has overwritten what was settled, that is said, and what had been settled is kept."""
    end = ending(Rank.KERNEL, status=RunStatus.CRASHED, exit_code=137, cause=Cause.KILLED)
    overwritten = view(status=RunStatus.COMPLETED, exit_code=0, detail={"ending": end})
    assert texts.cause_text(overwritten) == "overwritten"
    assert texts.settled_text(overwritten).startswith("crashed with 137, killed;")
    assert output.run_as_json(overwritten)["overwritten"] is True


@pytest.mark.parametrize(
    ("number", "core", "shown"),
    [(9, False, "SIGKILL"), (11, True, "SIGSEGV, core dumped"), (50, None, "50"), (None, None, "")],
)
def test_signal_has_its_name(number: int | None, core: bool | None, shown: str) -> None:
    """The signal that ended a run is shown by its name, or its number where it has none."""
    assert texts.signal_text(view(detail={"ending": ending(term_signal=number, core_dumped=core)})) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.04, "0.0s"),
        (0.25, "0.2s"),
        (1, "1s"),
        (9.94, "9.9s"),
        (9.96, "9s"),
        (59.9, "59s"),
        (60, "1m 0s"),
        (3599.9, "59m 59s"),
        (3600, "1h 0m"),
        (DAY - 1, "23h 59m"),
        (DAY, "1d 0h"),
        (400 * DAY + 3600, "400d 1h"),
        (-5, "0s"),
        (1e12, "11574074d 1h"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_spans(seconds: float, shown: str) -> None:
    """A duration is shown in its two largest units; what is none does no harm."""
    assert texts.span_text(seconds) == shown


@pytest.mark.parametrize(
    ("past", "shown"),
    [
        (0, "now"),
        (0.9, "now"),
        (-0.9, "now"),
        (1.9, "1s ago"),
        (59.9, "59s ago"),
        (60, "1m 0s ago"),
        (3599, "59m 59s ago"),
        (DAY, "1d 0h ago"),
        (-1, "in 1s"),
        (-7200.5, "in 2h 0m"),
        (math.inf, "? ago"),
        (math.nan, "in ?"),
    ],
)
def test_agos(past: float, shown: str) -> None:
    """A moment is shown as how long ago it was in whole seconds, or how far ahead it lies."""
    assert texts.ago_text(1_795_500_000 - past, now=1_795_500_000) == shown


def test_no_moment_is_no_text() -> None:
    """A time that is not known is shown as nothing."""
    assert (texts.ago_text(None), texts.clock_text(None), texts.when_text(None)) == ("", "", "")


def test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is shown in local date and time."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "IST-5:30")
        time.tzset()
        shown = texts.clock_text(0.0), texts.when_text(0.0)
    time.tzset()
    assert shown[0] == "1970-01-01 05:30:00"
    assert shown[1].startswith("1970-01-01 05:30:00 (")


@pytest.mark.parametrize("moment", [1e18, -1e18, math.inf, math.nan, 253_402_300_800.0])
def test_clock_of_no_time(moment: float) -> None:
    """What is no time of any calendar is shown as junk."""
    assert texts.clock_text(moment) == f"junk: {moment}"


@pytest.mark.parametrize(
    ("started", "stamped", "ended", "shown"),
    [
        (100, None, 190.7, "1m 30s"),
        (100, None, 100.9, "0s"),
        (100, 100.5, 103.75, "3.2s"),
        (100, None, None, ""),
        (None, None, 100, ""),
        (100, None, 99, "0s"),
        (100, None, 50, ""),
    ],
)
def test_how_long_a_run_took(started: float | None, stamped: float | None, ended: float | None, shown: str) -> None:
    """A run took as long as is known: to the second by its row, to the tenth by its stamp, and nothing by nonsense."""
    columns: Any = stamp(4242, started_at=stamped)
    process = RunProcess("t", None, None, Stamp(**columns), "test", None, None) if stamped else None
    assert texts.took_text(view(started_at=started, ended_at=ended, detail={"process": process})) == shown


@pytest.mark.parametrize(
    ("rate", "shown"), [(None, ""), (0.0, "0%"), (0.999, "99%"), (1.0, "100%"), (0.29, "29%"), (2 / 3, "66%")]
)
def test_success_rate_is_never_flattered(rate: float | None, shown: str) -> None:
    """A share is rounded down: only all is 100%."""
    assert texts.percent_text(rate) == shown


def test_fields_are_aligned_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and values are aligned, empty ones are left out, and neither can speak to the terminal."""
    output.print_fields([("run", "web#7"), ("exit code", ""), ("evidence \x1b[2J", "a\nb")])
    assert capsys.readouterr().out == (
        f"run            web#7\nevidence {MARK}[2J  a\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}b\n"
    )


def test_table_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A table that goes to no terminal keeps all its columns and all of its text, without blanks at the ends."""
    print_table(
        ("RUN", "EXIT", "NOTE", "COMMAND"), [("web#7", "0", "", "x" * 300), ("api#12", "137", "", "")], numbers=["EXIT"]
    )
    assert capsys.readouterr().out == (f"RUN     EXIT  NOTE  COMMAND\nweb#7      0        {'x' * 300}\napi#12   137\n")


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Say yes."""
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *rows: tuple[str, ...], **options: Any) -> list[str]:
    """Return the lines of a table on a terminal of so many columns, without colour."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(("RUN", "STATUS", "NOTE", "COMMAND"), rows, tails=["RUN"], **options)
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """On a terminal no line is longer than it is wide, double-width letters counted as two."""
    from rich.cells import cell_len

    rows = [
        ("deep/in/customers/web#7", "completed", "a note", "claude " + "x" * 300),
        ("你好" * 20 + "#8", "junk: " + "y" * 50, "", "🚀" * 100),
    ]
    lines = on_terminal(monkeypatch, columns, *rows)
    assert max(map(cell_len, lines)) == columns


def test_table_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column begins at the same place in every line, also behind double-width letters and cut names."""
    from rich.cells import cell_len

    rows = [("web#7", "completed", "", "claude"), ("你好" * 20 + "#8", "failed", "", "codex " + "x" * 100)]
    starts = {
        cell_len(line.partition(word)[0])
        for line, word in zip(on_terminal(monkeypatch, 60, *rows), ("STATUS", "completed", "failed"), strict=True)
    }
    assert len(starts) == 1


def test_table_cuts_what_tells_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where room is short, commands lose their end and names their beginning; the other columns stay whole."""
    heading, line = on_terminal(monkeypatch, 44, ("deep/in/customers/web#7", "completed", "", "claude " + "x" * 99))
    assert heading.split() == ["RUN", "STATUS", "COMMAND"]
    assert line == "…ustomers/web#7  completed  claude xxxxxxxx…"


def test_table_leaves_out_what_can_be_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal does not show the columns that can be spared, a wide one does."""
    row = ("web#7", "completed", "a note", "claude")
    assert "NOTE" not in on_terminal(monkeypatch, 80, row, spare=["NOTE"])[0]
    assert "NOTE" in on_terminal(monkeypatch, 120, row, spare=["NOTE"])[0]
