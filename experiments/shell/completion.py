"""Shell completion of commands, their settings and files. The script holds all names and starts nothing."""

import inspect
from importlib import import_module

from experiments.config.help import list_settings

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


def completion_script(commands: list[str], shell: str = "bash") -> str:
    """What bash or zsh reads.

    Raises:
        SystemExit: another shell.
    """
    if shell not in ("bash", "zsh"):
        raise SystemExit(f"error: completion for {shell!r}, expected bash or zsh")
    cases = []
    for command in commands:
        names = " ".join(f"{setting.name}=" for setting in list_settings(find_schema(command)))
        cases.append(f'            {command}) names="{names} --help" ;;')
    script = SCRIPT.format(commands=" ".join(commands), cases="\n".join(cases))
    return ZSH + script if shell == "zsh" else script


def find_schema(command: str) -> type:
    """The dataclass that a command's words fill: the first that its `main` loads."""
    module = import_module(f"experiments.{command}")
    source = inspect.getsource(module.main)
    schemas = {
        source.find(f"load({name}, "): value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("experiments.config")
    }
    schemas.pop(-1, None)
    return schemas[min(schemas)]
