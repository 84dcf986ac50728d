"""Who is trained on and who is not."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdb.faces.splits import Splits, refuse_overlap


@given(num=st.integers(1, 50), num_val=st.integers(0, 20), num_test=st.integers(0, 20))
def test_everybody_is_in_one_split_or_the_numbers_are_refused(num, num_val, num_test):
    names = [f"{number:02d}" for number in range(num)]
    if num_val + num_test >= num:
        with pytest.raises(ValueError, match=f"there are {num} identities and one is needed to train on"):
            Splits.from_names(names, num_val=num_val, num_test=num_test)
        return
    splits = Splits.from_names(names, num_val=num_val, num_test=num_test)
    assert splits.train + splits.val + splits.test == names
    assert (len(splits.val), len(splits.test)) == (num_val, num_test)


def test_splits_come_back_from_their_file(tmp_path):
    for train in (["ada", "bob"], None):
        splits = Splits(train, ["cyd"], ["dan"], data="flat photos")
        (tmp_path / "splits.json").write_text(json.dumps(asdict(splits)))
        assert Splits.load(tmp_path / "splits.json") == splits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": ["a", "b"], "val": [], "test": ["b"]}', "1 identities are in both train and test, first 'b'"),
        ('{"train": ["a"], "val": ["a"], "test": []}', "1 identities are in both train and val, first 'a'"),
        ('{"train": ["a", "b", "a"], "val": [], "test": []}', "identity 'a' is listed twice; expected each .* once"),
        ('{"train": ["a"], "val": []}', "has no list 'test' of identities; expected the lists train, val and test"),
        ('{"val": [], "test": []}', "has no list 'train'"),
        ('{"train": [1], "val": [], "test": []}', "has no list 'train'"),
        ('["a"]', "has no list 'train'"),
        ("a\nb\n", "is not readable as JSON"),
    ],
)
def test_lists_that_cannot_be_right_are_refused_with_the_files_name(tmp_path, content, message):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ValueError, match=f"mine.json.* {message}"):
        Splits.load(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="no splits in .*nowhere.json; expected a JSON file"):
        Splits.load(tmp_path / "nowhere.json")


def test_splits_that_share_nobody_are_not_refused():
    refuse_overlap(train=["anna"], test=["bert"])
    with pytest.raises(ValueError, match="1 identities are in both train and test, first 'bert'"):
        refuse_overlap(train=["anna", "bert"], val=["carl"], test=["bert"])
