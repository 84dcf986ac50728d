"""Every method from the list keeps to the protocol: who is who, what is kept, what comes back."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.weights import named_weights, weights_checksum
from hdb.faceworld.oracle import Oracle
from hdb.faceworld.world import FaceWorld
from hdb.files import write_safetensors
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.methods.context import MethodContext, TrainingContext
from hdb.methods.options import MethodOptions
from hdb.methods.protocol import Method, Personalization, Photos, StoredPersonalization, StoringMethod
from hdb.methods.stored import read_kind
from hdb.methods.table import METHODS, OURS, SCALE, make_methods, methods_named
from hdb.methods.unpersonalized import NoPersonalization
from hdb.pipeline import HyperDreamBoothPipeline
from hdb.training.options import DreamBoothOptions, FinetuningOptions, TextualInversionOptions

ROOT = Path(__file__).parents[2]
FEW = SamplingOptions(num_inference_steps=2, guidance_scale=3.0)
PROMPTS = ["a photo of a [V] face"] * 2
# What a file of each holds, as its header says.
STORING = {
    **dict.fromkeys(["lora_dreambooth", "only_hyper", "no_hyper", "k1", "hyperdreambooth"], "theta"),
    **dict.fromkeys(["dreambooth", "dreambooth_agg1", "dreambooth_agg2"], "model"),
    "textual_inversion": "word",
}
HEADER = {"theta": 4000, "word": 500, "model": 60_000}  # bytes that a file may have beside its numbers


@pytest.fixture
def context(tiny_weights, tiny_diffusion, tmp_path) -> MethodContext:
    encoder = FaceEncoder.from_folder(tiny_weights / "encoder")
    hypernet = HyperNet.from_folder(tiny_weights / "hypernet", encoder=encoder).eval()
    torch.nn.init.normal_(hypernet.linear_path.weight, generator=torch.Generator().manual_seed(0))
    ours, whole = FinetuningOptions(num_steps=2, rank=2, batch_size=1), {"num_steps": 2, "num_class_pictures": 2}
    options = MethodOptions(
        finetuning=ours,
        lora_dreambooth=replace(ours, basis="free"),
        dreambooth=DreamBoothOptions(lr=1e-3, **whole),
        dreambooth_agg1=DreamBoothOptions(lr=2e-3, **whole),
        dreambooth_agg2=DreamBoothOptions(lr=3e-3, **whole),
        textual_inversion=TextualInversionOptions(num_steps=2, lr=0.1),
    )
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    training = TrainingContext(PersonalizedDiffusion(tiny_diffusion, hypernet.layout), trainer=trainer, sampling=FEW)
    return MethodContext(
        training, hypernet, options, oracle=Oracle(FaceWorld(resolution=64)), subjects=tmp_path / "subjects"
    )


@pytest.fixture
def photos(context) -> Photos:
    world = context.oracle.world
    people = Photos(["0", "1"], world.render([(world.identity(person), world.view(person, 0)) for person in range(2)]))
    paths = [context.subjects / OURS / f"{name}.safetensors" for name in people.names]
    make_methods([OURS], context)[0].personalize(people).save(paths, about=[{}, {}])
    return people


def draw(people: Personalization) -> torch.Tensor:
    return people.pictures(PROMPTS[: len(people)], seeds=range(len(people)), sampling=FEW)


@pytest.mark.parametrize("name", METHODS)
def test_a_person_is_drawn_alike_alone_and_beside_another_and_the_base_stays_as_it_was(name, context, photos):
    diffusion = context.training.diffusion
    (method,) = make_methods([name], context)
    assert isinstance(method, Method) and method.name == name
    before, kept = diffusion.encode_prompts(PROMPTS).embeds, weights_checksum(named_weights(diffusion))
    people = method.personalize(photos)
    assert isinstance(people, Personalization) and len(people) == len(photos)
    with people[[1]].bound():
        changed = not torch.equal(diffusion.encode_prompts(PROMPTS).embeds, before)
    assert changed == (name in {*STORING, "somebody_else"})  # the mean of an untrained network is no residual
    both = draw(people)
    for row in range(2):
        alone = people[[row]].pictures(PROMPTS[:1], seeds=[row], sampling=FEW)
        torch.testing.assert_close(alone[0], both[row], rtol=0, atol=1e-4)
    assert torch.equal(diffusion.encode_prompts(PROMPTS).embeds, before)
    assert weights_checksum(named_weights(diffusion)) == kept
    assert not any(weight.requires_grad or weight.grad is not None for weight in named_weights(diffusion).values())


@pytest.mark.parametrize("name", [*STORING, "unpersonalized"])
def test_identity_guidance_begins_at_the_base_and_leads_to_the_person(name, context, photos):
    diffusion = context.training.diffusion
    nobody, people = (method.personalize(photos) for method in make_methods(["unpersonalized", name], context))
    before = weights_checksum(named_weights(diffusion))

    def drawn(personalization: Personalization, **scales: float) -> torch.Tensor:
        return personalization.pictures(PROMPTS, seeds=[0, 1], sampling=replace(FEW, **scales))

    as_base, person = drawn(nobody), drawn(people, guidance_scale=1.0)
    torch.testing.assert_close(drawn(people, identity_guidance_scale=0.0), as_base, rtol=0, atol=1e-4)
    both_once = drawn(people, guidance_scale=1.0, identity_guidance_scale=1.0)
    torch.testing.assert_close(both_once, person, rtol=0, atol=1e-4)
    more = drawn(people, identity_guidance_scale=4.0)
    assert ((more - as_base).abs().max() > 1e-3) == (name != "unpersonalized")
    assert weights_checksum(named_weights(diffusion)) == before
    first = people[[0]]
    with first.bound():  # whose own draw leaves them bound
        embeds = diffusion.encode_prompts(PROMPTS[:1]).embeds
        alone = first.pictures(PROMPTS[:1], seeds=[0], sampling=replace(FEW, identity_guidance_scale=4.0))
        assert torch.equal(diffusion.encode_prompts(PROMPTS[:1]).embeds, embeds)
    torch.testing.assert_close(alone[0], more[0], rtol=0, atol=1e-4)


def test_within_another_persons_block_the_base_is_still_the_base(context, photos):
    people = make_methods(["dreambooth"], context)[0].personalize(photos)
    nobody = NoPersonalization(context.training.personalized, num_people=1)
    as_base = replace(FEW, identity_guidance_scale=0.0)
    with people[[0]].bound():
        within = people[[1]].pictures(PROMPTS[:1], seeds=[0], sampling=as_base)
    torch.testing.assert_close(within, nobody.pictures(PROMPTS[:1], seeds=[0], sampling=FEW), rtol=0, atol=1e-4)
    assert context.training.diffusion.original_weights is None


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_keeps_of_people_comes_back_from_their_files(name, context, photos, tmp_path):
    (method,) = make_methods([name], context)
    assert isinstance(method, StoringMethod) == (name in STORING)
    if name not in STORING:
        return
    people, paths = method.personalize(photos), [tmp_path / f"{person}.safetensors" for person in photos.names]
    assert isinstance(people, StoredPersonalization)
    people.save(paths, about=[{"source": person} for person in photos.names])
    drawn, kind = draw(people), STORING[name]
    assert torch.equal(draw(method.load(paths)), drawn)
    assert people.kind == read_kind(paths[0]) == kind
    for path in paths:
        num_bytes = sum(tensor.nbytes for tensor in load_file(path).values())
        assert num_bytes < path.stat().st_size < num_bytes + HEADER[kind]
    swapped = method.load(paths[::-1])[[1]].pictures(PROMPTS[:1], seeds=[0], sampling=FEW)
    torch.testing.assert_close(swapped[0], drawn[0], rtol=0, atol=1e-4)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_files_give_the_same_pictures_in_a_new_process(context, photos, tmp_path, tiny_base):
    drawn = {}
    for name in ("hyperdreambooth", "textual_inversion", "dreambooth"):
        people = make_methods([name], context)[0].personalize(photos)
        people.save([tmp_path / f"{name}-{person}" for person in photos.names], about=[{}, {}])
        drawn[name] = draw(people)
    code = f"""
import sys
import torch
from safetensors.torch import save_file
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.pipeline import HyperDreamBoothPipeline
torch.set_num_threads(1)
pictures = {{}}
for name in {list(drawn)}:
    paths = [name + "-" + person for person in {photos.names}]
    people = HyperDreamBoothPipeline(StableDiffusion.from_pretrained(sys.argv[1])).people(paths)
    pictures[name] = people.pictures({PROMPTS}, seeds=[0, 1], sampling=SamplingOptions(2, 3.0))
save_file(pictures, "drawn.safetensors")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_base], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = load_file(tmp_path / "drawn.safetensors")
    for name, pictures in drawn.items():
        torch.testing.assert_close(again[name], pictures, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["hyperdreambooth", "textual_inversion", "dreambooth"])
def test_files_of_another_base_or_another_kind_are_refused(name, context, photos, tmp_path):
    (method,), diffusion = make_methods([name], context), context.training.diffusion
    method.personalize(photos[:1]).save([tmp_path / "me"], about=[{}])
    other = "textual_inversion" if name != "textual_inversion" else "dreambooth"
    with pytest.raises(ValueError, match="me (holds a|has format version)"):
        make_methods([other], context)[0].load([tmp_path / "me"])
    diffusion.digest = "0ther"
    with pytest.raises(ValueError, match="me belongs to base [0-9a-f]{16} .*, expected 0ther"):
        method.load([tmp_path / "me"])
    with pytest.raises(ValueError, match="me belongs to base [0-9a-f]{16} .*, expected 0ther"):
        HyperDreamBoothPipeline(diffusion).people([tmp_path / "me"])


def test_files_of_several_kinds_of_an_unknown_one_or_with_a_strength_they_do_not_have_are_refused(
    context, photos, tmp_path
):
    words, diffusion = (
        make_methods(["textual_inversion"], context)[0].personalize(photos[:1]),
        context.training.diffusion,
    )
    words.save([tmp_path / "word"], about=[{}])
    theta = context.subjects / OURS / "0.safetensors"
    with pytest.raises(ValueError, match=r"of one kind, given a word \(.*word\) and a theta \(.*0.safetensors\)"):
        HyperDreamBoothPipeline(diffusion).people([tmp_path / "word", theta])
    with pytest.raises(ValueError, match="scale is 0.5, but .*word holds a word, which has no strength: expected null"):
        HyperDreamBoothPipeline(diffusion).people([tmp_path / "word"], scale=0.5)
    write_safetensors(tmp_path / "song", {"song": torch.ones(1)}, {"kind": "song"})
    with pytest.raises(ValueError, match="song holds a 'song', expected one of theta, word, model"):
        HyperDreamBoothPipeline(diffusion).people([tmp_path / "song"])
    words.words[0, 3] = float("nan")
    words.save([tmp_path / "word"], about=[{}])
    with pytest.raises(ValueError, match="word has 1 values of 16 that are not finite"):
        HyperDreamBoothPipeline(diffusion).people([tmp_path / "word"])


def test_somebody_else_is_the_next_person_of_those_personalized_before(context, photos):
    (ours, other) = make_methods([OURS, "somebody_else"], context)
    mine, theirs = ours.personalize(photos).residuals.theta, other.personalize(photos).residuals.theta
    torch.testing.assert_close(theirs, mine[[1, 0]], rtol=0, atol=0)
    with pytest.raises(ValueError, match="somebody_else needs at least 2 people, given 1"):
        other.personalize(photos[:1])
    (context.subjects / OURS / "1.safetensors").unlink()
    with pytest.raises(ValueError, match="no file .*1.safetensors"):
        other.personalize(photos)


def test_k1_is_ours_with_a_decoder_that_looks_once(context, photos):
    context.hypernet.iterations = 3
    torch.nn.init.normal_(context.hypernet.decoder.weights_out, generator=torch.Generator().manual_seed(1))
    once, ours = (make_methods([name], context)[0].personalize(photos).residuals.theta for name in ("k1", OURS))
    assert not torch.equal(once, ours)
    context.hypernet.iterations = 1
    torch.testing.assert_close(make_methods([OURS], context)[0].personalize(photos).residuals.theta, once)


def test_the_base_is_one_persons_model_at_a_time(context, photos):
    (method,) = make_methods(["dreambooth"], context)
    assert method.max_batch_size == 1
    with pytest.raises(ValueError, match="1 person's model at a time, given 2"), method.personalize(photos).bound():
        pass


def test_a_strength_lies_between_the_base_and_the_persons_model(context, photos, tmp_path):
    diffusion = context.training.diffusion
    make_methods(["dreambooth_agg2"], context)[0].personalize(photos[:1]).save([tmp_path / "me"], about=[{}])
    before = {name: value.clone() for name, value in named_weights(diffusion).items()}
    found = {}
    for scale in (0.0, 0.5, 1.0):
        with HyperDreamBoothPipeline(diffusion).people([tmp_path / "me"], scale=scale).bound():
            found[scale] = {name: value.clone() for name, value in named_weights(diffusion).items()}
    torch.testing.assert_close(found[0.0], before, rtol=0, atol=0)
    middle = {name: (before[name] + found[1.0][name]) / 2 for name in before}
    torch.testing.assert_close(found[0.5], middle)
    assert any(not torch.equal(found[1.0][name], before[name]) for name in before)


def test_prior_preservation_and_the_mask_change_what_ours_learns_and_nothing_when_off(context, photos):
    def learned(**changes) -> torch.Tensor:
        options = replace(context.options, finetuning=replace(context.options.finetuning, **changes))
        return make_methods([OURS], replace(context, options=options))[0].personalize(photos).residuals.theta

    plain = learned()
    assert torch.equal(learned(prior_preservation=0.0, num_class_pictures=7), plain)
    found = [learned(prior_preservation=1.0, num_class_pictures=2), learned(mask="face")]
    assert not any(torch.equal(theta, plain) for theta in found)
    with pytest.raises(ValueError, match="mask is 'hair', expected face or null"):
        learned(mask="hair")
    with pytest.raises(ValueError, match="prior_preservation is -1.0, expected 0 or more"):
        learned(prior_preservation=-1.0)
    with pytest.raises(ValueError, match="num_class_pictures is 0, expected at least 1"):
        learned(prior_preservation=1.0, num_class_pictures=0)


@pytest.mark.parametrize("name", ["dreambooth", "textual_inversion"])
def test_an_unknown_mask_is_refused_from_python(context, photos, name):
    options = replace(context.options, **{name: replace(getattr(context.options, name), mask="hair")})
    with pytest.raises(ValueError, match="mask is 'hair', expected face or null"):
        make_methods([name], replace(context, options=options))[0].personalize(photos[:1])


def test_finetuning_from_zero_has_a_rate_of_its_own(context, photos):
    alone = {
        lr: make_methods(["no_hyper"], replace(context, options=replace(context.options, no_hyper_lr=lr)))[0]
        .personalize(photos)
        .residuals.theta
        for lr in (None, 5e-3, 2e-2)
    }
    assert torch.equal(alone[None], alone[5e-3]) and not torch.equal(alone[None], alone[2e-2])


def test_a_new_method_is_one_class_and_one_line(context, photos, monkeypatch):
    class Toy:
        name = "toy"

        def __init__(self, context: MethodContext) -> None:
            self.personalized = context.training.personalized

        def personalize(self, photos: Photos) -> NoPersonalization:
            return NoPersonalization(self.personalized, num_people=len(photos))

    monkeypatch.setitem(METHODS, "toy", Toy)
    (toy,) = make_methods(["toy"], context)
    assert methods_named([OURS, "toy"]) == (OURS, "toy") and isinstance(toy, Method)
    (nobody,) = make_methods(SCALE[:1], context)
    assert torch.equal(draw(toy.personalize(photos)), draw(nobody.personalize(photos)))


def test_methods_come_in_the_order_of_the_table_and_unknown_ones_are_refused(context):
    assert methods_named(None) == tuple(METHODS)
    assert methods_named(["oracle", OURS]) == (OURS, "oracle")
    assert {OURS, *SCALE} <= set(METHODS)
    with pytest.raises(ValueError, match="unknown method 'lora', expected some of unpersonalized"):
        methods_named(["lora", OURS])
    with pytest.raises(ValueError, match="methods is oracle, expected hyperdreambooth"):
        methods_named(["oracle"])
    without_world = make_methods(methods_named(None), MethodContext(context.training, context.hypernet))
    assert [method.name for method in without_world] == list(METHODS)[:-2]  # nor without files


def test_without_a_hypernetwork_methods_that_need_it_say_so_and_the_others_work(context, photos):
    bare = replace(context, hypernet=None)
    for name in ("mean_theta", "only_hyper", "k1", OURS):
        with pytest.raises(ValueError, match=f"{name} needs a hypernetwork"):
            make_methods([name], bare)
    alone, beside = (
        make_methods(["no_hyper"], methods_context)[0].personalize(photos) for methods_context in (bare, context)
    )
    assert torch.equal(alone.residuals.theta, beside.residuals.theta)


@pytest.mark.parametrize("name", [OURS, "only_hyper"])
def test_of_several_photos_the_prediction_is_the_mean_of_theirs(context, photos, name):
    """At rate zero finetuning changes nothing, and what it starts at is seen."""
    still = replace(context, options=replace(context.options, finetuning=replace(context.options.finetuning, lr=1e-12)))
    (ours,) = make_methods([name], still)
    other = photos.images.flip(0)
    thetas = [ours.personalize(Photos(photos.names, images)).residuals.theta for images in (photos.images, other)]
    both = ours.personalize(Photos(photos.names, photos.images, other[:, None]))
    torch.testing.assert_close(both.residuals.theta, sum(thetas) / 2, rtol=0, atol=1e-6)
    assert (thetas[0] - thetas[1]).abs().max() > 1e-3
    part = Photos(photos.names, photos.images, other[:, None])[1:]
    assert torch.equal(part.views[0], torch.stack([photos.images[1], other[1]]))
