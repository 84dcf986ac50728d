"""Every method from the list keeps to the protocol: who is who, what is kept, what comes back."""

import pytest
import torch

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.faceworld.world import FaceWorld
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.residuals import Residuals
from hdb.methods.hyperdreambooth import Finetuner
from hdb.methods.protocol import Method, Personalization, Photos, StoredPersonalization, StoringMethod
from hdb.methods.table import METHODS, OURS, SCALE, Means, make_methods, methods_named
from hdb.methods.theta import PersonalTheta
from hdb.training.personalize import FinetuningOptions

FEW = SamplingOptions(num_inference_steps=2, guidance_scale=3.0)
PROMPTS = ["a photo of a [V] face"] * 2
STORING = {"only_hyper", "no_hyper", "hyperdreambooth"}


@pytest.fixture
def means(tiny_weights, tiny_diffusion) -> Means:
    encoder = FaceEncoder.from_folder(tiny_weights / "encoder")
    hypernet = HyperNet.from_folder(tiny_weights / "hypernet", encoder=encoder).eval()
    torch.nn.init.normal_(hypernet.linear_path.weight, generator=torch.Generator().manual_seed(0))
    tuning = FinetuningOptions(num_steps=2, rank=2, batch_size=1)
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    personalized = PersonalizedDiffusion(tiny_diffusion, hypernet.layout)
    return Means(hypernet, Finetuner(personalized, tuning, trainer=trainer), world=FaceWorld(resolution=64))


@pytest.fixture
def photos(means) -> Photos:
    world = means.world
    return Photos(["0", "1"], world.render([(world.identity(person), world.view(person, 0)) for person in range(2)]))


def draw(people: Personalization) -> torch.Tensor:
    return people.pictures(PROMPTS[: len(people)], seeds=range(len(people)), sampling=FEW)


@pytest.mark.parametrize("name", METHODS)
def test_a_person_is_drawn_alike_alone_and_beside_another_and_the_base_stays_as_it_was(name, means, photos):
    diffusion = means.finetuner.personalized.diffusion
    (method,) = make_methods([name], means)
    assert isinstance(method, Method) and method.name == name
    before = diffusion.encode_prompts(PROMPTS)
    people = method.personalize(photos)
    assert isinstance(people, Personalization) and len(people) == len(photos)
    with people.bound():
        changed = not torch.equal(diffusion.encode_prompts(PROMPTS), before)
    assert changed == (name in STORING)  # the mean of an untrained network is no residual
    both = draw(people)
    for row in range(2):
        alone = people[[row]].pictures(PROMPTS[:1], seeds=[row], sampling=FEW)
        torch.testing.assert_close(alone[0], both[row], rtol=0, atol=1e-4)
    assert torch.equal(diffusion.encode_prompts(PROMPTS), before)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_keeps_of_people_comes_back_from_their_files(name, means, photos, tmp_path):
    (method,) = make_methods([name], means)
    assert isinstance(method, StoringMethod) == (name in STORING)
    if name not in STORING:
        return
    people, paths = method.personalize(photos), [tmp_path / f"{person}.safetensors" for person in photos.names]
    assert isinstance(people, StoredPersonalization) and "theta" in people.stores
    people.save(paths, about=[{"source": person} for person in photos.names])
    assert torch.equal(draw(method.load(paths)), draw(people))
    assert all(people.num_bytes < path.stat().st_size < people.num_bytes + 4000 for path in paths)
    swapped = method.load(paths[::-1])
    assert torch.equal(swapped[[1]].residuals.theta, people[[0]].residuals.theta)


def test_files_of_another_base_are_refused(means, photos, tmp_path):
    personalized = means.finetuner.personalized
    PersonalTheta(personalized, Residuals.initial(personalized.layout)).save([tmp_path / "me"], about=[{}])
    personalized.diffusion.digest = "0ther"
    with pytest.raises(ValueError, match="me belongs to base [0-9a-f]{16} .*, expected 0ther"):
        PersonalTheta.load(personalized, [tmp_path / "me"])


def test_finetuning_from_zero_has_a_rate_of_its_own(means, photos):
    finetuner = means.finetuner
    alone = {
        lr: make_methods(["no_hyper"], Means(means.hypernet, finetuner, lr))[0].personalize(photos).residuals.theta
        for lr in (None, 5e-3, 2e-2)
    }
    assert torch.equal(alone[None], alone[5e-3]) and not torch.equal(alone[None], alone[2e-2])


def test_methods_come_in_the_order_of_the_table_and_unknown_ones_are_refused(means):
    assert methods_named(None) == tuple(METHODS)
    assert methods_named(["oracle", OURS]) == (OURS, "oracle")
    assert {OURS, *SCALE} <= set(METHODS)
    with pytest.raises(ValueError, match="unknown method 'lora', expected hyperdreambooth and some of unpersonalized"):
        methods_named(["lora", OURS])
    with pytest.raises(ValueError, match="methods is oracle, expected hyperdreambooth"):
        methods_named(["oracle"])
    without_world = make_methods(methods_named(None), Means(means.hypernet, means.finetuner))
    assert [method.name for method in without_world] == list(METHODS)[:-1]
