"""Pictures of several people in one batch, each with their own person, whatever their files are like."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import generate
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import tiled_batches
from hdb.diffusion.weights import named_weights
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.methods.dreambooth import PersonalModels
from hdb.methods.textual_inversion import PersonalWords

PROMPT = "a photo of a [V] face"
FEW = SamplingOptions(2, 3.0, identity_guidance_scale=1.5)  # as generate.yaml, in two steps


@pytest.fixture
def files(call, tiny_diffusion) -> dict[str, Subject]:
    """Three people: rank 1, rank 3 at half strength, and a free layout in half precision."""
    layout = Layout.from_models(tiny_diffusion.components, a=4, b=3)
    generator = torch.Generator().manual_seed(0)
    people = {}
    for name, one, scale in (
        ("ann", layout, "1.0"),
        ("bob", replace(layout, rank=3), "0.5"),
        ("cid", replace(layout, rank=2).as_lora, "1.0"),
    ):
        theta = one.initial_theta() + 0.3 * torch.randn(1, one.size, generator=generator)
        about = {"base_digest": tiny_diffusion.digest, "scale": scale}
        people[name] = Subject(theta.half() if one.free else theta, one, about)
        people[name].save(f"{name}.safetensors")
    return people


def picture(name: str, folder: str = "outputs/generate") -> np.ndarray:
    return np.asarray(Image.open(Path(folder) / name), dtype=int)


def test_each_picture_of_a_batch_shows_the_person_whom_it_would_show_alone(call, files):
    words = [f"prompts={PROMPT}", "num_pictures=2"]
    assert call(generate, "subject=[ann.safetensors,bob.safetensors,cid.safetensors]", *words) == 0
    together = {path.name: picture(path.name) for path in Path("outputs/generate").glob("00-*.png")}
    assert len(together) == 3 * 2
    for name in files:
        assert call(generate, f"subject={name}.safetensors", f"output={name}", *words) == 0
        for number in range(2):
            own = together.pop(f"00-{name}-{number}.png")
            assert np.abs(own - picture(f"00-{name}-{number}.png", name)).max() <= 1  # of 255, by rounding
            # A person tells more than that in these pictures:
            assert all(np.abs(own - other).max() > 1 for other in together.values())
    assert Image.open("outputs/generate/grid.png").size == (2 * 128, 3 * 128)


def test_everyone_has_the_strength_of_their_file_unless_another_is_asked_for(call, files, tiny_diffusion):
    def expected(scale: float) -> torch.Tensor:
        personalized = PersonalizedDiffusion(tiny_diffusion, files["bob"].layout)
        drawn = personalized.pictures(files["bob"], [PROMPT], seeds=[0], scale=scale, sampling=FEW)
        personalized.detach()
        return drawn[0].mul(255).round().int().permute(1, 2, 0).numpy()

    words = ["subject=[ann.safetensors,bob.safetensors]", f"prompts={PROMPT}", "num_pictures=1"]
    assert call(generate, *words) == 0
    assert np.abs(picture("00-bob-0.png") - expected(0.5)).max() <= 1
    assert call(generate, *words, "scale=1.5") == 0
    assert np.abs(picture("00-bob-0.png") - expected(1.5)).max() <= 1
    assert np.abs(expected(1.5) - expected(0.5)).max() > 1


def test_several_people_in_one_picture_have_the_sum_of_their_residuals_and_the_text_encoder_its_own_strength(
    call, files, tiny_diffusion
):
    def expected(*, weights: list[float], text: float | None = None) -> np.ndarray:
        both = [files[name].to(torch.float32) for name in ("ann", "bob")]
        texts = None if text is None else [text] * 2
        people = Residuals.join(both).rescale([1.0, 0.5], text_encoder_scales=texts).mix(weights)
        personalized = PersonalizedDiffusion(tiny_diffusion, people.layout)
        drawn = personalized.pictures(people, [PROMPT], seeds=[0], sampling=FEW)
        personalized.detach()
        return drawn[0].mul(255).round().int().permute(1, 2, 0).numpy()

    words = ["subject=[ann.safetensors,bob.safetensors]", f"prompts={PROMPT}", "num_pictures=1", "mix=true"]
    assert call(generate, *words) == 0
    equal = picture("00-ann+bob-0.png")
    assert np.abs(equal - expected(weights=[0.5, 0.5])).max() <= 1
    assert call(generate, *words, "weights=[0.9,0.4]", "text_encoder_scale=0.0", "output=other") == 0
    other = picture("00-ann+bob-0.png", "other")
    assert np.abs(other - expected(weights=[0.9, 0.4], text=0.0)).max() <= 1
    assert np.abs(other - equal).max() > 1


def test_a_file_made_for_another_finetune_is_drawn_with_a_warning_where_shapes_are_enough(call, files, capsys):
    Subject(files["ann"].theta, files["ann"].layout, {"base_digest": "0ther", "base": "a finetune"}).save(
        "far.safetensors"
    )
    words = [f"prompts={PROMPT}", "num_pictures=1"]
    assert call(generate, "subject=far.safetensors", *words) == 2
    assert "base.check=shapes takes it to any base of the same shapes" in capsys.readouterr().err
    assert call(generate, "subject=far.safetensors", *words, "base.check=shapes") == 0
    warning = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warning) == 1
    assert re.search(r"far.safetensors belongs to base 0ther \(a finetune\) and is used on [0-9a-f]{16}", warning[0])
    assert call(generate, "subject=ann.safetensors", *words, "output=near") == 0
    assert np.array_equal(picture("00-far-0.png"), picture("00-ann-0.png", "near"))
    wide = replace(files["ann"].layout, slots=files["ann"].layout.slots[1:])
    Subject(wide.initial_theta(), wide, {"base_digest": "0ther"}).save("narrow.safetensors")
    assert call(generate, "subject=narrow.safetensors", *words, "base.check=shapes") == 2
    assert "layers to personalize" in capsys.readouterr().err


def test_a_learned_word_and_a_whole_model_are_drawn_like_any_other_file(call, tiny_diffusion, capsys):
    word = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    model = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in named_weights(tiny_diffusion).items()
    }
    people = {"word": PersonalWords(tiny_diffusion, word), "model": PersonalModels(tiny_diffusion, [model, model])}
    for kind, made in people.items():
        made.save([Path(f"{kind}-0"), Path(f"{kind}-1")], about=[{}, {}])
        words = [f"subject=[{kind}-0,{kind}-1]", f"prompts={PROMPT}", "num_pictures=1", f"output={kind}"]
        assert call(generate, *words) == 0
        expected = made[[1]].pictures([PROMPT], seeds=[0], sampling=FEW)[0].mul(255).round().int().permute(1, 2, 0)
        assert np.abs(picture(f"00-{kind}-1-0.png", kind) - expected.numpy()).max() <= 1
    assert call(generate, "subject=[word-0,word-1]", f"prompts={PROMPT}", "mix=true") == 2
    assert "holds a word: mix and text_encoder_scale are for residuals" in capsys.readouterr().err
    assert call(generate, "subject=[word-0,model-0]", f"prompts={PROMPT}") == 2
    assert "people of one call are of one kind, given a word (word-0) and a model (model-0)" in capsys.readouterr().err


@pytest.mark.parametrize(("people", "at_once"), [(1, 8), (3, 8), (3, 2), (5, 1), (2, 100)])
def test_batches_hold_every_picture_once_and_their_people_tiled(people, at_once):
    divided = tiled_batches(2, 3, people, max_batch_size=at_once)
    spots = [spot for batch in divided for spot in batch]
    assert sorted(spots) == [(p, k, person) for p in range(2) for k in range(3) for person in range(people)]
    for batch in divided:
        members = sorted({person for _, _, person in batch})
        assert len(batch) <= at_once
        assert [person for _, _, person in batch] == members * (len(batch) // len(members))
    if at_once >= 2 * 3 * people:
        assert len(divided) == 1


def test_a_prompt_that_is_too_long_or_names_nobody_is_said_and_drawn_all_the_same(call, files, capsys, monkeypatch):
    monkeypatch.setattr("hdb.diffusion.sampling.SMALL_VOCABULARY", 0)  # the tiny base spells every word
    long = PROMPT + " in the snow" * 8
    words = ["subject=ann.safetensors", "num_pictures=1"]
    assert call(generate, *words, f"prompts=['{long}','{long} at night','a photo of a face']") == 0
    said = capsys.readouterr().out.splitlines()
    read = 24  # of the tiny base; 77 of Stable Diffusion
    assert sum(f"and the base reads {read} of them: the rest is left out" in line for line in said) == 2
    assert "'a photo of a face' has no [V], the word that stands for the person" in said
    assert np.array_equal(picture("00-ann-0.png"), picture("01-ann-0.png"))  # truncated to the same
    assert call(generate, *words, "prompts=a [V] face") == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if "has " in line]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("subject=[ann.safetensors,ann.safetensors]", "expected one file or several of different names"),
        ("subject=[]", "expected one file or several"),
        ("subject=[ann.safetensors,nobody.safetensors]", "no file nobody.safetensors"),
        ("subject=ann.safetensors weights=[1.0]", "weights is .1.0., but mix is false: expected no weights"),
        ("subject=[ann.safetensors,bob.safetensors] mix=true weights=[1.0]", "1 weights for 2 people: expected one"),
        (
            "subject=ann.safetensors sampling.scheduler=Euler",
            "sampling.scheduler is 'Euler', expected one of DDIMSched",
        ),
        ("subject=ann.safetensors num_pictures=0", "num_pictures is 0, expected at least 1"),
        ("subject=ann.safetensors prompts=[]", "prompts is .., expected at least one text"),
        ("", "subject must be given: add subject="),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, files, capsys, words, message):
    assert call(generate, *words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"^error: .*{message}", error)
