"""Whom a config means: sources, splits, and nobody trained on who is tested."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import wandb
from gray import level, seven_pictures, three_shards, write_shard

from experiments import evaluate, preoptimize, pretrain
from hdb.faces.options import PeopleOptions
from hdb.faces.people import People, refuse_trained
from hdb.faces.shards import ShardFaces
from hdb.faces.sources import identity_number
from hdb.faces.splits import Splits

FEW = {"resolution": 8, "crop": False, "num_val_identities": 2, "num_test_identities": 1}


@pytest.fixture
def flat(tmp_path) -> Path:
    return seven_pictures(tmp_path / "flat")


@pytest.fixture
def shards(tmp_path) -> Path:
    return three_shards(tmp_path / "shards")


def levels(source) -> list[int]:
    return [level(sample.reference) for sample in source]


def test_the_last_people_of_a_listing_are_for_test_however_many_are_trained_on(flat):
    for num, train in ((None, [0, 1, 2, 3]), (2, [0, 1]), (100, [0, 1, 2, 3])):
        people = People(PeopleOptions(source="flat", root=str(flat), num_identities=num, **FEW))
        assert levels(people.training()) == levels(people.faces("train")) == train
        assert levels(people.faces("val")) == [4, 5] and levels(people.faces("test")) == [6]


def test_a_stored_split_is_taken_from_beside_the_pictures_or_from_where_the_config_says(flat, tmp_path):
    (flat / "splits.json").write_text(json.dumps(asdict(Splits(["3.png", "1.png"], ["0.png"], ["2.png"]))))
    people = People(PeopleOptions(source="flat", root=str(flat), **FEW))
    assert [levels(people.faces(split)) for split in ("train", "val", "test")] == [[3, 1], [0], [2]]
    (tmp_path / "mine.json").write_text(json.dumps({"train": ["5.png"], "val": ["6.png"], "test": ["elsewhere.png"]}))
    people = People(PeopleOptions(source="flat", root=str(flat), splits=str(tmp_path / "mine.json"), **FEW))
    assert levels(people.training()) == [5]
    with pytest.raises(ValueError, match="1 of 1 identities are not in the data, first 'elsewhere.png'"):
        people.faces("test")


def test_the_first_people_of_shards_that_nobody_listed_are_held_out_of_the_stream(shards):
    people = People(PeopleOptions(source="shards", root=str(shards), num_identities=4, target="other", **FEW))
    assert people.splits == Splits(None, ["person1", "person2"], ["person0"], data=f"shards {shards}")
    stream = people.training()
    assert isinstance(stream, ShardFaces) and stream.num_samples == 4
    assert {sample.identity for sample in stream.one_pass(0, 0, 1)} == {
        identity_number(f"person{n}") for n in range(3, 9)
    }
    (first, second), train = people.faces("val"), people.faces("train")
    assert {level(first.reference), level(first.target)} == {10, 11} and second.identity == identity_number("person2")
    assert train.names == ["person3", "person4", "person5", "person6"]
    listed = PeopleOptions(source="shards", root=str(shards), splits=str(shards / "mine.json"), **FEW)
    (shards / "mine.json").write_text(json.dumps(asdict(Splits(["person8", "person4"], ["person5"], ["person0"]))))
    assert [sample.identity for sample in People(listed).faces("train")] == [
        identity_number(name) for name in ("person8", "person4")
    ]
    assert len({sample.identity for sample in People(listed).training().one_pass(0, 0, 1)}) == 2


def test_photos_are_cropped_and_shards_are_not_unless_asked(flat, shards):
    for source, root, crop, expected in (
        ("flat", flat, None, True),
        ("flat", flat, False, False),
        ("shards", shards, None, False),
        ("shards", shards, True, True),
    ):
        config = PeopleOptions(source=source, root=str(root), **{**FEW, "crop": crop})
        assert (People(config).cropper is not None) == expected


class Artifacts:
    """W&B without a network: every artifact is a folder that is there."""

    asked: list[str] = []
    folder: Path

    def artifact(self, name: str) -> "Artifacts":
        self.asked.append(name)
        if name.startswith("nobody/"):
            raise wandb.errors.CommError("project not found")
        return self

    def download(self) -> str:
        return str(self.folder)


def test_an_artifact_is_read_as_what_it_holds(flat, shards, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "Api", Artifacts)
    for folder, expected in ((flat, [6]), (shards, [0])):
        Artifacts.folder = folder
        people = People(PeopleOptions(source="artifact", root="team/faces/photos:v3", target="same", **FEW))
        assert [value // 10 * 10 if folder == shards else value for value in levels(people.faces("test"))] == expected
        assert people.splits.data == "artifact team/faces/photos:v3"
    assert set(Artifacts.asked) == {"team/faces/photos:v3"}
    with pytest.raises(ValueError, match="artifact nobody/x cannot be downloaded .*project not found.*; expected"):
        People(PeopleOptions(source="artifact", root="nobody/x"))


def test_an_artifact_without_a_login_is_asked_for_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="artifact team/faces/photos:v3 needs WANDB_API_KEY or a `wandb login`"):
        People(PeopleOptions(source="artifact", root="team/faces/photos:v3"))


def test_nobody_is_tested_whom_the_hypernetwork_was_trained_on(tmp_path):
    run = tmp_path / "run"
    run.mkdir()

    def trained(train: list[str] | None, data: str = "flat photos") -> None:
        (run / "splits.json").write_text(json.dumps(asdict(Splits(train, ["v"], ["t"], data=data))))

    tested = Splits([], [], ["t", "a"], data="flat photos")
    refuse_trained(tested, run / "last.ckpt")  # no list, no claim
    trained(["b"])
    refuse_trained(tested, run / "last.ckpt")
    trained(["a", "b"], data="flat others")  # another a
    refuse_trained(tested, run / "last.ckpt")
    for train in (["a", "b"], None):  # None: everybody but those held out
        trained(train)
        for hypernet in (run, run / "last.ckpt"):
            with pytest.raises(ValueError, match="1 identities are in both train and test, first 'a'.*splits.json"):
                refuse_trained(tested, hypernet)


def test_training_refuses_to_start_when_a_training_identity_is_in_the_test_list(call, flat, tmp_path, capsys):
    (tmp_path / "mine.json").write_text(json.dumps({"train": ["0.png", "1.png"], "val": ["2.png"], "test": ["1.png"]}))
    words = ["faces.source=flat", f"faces.root={flat}", "faces.crop=false", "faces.splits=mine.json"]
    for experiment in (pretrain, preoptimize):
        before = sorted(tmp_path.rglob("*"))
        assert call(experiment, *words) == 2
        sentence = "error: mine.json: 1 identities are in both train and test, first '1.png'; splits must be disjoint"
        assert sentence in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


def test_every_stage_takes_shards(call, shards):
    words = ["faces.source=shards", f"faces.root={shards}", "faces.target=other", "faces.num_test_identities=3"]
    assert call(preoptimize, *words) == 0
    stored = Splits.load("outputs/preoptimize/splits.json")
    assert stored.train == ["person5", "person6", "person7"] and stored.test == ["person0", "person1", "person2"]
    more = ["faces.splits=outputs/preoptimize/splits.json", "beta=0.1", "thetas=outputs/preoptimize"]
    with pytest.warns(UserWarning, match="skipped .unreadable"):
        broken = {"person9.png": b"broken", "person9.json": b'{"identity": "person5"}'}
        write_shard(shards / "faces-3.tar", broken)
        assert call(pretrain, *words, *more, "schedule.val_every=2") == 0
    metrics = json.loads(Path("outputs/pretrain/metrics.json").read_text())
    assert metrics["step"] == 4 and metrics["skipped"]["unreadable"] > 0
    assert Splits.load("outputs/pretrain/splits.json") == stored
    assert call(evaluate, *words, "protocol.num_identities=2") == 0
    assert json.loads(Path("outputs/eval/results.json").read_text())["protocol"]["identities"] == ["person0", "person1"]
