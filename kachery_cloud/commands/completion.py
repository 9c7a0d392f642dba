"""`kachery-cloud completion`: the scripts by which bash, zsh and fish complete all of the commands."""

from __future__ import annotations

import click

from kachery_cloud.commands.completing import ASKED
from kachery_cloud.commands.support import command

#: A word of bash ends at `:`, `=` and `@`, too, so the line is passed on as a whole. Old ones (macOS) have no compopt.
_BASH = """\
_kachery_cloud_completion() {
    local kind word text
    COMPREPLY=()
    while IFS=$'\\t' read -r kind word text; do
        case $kind in
            plain) COMPREPLY+=("$word") ;;
            file) type compopt >/dev/null 2>&1 && compopt -o default ;;
            dir) type compopt >/dev/null 2>&1 && compopt -o dirnames ;;
        esac
    done < <(_KACHERY_CLOUD_BREAKS=$COMP_WORDBREAKS @ASKED@=bash "$1" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -o nosort -F _kachery_cloud_completion @NAMES@ 2>/dev/null ||
    complete -o default -F _kachery_cloud_completion @NAMES@
"""
_ZSH = """\
#compdef @NAMES@
_kachery_cloud_completion() {
    local line kind word
    local -a words_found texts
    for line in "${(@f)$(@ASKED@=zsh ${(Q)words[1]} "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        kind=${line%%$'\\t'*} line=${line#*$'\\t'}
        word=${line%%$'\\t'*} line=${line#*$'\\t'}
        case $kind in
            plain) words_found+=("$word"); texts+=("$word${line:+  -- $line}") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done
    # They fit what was typed, but need not begin with it, and have nothing in them that needs quotes.
    (( $#words_found )) && compadd -Q -U -V found -l -d texts -a words_found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _kachery_cloud_completion "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _kachery_cloud_completion @NAMES@
fi
"""
_FISH = """\
function __kachery_cloud_completion
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (env @ASKED@=fish $words "$current" 2>/dev/null)
        set -l parts (string split -m 2 \\t -- $line)
        switch $parts[1]
            case plain
                test -n "$parts[3]"; and echo $parts[2]\\t$parts[3]; or echo $parts[2]
            case file
                __fish_complete_path "$current"
            case dir
                __fish_complete_directories "$current" ''
        end
    end
end
for name in @NAMES@
    complete --no-files --keep-order --command $name --arguments '(__kachery_cloud_completion)'
end
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The script for a shell."""
    from kachery_cloud.commands.main import PROGRAMS

    return SCRIPTS[shell].replace("@ASKED@", ASKED).replace("@NAMES@", " ".join(PROGRAMS))


class _Shells(click.Choice):
    """One of the shells. Without one it is said in a line, as all that is wrong."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"Choose one of {', '.join(SCRIPTS)}."


@command("completion")
@click.argument("shell", type=_Shells(list(SCRIPTS)))
def completion(shell: str) -> None:
    """Print the script by which a shell completes these commands: bash, zsh or fish.

    It offers subcommands, options and files, and where a URI is typed what is on this machine: by its URI, its CID, or
    the beginning of its label. Nothing of the network is used.

    To have it in each new shell, add the line below to ~/.bashrc, or with zsh to ~/.zshrc. In fish the line is
    `kachery-cloud completion fish | source`, and the file ~/.config/fish/config.fish.

    \b
    Example:
        eval "$(kachery-cloud completion bash)"
    """  # noqa: D301
    click.echo(script(shell), nl=False)
