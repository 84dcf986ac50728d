"""hdb COMMAND. The commands are the modules of `experiments` that have a `main`; none is loaded to list them.

The commands for people take files and prompts as plain words (`positional`), the others a config and name=value.
"""

import ast
import sys
import textwrap
from importlib import import_module
from pathlib import Path

HELP = """hdb: one photo of a face becomes a file that teaches an image model that person

  hdb personalize me.jpg                 one photo, or several of one person: me.safetensors
  hdb generate me.safetensors "a [V] face in the snow"                  pictures of them
  hdb export me.safetensors              a LoRA file for the program you make pictures with
  hdb inspect me.safetensors             what is in a file; or which layers a base has
  hdb demo                               all of that in the browser

Settings come after, as name=value: hdb generate me.safetensors seed=3 scale=0.8
  hdb COMMAND --help                     all settings of a command
  hdb completion bash                    (or zsh) completes them: source <(hdb completion bash)

To train and measure, hdb COMMAND CONFIG.yaml name=value ..., with COMMAND one of
"""
FOR_PEOPLE = ("personalize", "generate", "export", "inspect", "demo")


def main() -> None:
    """What the shell calls `hdb`."""
    name, *words = sys.argv[1:] or ["--help"]
    commands = list_commands()
    if name in ("-h", "--help", "help"):
        others = " ".join(command for command in commands if command not in FOR_PEOPLE)
        print(HELP + textwrap.fill(others, 80, initial_indent="  ", subsequent_indent="  "))
    elif name == "completion":
        from experiments.shell.completion import completion_script

        print(completion_script(commands, *words))
    elif name not in commands:
        sys.exit(f"error: there is no command {name!r}, expected one of {', '.join(commands)}")
    else:
        from experiments.cli import run

        run(lambda argv: call_command(name, argv), words)


def call_command(name: str, words: list[str]) -> None:
    """Runs a command with words of the shell."""
    from experiments.shell.positional import expand_words

    expanded = expand_words(name, words)
    import_module(f"experiments.{name}").main(expanded)


def list_commands() -> list[str]:
    """The names of all commands, found without importing them."""
    folder = Path(__file__).parents[1]
    return [path.stem for path in sorted(folder.glob("*.py")) if _has_main(path)]


def _has_main(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


if __name__ == "__main__":
    main()
