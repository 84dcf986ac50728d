"""What a GPU would trip over, shown without one.

On the meta device a tensor has a shape and no numbers: an operation with a tensor that stayed on the CPU raises there,
and so does whatever asks for a number (`.item()`, `.tolist()`, `if tensor:`), for which a GPU would have to be waited.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from diffusers.models.attention_processor import AttnProcessor
from tiny import tiny_judges
from torch import nn

from experiments import pretrain
from experiments.config import Pretrain, Search, load
from hdb.diffusion.base import AUTOCAST_DTYPES, prepare_for_device
from hdb.diffusion.graphs import Graphs
from hdb.diffusion.guidance import ClassifierFreeGuidance, IdentityGuidance
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.sampling import draw, sample
from hdb.evaluation.options import WorkloadOptions
from hdb.faces.sources import FaceBatch
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.layout import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.limits import check_limits
from hdb.metrics.embedders import FaceNet
from hdb.metrics.judges import Judges, Scores, load_classifier
from hdb.training import device, ranks
from hdb.training.dreambooth import DreamBoothFinetuning
from hdb.training.options import DreamBoothOptions, FinetuningOptions, PretrainingOptions
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.prior import Prior
from hdb.training.textual_inversion import TextualInversionFitting

META, ELSEWHERE = torch.device("meta"), torch.device("cpu", 0)  # the latter is a CPU that is not the default one
SD15 = sorted((Path(__file__).parents[1] / "configs" / "sd15").glob("*.yaml"))


@pytest.fixture(params=["meta", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def place(request) -> torch.device:
    """Where there are no numbers, and on a machine with a GPU that one, too."""
    return torch.device(request.param)


@pytest.fixture
def personalized(tiny_diffusion) -> PersonalizedDiffusion:
    tiny_diffusion.graphs = Graphs("false")  # to capture one, a GPU is waited for; test_graphed_step.py has them
    return PersonalizedDiffusion(tiny_diffusion, build_layout(tiny_diffusion, LiDBOptions(a=6, b=4)))


@pytest.fixture
def latents(tiny_diffusion) -> torch.Tensor:
    """Three people with two views each."""
    return torch.zeros(3, 2, *tiny_diffusion.latent_shape)


@pytest.fixture
def hypernet(personalized) -> HyperNet:
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 5}
    encoder = FaceEncoder(shape, resolution=16)
    decoder = WeightDecoder(personalized.layout, encoder, width=8, num_heads=2)
    return HyperNet(encoder, decoder, personalized.layout, iterations=2, linear_path=True)


@pytest.fixture
def batch() -> FaceBatch:
    images = torch.zeros(3, 3, 64, 64)
    prompts, photos = ["a [V] face", "a [V] face in the snow", "a [V] face"], torch.tensor([True, False, True])
    return FaceBatch(images, images, prompts, torch.tensor([4, 5, 6]), photos)


@pytest.fixture
def judges(tiny_weights) -> Judges:
    return tiny_judges(tiny_weights)


def there(stage: L.LightningModule, place: torch.device) -> L.LightningModule:
    """A stage on the device as its Trainer would have it; `stage.logged` is what it logs."""
    stage.logged = {}
    stage.log = lambda name, value, **how: stage.logged.update({name: how})
    stage.trainer = L.Trainer(accelerator="cpu", logger=False, max_steps=5, enable_progress_bar=False)
    stage.to(place).on_fit_start()
    return stage


def step(stage: L.LightningModule, batch: object = 0) -> None:
    """One training step, from the batch to the optimizer's."""
    optimizer = stage.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    with waits_are_errors(stage.device):
        stage.training_step(batch, 0).backward()
    assert all(
        of.grad.device == of.device == stage.device for group in optimizer.param_groups for of in group["params"]
    )
    if not isinstance(stage, HyperNetPretraining):
        stage.configure_gradient_clipping(optimizer)
    optimizer.step()


@contextmanager
def waits_are_errors(place: torch.device) -> Iterator[None]:
    """On a GPU as they are on meta anyway."""
    if place.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if place.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def stages(personalized, latents, place):
    """Every stage that fits people to a base, each with what it can be asked for beside that."""
    start, prior = Residuals.initial(personalized.layout), Prior(latents[0])
    reference = latents[:, 0]
    yield Preoptimization(personalized, latents=latents)
    for basis, mask in (("lidb", "face"), ("free", None)):
        options = FinetuningOptions(basis=basis, mask=mask, prior_preservation=0.5, batch_size=2)
        yield SubjectFinetuning(personalized, reference=reference, start=start, options=options, prior=prior)
    yield TextualInversionFitting(personalized, reference=reference)
    personalized.to(place)  # before: a weight becomes another object on its way to meta, unlike on that to a GPU
    yield DreamBoothFinetuning(personalized, reference=reference[:1], options=DreamBoothOptions(), prior=prior)


@pytest.mark.parametrize("number", range(5))
def test_a_step_of_every_fit_is_on_the_device_and_waits_for_nothing(personalized, latents, place, number):
    stage = there(list(stages(personalized, latents, place))[number], place)
    step(stage)
    assert stage.logged and not any(how.get("prog_bar") for how in stage.logged.values())  # a bar would wait


@pytest.mark.parametrize("v_prediction", [False, True])
def test_a_step_of_pretraining_with_all_its_losses_is_on_the_device(personalized, hypernet, batch, place, v_prediction):
    if v_prediction:
        personalized.diffusion.noise_schedule.prediction_type = "v_prediction"
    layout, options = personalized.layout, PretrainingOptions(gamma=1.0, identity_until=1.0)
    targets = layout.initial_theta().repeat(3, 1), batch.identities
    stage = there(HyperNetPretraining(personalized, hypernet, targets=targets, options=options), place)
    step(stage, stage.transfer_batch_to_device(batch, place, 0))
    assert {"train/diffusion_loss", "train/weight_space_loss", "train/identity_loss"} <= set(stage.logged)


def test_a_step_of_validation_is_on_the_device(personalized, hypernet, batch, place):
    stage = there(HyperNetPretraining(personalized, hypernet, options=PretrainingOptions(beta=0.0)), place)
    stage.own_minus_other.to(place)
    with torch.no_grad():
        stage.validation_step(stage.transfer_batch_to_device(batch, place, 0), 0)
    (values,), (people,) = stage.own_minus_other.values, stage.own_minus_other.people
    assert values.device == people.device == place and len(values) == 3


@pytest.mark.parametrize("identity", [None, 1.5])
def test_pictures_of_bound_people_are_drawn_on_the_device_without_waiting(personalized, place, identity):
    people = Residuals(personalized.layout.initial_theta().repeat(2, 1), personalized.layout)
    diffusion = personalized.to(place).diffusion
    with personalized.bound(people), waits_are_errors(place):
        prompts, unbound = ["a [V] face"] * 4, personalized.lidb.unbound
        denoiser = (
            ClassifierFreeGuidance(diffusion, prompts, num_people=2, guidance_scale=3.0)
            if identity is None
            else IdentityGuidance(
                diffusion, prompts, unbound=unbound, guidance_scale=3.0, identity_guidance_scale=identity
            )
        )
        drawn = sample(diffusion, denoiser, seeds=[0] * 4, sampling=SamplingOptions(3))
    assert drawn.device == place and drawn.shape == (4, 3, 64, 64)
    assert diffusion.encode_images(drawn).device == place


def test_a_theta_that_is_not_finite_is_refused_before_it_goes_to_the_device(personalized):
    people = Residuals(personalized.layout.initial_theta() / 0, personalized.layout)
    personalized.to(META)
    with pytest.raises(ValueError, match="not finite, expected 0"), personalized.bound(people):
        pass


def test_judges_see_and_metrics_keep_on_the_device(judges, tiny_weights, place):
    judges, pictures = (
        Judges({name: judge.to(place) for name, judge in judges.items()}),
        torch.zeros(3, 3, 48, 40, device=place),
    )
    seen = judges.embed_images(pictures)
    assert all(vectors.device == place for vectors in seen.values())
    scores = Scores(judges)
    for metric in scores.metrics.values():
        metric.to(place)
    read = {
        "clip": seen["clip"]
    }  # a text tower is no place for meta: transformers asks whether a batch of texts has padding
    scores.update(seen, pictures, read)
    scores.update(pictures, seen, read, torch.zeros(3, dtype=torch.long))
    assert all(score.device == place for score in scores.compute().values())
    judge = load_classifier(f"{tiny_weights}/judges/classifier", device=place)
    assert all(logits.device == place for logits in judge(pictures).values())


def test_the_face_detector_follows_facenet_and_sees_all_pictures_at_once(monkeypatch):
    facenet, calls = FaceNet().to(META), []

    def detect(pictures):
        calls.append((facenet.detector.device, len(pictures)))
        return [None] * len(pictures), None

    monkeypatch.setattr(facenet.detector, "detect", detect)
    assert facenet.largest_faces(torch.zeros(3, 3, 32, 32)) == [None] * 3
    assert calls == [(META, 3)]


def test_judges_of_the_preview_work_where_the_training_does(call, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "start_processes", lambda processes, *, accelerator: ELSEWHERE)

    def read(options, *, device):
        raise ValueError(f"the judges are on {device}")

    monkeypatch.setattr(Judges, "from_options", read)
    assert call(pretrain) == 2
    assert "the judges are on cpu:0" in capsys.readouterr().err


@pytest.mark.parametrize(("chosen", "has_gpu"), [("cpu", True), ("meta", False)])
def test_attention_is_plain_on_a_cpu_only_whatever_else_the_machine_has(tiny_diffusion, monkeypatch, chosen, has_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    base = prepare_for_device(tiny_diffusion.to(chosen), memory="normal")
    assert {isinstance(of, AttnProcessor) for of in base.unet.attn_processors.values()} == {chosen == "cpu"}


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_pictures_are_drawn_and_encoded_in_the_precision_of_the_training(tiny_diffusion, precision, dtype):
    base, seen = prepare_for_device(tiny_diffusion, memory="normal", precision=precision), set()
    for network in (base.unet, base.vae.encoder, base.vae.decoder, base.text_encoder):
        linear = next(of for of in network.modules() if isinstance(of, (nn.Conv2d, nn.Linear)))
        linear.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    pictures = draw(base, ["a face"], seeds=[0], sampling=SamplingOptions(num_inference_steps=1))
    base.encode_images(pictures)
    assert pictures.dtype == torch.float32 and seen == {dtype}


@pytest.mark.parametrize("path", SD15, ids=lambda path: path.stem)
def test_no_yaml_of_a_large_base_has_autocast_cast_all_of_it_at_every_step(path):
    settings = yaml.safe_load(path.read_text())
    assert settings["precision"] in AUTOCAST_DTYPES
    assert settings.get("base", settings)["dtype"] == "bfloat16"


@pytest.mark.parametrize("schema", [Pretrain, Search])
def test_precisions_that_round_what_is_trained_or_lose_its_gradients_are_refused(schema):
    for precision in ("16-true", "bf16-true"):
        with pytest.raises(ValueError, match=f"precision is '{precision}', .* stays in float32"):
            load(schema, [f"precision={precision}"])
    with pytest.raises(ValueError, match="base is in float16 and precision is '32-true', .* expected precision 16-m"):
        load(schema, ["base.dtype=float16"])
    with pytest.raises(
        ValueError, match="base is in bfloat16 and precision is '16-mixed', .* bf16-mixed, or a base in"
    ):
        load(schema, ["base.dtype=bfloat16", "precision=16-mixed"])
    with pytest.raises(ValueError, match="base is in float16 and precision is 'bf16-mixed'"):
        check_limits(WorkloadOptions(dtype="float16", precision="bf16-mixed"))
    assert load(schema, ["base.dtype=float16", "precision=16-mixed"]).base.dtype == "float16"


@pytest.mark.parametrize(("kind", "expected"), [("cuda", ["high"]), ("cpu", [])])
def test_products_of_float32_are_in_tf32_on_a_gpu(monkeypatch, kind, expected):
    chosen = []
    trainer = type("Trainer", (), {"strategy": type("Strategy", (), {"root_device": torch.device(kind)})})
    monkeypatch.setattr(device, "probe_trainer", lambda **how: trainer)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    assert device.select_device("auto").type == kind and chosen == expected


def test_the_digest_of_a_frozen_encoder_is_taken_once(hypernet, monkeypatch):
    taken, digest = [], FaceEncoder.digest.fget
    monkeypatch.setattr(FaceEncoder, "digest", property(lambda encoder: taken.append(1) or digest(encoder)))
    assert hypernet.encoder_digest == hypernet.config["encoder_digest"] == digest(hypernet.encoder)
    assert len(taken) == 1
