"""hdb, the command: what its words mean, what it loads, and that it works from any folder."""

import json
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from experiments.cli import execute
from experiments.config import Export, Generate, Inspect, Personalize
from experiments.config.help import describe, list_settings
from experiments.shell.command import FOR_PEOPLE, HELP, list_commands
from experiments.shell.completion import completion_script
from experiments.shell.positional import expand_words

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "diffusers", "transformers", "lightning", "wandb", "timm")
TOLD = """
import sys
from experiments.shell import command
sys.argv = ["hdb", *sys.argv[1:]]
try:
    command.main()
finally:
    print(len(sys.modules), *sorted(sys.modules), file=sys.stderr)
"""


def hdb(*words: str, cwd: Path) -> tuple[str, list[str]]:
    """What the command prints in a folder, and the modules it loads."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD, *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    *said, modules = done.stderr.strip().splitlines()
    assert done.returncode == 0, done.stderr
    return done.stdout, modules.split()[1:]


def test_help_fits_on_a_screen_and_loads_nothing(tmp_path):
    said, modules = hdb("--help", cwd=tmp_path)
    assert len(said.splitlines()) <= 24 and max(map(len, said.splitlines())) <= 100
    assert not set(HEAVY) & set(modules) and len(modules) < 150
    assert all(name in said for name in list_commands())


def test_a_file_is_inspected_without_the_libraries_of_networks(tmp_path):
    from hdb.lidb.file import Subject
    from hdb.lidb.layout import Layout, Slot

    layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2), Slot("unet.to_k", 8, 8, a=4, b=2)))
    Subject(layout.initial_theta(), layout, {"base": "mine", "source": "me.png"}).save(tmp_path / "me.safetensors")
    said, modules = hdb("inspect", "me.safetensors", cwd=tmp_path)
    assert layout.digest in said and "12 x float32" in said and "me.png" in said
    assert not set(HEAVY) & set(modules) and len(modules) < 500


def test_an_altered_file_is_refused_with_the_sentence_of_loading(tmp_path, capsys, monkeypatch):
    from experiments import inspect
    from experiments.cli import execute
    from hdb.lidb.file import Subject
    from hdb.lidb.layout import Layout, Slot

    layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
    path = Subject(layout.initial_theta(), layout, {"consent": "yes"}).save(tmp_path / "me.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"consent":"yes"', b'"consent":"no!"'))
    assert execute(inspect.main, [f"subject={path}"]) == 2
    assert "was altered: its content has checksum" in capsys.readouterr().err


CONFIG = "configs/faceworld/personalize.yaml"
DRAWN = "configs/faceworld/generate.yaml"
MEANT = [
    ("personalize me.jpg", [CONFIG, "reference=me.jpg", "output=me.safetensors"]),
    (
        "personalize a/me.jpg b.jpg c.jpg seed=3",
        [CONFIG, "reference=a/me.jpg", "output=me.safetensors", 'more_references=["b.jpg", "c.jpg"]', "seed=3"],
    ),
    ("personalize me.png", [CONFIG, "reference=me.png", "output=me.safetensors"]),
    ("personalize me.jpg output=x.pt", [CONFIG, "reference=me.jpg", "output=me.safetensors", "output=x.pt"]),
    ("personalize me.jpg base.path=sd", ["reference=me.jpg", "output=me.safetensors", "base.path=sd"]),
    ("personalize my.yaml me.jpg", ["reference=me.jpg", "output=me.safetensors", "my.yaml"]),
    ("generate me.safetensors a_face", [DRAWN, 'subject=["me.safetensors"]', 'prompts=["a_face"]']),
    ("generate a.safetensors b.safetensors", [DRAWN, 'subject=["a.safetensors", "b.safetensors"]']),
    ("export me.safetensors format=kohya",
     ["configs/faceworld/export.yaml", "subject=me.safetensors", "output=me-lora.safetensors", "format=kohya"]),
    ("inspect me.safetensors", ["subject=me.safetensors"]),
    ("inspect sd15-config lidb.a=3", ["base=sd15-config", "lidb.a=3"]),
    ("pretrain configs/faceworld/pretrain.yaml lr=1", ["configs/faceworld/pretrain.yaml", "lr=1"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "meant"), MEANT, ids=[words for words, _ in MEANT])
def test_plain_words_mean_what_people_expect(words, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = words.split()
    assert expand_words(command, rest) == meant


def test_a_photo_whose_name_looks_like_a_setting_is_a_photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me=you.jpg").touch()
    assert expand_words("personalize", ["me=you.jpg"])[1] == "reference=me=you.jpg"


def test_a_file_of_another_kind_is_no_prompt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.png").touch()
    assert expand_words("generate", ["me.png", "a_face"])[1:] == ['subject=["me.png"]', 'prompts=["a_face"]']


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "a.safetensors", "b.safetensors"], "export takes one file of a person, given 2: a.safet"),
        (["inspect", "a", "b"], "inspect takes one file, or one base, given 2"),
        (["demo", "me.jpg"], "'me.jpg' was given, and demo takes only name=value"),
    ],
)
def test_words_without_a_meaning_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        expand_words(words[0], words[1:])


def test_an_unknown_command_is_told_the_known_ones(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.shell.command", "personalise"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "no command 'personalise', expected one of ablate, " in done.stderr


def test_messages_of_libraries_are_hidden_though_loading_them_sets_their_levels():
    from experiments.cli import execute

    enabled = []

    def main(words: list[str]) -> None:
        library = logging.getLogger("lightning.pytorch")
        library.setLevel(logging.INFO)  # as it does itself
        enabled.extend(library.isEnabledFor(level) for level in (logging.INFO, logging.WARNING))

    assert execute(main, []) == 0
    assert enabled == [False, True]


@pytest.mark.parametrize("schema", [Personalize, Generate, Export, Inspect])
def test_help_has_a_sentence_for_every_setting_of_those_who_make_pictures(schema):
    assert [setting.name for setting in list_settings(schema) if not setting.sentence] == []


def test_help_says_type_limits_and_default():
    page = describe(Personalize)
    assert "reference: must be given  (text)" in page
    assert "sampling.num_inference_steps: 50  (whole number, 1 to 999)" in page
    assert "face: null  (whole number, at least 1, or null)" in page


def test_completion_knows_every_command_and_setting():
    known = completion_script(list_commands())
    assert subprocess.run(["bash", "-n"], input=known, text=True).returncode == 0
    asked = 'COMP_WORDS=(hdb personalize finetuning.r); COMP_CWORD=2; _hdb; echo "${COMPREPLY[@]}"'
    told = subprocess.run(["bash", "-c", f"{known}\n{asked}"], capture_output=True, text=True).stdout
    assert told.split() == ["finetuning.rank="]
    assert all(f"{command})" in known for command in list_commands())


def test_the_commands_for_people_are_among_them():
    assert set(FOR_PEOPLE) <= set(list_commands()) and all(f"hdb {name} " in HELP for name in FOR_PEOPLE)


def test_what_is_shipped_is_found_from_any_folder_and_results_stay_here(tmp_path, monkeypatch):
    from experiments.config import TrainBase, load

    monkeypatch.chdir(tmp_path)
    config = load(Personalize, [CONFIG, "reference=me.jpg"])
    assert Path(config.base.path) == ROOT / "hdb/faceworld/weights/base" and Path(config.encoder).is_dir()
    assert config.output == "subject.safetensors"
    written = load(TrainBase, ["configs/faceworld/base.yaml", "weights=hdb/faceworld/weights"])
    assert written.weights == "hdb/faceworld/weights"  # and not beside the package
    assert json.loads((Path(config.base.path) / "model_index.json").read_text())


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("wandb", "the package wandb is not installed: expected it, as pip install wandb does"),
        ("yaml", "the package yaml is not installed: expected it, as pip install pyyaml does"),
        (
            "facenet_pytorch",
            "the package facenet_pytorch is not installed: expected it, as pip install facenet_pytorch does",
        ),
        ("nobody", "the package nobody is not installed: expected it, as a library that is installed needs it"),
        (
            "PIL.nothing",
            "the installed pillow has no module PIL.nothing: expected a version that pyproject.toml allows",
        ),
    ],
)
def test_a_module_that_is_missing_is_named_in_one_sentence(module, sentence, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert execute(lambda argv: import_module(module), []) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("module", ["hdb.nothing", "_lzma"])
def test_a_module_that_no_library_brings_keeps_its_traceback(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=module):
        execute(lambda argv: import_module(module), [])
