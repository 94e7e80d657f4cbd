"""Small files: whole or not at all, and nothing left beside them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor import atomic


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_replaced_whole(tmp_path: Path, mode: int) -> None:
    """The new text takes the old one's place, with the rights that were asked for."""
    path = tmp_path / "file"
    for text in ("one", "zwö"):
        assert atomic.write(str(path), text, mode=mode)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("zwö", mode)
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_new_one(tmp_path: Path) -> None:
    """Where there is a file already it can be left as it is, and that is told."""
    path = tmp_path / "file"
    assert [atomic.write(str(path), text, only_new=True) for text in ("first", "second")] == [True, False]
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("only_new", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_new: bool) -> None:
    """What cannot be written is an error, and leaves no draft; an old file stays."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(str(path), "new", only_new=only_new)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
