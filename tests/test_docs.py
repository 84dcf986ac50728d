"""README and docs: links lead somewhere, limits hold, and examples that are marked `run` work as they stand.

A code block is marked by a second word after its language: ```sh run or ```python run.
"""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import yaml
from diffusers import DDIMScheduler

from hdb.diffusion.sheet import save_image, to_pil
from hdb.faceworld.world import FaceWorld

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)( run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
PATH = re.compile(r"`((?:hdb|experiments|configs|tests|docs)/[\w./-]+)`")


class Example(NamedTuple):
    """A block that is marked to be run."""

    document: str
    line: int
    language: str
    code: str


def examples() -> list[Example]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for block in BLOCK.finditer(text):
            language, marked, code = block.groups()
            if marked:
                line = text[: block.start()].count("\n") + 1
                found.append(Example(document.name, line, language, code))
    return found


def commands(example: Example) -> list[list[str]]:
    """The words of each line of a shell example, comments left out."""
    lines = example.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = BLOCK.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[str]:
    for markdown, image in LINK.findall(BLOCK.sub("", document.read_text())):
        yield markdown or image


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(document):
    for link in links(document):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {link}, and there is no {target}"
        if anchor:
            assert anchor in anchors(target), f"{document.name} links to {link}, and there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document):
    if document.name == "CHANGELOG.md":  # names what is gone
        return
    for name in PATH.findall(document.read_text()):
        assert (ROOT / name).exists(), f"{document.name} names {name}, and there is no such file"


def test_every_document_is_linked_from_readme_or_from_one_that_is():
    reached = {ROOT / "README.md"}
    waiting = [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        for link in links(document):
            target = (document.parent / link.partition("#")[0]).resolve()
            if target in DOCUMENTS and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached == set(DOCUMENTS)


def test_readme_is_short_and_begins_with_what_a_reader_came_for():
    text = (ROOT / "README.md").read_text()
    lines = text.splitlines()
    assert len(lines) <= 150 and len(text.encode()) <= 12_000
    blocks = list(BLOCK.finditer(text))
    first = {
        language: text[: next(block.start(3) for block in blocks if block[1] == language)].count("\n") + 1
        for language in ("sh", "python")
    }
    assert first["sh"] <= 25 and first["python"] <= 35
    (call,) = [number for number, line in enumerate(lines, 1) if line == 'anna = pipe.personalize("face.png")']
    assert call <= 35


def test_the_picture_of_readme_is_small():
    (picture,) = re.findall(r'<img src="([^"]+)"', (ROOT / "README.md").read_text())
    assert (ROOT / picture).stat().st_size <= 300_000


def test_the_workflow_calls_what_ci_calls_and_the_citation_is_whole():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    assert "secrets" not in json.dumps(workflow)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Ruiz"


def save_portrait(path: Path, world: FaceWorld, *, person: int, view: int) -> None:
    save_image(to_pil(world.render([(world.identity(person), world.view(person, view))])[0]), path)


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Path:
    """A folder as a reader's: a checkout of this repository, a portrait, and photos of three people."""
    for name in ("hdb", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    small, large = FaceWorld(resolution=64), FaceWorld(resolution=128)
    save_portrait(tmp_path / "face.png", small, person=0, view=0)
    for person in range(3):
        for view in (0, 3):
            save_portrait(tmp_path / f"photos/person-{person}/{view}.png", large, person=person, view=view)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


class ShortTrainer(lightning.Trainer):
    """Lightning's Trainer, which stops after two steps."""

    def __init__(self, *, max_steps: int = -1, **options: Any) -> None:
        super().__init__(max_steps=min(max_steps, 2), **options)


@pytest.fixture
def short_runs(monkeypatch):
    """Two steps of every training and of every picture, whatever an example asks for."""
    importlib.import_module("hdb.pipeline")  # its type hints name the Trainer as it is now
    set_timesteps = DDIMScheduler.set_timesteps
    monkeypatch.setattr(lightning, "Trainer", ShortTrainer)
    monkeypatch.setattr(
        DDIMScheduler,
        "set_timesteps",
        lambda self, num_inference_steps, *args, **kwargs: set_timesteps(self, 2, *args, **kwargs),
    )


def test_marked_examples_run_as_they_stand(reader, short_runs, monkeypatch, capsys):
    """All in one process and one folder: a later example may use what an earlier one made."""
    from experiments.shell.command import main as hdb

    number = 0
    names: dict[str, dict[str, object]] = {}
    for example in examples():
        place = f"{example.document}:{example.line}"
        if example.language == "python":
            exec(compile(example.code, place, "exec"), names.setdefault(example.document, {}))
            number += 1
            continue
        for words in commands(example):
            assert words[0] == "hdb", f"{place}: {words[0]} cannot be run in a test, expected hdb"
            monkeypatch.setattr(sys, "argv", words)
            code = 0
            try:
                hdb()
            except SystemExit as stop:
                code = stop.code
            assert not code, f"{place}: {' '.join(words)} ended with {code}: {capsys.readouterr().err}"
            number += 1
    assert number >= 12
    assert len(names["README.md"]["pictures"]) == 4
    for name in ("anna.safetensors", "anna-lora.safetensors", "my-hypernet/config.json"):
        assert (reader / name).is_file()
