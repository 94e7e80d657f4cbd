"""Work that is done apart: by another process, which is gone with all it has loaded, or here if there can be none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.wrap.apart import do_apart


def test_apart(tmp_path: Path) -> None:
    """The work is done by a child that has ended when the call returns, even if it fails."""
    told = tmp_path / "told"

    def work() -> None:
        told.write_text(str(os.getpid()))
        raise RuntimeError("that is the child's own")

    do_apart(work)
    assert int(told.read_text()) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(int(told.read_text()), os.WNOHANG)


def test_no_process_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process is to be had the work is done here."""

    def refused() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refused)
    done: list[int] = []
    do_apart(lambda: done.append(os.getpid()))
    assert done == [os.getpid()]
