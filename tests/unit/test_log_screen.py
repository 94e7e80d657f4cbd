"""What a terminal would show of control sequences, and what is undone of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from supervisor.log.screen import Screen
from supervisor.wrap import modes

SIZE = "\x1b]7749;5;10\x07"

SHOWN = [
    ("a\nb\n", ["a", "b"]),
    ("a\r\nb", ["a", "b"]),
    ("no\rOK", ["OK"]),
    ("10%\r20%\r100%\n", ["100%"]),
    ("abc\b\bX", ["aXc"]),
    ("a\tb", ["a       b"]),
    ("\x1b[1;31mred\x1b[0m", ["red"]),
    ("\x1b[38:2::1:2:3mrgb", ["rgb"]),
    ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", ["alink"]),
    ("\x1bPq#0\x1b\\a\x1b_x\x1b\\b", ["ab"]),
    ("\x1b(Ba\x1b=b\x1b>c\x1b#8", ["abc"]),
    ("a\x07\x00\x7fb", ["ab"]),
    ("x" * 300, ["x" * 300]),
    (SIZE + "a\nb", ["a", " b"]),
    (SIZE + "0123456789ab", ["0123456789", "ab"]),
    (SIZE + "0123456789\r\nab", ["0123456789", "ab"]),
    (SIZE + "one\r\ntwo\x1b[A\rONE\x1b[B\rTWO", ["ONE", "TWO"]),
    (SIZE + "abcdef\x1b[3D\x1b[K", ["abc"]),
    (SIZE + "abcdef\x1b[3D\x1b[1K", ["    ef"]),
    (SIZE + "abcdef\x1b[2D\x1b[2P\x1b[4D\x1b[2@", ["  abcd"]),
    (SIZE + "abcdef\x1b[1G\x1b[2Xx", ["x cdef"]),
    (SIZE + "a\r\nb\r\nc\x1b[2;1H\x1b[L!", ["a", "!", "b", "c"]),
    (SIZE + "a\r\nb\r\nc\x1b[1;1H\x1b[M", ["b", "c"]),
    (SIZE + "a\r\nb\r\nc\x1b[2;1H\x1b[J", ["a"]),
    (SIZE + "a\r\nb\x1b[2J\x1b[Hc", ["c"]),
    (SIZE + "1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7", ["1", "2", "3", "4", "5", "6", "7"]),
    (SIZE + "1\r\n2\r\n3\r\n4\r\n5\r\n6\x1b[H!", ["1", "!", "3", "4", "5", "6"]),
    (SIZE + "\x1b[5;1Hstatus\x1b[1;4r\x1b[H1\r\n2\r\n3\r\n4\r\n5", ["1", "2", "3", "4", "5", "status"]),
    (SIZE + "\x1b[2;3r\x1b[Ha\x1b[3;1Hb\nc\nd", ["a", " c", "  d"]),
    (SIZE + "a\x1b7\x1b[5;5Hb\x1b8c", ["ac", "", "", "", "    b"]),
    (SIZE + "\x1b[3;3Hx\x1bMy", ["", "   y", "  x"]),
    (SIZE + "in\r\n\x1b[?1049h\x1b[Hpicture\x1b[?1049lout", ["in", "picture", "out"]),
    (SIZE + "in\r\n\x1b[?1049h\x1b[Hpicture", ["in", "picture"]),
    (SIZE + "\x1b[3;1Hc\x1b]7749;2;10\x07", ["", "", "c"]),
    ("\u6f22\u5b57|\x1b[3G!", ["\u6f22! |"]),
    ("e\u0301|", ["e\u0301|"]),
    ("a\x1b[999999999999Cb", None),
    ("a\x1b[", ["a"]),
]


def shown(text: str, step: int = 1 << 20) -> list[str]:
    """Return the lines that are told of an output that comes in such pieces."""
    told: list[str] = []
    screen = Screen(told.append, columns=1000)
    for at in range(0, len(text), step):
        screen.feed(text[at : at + step])
    screen.finish()
    return told


@pytest.mark.parametrize(("text", "lines"), SHOWN, ids=range(len(SHOWN)))
def test_shown(text: str, lines: list[str] | None) -> None:
    """Each sequence does what a terminal does, in whatever pieces it comes."""
    assert shown(text) == shown(text, 1) == shown(text, 3)
    assert lines is None or shown(text) == lines


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["a", "\u6f22", "\u0301", "\r", "\n", "\b", "\t", "\x1b", "\x1b[", "\x9b", "5;", "99999", "?1049"]
        )
        | st.sampled_from([f"\x1b[{n}{final}" for final in "ABCDGHJKLMPSTX@dr" for n in ("", "3", "2;4", "99999")])
        | st.sampled_from(
            ["\x1b[?1049h", "\x1b[?1049l", "\x1bM", "\x1bc", SIZE, "\x1b]7749;1;1\x07", "\x1b]7749;60;200\x07"]
        )
    )
)
def test_any_output(pieces: list[str]) -> None:
    """Whatever an agent writes, something is shown, and nothing of it would be obeyed."""
    assert not any(character < " " for line in shown("".join(pieces)) for character in line)


def test_settled_lines() -> None:
    """For who follows, lines above the cursor are told before they leave the screen, and once."""
    told: list[str] = []
    screen = Screen(told.append)
    screen.feed("one\ntwo\nthr")
    screen.settle()
    screen.settle()
    assert told == ["one", "two"]
    screen.feed("ee\n")
    screen.finish()
    assert told == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("written", "undone"),
    [
        (b"plain \x1b[1;31mcolours\x1b[m", b""),
        (b"\x1b[?1049h", b"\x1b[?1049l\x1b[m"),
        (b"\x1b[?1049h\x1b[?1049l", b""),
        (b"\x1b[?25l", b"\x1b[?25h\x1b[m"),
        (b"\x1b[?25l\x1b[?25h", b""),
        (b"\x1b[?1000;1006h\x1b[?2004h", b"\x1b[?1000l\x1b[?1006l\x1b[?2004l\x1b[m"),
        (b"\x1b[>1u\x1b[>5u\x1b[<u", b"\x1b[<1u\x1b[m"),
        (b"\x1b[>4;2m", b"\x1b[>4m\x1b[m"),
        (b"\x1b[>4;2m\x1b[>4m", b""),
        (b"\x1b[2;9r", b"\x1b7\x1b[r\x1b8\x1b[m"),
        (b"\x1b[2;9r\x1b[r", b""),
        (b"\x1b=", b"\x1b>\x1b[m"),
        (b"\x1b[?25l\x1b[?1h\x1b=\x1bc", b""),
        (b"\x1b[?7l\x1b[?9999h", b"\x1b[?7h\x1b[m"),
        (b"\x1b[>1u\x1b[>1u\x1b[<1;2u", b"\x1b[<1u\x1b[m"),
        (b"\x1b[>1u\x1b[<;u", b""),
        (b"\x1b[<" + b"9" * 5000 + b"u\x1b[?" + b"9" * 5000 + b"h", b""),
        (b"\x1b[?" + b"0" * 56 + b"1000h", b"\x1b[?1000l\x1b[m"),
    ],
)
def test_undoing(written: bytes, undone: bytes) -> None:
    """Exactly what is left switched on is switched off again, in whatever pieces it came."""
    for step in (1, 2, 100_000):
        flags = bytearray(modes.SIZE)
        seen = modes.Modes(flags)
        for at in range(0, len(written), step):
            seen.follow(written[at : at + step])
        assert modes.undoing(flags) == undone
