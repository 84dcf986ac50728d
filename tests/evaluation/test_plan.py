"""Operations counted on the meta device, and the plans planned of them."""

import json

import lightning as L
import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from experiments import plan
from experiments.config import Pretrain, load
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.evaluation.cost import CPU_ATTENTION
from hdb.evaluation.operations import OperationCounter
from hdb.evaluation.options import ProtocolOptions, RateOptions
from hdb.evaluation.plan import Planner, rate_of
from hdb.faces.sources import FaceBatch
from hdb.hypernet.hypernet import build_hypernet
from hdb.hypernet.options import HyperNetOptions
from hdb.hypernet.trained import load_face_encoder
from hdb.lidb.layout import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.methods.options import MethodOptions
from hdb.training.options import (
    FinetuningOptions,
    PreoptimizationOptions,
    PretrainingOptions,
    PreviewOptions,
    ScheduleOptions,
)
from hdb.training.pretrain import HyperNetPretraining

LIDB = LiDBOptions(a=4, b=3)


@pytest.fixture
def net(tiny_weights) -> HyperNetOptions:
    return HyperNetOptions(encoder=f"{tiny_weights}/encoder", width=8, num_heads=2, iterations=2)


@pytest.fixture
def counter(tiny_base, net) -> OperationCounter:
    return OperationCounter(str(tiny_base), LIDB, net)


def test_a_step_on_the_meta_device_has_the_operations_of_a_real_one(counter, tiny_base, net):
    base = StableDiffusion.from_pretrained(tiny_base).use_plain_attention()
    hypernet = build_hypernet(net, load_face_encoder(net.encoder), build_layout(base, LIDB))
    stage = HyperNetPretraining(
        PersonalizedDiffusion(base, hypernet.layout), hypernet, options=PretrainingOptions(beta=0.0)
    )
    photos = torch.rand(3, 3, 64, 64)
    batch = FaceBatch(photos, photos, ["a [V] face"] * 3, torch.arange(3))

    class Counting(L.Callback):
        def on_train_batch_start(self, *_):
            self.counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION).__enter__()

        def on_train_batch_end(self, *_):
            self.counter.__exit__(None, None, None)

    counting = Counting()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_steps=1, callbacks=[counting], **quiet)
    trainer.fit(stage, DataLoader([batch], batch_size=None))
    counted = counter.pretraining(3, PretrainingOptions(beta=0.0), cached=False)
    assert counted.operations == counting.counter.get_total_flops()
    assert counted.kept_bytes > 4 * 3 * 8 * 8 * 8  # at least one activation of the UNet


def test_pieces_of_work_add_up(counter):
    options = PretrainingOptions(beta=0.0)
    whole, cached = (counter.pretraining(2, options, cached=cached).operations for cached in (False, True))
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flop_counter, torch.no_grad():
        counter.hypernet.encoder(counter.photos)
    assert whole - cached == 2 * (counter.image_encoding.operations + flop_counter.get_total_flops())
    ways = ({"guidance_scale": 1.0}, {}, {"identity_guidance_scale": 1.5})
    ten, twenty = ([counter.drawing(SamplingOptions(n, **way)).operations for way in ways] for n in (10, 20))
    plain, guided, apart = (more - less for less, more in zip(ten, twenty, strict=True))
    assert (guided, apart) == (2 * plain, 3 * plain) and plain > 0
    with_identity = PretrainingOptions(beta=0.0, gamma=1.0, identity_samples=1)
    assert counter.pretraining(2, with_identity, cached=True).operations > cached


def test_low_memory_has_the_operations_of_real_checkpointing_and_keeps_less(counter, tiny_base, net):
    low = OperationCounter(str(tiny_base), LIDB, net, memory="low").fitting(2)
    base = StableDiffusion.from_pretrained(tiny_base).use_plain_attention()
    base.unet.enable_gradient_checkpointing()
    personalized = PersonalizedDiffusion(base, build_layout(base, LIDB))
    people = Residuals(personalized.layout.initial_theta().repeat(2, 1).requires_grad_(), personalized.layout)
    latents = torch.randn(2, *base.latent_shape)
    # Without the last operations of a block, which torch leaves out where backward does not need them.
    flop_counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with flop_counter, set_checkpoint_early_stop(False):
        losses = personalized.denoising_losses(
            people, latents, ["a [V] face"] * 2, noise=latents, timesteps=torch.tensor([1, 2])
        )
        losses.mean().backward()
    assert low.operations == flop_counter.get_total_flops()
    normal = counter.fitting(2)
    assert low.operations > normal.operations and low.kept_bytes < normal.kept_bytes


def test_caches_spare_the_autoencoder_and_the_encoder_at_the_size_of_stable_diffusion_15():
    ours = load(Pretrain, ["configs/sd15/pretrain.yaml"])
    counter = OperationCounter(ours.base.path, ours.lidb, ours.hypernet)
    whole, cached = (counter.pretraining(1, ours, cached=cached).operations for cached in (False, True))
    assert whole - cached == pytest.approx(1.45e12, rel=0.01)  # 1.12 and 0.33 TFLOP
    assert cached / whole < 0.555


def test_a_plan_multiplies_operations_and_adds_bytes(counter):
    planner = Planner(counter)
    schedule = ScheduleOptions(max_steps=30, val_every=10, checkpoint_every=5, best_metric="val/face_rec")
    options = PretrainingOptions(beta=0.0)
    planned = planner.pretrain(options, schedule, PreviewOptions(), batch_size=2, num_val=4)
    steps, validations = planned.work
    assert (steps.num, validations.num) == (30, 3)
    assert steps.operations == counter.pretraining(2, options, cached=False).operations
    assert planned.operations == 30 * steps.operations + 3 * validations.operations
    assert any(name.startswith("4 checkpoints of 7 written") for name in planned.disk)
    twice = planner.pretrain(
        options, ScheduleOptions(max_steps=30, accumulate_grad_batches=2), PreviewOptions(), batch_size=2, num_val=4
    )
    assert twice.work[0].operations == 2 * steps.operations
    one = planner.personalize(FinetuningOptions(num_steps=7), SamplingOptions(num_inference_steps=3), pictures=5)
    assert [work.num for work in one.work] == [1, 7, 5]
    assert "hours" in one.lines(rate=1e12)[0] and one.lines(rate=1e12)[4].startswith("all of it")


def test_a_plan_of_an_evaluation_counts_pictures_as_they_are_guided(counter):
    names = ["unpersonalized", "no_hyper", "hyperdreambooth"]
    protocol = ProtocolOptions(
        num_identities=2, num_prompts=3, num_pictures=4, identity_guidance_scales={"no_hyper": None}
    )
    sampling = SamplingOptions(5, identity_guidance_scale=1.5)
    planned = Planner(counter).evaluate(protocol, MethodOptions(), sampling, methods=names)
    work = {entry.name: entry for entry in planned.work}
    by_prompt, by_identity = work["pictures"], work["pictures, identity guidance 1.5"]
    assert (by_prompt.num, by_identity.num) == (48, 24) and by_prompt.operations < by_identity.operations


def test_a_plan_of_thetas_has_no_more_people_than_there_are(counter):
    options = PreoptimizationOptions(num_steps=3, views_per_step=2)
    planned = Planner(counter).preoptimize(options, people=10, at_once=4, views=5)
    assert [(work.name, work.num) for work in planned.work] == [
        ("pictures encoded", 50),
        ("steps of 4 people", 6),
        ("steps of the last 2", 3),
    ]
    assert [work.operations for work in planned.work[1:]] == [counter.fitting(num).operations for num in (8, 4)]
    few = Planner(counter).preoptimize(options, people=3, at_once=4, views=5)
    assert [(work.name, work.num) for work in few.work[1:]] == [("steps of 3 people", 3)]
    assert few.gpu["thetas"] < planned.gpu["thetas"]


def test_rates_are_shares_of_a_sheet_said_outright_or_measured_and_say_so(tmp_path):
    rate, assumption = rate_of(RateOptions(device="a100", utilization=0.5), half=True)
    assert rate == 156e12
    assert assumption == "assumed: 50% of the 312 TFLOP/s in half precision of the data sheet of a100"
    assert rate_of(RateOptions(device="a100", utilization=0.5), half=False)[0] == 9.75e12
    assert rate_of(RateOptions(tflops=3.0), half=True) == (3e12, "as given")
    path = tmp_path / "results.json"
    costs = {"40 finetuning steps of 4 draws, 512 px": {"rate": 2e13}, "a pretraining step on 8 people": {"rate": 5e13}}
    facts = {"base": "sd15", "device": "NVIDIA H200", "precision": "bf16-mixed"}
    path.write_text(json.dumps({**facts, "costs": costs}))
    measured = RateOptions(results=str(path))
    assert rate_of(measured, half=True)[0] == 2e13
    rate, assumption = rate_of(measured, half=True, step="pretraining")
    assert rate == 5e13
    assert assumption == "measured: a pretraining step on 8 people, sd15 on NVIDIA H200, bf16-mixed"
    with pytest.raises(ValueError, match="has no step of drawing, only 40 finetuning steps"):
        rate_of(measured, half=True, step="drawing")
    path.write_text("{}")
    with pytest.raises(
        ValueError, match=r"results=.*results.json is not readable .*: expected results.json of a bench"
    ):
        rate_of(measured, half=True)


def test_plans_of_several_configs_are_printed_and_unknown_words_refused(call, tiny_base, net, tmp_path, capsys):
    (tmp_path / "pretrain.yaml").write_text("schedule: {max_steps: 10}\nlidb: {a: 4, b: 3}\n")
    (tmp_path / "personalize.yaml").write_text("precision: bf16-mixed\n")
    words = [f"base.path={tiny_base}", f"hypernet.encoder={net.encoder}", "hypernet.width=8", "hypernet.num_heads=2"]
    assert call(plan, "pretrain.yaml", "personalize.yaml", *words, "tflops=1", "faces.num_identities=100") == 0
    said = capsys.readouterr().out
    assert "10 steps of 8" in said and "40 steps of 4 draws" in said and said.count("at 1 TFLOP/s") == 2
    assert call(plan, "pretrain.yaml", "nothing=1") == 2
    assert "'nothing=1' is no setting of pretrain.yaml, nor of the plan: device" in capsys.readouterr().err
    assert call(plan, "device=h100") == 2
    assert "no config was named" in capsys.readouterr().err
    assert call(plan, "pretrain.yaml", "base.path=nowhere") == 2
    assert "no shapes of the base 'nowhere' on this machine" in capsys.readouterr().err
