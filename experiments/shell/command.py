"""hdb COMMAND: the commands are the experiments that have a `main`; none of them is loaded to list them.

Who makes pictures says files and prompts as plain words (`positional`), who trains a config and name=value.
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
    if name in ("-h", "--help", "help"):
        rest = " ".join(command for command in commands() if command not in FOR_PEOPLE)
        print(HELP + textwrap.fill(rest, 80, initial_indent="  ", subsequent_indent="  "))
    elif name == "completion":
        from experiments.shell.completion import script

        print(script(commands(), *words))
    elif name not in commands():
        sys.exit(f"error: there is no command {name!r}, expected one of {', '.join(commands())}")
    else:
        from experiments.cli import code

        sys.exit(code(lambda given: called(name, given), words))


def called(name: str, words: list[str]) -> None:
    """Runs a command."""
    from experiments.quiet import quieten
    from experiments.shell.positional import in_full

    meant, module = in_full(name, words), import_module(f"experiments.{name}")
    quieten()
    module.main(meant)


def commands() -> list[str]:
    """The names of all commands, read from the files and not imported."""
    trees = {path.stem: ast.parse(path.read_text()) for path in sorted(Path(__file__).parents[1].glob("*.py"))}
    return [name for name, tree in trees.items() if _has_main(tree)]


def _has_main(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


if __name__ == "__main__":
    main()
