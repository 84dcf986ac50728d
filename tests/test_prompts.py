"""Identifiers in prompts, and the lists of prompts in configs/."""

from pathlib import Path

import pytest

from hdb.faceworld.captions import parse
from hdb.faceworld.view import CONTEXTS, STYLES
from hdb.prompts import (
    IDENTIFIER,
    escape_brackets,
    has_identifier,
    read_prompts,
    remove_identifier,
    replace_identifier,
)

CONFIGS = Path(__file__).parents[1] / "configs"


def test_faceworld_prompts_are_understood_by_the_world_and_ask_for_many_things():
    prompts = read_prompts(str(CONFIGS / "prompts" / "faceworld.txt"), num=30)
    asked = [parse(prompt) for prompt in prompts]
    assert {labels.style for labels in asked} == set(STYLES)
    assert {labels.context for labels in asked} == set(CONTEXTS)
    assert all(IDENTIFIER in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a [V] face\n\n", "num_prompts is 2, expected 1 to 1, as many as .*prompts.txt has"),
        ("\n \n", "no prompts in .*prompts.txt: expected a text file with one prompt per line"),
        ("a [V] face\na face\na hat\n", "prompts.txt asks for 'a face', expected .V. in every prompt"),
    ],
)
def test_files_without_usable_prompts_are_refused(tmp_path, text, message):
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(str(tmp_path / "prompts.txt"), num=2)


def test_prompts_beyond_the_requested_number_need_no_identifier(tmp_path):
    (tmp_path / "prompts.txt").write_text("a [v] face\na face\n")
    assert read_prompts(tmp_path / "prompts.txt", num=1) == ["a [v] face"]


def test_the_identifier_replaces_v_in_either_case():
    assert replace_identifier("a [V] face and a [v] hat", "sks") == "a sks face and a sks hat"
    assert replace_identifier("a [V] face", "[V]") == "a [V] face"
    assert has_identifier("a sks face", "sks") and not has_identifier("a sksy face", "sks")
    assert has_identifier("a [V] face", "sks")


def test_brackets_are_escaped_as_a1111_reads_them():
    assert escape_brackets("a [V] face (old)") == r"a \[V\] face \(old\)"
    assert escape_brackets("a sks face") == "a sks face"


PROMPTS = "a [V] face\n\na [V] face in Zürich \U0001f600\n"


@pytest.mark.parametrize(
    "data",
    [
        PROMPTS.encode(),
        b"\xef\xbb\xbf" + PROMPTS.encode(),
        PROMPTS.encode("utf-16"),
        PROMPTS.encode("utf-16-le"),
        PROMPTS.encode("utf-16-be"),
        b"\xfe\xff" + PROMPTS.encode("utf-16-be"),
        PROMPTS.encode("utf-32"),
        PROMPTS.replace("\n", "\r\n").encode(),
        PROMPTS.replace("\n", "\r").encode(),
    ],
)
def test_prompts_are_read_in_any_unicode_encoding_and_with_any_line_break(data, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(data)
    assert read_prompts(tmp_path / "prompts.txt", num=2) == ["a [V] face", "a [V] face in Zürich \U0001f600"]


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(ValueError, match="prompts.txt is no text in UTF-8 or UTF-16"):
        read_prompts(tmp_path / "prompts.txt", num=1)


@pytest.mark.parametrize("identifier", ["[V]", "[v]"])
def test_the_identifier_is_removed_in_either_case(identifier):
    assert has_identifier(f"a {identifier} face") and remove_identifier(f"a {identifier} face") == "a face"
