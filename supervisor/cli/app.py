"""The click commands put together, and the one boundary where errors become exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys

import click

from supervisor import __version__
from supervisor.cli.completion import completion, is_asked
from supervisor.cli.config import config
from supervisor.cli.daemon import daemon, scan
from supervisor.cli.doctor import doctor
from supervisor.cli.logs import logs
from supervisor.cli.ls import ls
from supervisor.cli.projects import projects
from supervisor.cli.prune import prune
from supervisor.cli.runs import runs
from supervisor.cli.service import service
from supervisor.cli.stop import kill, stop
from supervisor.cli.stores import stores
from supervisor.cli.why import why
from supervisor.cli.wrap import wrap
from supervisor.errors import SuperviseError

USER_ERROR, BUG, INTERRUPTED, BROKEN_PIPE = 1, 3, 130, 141

_REMEDIES = {
    errno.EACCES: "check its rights",
    errno.EPERM: "check its rights",
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space on its disk",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


class _ReaderGone(Exception):
    """Nobody reads our output any more."""


class _Commands(click.Group):
    """The commands. ``| head -1`` must end them quietly, and as SIGPIPE would: click itself says 1."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that the words name."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None


class _CleanLines(logging.Formatter):
    """Warnings as our other lines on stderr: a path in them may hold what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        from supervisor.cli.output import clean  # noqa: PLC0415  rarely needed

        return f"agent-yes-supervise: {clean(super().format(record))}"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="agent-yes-supervise")
def cli() -> None:
    """Supervise AI agent CLIs: know what runs, how each run ended, and why."""


_COMMANDS = (
    *(wrap, daemon, scan, ls, why, logs, stop, kill, runs, projects, stores),
    *(service, prune, config, doctor, completion),
)
for _command in _COMMANDS:
    cli.add_command(_command)


def run(words: list[str]) -> int:
    """Run a command line and return its exit code: 0, 1 a user's error, 2 usage, 3 a bug of ours, 130 Ctrl-C."""
    _prepare_streams()
    try:
        return _answer(words)
    except BrokenPipeError:  # stderr's reader has gone, too
        return BROKEN_PIPE
    finally:
        _drop_unwritten()


def _answer(words: list[str]) -> int:
    if is_asked():
        from supervisor.cli.shells import register  # noqa: PLC0415  only a shell asks

        register()
    try:
        code = cli.main(args=words, prog_name="agent-yes-supervise", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        return BROKEN_PIPE
    except (SuperviseError, sqlite3.Error, OSError) as error:
        click.echo(f"agent-yes-supervise: {_one_line(error)}", err=True)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001  the boundary: a bug is reported, not shown as a traceback
        _report_bug(words, error)
        return BUG
    return code if isinstance(code, int) else 0


def _one_line(error: Exception) -> str:
    from supervisor.cli.output import clean  # noqa: PLC0415  rarely needed

    if isinstance(error, SuperviseError):
        return clean(str(error))
    if isinstance(error, OSError) and error.strerror:
        remedy = _REMEDIES.get(error.errno or 0, "check the path and its rights")
        return clean(f"{error.filename or 'the system refuses'}: {error.strerror}; {remedy}")
    return clean(f"a store cannot be used ({error}); see: agent-yes-supervise stores list")


def _report_bug(words: list[str], error: Exception) -> None:
    from supervisor.cli.bug import report  # noqa: PLC0415  rarely needed
    from supervisor.cli.output import clean  # noqa: PLC0415  the same

    what = clean(f"{type(error).__name__}: {error}")
    click.echo(f"agent-yes-supervise: this is a bug of ours ({what}); please report it with {report(words)}", err=True)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us, as by ``>&-``
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # stored text may hold what no terminal can show
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_CleanLines())


def _drop_unwritten() -> None:
    """Forget output that cannot be written: Python would try again at its end, and say so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
