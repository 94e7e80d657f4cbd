"""The click commands put together, and the one boundary where errors become exit codes."""

from __future__ import annotations

import os
import sqlite3
import sys

import click

from supervisor import __version__
from supervisor.cli.daemon import daemon, scan
from supervisor.cli.ls import ls
from supervisor.cli.projects import projects
from supervisor.cli.runs import runs
from supervisor.cli.stores import stores
from supervisor.cli.wrap import wrap
from supervisor.errors import SuperviseError

USER_ERROR, BUG, INTERRUPTED, BROKEN_PIPE = 1, 3, 130, 141


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="agent-yes-supervise")
def cli() -> None:
    """Supervise AI agent CLIs: know what runs, how each run ended, and why."""


for _command in (wrap, daemon, scan, ls, runs, projects, stores):
    cli.add_command(_command)


def run(words: list[str]) -> int:
    """Run a command line and return its exit code: 0, 1 a user's error, 2 usage, 3 a bug of ours, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # stored text may hold what no terminal can show
    try:
        code = cli.main(args=words, prog_name="agent-yes-supervise", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent
        return BROKEN_PIPE
    except (SuperviseError, sqlite3.Error, OSError) as error:
        click.echo(f"agent-yes-supervise: {_one_line(error)}", err=True)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001  the boundary: a bug is reported, not shown as a traceback
        from supervisor.cli.bug import report  # noqa: PLC0415  rarely needed

        click.echo(f"agent-yes-supervise: this is a bug of ours ({type(error).__name__}: {error})", err=True)
        click.echo(f"agent-yes-supervise: details are in {report(words)}", err=True)
        return BUG
    return code if isinstance(code, int) else 0


def _one_line(error: Exception) -> str:
    from supervisor.cli.output import clean  # noqa: PLC0415  rarely needed

    if isinstance(error, SuperviseError):
        return clean(str(error))
    if isinstance(error, OSError) and error.strerror:
        return clean(f"{error.filename or 'the system says'}: {error.strerror}")
    return clean(f"a store cannot be used ({error}); see: agent-yes-supervise stores list")
