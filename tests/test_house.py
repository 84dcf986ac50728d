"""Every setting of every command is read by somebody, and what the commands import late exists."""

import ast
import importlib.util
import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

from experiments import config as schemas

ROOT = Path(__file__).parents[1]
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for room in ("hdb", "experiments")
    for path in sorted((ROOT / room).rglob("*.py"))
}
COMMANDS = {
    "ablate": schemas.Ablate,
    "base": schemas.TrainBase,
    "benchmark": schemas.Benchmark,
    "demo": schemas.Demo,
    "evaluate": schemas.Evaluate,
    "export": schemas.Export,
    "faceworld": schemas.RenderFaceworld,
    "gate": schemas.MeasureGate,
    "generate": schemas.Generate,
    "inspect": schemas.Inspect,
    "personalize": schemas.Personalize,
    "plan": schemas.PlanRuns,
    "preoptimize": schemas.Preoptimize,
    "prepare": schemas.Prepare,
    "pretrain": schemas.Pretrain,
    "readme": schemas.Readme,
    "search": schemas.Search,
}
HELPERS = {
    "experiments.tracking": "tracking.py",
    "experiments.config.variants": "config/variants.py",
}
SHARED = {"base": ["measure"]}  # two commands of one schema


def attributes(*trees: ast.AST) -> set[str]:
    """Names of all attributes that are read."""
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def read_by(command: str) -> set[str]:
    """What a command reads, with the helpers among the experiments that it imports."""
    trees = [TREES[Path("experiments", f"{name}.py")] for name in (command, *SHARED.get(command, []))]
    imported = {node.module for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return attributes(*trees, *(TREES[Path("experiments", HELPERS[name])] for name in imported & set(HELPERS)))


def dead_fields(schema: type, asked: set[str], library: set[str], prefix: str = "") -> list[str]:
    """Fields that nobody reads: those of hdb's own options are for hdb to read, all others for the command."""
    dead, hints = [], get_type_hints(schema)
    for entry in fields(schema):
        owner = next(part for part in schema.__mro__ if entry.name in vars(part).get("__annotations__", {}))
        readers = library | asked if owner.__module__.startswith("hdb.") else asked
        if entry.name not in readers:
            dead.append(f"{prefix}{entry.name}")
        elif is_dataclass(hints[entry.name]):
            dead += dead_fields(hints[entry.name], asked, library, f"{prefix}{entry.name}.")
    return dead


LIBRARY = attributes(*(tree for path, tree in TREES.items() if path.parts[0] == "hdb"))


@pytest.mark.parametrize(("command", "schema"), COMMANDS.items(), ids=COMMANDS)
def test_no_setting_of_an_experiment_does_nothing(command, schema):
    assert dead_fields(schema, read_by(command), LIBRARY) == []


def test_a_setting_that_nobody_reads_is_found():
    @dataclass
    class Idle:
        output: str = ""
        never_looked_at: int = 0

    assert dead_fields(Idle, read_by("generate"), LIBRARY) == ["never_looked_at"]
    assert "wandb" in dead_fields(schemas.Personalize, read_by("generate"), LIBRARY)


@pytest.mark.parametrize("room", ["experiments", "hdb/demo", "hdb/runs"])
def test_what_is_imported_within_functions_exists(room):
    for path, tree in TREES.items():
        if path.is_relative_to(room):
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module.startswith(("experiments", "hdb")):
                    module = importlib.import_module(node.module)
                    missing = [name.name for name in node.names if not exists(module, name.name)]
                    assert missing == [], f"{path}: {node.module}"


def exists(module: ModuleType, name: str) -> bool:
    if hasattr(module, name):
        return True
    return importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def words_of_code(tree: ast.AST) -> set[str]:
    """All names and texts of a file but its docstrings."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words.add(node.value)
        for name in ("id", "attr", "name", "module", "arg"):
            words.add(str(getattr(node, name, None)))
    return words


def test_what_stable_diffusion_xl_has_of_its_own_is_named_in_its_file_and_the_table_of_families_alone():
    own = re.compile(r"sdxl|DiffusionXL|xl-base|text_encoder_2|tokenizer_2|time_ids|lora_te2", re.IGNORECASE)
    named = {str(path) for path, tree in TREES.items() if any(own.search(word) for word in words_of_code(tree))}
    # `time_ids` is a field of what every base makes of prompts.
    assert named - {"hdb/diffusion/condition.py"} == {
        "hdb/diffusion/families/sdxl.py",
        "hdb/diffusion/families/table.py",
    }
