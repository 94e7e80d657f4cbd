"""What each shell needs to ask us: its script, and how it is answered.

Behind ``wrap`` and its options stands another command, which the shell completes as if it stood alone: we answer with
the type ``command`` and the number of that command's words before the one being typed. Candidates come from directories
and stores, so that a script quotes them and never lets the shell read them.
"""

from __future__ import annotations

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from supervisor.cli.completion import PROGRAMS, VARIABLE
from supervisor.wrap.options import UsageError, parse

_BASH = r"""_agent_yes_supervise() {
    local type value words=-1
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            plain)
                printf -v value %q "$value"
                COMPREPLY+=("$value")
                ;;
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            command) words=$value ;;
        esac
    done < <(
        IFS=$'\n'
        exec env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" @VARIABLE@=bash_complete "$1" 2>/dev/null
    )
    if ((words < 0)); then
        return
    elif declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset $((COMP_CWORD - words))
    elif declare -F _command_offset >/dev/null; then
        _command_offset $((COMP_CWORD - words))
    elif ((words == 0)); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        compopt -o default
    fi
}

complete -o nosort -F _agent_yes_supervise @PROGRAMS@
"""

_ZSH = r"""#compdef @PROGRAMS@

_agent_yes_supervise() {
    local -a response plain described
    local type key says
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
        @VARIABLE@=zsh_complete "${words[1]}" 2>/dev/null)}")
    for type key says in "${(@)response}"; do
        case $type in
            plain)
                if [[ $says == _ ]]; then
                    plain+=("$key")
                else
                    described+=("$key:$says")
                fi
                ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            command)
                shift $((CURRENT - 1 - key)) words
                CURRENT=$((key + 1))
                _normal
                return
                ;;
        esac
    done
    (($#described)) && _describe -V candidates described
    (($#plain)) && compadd -V candidates -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _agent_yes_supervise "$@"
else
    compdef _agent_yes_supervise @PROGRAMS@
fi
"""

_FISH = r"""function _agent_yes_supervise
    set -l words (commandline -opc)
    set -l response (env @VARIABLE@=fish_complete COMP_WORDS=(commandline -cp | string collect) \
        COMP_CWORD=(commandline -ct | string collect) $words[1] 2>/dev/null)
    for line in $response
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case plain
                echo $item[2]
            case dir
                __fish_complete_directories (commandline -ct)
            case file
                __fish_complete_path (commandline -ct)
            case command
                set -l own
                test $item[2] -gt 0
                and set own (string escape -- $words[(math 0 - $item[2])..-1])
                complete -C (string join ' ' -- $own (commandline -ct | string collect))
        end
    end
end

for program in @PROGRAMS@
    complete --no-files --command $program --arguments '(_agent_yes_supervise)'
end
"""


def _script(template: str) -> str:
    return template.replace("@VARIABLE@", VARIABLE).replace("@PROGRAMS@", " ".join(PROGRAMS))


SCRIPTS = {"bash": _script(_BASH), "zsh": _script(_ZSH), "fish": _script(_FISH)}
"""The script that each shell reads once."""


class _KnowsWrap(ShellComplete):
    """Knows where the words of another command begin."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return what may stand there: by click, but for the words of a wrapped agent."""
        if args[:1] == ["wrap"]:
            try:
                command = parse(args[1:]).command
            except UsageError:  # an option of wrap's own that is not complete yet
                pass
            else:
                if command or not incomplete.startswith("-"):
                    return [CompletionItem(str(len(command)), type="command")]
        return super().get_completions(args, incomplete)


def register() -> None:
    """Let click answer each shell as its script expects it."""
    for base in (BashComplete, ZshComplete, FishComplete):
        add_completion_class(type(base.__name__, (_KnowsWrap, base), {"source_template": ""}), base.name)
