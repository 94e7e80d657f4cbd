"""Data that does not change, for what `wrap` loads: dataclasses would cost each agent's caller 10 ms, and 2 MiB."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):  # noqa: D103  typing's, which says so much to type checkers only
        return lambda base: base


_MISSING = object()


@dataclass_transform(frozen_default=True)
class Value:
    """A value of named fields: what a class annotates, in that order, with its defaults, as in a frozen dataclass.

    ``vars()`` of one gives all of its fields by name.
    """

    _fields: ClassVar[tuple[str, ...]]
    _blank: ClassVar[dict[str, object]]
    """The fields in their order, with their defaults."""

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._blank = {name: getattr(cls, name, _MISSING) for name in cls._fields}

    def __init__(self, *values: Any, **named: Any) -> None:
        given = self.__dict__
        given.update(self._blank)
        given.update(zip(self._fields, values, strict=False))
        given.update(named)
        if len(given) > len(self._fields) or len(values) + len(named) > len(given) or _MISSING in given.values():
            raise TypeError(f"the fields of {type(self).__name__} are {', '.join(self._fields)}")
        if named and not named.keys().isdisjoint(self._fields[: len(values)]):
            raise TypeError(f"a field of {type(self).__name__} is given twice")

    def replaced(self, **changes: Any) -> Self:
        """Return the same with other values of some fields."""
        return type(self)(**{**vars(self), **changes})

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
