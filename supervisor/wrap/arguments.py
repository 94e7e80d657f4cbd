"""A person's arguments to an agent, taken apart as far as needed to add to them and to leave the prompt out. Pure."""

from __future__ import annotations

from supervisor.agents import Agent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OPTION, _WORD, _END, _RUN = "option", "word", "end", "run"


class _Piece:
    """An option with its values, a word of no option, the ``--`` before such words, or the command that runs."""

    __slots__ = ("kind", "names", "words")

    def __init__(self, kind: str, words: Sequence[str], names: Sequence[str] = ()) -> None:
        self.kind = kind
        self.words = list(words)
        self.names = names


class Arguments:
    """The arguments, as typed and as they are with more.

    A word behind an option that is not known may be its value, so it is never taken for a prompt.
    """

    def __init__(self, agent: Agent, pieces: list[_Piece]) -> None:
        self._agent = agent
        self._pieces = pieces
        self._runs = next((number + 1 for number, piece in enumerate(pieces) if piece.kind == _RUN), 0)

    @property
    def headless(self) -> bool:
        """Whether the agent works its prompt off without asking for a terminal."""
        agent = self._agent
        words = any(piece.kind == _WORD for piece in self._pieces)
        named = any(name in agent.headless for piece in self._pieces for name in piece.names)
        return bool(self._runs) or named or (agent.positional_is_headless and words)

    def values_of(self, *options: str) -> list[str]:
        """Return the values of an option: words of their own, behind a ``=``, or joined to its letter."""
        found = []
        for piece in self._pieces:
            if piece.kind == _OPTION and piece.names[-1] in options:
                word = piece.words[0]
                joined = word.partition("=")[2] if word.startswith("--") else word[1 + len(piece.names) :]
                found += [joined.removeprefix("=")] if joined else piece.words[1:]
        return found

    def words(self) -> list[str]:
        """Return the words that belong to no option."""
        return [word for piece in self._pieces if piece.kind == _WORD for word in piece.words]

    def with_added(self, added: Sequence[str]) -> list[str]:
        """Return the arguments with options ahead of everything that they could be taken for a part of."""
        return [*_joined(self._pieces[: self._runs]), *added, *_joined(self._pieces[self._runs :])]

    def resumed(self, added: Sequence[str], *, prompt: bool) -> list[str]:
        """Return the arguments with the words that take up a conversation, with their prompt or without."""
        before, after = self._pieces[: self._runs], self._pieces[self._runs :]
        if not prompt:
            before, after = [list(filter(self._stays, pieces)) for pieces in (before, after)]
        if not self._agent.run_only:
            return [*_joined(before), *added, *_joined(after)]
        if not before:
            return [*added, *_joined(after)]
        ahead = [piece for piece in after if any(name in self._agent.run_only for name in piece.names)]
        return [*_joined(before), *_joined(ahead), *added, *_one_by_one(piece for piece in after if piece not in ahead)]

    def _stays(self, piece: _Piece) -> bool:
        if piece.kind in (_WORD, _END):
            return not self._agent.positional_prompt
        return not any(name in self._agent.prompts for name in piece.names)


def parse(agent: Agent, args: Sequence[str]) -> Arguments | None:
    """Take arguments apart; None where they leave no room for a conversation of ours."""
    pieces: list[_Piece] = []
    commands, runs = agent.commands, agent.runs
    position = 0
    while position < len(args):
        word = args[position]
        position += 1
        if word == "--":
            pieces.append(_Piece(_END, [word]))
            pieces += [_Piece(_WORD, [rest]) for rest in args[position:]]
            break
        if word == "-" or not word.startswith("-"):
            if word in commands:
                return None
            if word in runs:
                pieces.append(_Piece(_RUN, [word]))
                commands, runs = agent.run_commands, frozenset()
                continue
            pieces.append(_Piece(_WORD, [word]))
            commands = runs = frozenset()
            continue
        names, most = _meaning(agent, word)
        if any(name in agent.excluded for name in names):
            return None
        values = _values(args[position:], most)
        if most == _UNKNOWN and (agent.run_only or any(value in commands | runs for value in values)):
            return None
        pieces.append(_Piece(_OPTION, [word, *values], names))
        position += len(values)
    return Arguments(agent, pieces)


_NONE, _ONE, _MAYBE, _UNKNOWN, _MANY = "none", "one", "maybe", "unknown", "many"


def _meaning(agent: Agent, word: str) -> tuple[list[str], str]:
    """Return which options a word holds, more than one where letters are joined, and what may follow it."""
    name, equals, _ = word.partition("=")
    takes = _takes(agent, name)
    if takes != _UNKNOWN or name.startswith("--"):
        return [name], _NONE if equals or (takes == _UNKNOWN and name.startswith("--no-")) else takes
    names = []
    for number, letter in enumerate(word[1:], start=2):
        names.append(f"-{letter}")
        takes = _takes(agent, names[-1])
        if takes != _NONE:
            return names, takes if number == len(word) else _NONE
    return names, _NONE


def _takes(agent: Agent, option: str) -> str:
    for options, takes in ((agent.one, _ONE), (agent.maybe, _MAYBE), (agent.many, _MANY)):
        if option in options:
            return takes
    return _NONE if option in agent.flags | agent.excluded | agent.headless else _UNKNOWN


def _values(following: Sequence[str], takes: str) -> list[str]:
    if takes == _NONE or not following:
        return []
    if takes == _ONE:
        return list(following[:1])
    if takes == _MANY:
        end = next((number for number, word in enumerate(following) if word.startswith("-")), len(following))
        return list(following[:end])
    return [] if following[0].startswith("-") else list(following[:1])


def _joined(pieces: Sequence[_Piece]) -> list[str]:
    return [word for piece in pieces for word in piece.words]


def _one_by_one(pieces: Iterator[_Piece]) -> Iterator[str]:
    """Yield pieces with an option before each of its values: ``codex exec resume`` takes but one at a time."""
    for piece in pieces:
        if piece.kind == _OPTION and len(piece.words) > 2:
            for value in piece.words[1:]:
                yield from (piece.words[0], value)
        else:
            yield from piece.words
