"""Values: what frozen dataclasses promise, kept without them."""

from __future__ import annotations

import pytest

from supervisor.value import Value


class Point(Value):
    """A value to try."""

    x: int
    y: int = 0
    name: str | None = None


def test_fields() -> None:
    """Fields are given in order or by name, and those with a default may be left out; vars() has all of them."""
    assert vars(Point(1, 2, name="a")) == {"x": 1, "y": 2, "name": "a"}
    assert vars(Point(x=1)) == {"x": 1, "y": 0, "name": None}
    assert repr(Point(1)) == "Point(x=1, y=0, name=None)"


def test_equal_by_value() -> None:
    """Values are equal, and hash alike, where they are of one class and all fields are equal."""

    class Other(Value):
        x: int
        y: int = 0
        name: str | None = None

    assert Point(1) == Point(x=1, y=0)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2
    assert Point(1) != Other(1)
    assert Point(1) != (1, 0, None)


def test_nothing_changes() -> None:
    """A value cannot be changed; another can be made of it."""
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError):
        del point.x
    assert (point.replaced(y=5), point) == (Point(1, 5), Point(1))


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, 2, "a", 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})]
)
def test_wrong_fields(values: tuple[object, ...], named: dict[str, object]) -> None:
    """A field that is missing, unknown or given twice is an error."""
    with pytest.raises(TypeError):
        Point(*values, **named)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError):
        Point(1).replaced(z=1)
