"""Turns: some of many, all as often."""

from __future__ import annotations

from supervisor.daemon.turns import Turns


def test_each_has_its_turn() -> None:
    """All come once before one comes again, across the calls."""
    turns = Turns(lambda: "abcde")
    assert [turns.take(2) for _ in range(5)] == [{"a", "b"}, {"c", "d"}, {"e", "a"}, {"b", "c"}, {"d", "e"}]


def test_no_more_than_there_are() -> None:
    """Of fewer than were asked for each comes every time; of none, none."""
    names = ["a", "b"]
    turns = Turns(lambda: names)
    assert [turns.take(5) for _ in range(3)] == 3 * [{"a", "b"}]
    names.clear()
    assert turns.take(5) == set()


def test_new_ones_come_when_the_others_have() -> None:
    """What is new waits for the end of the turn."""
    names = ["a", "b"]
    turns = Turns(lambda: names)
    assert turns.take(1) == {"a"}
    names.append("c")
    assert turns.take(2) == {"b", "a"}
    assert turns.take(2) == {"b", "c"}
