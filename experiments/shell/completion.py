"""Completion in the shell: commands, the settings of each, and files. The script knows them all and asks nobody."""

import inspect
from importlib import import_module

from experiments.config.help import settings

SCRIPT = """_hdb() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" names=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        names="{commands} completion --help"
    else
        case "$command" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$names" -- "$word") $(compgen -f -- "$word"))
    case "${{COMPREPLY[0]}}" in *=) compopt -o nospace ;; esac
}}
COMP_WORDBREAKS="${{COMP_WORDBREAKS//=/}}"
complete -o filenames -F _hdb hdb"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def script(commands: list[str], shell: str = "bash") -> str:
    """What bash or zsh reads.

    Raises:
        SystemExit: another shell.
    """
    if shell not in ("bash", "zsh"):
        raise SystemExit(f"error: completion for {shell!r}, expected bash or zsh")
    cases = []
    for command in commands:
        names = " ".join(f"{setting.name}=" for setting in settings(schema_of(command)))
        cases.append(f'            {command}) names="{names} --help" ;;')
    return (ZSH if shell == "zsh" else "") + SCRIPT.format(commands=" ".join(commands), cases="\n".join(cases))


def schema_of(command: str) -> type:
    """The dataclass that a command's words fill in: the one of those it imports that its `main` loads."""
    module = import_module(f"experiments.{command}")
    source = inspect.getsource(module.main)
    return next(
        of
        for name, of in vars(module).items()
        if isinstance(of, type) and of.__module__.startswith("experiments.config") and f"load({name}, " in source
    )
