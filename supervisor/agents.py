"""Agents that can go on with a conversation: by which words, and what their own command lines say. Pure.

Source: the agents' own help and, where that is silent, what they did when they were run (claude 2.1, codex 0.169,
gemini 0.61, qwen 0.15, copilot 1.0, opencode 1.18, pi 0.74; kilo is a fork of opencode). Light: `wrap` loads it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = "-h --help -v --version"


class Agent:
    """One agent's words.

    Attributes:
        name: the base name of its command.
        preset: the option that gives a new conversation its id, empty where there is none.
        resume: the words behind which an id takes up that conversation. Copilot's ``--session-id`` does both, and
            also where a failed start has left a conversation that ``--resume`` refuses.
        last: the words that take up the last conversation of the directory, empty where there are none.
        one, maybe, many, flags: its options by what follows them: one value, perhaps one, any number, none.
        excluded: options that leave no room for ours: a conversation that the person has chosen, none that is kept,
            one that is kept elsewhere, or no agent at all.
        commands: what is no prompt as first word, but a command of its own.
        runs, run_commands: those of its commands that have a conversation without a terminal; their own ``commands``.
        run_only: options of ``runs`` that must stand ahead of what resumes.
        headless: options under which it works its prompt off and ends.
        prompts: options whose value is sent as a first turn.
        positional_prompt: whether words that belong to no option are a prompt.
        positional_is_headless: whether such a prompt is worked off without a terminal.
    """

    __slots__ = (
        *("commands", "excluded", "flags", "headless", "last", "many", "maybe", "name", "one"),
        *("positional_is_headless", "positional_prompt", "preset", "prompts", "resume", "run_commands", "run_only"),
        "runs",
    )

    def __init__(
        self,
        name: str,
        *,
        preset: str = "",
        resume: str = "",
        last: str = "",
        one: str = "",
        maybe: str = "",
        many: str = "",
        flags: str = "",
        excluded: str = "",
        commands: str = "",
        runs: str = "",
        run_commands: str = "",
        run_only: str = "",
        headless: str = "",
        prompts: str = "",
        positional_prompt: bool = True,
        positional_is_headless: bool = False,
    ) -> None:
        self.name = name
        self.preset = preset
        self.resume = resume.split()
        self.last = last.split()
        self.one = frozenset(one.split())
        self.maybe = frozenset(maybe.split())
        self.many = frozenset(many.split())
        self.flags = frozenset(flags.split())
        self.excluded = frozenset(excluded.split())
        self.commands = frozenset(commands.split())
        self.runs = frozenset(runs.split())
        self.run_commands = frozenset(run_commands.split())
        self.run_only = frozenset(run_only.split())
        self.headless = frozenset(headless.split())
        self.prompts = frozenset(prompts.split())
        self.positional_prompt = positional_prompt
        self.positional_is_headless = positional_is_headless

    def words_for(self, session: str) -> list[str]:
        """Return the words that take up a conversation."""
        return [*self.resume, session]

    def session_in(self, words: Sequence[str]) -> str | None:
        """Return the id of the conversation that words name, None where they name none."""
        for position, word in enumerate(words):
            option, equals, value = word.partition("=")
            if option in (self.preset, self.resume[-1]) and option:
                found = value if equals else "".join(words[position + 1 : position + 2])
                return found if is_session(found) else None
        return None


def is_session(text: str) -> bool:
    """Tell whether a text may be the id of a conversation, or for pi its file: nothing that reads as an option."""
    if text.startswith("/") and text.endswith(".jsonl"):
        return text.isprintable()
    return (
        8 <= len(text) <= 64
        and text.isascii()
        and text[0].isalnum()
        and text.replace("-", "").replace("_", "").isalnum()
    )


def _like_opencode(name: str) -> Agent:
    return Agent(
        name,
        resume="--session",
        last="--continue",
        one="--log-level --port --hostname --mdns-domain -m --model --prompt --agent --replay-limit --command --format"
        " --title -p --password -u --username --dir --variant",
        many="--cors -f --file",
        flags="--print-logs --pure --mdns --auto --mini --no-replay --share --thinking",
        excluded=f"{_HELP} -c --continue -s --session --fork --attach",
        commands="completion acp mcp attach debug providers auth agent upgrade uninstall serve web models stats export"
        " import github pr session plugin plug db",
        runs="run",
        prompts="--prompt",
        positional_prompt=False,
    )


AGENTS = {
    agent.name: agent
    for agent in (
        Agent(
            "claude",
            preset="--session-id",
            resume="--resume",
            last="--continue",
            one="--agent --agents --append-system-prompt --append-system-prompt-file --debug-file --effort"
            " --fallback-model --input-format --json-schema --max-budget-usd --max-turns --model -n --name"
            " --output-format --permission-mode --permission-prompt-tool --plugin-dir --plugin-url"
            " --remote-control-session-name-prefix --setting-sources --settings --system-prompt --system-prompt-file",
            maybe="-d --debug --prompt-suggestions --remote-control",
            many="--add-dir --allowedTools --allowed-tools --betas --disallowedTools --disallowed-tools --file"
            " --mcp-config --tools",
            flags="--allow-dangerously-skip-permissions --ax-screen-reader --bare --brief --chrome"
            " --dangerously-skip-permissions --disable-slash-commands --exclude-dynamic-system-prompt-sections --ide"
            " --include-hook-events --include-partial-messages --no-chrome --replay-user-messages --safe-mode"
            " --strict-mcp-config --verbose",
            excluded=f"{_HELP} -c --continue -r --resume --session-id --fork-session --from-pr"
            " --no-session-persistence --bg --background --tmux -w --worktree",
            commands="agents auth auto-mode config doctor gateway install mcp plugin plugins project remote-control"
            " setup-token ultrareview update upgrade",
            headless="-p --print",
        ),
        Agent(
            "codex",
            resume="resume",
            last="resume --last",
            one="-c --config --enable --disable --remote-auth-token-env -m --model --local-provider -p --profile -s"
            " --sandbox -C --cd --add-dir -a --ask-for-approval --thread-source --cyber-access-program --output-schema"
            " --color -o --output-last-message",
            many="-i --image",
            flags="--strict-config --oss --approve-for-me --dangerously-bypass-approvals-and-sandbox"
            " --dangerously-bypass-hook-trust --search --no-alt-screen --no-daemon --skip-git-repo-check --trust"
            " --ignore-user-config --ignore-rules --json --full-auto",
            excluded="-h --help -V --version --remote --worktree --ephemeral",
            commands="agents review login logout mcp plugin app-server remote-control completion update doctor sandbox"
            " debug apply a resume queue archive delete migrate-rollouts migrate-nfs-db unarchive fork cloud"
            " exec-server features help",
            runs="exec e",
            run_commands="resume fork review help",
            run_only="-s --sandbox -C --cd --add-dir -p --profile --oss --local-provider --color --approve-for-me"
            " --full-auto",
            prompts="-i --image",
        ),
        Agent(
            "copilot",
            preset="--session-id",
            resume="--session-id",
            last="--continue",
            one="-i --interactive -p --prompt --model --reasoning-effort --context --auto-tier --agent -n --name -C"
            " --log-dir --extension-sdk-path --log-level --stream --output-format --add-dir --attachment"
            " --disable-mcp-server --add-github-mcp-toolset --add-github-mcp-tool --plugin-dir --additional-mcp-config"
            " --mcp-github-auth --max-autopilot-continues --mode --dynamic-retrieval --enable-mcp-server"
            " --max-ai-credits --usage-output-file",
            excluded=f"{_HELP} -r --resume --continue --session-id --connect --acp --environment-host",
            commands="app login help init config update version workflow sessions memories plugin mcp skill instruction"
            " lsp sandbox completion",
            headless="-p --prompt",
            prompts="-i --interactive",
            positional_prompt=False,
        ),
        Agent(
            "gemini",
            preset="--session-id",
            resume="--resume",
            last="--resume latest",
            one="-m --model -p --prompt -i --prompt-interactive --approval-mode -o --output-format",
            many="--policy --admin-policy --allowed-mcp-server-names --allowed-tools -e --extensions"
            " --include-directories",
            flags="-d --debug --skip-trust -s --sandbox -y --yolo --screen-reader --raw-output"
            " --accept-raw-output-risk",
            excluded=f"{_HELP} -r --resume --session-id --session-file --list-sessions --delete-session -l"
            " --list-extensions -w --worktree --acp --experimental-acp",
            commands="mcp extensions extension skills skill hooks hook gemma",
            headless="-p --prompt",
            prompts="-i --prompt-interactive",
        ),
        _like_opencode("kilo"),
        _like_opencode("opencode"),
        Agent(
            "pi",
            preset="--session",
            resume="--session",
            last="--continue",
            one="--provider --model --api-key --system-prompt --append-system-prompt --mode --session-dir --models"
            " --tools -t --thinking --extension -e --skill --prompt-template --theme",
            flags="--no-tools -nt --no-builtin-tools -nbt --no-extensions -ne --no-skills -ns --no-prompt-templates -np"
            " --no-themes --no-context-files -nc --verbose --offline",
            excluded=f"{_HELP} -c --continue -r --resume --session --fork --no-session --export --list-models",
            commands="install remove uninstall update list config",
            headless="-p --print --mode",
        ),
        Agent(
            "qwen",
            preset="--session-id",
            resume="--resume",
            last="--continue",
            one="--telemetry-target --telemetry-otlp-endpoint --telemetry-otlp-protocol --telemetry-outfile --proxy -m"
            " --model -p --prompt -i --prompt-interactive --system-prompt --append-system-prompt --sandbox-image"
            " --approval-mode --channel --mcp-config --openai-logging-dir --openai-api-key --openai-base-url"
            " --input-format -o --output-format --json-fd --json-file --json-schema --input-file --max-session-turns"
            " --auth-type",
            many="--allowed-mcp-server-names --allowed-tools -e --extensions --include-directories --add-dir"
            " --core-tools --exclude-tools --disabled-slash-commands",
            flags="--telemetry --telemetry-log-prompts -d --debug --bare -s --sandbox -y --yolo --checkpointing"
            " --experimental-lsp --openai-logging --screen-reader --include-partial-messages",
            excluded=f"{_HELP} -c --continue -r --resume --session-id --chat-recording --no-chat-recording -l"
            " --list-extensions --acp --experimental-acp",
            commands="mcp extensions auth hooks hook channel review",
            headless="-p --prompt",
            prompts="-i --prompt-interactive",
            positional_is_headless=True,
        ),
    )
}


def agent_of(cli: str) -> Agent | None:
    """Return the agent that a command, as typed, starts by its base name; None for others."""
    return AGENTS.get(os.path.basename(cli))


def continuation(cli: str, added: Sequence[str], args: Sequence[str]) -> list[str] | None:
    """Return the words by which a person goes on with a run's conversation; None where the agent has none.

    Args:
        cli: the run's command.
        added: what `wrap` has added to its arguments.
        args: its arguments as typed.
    """
    agent = agent_of(cli)
    if agent is None:
        return None
    session = agent.session_in(added) or agent.session_in(args)
    return agent.last if session is None else agent.words_for(session)
