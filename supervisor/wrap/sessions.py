"""Which arguments an agent needs so that each try of a restarted series goes on with one conversation.

Nothing is executed to find that out, and nothing here ever raises or keeps an agent from starting: where there is any
doubt it starts as the person typed it.
"""

from __future__ import annotations

import os
import time

from supervisor.agents import Agent, agent_of
from supervisor.process import procfs
from supervisor.process.token import VARIABLE, token_of
from supervisor.wrap.arguments import Arguments, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supervisor.wrap.transcripts import Changed, Places

_REFUSE_STUBS = frozenset({"claude", "gemini"})
"""Agents that neither resume a conversation without a turn nor begin another of its id; the others begin it."""


def session_of(
    cli: str, args: Sequence[str], *, cwd: str, environment: Mapping[str, str], started_at: float
) -> Session | None:
    """Return what adds to an agent's arguments; None for an unknown agent, or where they leave no room for that.

    Args:
        cli: the agent's name or path, as typed.
        args: its arguments, as typed.
        cwd: the directory that it works in.
        environment: its environment. The run's token in it, as it is when `Session.again` is asked, tells what the
            try before has left behind from other agents.
        started_at: when the first try starts, in Unix seconds.
    """
    agent = agent_of(cli)
    if agent is None or not cwd:
        return None
    parsed = parse(agent, args)
    return None if parsed is None else Session(agent, args, parsed, cwd, environment, started_at)


class Session:
    """The one conversation of a series of tries. Made by `session_of`.

    Args:
        agent: its agent.
        args: the arguments as typed.
        parsed: the same, taken apart.
        cwd: the directory that the agent works in.
        environment: the agent's.
        started_at: when the first try starts, in Unix seconds.
    """

    def __init__(
        self,
        agent: Agent,
        args: Sequence[str],
        parsed: Arguments,
        cwd: str,
        environment: Mapping[str, str],
        started_at: float,
    ) -> None:
        self._agent = agent
        self._args = list(args)
        self._parsed = parsed
        self._cwd = cwd
        self._environment = environment
        self._since = started_at
        self._id: str | None = None

    @property
    def _places(self) -> Places:
        from supervisor.wrap.transcripts import Places  # noqa: PLC0415  the first start rarely needs it

        return Places(self._environment, self._cwd)

    @staticmethod
    def get_ready() -> None:
        """Load what `again` needs: when it is asked this program may have been replaced by another version."""
        import supervisor.process.lasting  # noqa: PLC0415  the first start need not wait for it
        import supervisor.wrap.transcripts  # noqa: F401, PLC0415  the same

    def first(self) -> tuple[list[str], list[str]]:
        """Return the arguments of the first start, and those of them that were added."""
        try:
            return self._anew()
        except Exception:  # noqa: BLE001  no trouble of ours may keep the agent from starting
            self._id = None
            return list(self._args), []

    def again(self, agent_pid: int | None) -> tuple[list[str], list[str]]:
        """Return the same for a restart; to be asked when the try before has ended.

        Args:
            agent_pid: that try's process id.
        """
        try:
            return self._go_on(agent_pid)
        except Exception:  # noqa: BLE001  as above
            return list(self._args), []
        finally:
            self._since = time.time()

    def _anew(self) -> tuple[list[str], list[str]]:
        """Begin a conversation: of an id of ours where the agent takes one."""
        if not self._agent.preset:
            return list(self._args), []
        self._id = self._id or self._new_id()
        added = [self._agent.preset, self._id]
        return self._parsed.with_added(added), added

    def _new_id(self) -> str:
        session = _new_uuid()
        if self._agent.name != "pi":
            return session
        given = self._parsed.values_of("--session-dir")
        folder = self._places.path(given[-1]) if given else self._places.pi()
        os.makedirs(folder, exist_ok=True)  # pi makes it only where its own settings do not name another
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S-000Z", time.gmtime())
        return os.path.join(folder, f"{stamp}_{session}.jsonl")

    def _go_on(self, agent_pid: int | None) -> tuple[list[str], list[str]]:
        if not self._agent.preset:
            return self._go_on_with_found()
        from supervisor.wrap import transcripts  # noqa: PLC0415  see `get_ready`

        if self._agent.name == "claude" and agent_pid is not None:
            self._id = transcripts.live_claude(agent_pid, self._since, self._places) or self._id
        if self._id is None:
            return self._anew()
        state = transcripts.state_of(self._agent.name, self._id, self._places)
        if state == transcripts.CONVERSATION:
            return self._resumed(self._agent.words_for(self._id))
        if state == transcripts.STUB and self._agent.name in _REFUSE_STUBS:
            self._id = None
        return self._anew()

    def _go_on_with_found(self) -> tuple[list[str], list[str]]:
        """Go on with the session that the try before had, if there is no doubt which."""
        from supervisor.wrap import transcripts  # noqa: PLC0415  see `get_ready`

        if self._id is None:
            changed = self._changed()
            born = [session for session, at in changed.sessions if at >= self._since]
            if len(changed.sessions) + changed.unreadable != 1 or not self._is_alone():
                return list(self._args), []
            if changed.unreadable:
                return self._resumed(self._agent.last)
            self._id = next(iter(born), None)
        if self._id is None or (self._agent.name == "codex" and not transcripts.has_codex(self._id, self._places)):
            return list(self._args), []
        return self._resumed(self._agent.words_for(self._id))

    def _changed(self) -> Changed:
        from supervisor.wrap import transcripts  # noqa: PLC0415  see `get_ready`

        name, places = self._agent.name, self._places
        if name == "codex":
            return transcripts.changed_codex(places, self._directory("-C", "--cd"), self._since)
        return transcripts.changed_opencode(name, places, self._directory("--dir"), self._since)

    def _directory(self, *options: str) -> str:
        """Return the directory that the agent works in by its own arguments."""
        given = self._parsed.values_of(*options)
        if not given and not self._parsed.headless and not self._agent.positional_prompt:
            given = self._parsed.words()  # opencode PROJECT
        return os.path.realpath(os.path.join(self._cwd, given[-1]) if given else self._cwd)

    def _resumed(self, added: list[str]) -> tuple[list[str], list[str]]:
        """Return the arguments that take up a conversation; a prompt that it already holds is not sent again.

        Where the agent works it off without a terminal it is needed: there is nobody to say anything else.
        """
        return self._parsed.resumed(added, prompt=self._parsed.headless or not self._is_interactive()), added

    def _is_interactive(self) -> bool:
        """Tell whether there is a terminal for what the agent reads and writes; it has those that we have."""
        if self._agent.name == "gemini" and "true" in map(self._environment.get, ("CI", "GITHUB_ACTIONS")):
            return False  # whatever terminal it has
        return os.isatty(0) and os.isatty(1)

    def _is_alone(self) -> bool:
        """Tell whether no other agent of the kind lives in the directory: what has changed there may be its."""
        from supervisor.process.command import program_of, script_of  # noqa: PLC0415  see `get_ready`
        from supervisor.process.lasting import is_lasting  # noqa: PLC0415  the same

        token, own = self._environment.get(VARIABLE), os.path.realpath(self._cwd)
        if not procfs.is_ours():
            return False
        for pid in procfs.processes():
            if procfs.working_directory(pid) != own:
                continue
            argv = procfs.read_argv(pid) or ()
            names = {name.partition(".")[0] for name in (program_of(argv), script_of(argv))}
            if self._agent.name in names and not is_lasting(argv) and (token is None or token_of(pid) != token):
                return False
        return True


def _new_uuid() -> str:
    """Return a random UUID (RFC 9562, version 4). The module for that would cost 2 ms before the agent's start."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
