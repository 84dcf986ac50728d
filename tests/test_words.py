"""Words of a command and texts of a YAML arrive as they were written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import config as schemas
from experiments.config import load
from hdb.runs.options import WandbOptions

WORDS = [
    (schemas.Generate, "prompts", "a [V] face #selfie", ["a [V] face #selfie"]),
    (schemas.Generate, "prompts", "portrait: a [V] face, smiling", ["portrait: a [V] face, smiling"]),
    (schemas.Generate, "prompts", "[V] face", ["[V] face"]),
    (schemas.Generate, "prompts", "[V]", ["[V]"]),
    (schemas.Generate, "prompts", "[a [V] face, a [V] face in oil]", ["a [V] face", "a [V] face in oil"]),
    (schemas.Generate, "prompts", """['a, b', "it's"]""", ["a, b", "it's"]),
    (schemas.Generate, "prompts", '["a, b", c]', ["a, b", "c"]),
    (schemas.Generate, "subject", "[2023] me.safetensors", ["[2023] me.safetensors"]),
    (schemas.Generate, "subject", "[it's.safetensors,b]", ["it's.safetensors", "b"]),
    (schemas.Personalize, "reference", "IMG #1.png", "IMG #1.png"),
    (schemas.Personalize, "reference", "@me.jpg", "@me.jpg"),
    (schemas.Personalize, "reference", "???", "???"),
    (schemas.Personalize, "reference", "${oc.env:HOME}/me.png", "${oc.env:HOME}/me.png"),
    (schemas.Personalize, "consent", "yes", "yes"),
    (schemas.Personalize, "consent", "null", "null"),
    (schemas.Personalize, "consent", "", ""),
    (schemas.Pretrain, "faces.root", "2024_05", "2024_05"),
    (schemas.Pretrain, "faces.root", "1e3", "1e3"),
    (schemas.Personalize, "wandb.name", "12:30:45", "12:30:45"),
    # what W&B's agent writes
    (schemas.Personalize, "wandb.name", "None", None),
    (schemas.Personalize, "hypernet", "null", None),
    (schemas.Personalize, "finetuning.lr", "None", None),
    (schemas.Personalize, "finetuning.lr", "1e-05", 1e-5),
    (schemas.Personalize, "face", "2.0", 2),
    (schemas.Personalize, "face", "", None),
    (schemas.Personalize, "seed", "1e3", 1000),
    (schemas.Personalize, "min_face", "016", 16),
    (schemas.Personalize, "min_face", " 16 ", 16),
    (schemas.Generate, "scale", "\u22121.5", -1.5),
    (schemas.Generate, "scale", " 1e-3", 1e-3),
    (schemas.Generate, "overwrite", "yes", True),
    (schemas.Generate, "overwrite", "off", False),
    (schemas.Personalize, "crop", "True", True),
    (schemas.Pretrain, "faces.crop", "False", False),
    (schemas.Evaluate, "methods.names", "None", None),
    (schemas.Evaluate, "methods.names", "['only_hyper', 'hyperdreambooth']", ["only_hyper", "hyperdreambooth"]),
    (schemas.Pretrain, "wandb", "{'name': None, 'project': '12:30'}", WandbOptions(project="12:30")),
    (schemas.Pretrain, "wandb", "{name: 2024_05}", WandbOptions(name="2024_05")),
]  # fmt: skip
REQUIRED = {schemas.Generate: ["subject=s"], schemas.Personalize: ["reference=r"]}


def get_setting(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(("schema", "name", "word", "arrives"), WORDS)
def test_a_word_arrives_as_it_was_written(schema, name, word, arrives):
    assert get_setting(load(schema, [*REQUIRED.get(schema, []), f"{name}={word}"]), name) == arrives


def test_texts_of_a_yaml_keep_their_spelling(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "faces: {root: 2024_05}\nwandb: {name: 12:30:45}\nbeta: 0\npreview: {prompts: [yes, 'a: b']}\nlr: 1e-3\n"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        path.write_bytes(content)
        config = load(schemas.Pretrain, [str(path)])
        assert (config.faces.root, config.wandb.name, config.lr) == ("2024_05", "12:30:45", 1e-3)
        assert config.preview.prompts == ["yes", "a: b"]
    path.write_text("lr: 1\nlr: 2\n")
    with pytest.raises(ValueError, match="mine.yaml is not readable as YAML: lr stands there twice"):
        load(schemas.Pretrain, [str(path)])


YAMLS = [
    ("min_face: 016", "min_face", 16),
    ("min_face: 16.0", "min_face", 16),
    ("seed: 0", "seed", 0),
    ("overwrite: yes", "overwrite", True),
    ("crop: off", "crop", False),
    ("crop: ~", "crop", None),
    ("finetuning: {lr: 1e-3}", "finetuning.lr", 1e-3),
    ("finetuning:\r\n  lr: '1e-3'\r\n", "finetuning.lr", 1e-3),
    ("\ufeffsource: yes", "source", "yes"),
    ("source: 012", "source", "012"),
    ("min_face: --5", None, "min_face in mine.yaml is '--5', expected a whole number"),
    ("min_face: 1:30", None, "min_face in mine.yaml is '1:30', expected a whole number"),
    ("seed: 1e-3", None, "seed in mine.yaml is '1e-3', expected a whole number"),
    ("seed: ~", None, "seed in mine.yaml is null, expected a value, as it cannot be null"),
    ("overwrite: ja", None, "overwrite in mine.yaml is 'ja', expected true or false"),
    ("output: ''", None, "output is empty, expected a text"),
    ("face: [1, 2]", None, "face"),
    ("seed: 1\nseed: 2", None, "seed stands there twice"),
]


@pytest.mark.parametrize(("text", "name", "expected"), YAMLS)
def test_values_of_a_yaml_mean_what_people_expect(text, name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text, newline="")
    if name is None:
        with pytest.raises(ValueError, match=expected):
            load(schemas.Personalize, ["mine.yaml", "reference=r"])
    else:
        assert get_setting(load(schemas.Personalize, ["mine.yaml", "reference=r"]), name) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("face=\u2212x", "face is '-x', expected a whole number"),
        ("face=1,5", "face is '1,5', expected a whole number"),
        ("face=--5", "face is '--5', expected a whole number"),
        ("face=1.5", "face is '1.5', expected a whole number"),
        ("finetuning.lr=1,5", "finetuning.lr is '1,5', expected a number"),
        ("overwrite=", "overwrite is null, expected a value, as it cannot be null"),
        ("overwrite=ja", "overwrite is 'ja', expected true or false"),
        ("reference=", "reference is empty, expected a text"),
        ("output=", "output is empty, expected a text"),
        ("seed=null", "seed is null, expected a value"),
    ],
)
def test_a_word_of_the_wrong_type_gets_a_sentence(word, message):
    with pytest.raises(ValueError, match=message):
        load(schemas.Personalize, ["reference=r", word])


TEXT = st.text(min_size=1).filter(lambda text: text not in ("null", "None") and not text.startswith("~"))


@settings(deadline=None, max_examples=25)
@given(text=TEXT, texts=st.lists(TEXT, min_size=1))
def test_random_texts_arrive_in_every_setting_that_is_text(text, texts):
    names = ("reference", "consent", "source", "hypernet", "wandb.name", "wandb.project", "base.path")
    config = load(schemas.Personalize, [*(f"{name}={text}" for name in names), f"prompts={texts!r}"])
    assert [get_setting(config, name) for name in names] == [text] * len(names) and config.prompts == texts


@pytest.mark.parametrize(
    ("schema", "name", "word", "expected"),
    [
        (schemas.Personalize, "output", "~/runs/me.safetensors", "{home}/runs/me.safetensors"),
        (schemas.Personalize, "reference", "~/me.jpg", "{home}/me.jpg"),
        (schemas.Personalize, "more_references", "[~/a.jpg,b.jpg]", ["{home}/a.jpg", "b.jpg"]),
        (schemas.Pretrain, "faces.root", "~", "{home}"),
        (schemas.Pretrain, "base.path", "~/sd15", "{home}/sd15"),
        (schemas.Generate, "subject", "~/me.safetensors", ["{home}/me.safetensors"]),
        (schemas.Personalize, "consent", "approx. ~/year", "approx. ~/year"),
        (schemas.Personalize, "reference", "~nobody-of-this-name/me.jpg", "~nobody-of-this-name/me.jpg"),
    ],
)
def test_a_tilde_is_the_home_folder_in_words_and_in_yaml(schema, name, word, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = [text.format(home=tmp_path) for text in expected] if isinstance(expected, list) else expected
    expected = expected.format(home=tmp_path) if isinstance(expected, str) else expected
    required = REQUIRED.get(schema, [])
    assert get_setting(load(schema, [*required, f"{name}={word}"]), name) == expected
    if word != "~":  # which is null in YAML
        *parents, last = name.split(".")
        text = f"{last}: {word}" if word.startswith("[") else f"{last}: '{word}'"
        (tmp_path / "mine.yaml").write_text("".join(f"{parent}: {{" for parent in parents) + text + "}" * len(parents))
        assert get_setting(load(schema, [*required, "~/mine.yaml"]), name) == expected
