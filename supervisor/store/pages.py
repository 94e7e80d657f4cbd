"""Reading a damaged database without SQLite: its pages, the committed part of its WAL, and the rows on each page.

SQLite gives up at the first page that makes no sense; here that page is passed over and the others are read. Nothing is
written, and nothing of the store's maker is run. After sqlite.org/fileformat2.html, section numbers as there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

TABLE_LEAF, TABLE_INTERIOR, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x05, 0x0A, 0x02

_MAGIC = b"SQLite format 3\0"
_HEADER, _USUAL_SIZE = 100, 4096
_WAL_HEADER, _FRAME_HEADER = 32, 24
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_ENCODINGS = {2: "utf-16-le", 3: "utf-16-be"}
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of an integer by its serial type (2.1)."""

Value = int | float | bytes | str | None


class Row(NamedTuple):
    """A row of a table, or an entry of an index (``rowid`` is then its last value)."""

    rowid: int
    values: tuple[Value, ...]


class Pages:
    """The pages of a database as they are in its file, or newer in its WAL.

    Args:
        descriptor: the database, open for reading; it stays open.
        wal: the WAL, None where there is none; it stays open.
    """

    def __init__(self, descriptor: int, wal: int | None = None) -> None:
        self._descriptor = descriptor
        self._wal = wal
        self._frames: dict[int, int] = {}
        size_by_wal, count_by_wal = self._read_wal() if wal is not None else (None, 0)
        header = os.pread(descriptor, _HEADER, 0)
        if 1 in self._frames and wal is not None:
            header = os.pread(wal, _HEADER, self._frames[1])
        is_whole = header[:16] == _MAGIC and _page_size(header) is not None
        # Where the header makes no sense, the usual is taken for what it should say.
        self.size = (_page_size(header) if is_whole else None) or size_by_wal or _USUAL_SIZE
        self._usable = self.size - (header[20] if is_whole else 0)
        number = int.from_bytes(header[56:60], "big") if is_whole else 1
        self._encoding = _ENCODINGS.get(number, "utf-8")
        self._first_free = int.from_bytes(header[32:36], "big") if is_whole else 0
        self.count = max(os.fstat(descriptor).st_size // self.size, count_by_wal)

    def page(self, number: int) -> bytes:
        """Return a page, empty where there is none."""
        if number in self._frames and self._wal is not None:
            return os.pread(self._wal, self.size, self._frames[number])
        content = os.pread(self._descriptor, self.size, (number - 1) * self.size) if 0 < number <= self.count else b""
        return content if len(content) == self.size else b""

    def kind(self, number: int) -> int:
        """Return the first byte of a b-tree page, 0 where there is none."""
        page = self.page(number)
        return page[_start(number)] if page else 0

    def tree(self, root: int, visited: set[int]) -> Iterator[int]:
        """Yield the pages of a b-tree from its root down, each once; those that make no sense have no children."""
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number in visited or not 0 < number <= self.count:
                continue
            visited.add(number)
            yield number
            waiting += reversed(self._children(number))

    def free(self) -> set[int]:
        """Return the pages that the database has set free: what they hold was deleted (1.5)."""
        free: set[int] = set()
        trunk = self._first_free
        while trunk and trunk not in free and (page := self.page(trunk)):
            free.add(trunk)
            trunk, number = struct.unpack_from(">II", page)
            free.update(struct.unpack_from(f">{min(number, self.size // 4 - 2)}I", page, 8))
        return free

    def rows(self, number: int) -> Iterator[Row | None]:
        """Yield the rows on one page of a table, the entries on one page of an index; None for what makes no sense."""
        page, kind = self.page(number), self.kind(number)
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR):
            return
        for place in self._cells(number, page):
            try:
                yield self._row(page, place, kind)
            except (ValueError, IndexError, struct.error):
                yield None

    def _children(self, number: int) -> list[int]:
        page, kind = self.page(number), self.kind(number)
        if kind not in (TABLE_INTERIOR, INDEX_INTERIOR):
            return []
        places = [place for place in self._cells(number, page) if place + 4 <= len(page)]
        return [int.from_bytes(page[place : place + 4], "big") for place in (*places, _start(number) + 8)]

    def _cells(self, number: int, page: bytes) -> list[int]:
        """Return where the cells of a page begin (1.6)."""
        start = _start(number)
        begin = start + (8 if page[start] in (TABLE_LEAF, INDEX_LEAF) else 12)
        count = min(int.from_bytes(page[start + 3 : start + 5], "big"), (self._usable - begin) // 2)
        return [place for place in struct.unpack_from(f">{count}H", page, begin) if begin <= place < self._usable]

    def _row(self, page: bytes, place: int, kind: int) -> Row:
        if kind == INDEX_INTERIOR:
            place += 4
        length, place = _varint(page, place)
        rowid = 0
        if kind == TABLE_LEAF:
            rowid, place = _varint(page, place)
            rowid -= (rowid >> 63) << 64
        values = self._record(self._payload(page, place, length, is_table=kind == TABLE_LEAF))
        if kind != TABLE_LEAF:
            if not values or type(values[-1]) is not int:
                raise ValueError("an entry without a row")
            rowid = values[-1]
        return Row(rowid, values)

    def _payload(self, page: bytes, place: int, length: int, *, is_table: bool) -> bytes:
        """Return what a cell holds, with what has spilled to overflow pages (1.6)."""
        usable = self._usable
        most = usable - 35 if is_table else (usable - 12) * 64 // 255 - 23
        least = (usable - 12) * 32 // 255 - 23
        local = length
        if length > most:
            local = least + (length - least) % (usable - 4)
            local = local if local <= most else least
        if place + local > usable or length > self.count * self.size:
            raise ValueError("a cell beyond its page")
        parts, left = [page[place : place + local]], length - local
        following = int.from_bytes(page[place + local : place + local + 4], "big") if left else 0
        while left:
            spilled = self.page(following)
            if not spilled:
                raise ValueError("an overflow page that is not there")
            parts.append(spilled[4 : min(usable, 4 + left)])
            left -= len(parts[-1])
            following = int.from_bytes(spilled[:4], "big")
        return b"".join(parts)

    def _record(self, payload: bytes) -> tuple[Value, ...]:
        """Return the values of a record (2.1)."""
        end, place = _varint(payload, 0)
        body, values = end, list[Value]()
        while place < end:
            kind, place = _varint(payload, place)
            size = _size_of(kind)
            content = payload[body : body + size]
            if len(content) < size or place > end:
                raise ValueError("a record that is cut off")
            body += size
            values.append(self._value(kind, content))
        return tuple(values)

    def _value(self, kind: int, content: bytes) -> Value:
        if kind == 0:
            return None
        if kind in _INTEGERS:
            return int.from_bytes(content, "big", signed=True)
        if kind == 7:
            number: float = struct.unpack(">d", content)[0]
            return number
        if kind in (8, 9):
            return kind - 8
        return content.decode(self._encoding, "surrogateescape") if kind % 2 else content

    def _read_wal(self) -> tuple[int | None, int]:
        """Note the newest committed frame of each page; return page size and number of pages, if it tells (4.3)."""
        assert self._wal is not None  # noqa: S101  the only caller has looked
        header = os.pread(self._wal, _WAL_HEADER, 0)
        if len(header) < _WAL_HEADER or int.from_bytes(header[:4], "big") not in _WAL_MAGIC:
            return None, 0
        order = ">" if header[3] & 1 else "<"
        size, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        sums = _checksum(order, header[:24], (0, 0))
        if sums != struct.unpack(">II", header[24:]) or size not in _SIZES:
            return None, 0
        pending: dict[int, int] = {}
        count, offset = 0, _WAL_HEADER
        while True:
            frame = os.pread(self._wal, _FRAME_HEADER + size, offset)
            if len(frame) < _FRAME_HEADER + size or frame[8:16] != salts:
                break
            sums = _checksum(order, frame[:8] + frame[_FRAME_HEADER:], sums)
            if sums != struct.unpack(">II", frame[16:24]):
                break
            number, pages = struct.unpack(">II", frame[:8])
            pending[number] = offset + _FRAME_HEADER
            if pages:  # a commit
                self._frames.update(pending)
                pending.clear()
                count = pages
            offset += _FRAME_HEADER + size
        return size, count


_SIZES = frozenset(1 << power for power in range(9, 17))


def _page_size(header: bytes) -> int | None:
    """Return the page size that a header tells, None for none that there is."""
    size = int.from_bytes(header[16:18], "big")
    size = 1 << 16 if size == 1 else size
    return size if size in _SIZES else None


def _start(number: int) -> int:
    """Return where the b-tree begins on a page: the first one has the database's header."""
    return _HEADER if number == 1 else 0


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of one to nine bytes, and the place behind it."""
    value = 0
    for count in range(8):
        byte = content[place + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + count + 1
    return value << 8 | content[place + 8], place + 9


def _size_of(kind: int) -> int:
    """Return the bytes that a value of a serial type takes."""
    if kind >= 12:
        return (kind - 12) // 2
    if kind in (10, 11):
        raise ValueError("a serial type that is none")
    return 8 if kind == 7 else _INTEGERS.get(kind, 0)


def _checksum(order: str, content: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """Carry the checksum of a WAL on over some bytes (4.2)."""
    first, second = sums
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
