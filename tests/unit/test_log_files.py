"""A log's file: what is kept of it, and reading it while it is written."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.log import folder
from supervisor.log.lines import LogLines
from supervisor.log.reader import LogReader
from supervisor.log.writer import GAP_LENGTH, LogWriter

CAP = 4096
TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give the test a project with a folder."""
    (tmp_path / ".agent-yes").mkdir()
    return tmp_path


@pytest.fixture
def writer(directory: Path) -> Iterator[LogWriter]:
    """Give the test a log of few bytes."""
    writer = LogWriter(folder.create(str(directory), TOKEN, folder.OUTPUT), cap=CAP)
    yield writer
    writer.close()


@pytest.fixture
def reader(directory: Path, writer: LogWriter) -> Iterator[LogReader]:
    """Read the same log."""
    descriptor = folder.open_for_reading(str(directory), TOKEN, folder.OUTPUT)
    assert descriptor is not None
    reader = LogReader(descriptor, cap=CAP)
    yield reader
    reader.close()


def rest(reader: LogReader) -> bytes:
    """Return all that can be read now."""
    return b"".join(iter(reader.read, b""))


def numbered(count: int) -> bytes:
    """Return that many bytes, all of lines that differ."""
    return b"".join(b"%07d\n" % number for number in range(count // 8 + 1))[:count]


@pytest.mark.parametrize("size", [0, 1, CAP - 1, CAP])
def test_small_log(writer: LogWriter, reader: LogReader, size: int) -> None:
    """A log that fits is kept whole."""
    writer.write(numbered(size))
    assert rest(reader) == numbered(size)


@pytest.mark.parametrize("piece", [1, 100, 5000, 100_000])
@pytest.mark.parametrize("size", [CAP + 1, 3 * CAP, 100_000])
def test_large_log(directory: Path, writer: LogWriter, reader: LogReader, size: int, piece: int) -> None:
    """Of one that does not, head and tail are kept, the mark between them counts the rest, and the cap holds."""
    written = numbered(size)
    for at in range(0, size, piece):
        writer.write(written[at : at + piece])
    kept = rest(reader)
    file = Path(folder.file_of(str(directory), TOKEN, folder.OUTPUT))
    assert (file.read_bytes(), len(kept) <= CAP) == (kept, True)
    head, tail = kept[: CAP // 2], kept[CAP // 2 + GAP_LENGTH :]
    left_out = int(kept[CAP // 2 : CAP // 2 + GAP_LENGTH].split()[0].strip(b"["))
    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(tail) >= CAP // 4 - GAP_LENGTH
    assert len(head) + left_out + len(tail) == size


@pytest.mark.parametrize("seed", range(5))
def test_following_reader(writer: LogWriter, reader: LogReader, seed: int) -> None:
    """A reader that keeps up sees every byte once, though those before it are left out meanwhile."""
    chance = random.Random(seed)  # noqa: S311  no secret
    sent, seen = numbered(60_000), b""
    at = 0
    while at < len(sent):
        piece = chance.randint(1, 600)
        writer.write(sent[at : at + piece])
        at += piece
        seen += reader.read()
    assert seen + rest(reader) == sent


def test_reader_that_is_late(writer: LogWriter, reader: LogReader) -> None:
    """A reader that falls behind is shown the mark, then what is kept."""
    writer.write(numbered(3000))
    assert rest(reader) == numbered(3000)
    writer.write(numbered(50_000))
    late = rest(reader)
    assert late.startswith(b"\r\n[")
    assert numbered(50_000).endswith(late[GAP_LENGTH:])


def test_cut_off_by_somebody(directory: Path, writer: LogWriter, reader: LogReader) -> None:
    """A full log that somebody else empties is gone on with."""
    writer.write(numbered(CAP))
    os.truncate(folder.file_of(str(directory), TOKEN, folder.OUTPUT), 0)
    writer.write(b"the rest")
    assert rest(reader).endswith(b"the rest")


def test_names(directory: Path) -> None:
    """A log is made once, and only by the name of a token."""
    os.close(folder.create(str(directory), TOKEN, folder.OUTPUT))
    with pytest.raises(FileExistsError):
        folder.create(str(directory), TOKEN, folder.OUTPUT)
    for token in ("", "../store", TOKEN[1:] + "/", TOKEN.upper(), "0" * 31):
        assert not folder.is_token(token)
        with pytest.raises(folder.LogRefused):
            folder.create(str(directory), token, folder.OUTPUT)


def test_made_by_nobody_else(directory: Path) -> None:
    """A link where the log is to be is not followed."""
    (directory / ".agent-yes" / "logs").mkdir()
    (directory / ".agent-yes" / "logs" / f"{TOKEN}.log").symlink_to(directory / "target")
    with pytest.raises(FileExistsError):
        folder.create(str(directory), TOKEN, folder.OUTPUT)
    with pytest.raises(OSError, match="symbolic"):
        folder.open_for_reading(str(directory), TOKEN, folder.OUTPUT)
    assert not (directory / "target").exists()


def test_characters_across_pieces(writer: LogWriter, reader: LogReader) -> None:
    """A character or sequence whose bytes come one by one is read as one."""
    told: list[str] = []
    lines = LogLines(reader, told.append)
    for byte in "gr\u00fc\u00df\x1b[1me\U0001f600\n".encode() + b"\xff!\n":
        writer.write(bytes([byte]))
        lines.advance()
    lines.finish()
    assert told == ["gr\u00fc\u00dfe\U0001f600", "\ufffd!"]
