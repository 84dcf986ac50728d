"""What CUDA graphs hold, shown without a GPU: a recording that replays by doing the work again on the same tensors.

A graph reads its inputs from tensors that stay where they are and knows nothing else of the step. `Replay` is held to
that, and recordings that are wrong in one way each show that a wrong graph is found out.
"""

import re

import pytest
import torch
from recordings import OldNumbers, OnDeviceAlone, OneOldOutput, OutOfMemory, Recorder, Replay
from torch.testing import assert_close
from torch.utils.data import DataLoader

from hdb.diffusion.graphed_denoiser import NoisePrediction
from hdb.diffusion.graphs import Graphs, copy_into
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.evaluation.cost import StartedOperations
from hdb.faces.sources import FaceBatch
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.training.options import FinetuningOptions, PreoptimizationOptions, PretrainingOptions, TextualInversionOptions
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.prior import Prior
from hdb.training.textual_inversion import TextualInversionFitting


@pytest.fixture
def recorded(personalized):
    """Turns recordings on and gives those that are made."""

    def turn_on(kind=Replay) -> list:
        recorder = Recorder(kind)
        personalized.diffusion.graphs = Graphs()
        personalized.diffusion.graphs.capture = recorder
        return recorder.made

    return turn_on


def people(personalized, *, num: int = 2, seed: int = 3) -> Residuals:
    layout = personalized.layout
    noise = torch.randn(num, layout.size, generator=torch.Generator().manual_seed(seed))
    return Residuals(layout.initial_theta() + 0.05 * noise, layout)


def finetuning(personalized, latents, **options):
    prior = Prior(latents[0]) if options.get("prior_preservation") else None
    return SubjectFinetuning(
        personalized,
        reference=latents[:2, 0],
        start=people(personalized),
        options=FinetuningOptions(**{"num_steps": 4, "rank": 2, "batch_size": 2, **options}),
        prior=prior,
    )


FITS = {
    "finetuning": finetuning,
    "of the unet, with class pictures and a mask": lambda personalized, latents: finetuning(
        personalized, latents, train_text_encoder=False, prior_preservation=0.5, mask="face"
    ),
    "free": lambda personalized, latents: finetuning(personalized, latents, basis="free"),
    "views with prompts of their own": lambda personalized, latents: Preoptimization(
        personalized,
        latents=latents[:2],
        prompts=[["a [V] face", "a [V] face in the snow"]] * 2,
        options=PreoptimizationOptions(num_steps=4, views_per_step=1, mean_pull=0.1),
    ),
    "a word": lambda personalized, latents: TextualInversionFitting(
        personalized, reference=latents[:2, 0], options=TextualInversionOptions(num_steps=4, lr=0.05)
    ),
}


@pytest.mark.parametrize(("name", "precision"), [*((name, "32-true") for name in FITS), ("finetuning", "bf16-mixed")])
def test_a_replayed_fit_ends_where_the_eager_one_ends(
    personalized, latents, trainer, recorded, capsys, name, precision
):
    def fitted():
        stage = FITS[name](personalized, latents)
        trainer(max_steps=3, precision=precision).fit(stage)
        return stage.rows.detach(), stage.loss

    eager = fitted()
    made = recorded()
    replayed = fitted()
    assert_close(replayed, eager, rtol=0, atol=0)
    assert len(made) == 1 and made[0].num_replays == 1 + 2  # the comparison, and the steps after the first
    assert "captured in" in capsys.readouterr().out


def test_the_next_person_finds_the_recording_of_the_first(personalized, latents, trainer, recorded):
    def fit(photos, **options):
        stage = SubjectFinetuning(
            personalized,
            reference=photos,
            start=people(personalized, num=1, seed=int(photos[0, 0, 0, 0] * 100)),
            options=FinetuningOptions(**{"num_steps": 2, "rank": 2, "mask": "face", "batch_size": 1, **options}),
        )
        trainer(max_steps=2).fit(stage)
        return stage.rows.detach()

    alone = [fit(latents[row : row + 1, 0]) for row in range(2)]
    made = recorded()
    together = [fit(latents[row : row + 1, 0]) for row in range(2)]
    assert len(made) == 1
    assert_close(together, alone, rtol=0, atol=0)
    fit(latents[:1, 0], batch_size=3)  # another shape
    fit(latents[:1, 0], rank=3)  # another layout
    assert len(made) == 3
    weight = personalized.diffusion.unet.conv_in.weight
    weight.data = weight.data.clone()  # the base has moved: a graph would read what lies at the old place
    assert_close(fit(latents[1:2, 0]), alone[1], rtol=0, atol=0)
    assert len(made) == 4


def test_layers_that_are_removed_take_their_recordings_along(personalized, latents, trainer, recorded):
    made = recorded()
    trainer(max_steps=2).fit(finetuning(personalized, latents))
    assert made and personalized.diffusion.graphs.held
    assert not personalized.detach().graphs.held


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (OldNumbers, "the graph of SubjectFinetuning differs from eager by"),
        (OneOldOutput, "the graph of SubjectFinetuning differs from eager by"),
        (OutOfMemory, "the capture of SubjectFinetuning failed (CUDA out of memory. Tried to allocate 2 GiB.)"),
    ],
)
def test_a_graph_that_is_wrong_or_not_to_be_had_costs_a_line_and_changes_nothing(
    personalized, latents, trainer, recorded, capsys, kind, line
):
    def fitted():
        stage = finetuning(personalized, latents)
        trainer(max_steps=2).fit(stage)
        return stage.rows.detach()

    eager = fitted()
    recorded(kind)
    capsys.readouterr()
    assert torch.equal(fitted(), eager)
    told = [line for line in capsys.readouterr().out.splitlines() if "cuda_graph" in line]
    assert len(told) == 1 and told[0].startswith(f"cuda_graph: {line}") and told[0].endswith(", it goes on eagerly")
    assert torch.equal(fitted(), eager)  # and it is not tried again
    assert "cuda_graph" not in capsys.readouterr().out
    recorded(kind)
    personalized.diffusion.graphs.setting = "true"
    with pytest.raises(ValueError, match=f"cuda_graph is true, but {re.escape(line)}.*: expected cuda_graph=auto"):
        fitted()


def test_a_gradient_is_accumulated_over_batches_as_without_a_graph(personalized, latents, trainer, recorded):
    """A graph's results are the same tensors in every step; a gradient that is kept must not be one of them."""

    def gradient():
        stage = finetuning(personalized, latents)
        stage.trainer = trainer(max_steps=4)
        stage.log = lambda name, value: None
        for step in range(3):
            stage.training_step(step, step).backward()
        return stage.rows.grad

    eager = gradient()
    made = recorded()
    assert_close(gradient(), eager, rtol=1e-6, atol=1e-9)
    assert made[0].num_replays == 3


def pretrain(personalized, hypernet, trainer, **trainer_options):
    """Pretraining on four batches, whose identity loss is of 2, 1, no and 2 samples; the weights and what is logged."""
    images = torch.rand(6, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batches = [
        FaceBatch(
            images[step : step + 3, 0],
            images[step : step + 3, 1],
            ["a [V] face", "", "a face in the snow"],
            torch.arange(3),
            photos=torch.tensor(photos),
        )
        for step, photos in enumerate([[True, True, True], [False, True, False], [False] * 3, [True, False, True]])
    ]
    options = PretrainingOptions(beta=0.0, gamma=1.0, identity_until=1.0, identity_samples=2, warmup_steps=1)
    stage = HyperNetPretraining(personalized, hypernet(), options=options)
    fit = trainer(max_steps=4 // trainer_options.get("accumulate_grad_batches", 1), **trainer_options)
    fit.fit(stage, DataLoader(batches, batch_size=None))
    return list(stage.hypernet.trainable_state_dict().values()), fit.callback_metrics


@pytest.mark.parametrize("trainer_options", [{}, {"accumulate_grad_batches": 2}])
def test_pretraining_replays_thetas_and_an_identity_loss_of_any_number_of_samples(
    personalized, hypernet, trainer, recorded, trainer_options
):
    eager, eager_log = pretrain(personalized, hypernet, trainer, **trainer_options)
    made = recorded()
    replayed, log = pretrain(personalized, hypernet, trainer, **trainer_options)
    assert len(made) == 1 and made[0].num_replays == 4
    assert_close(replayed, eager, rtol=1e-3, atol=1e-5)
    assert {name: float(value) for name, value in log.items()} == pytest.approx(
        {name: float(value) for name, value in eager_log.items()}, rel=1e-3
    )
    assert not personalized.diffusion.graphs.held  # its memory is given back


@pytest.mark.parametrize(("kind", "rows"), [(Replay, [2, 2, 2, 2]), (OutOfMemory, [2, 1, 2])])
def test_samples_without_an_identity_loss_are_decoded_for_a_graph_alone(
    personalized, hypernet, trainer, recorded, monkeypatch, kind, rows
):
    recorded(kind)
    seen = []
    identity_tensors = HyperNetPretraining.identity_tensors

    def count_rows(*args, **kwargs):
        tensors = identity_tensors(*args, **kwargs)
        seen.append(len(tensors["identity_rows"]))
        return tensors

    monkeypatch.setattr(HyperNetPretraining, "identity_tensors", count_rows)
    pretrain(personalized, hypernet, trainer)
    assert seen == rows


@pytest.mark.parametrize("identity_guidance_scale", [None, 1.5])
def test_pictures_from_recordings_are_those_drawn_eagerly(personalized, recorded, identity_guidance_scale):
    sampling = SamplingOptions(
        num_inference_steps=3, guidance_scale=2.0, identity_guidance_scale=identity_guidance_scale
    )

    def draw(seed):
        prompts = ["a [V] face", "a [V] face in the snow"]
        return personalized.pictures(people(personalized, seed=seed), prompts, seeds=[1, 2], sampling=sampling)

    eager = [draw(seed) for seed in (3, 4)]
    assert not torch.equal(*eager)
    made = recorded()
    assert_close([draw(seed) for seed in (3, 4)], eager, rtol=0, atol=0)
    # with and, for identity guidance, without people bound; the second batch finds the recordings of the first
    assert [recording.num_replays for recording in made] == [6] * (1 if identity_guidance_scale is None else 2)


def test_a_recording_made_in_inference_mode_serves_outside_of_it(personalized, recorded):
    sampling = SamplingOptions(num_inference_steps=2, guidance_scale=1.0)

    def draw():
        return personalized.pictures(people(personalized), ["a [V] face"] * 2, seeds=[1, 2], sampling=sampling)

    eager = draw()
    made = recorded()
    with torch.inference_mode():
        assert torch.equal(draw(), eager)
    again = draw()
    assert len(made) == 1 and torch.equal(again, eager) and not again.is_inference()


def test_a_further_shape_takes_the_place_of_the_one_used_least_recently(recorded, personalized):
    made = recorded()
    graphs = personalized.diffusion.graphs
    graphs.max_held = 2

    def double(num):
        (doubled,), is_held = graphs.run(
            lambda tensors: (2 * tensors["x"],),
            {"x": torch.arange(1.0, num + 1)},
            name="work",
            key="work",
            reads=lambda: (),
            device=torch.device("cpu"),
            tolerance=0.0,
        )
        assert is_held and torch.equal(doubled, 2 * torch.arange(1.0, num + 1))
        return len(made)

    assert [double(num) for num in (1, 2, 1, 3)] == [1, 2, 2, 3]  # 3 takes the place of 2, since 1 was used again
    assert [double(num) for num in (1, 3, 2, 3, 1)] == [3, 3, 4, 4, 5]
    assert len(graphs.held) == 2


def test_graphs_share_a_pool_until_none_is_left_in_it_or_a_capture_is_broken_off(monkeypatch):
    handles = [(0, number) for number in range(1, 4)]
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", iter(handles).__next__)
    monkeypatch.setattr(Graphs, "_stream", lambda self, device: "a stream")
    monkeypatch.setattr("hdb.diffusion.graphs.run_beside", lambda work, stream: work())
    graphs = Graphs()
    pools = []

    def compute(num, kind=Replay):
        def capture(work, *, stream, pool):
            pools.append(pool)
            return kind(work, stream=stream, pool=pool)

        graphs.capture = capture
        inputs = {"x": torch.ones(num)}
        settings = {"name": "work", "key": "work", "reads": lambda: (), "device": torch.device("cpu"), "tolerance": 0.0}
        graphs.run(lambda tensors: (2 * tensors["x"],), inputs, **settings)

    compute(1)
    compute(2)
    graphs.clear()
    compute(1)
    compute(2, OutOfMemory)
    compute(3)
    first, second, third = handles
    assert pools == [first, first, second, second, third]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"memory_is_low": True}, "memory is low"),
        ({"world_size": 2}, "2 processes train together"),
        ({"autocast": torch.float16}, "float16 scales its loss"),
        ({"setting": "false"}, None),
    ],
)
def test_graphs_are_left_where_they_cannot_be_trusted(personalized, latents, recorded, changes, reason):
    made = recorded()
    diffusion = personalized.diffusion
    diffusion.graphs.setting = changes.get("setting", "auto")
    diffusion.memory_is_low = changes.get("memory_is_low", False)
    world = type("World", (), {"world_size": changes.get("world_size", 1), "accumulate_grad_batches": 1})
    dtype = changes.get("autocast")

    def is_graphed() -> bool:
        stage = finetuning(personalized, latents)
        stage._trainer = world
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            return stage.graphed_step.is_graphed

    assert not is_graphed() and not made
    if reason is not None:
        diffusion.graphs.setting = "true"
        with pytest.raises(ValueError, match=f"cuda_graph is true, but {reason}.*: expected cuda_graph=auto"):
            is_graphed()


def test_on_a_cpu_nothing_is_recorded_and_who_insists_is_told(personalized, latents, trainer, capsys):
    stage = finetuning(personalized, latents)
    trainer(max_steps=1).fit(stage)
    assert "cuda_graph" not in capsys.readouterr().out and not personalized.diffusion.graphs.held
    personalized.diffusion.graphs = Graphs("true")
    with pytest.raises(ValueError, match="cuda_graph is true, but the base is on cpu: expected cuda_graph=auto"):
        trainer(max_steps=1).fit(finetuning(personalized, latents))


def test_a_finetuning_step_starts_no_more_operations_than_it_did(tiny_diffusion, latents, trainer):
    """Of a base in half precision: no layer casts its factors, and no norm its inputs and weights."""
    diffusion = tiny_diffusion.cast(torch.bfloat16)
    personalized = PersonalizedDiffusion(diffusion, build_layout(diffusion, LiDBOptions(a=6, b=4)))
    stage = finetuning(personalized, latents)
    stage.trainer = trainer(max_steps=1)
    stage.log = lambda name, value: None
    for rows, limit in ((2, 1465), (1, 1130)):
        stage.rows = torch.nn.Parameter(stage.rows.detach()[:rows])
        stage.latents = stage.latents[:rows]
        with torch.autocast("cpu", torch.bfloat16), StartedOperations() as started:
            loss = stage.training_step(0, 0)
        with started:
            loss.backward()
        assert started.counts.total() <= limit and started.counts["_to_copy"] < 40


def test_inputs_are_copied_in_lists_of_equal_dtypes_and_strides():
    """A list with anything else in it is copied tensor by tensor on a GPU."""
    generator = torch.Generator().manual_seed(0)
    inputs = {f"factor {num}": torch.randn(2, 3, generator=generator) for num in range(20)}
    inputs |= {f"half {num}": torch.randn(3, generator=generator).bfloat16() for num in range(20)}
    inputs["channels last"] = torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last)
    inputs["timesteps"] = torch.tensor(7).expand(2)
    buffers = {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    with StartedOperations() as started:
        copy_into(buffers, inputs)
    assert_close(buffers, inputs, rtol=0, atol=0)
    assert started.counts == {"_foreach_copy_": 2, "copy_": 1}


@pytest.mark.gpu
@pytest.mark.parametrize("name", FITS)
def test_on_a_gpu_a_graphed_fit_ends_where_the_eager_one_ends(tiny_diffusion, latents, trainer, capsys, name):
    personalized = PersonalizedDiffusion(tiny_diffusion.to("cuda"), build_layout(tiny_diffusion, LiDBOptions(a=6, b=4)))
    ends = []
    for setting in ("false", "true"):
        tiny_diffusion.graphs = Graphs(setting)
        stage = FITS[name](personalized, latents)
        stage.options.num_steps = 40
        trainer(max_steps=40, accelerator="gpu", devices=1, precision="bf16-mixed").fit(stage)
        ends.append((stage.rows.detach().cpu(), float(stage.loss)))
    assert "captured in" in capsys.readouterr().out
    stage.log = lambda name, value: None
    stage.to("cuda").on_fit_start()
    torch.cuda.set_sync_debug_mode("error")  # a replayed step waits for nothing
    try:
        stage.training_step(0, 0).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    (eager, eager_loss), (graphed, graphed_loss) = ends
    assert graphed_loss == pytest.approx(eager_loss, rel=2e-2)
    assert (graphed - eager).norm() < 0.1 * eager.norm()


@pytest.mark.gpu
def test_on_a_gpu_pictures_from_graphs_are_those_drawn_eagerly(tiny_diffusion, capsys):
    personalized = PersonalizedDiffusion(tiny_diffusion.to("cuda"), build_layout(tiny_diffusion, LiDBOptions(a=6, b=4)))
    sampling = SamplingOptions(num_inference_steps=5, identity_guidance_scale=1.5)
    drawn = []
    for setting in ("false", "true"):
        tiny_diffusion.graphs = Graphs(setting)
        pictures = [
            personalized.pictures(people(personalized, seed=seed), ["a [V] face"] * 2, seeds=[1, 2], sampling=sampling)
            for seed in (3, 4)
        ]
        drawn.append(torch.cat(pictures))
    assert capsys.readouterr().out.count("captured in") == 2
    assert_close(*drawn, rtol=0, atol=0.02)


def test_the_work_of_a_graph_copies_nothing_from_the_cpu_and_asks_for_no_number(personalized, hypernet, latents):
    meta = torch.device("meta")
    latents = latents[:2, 0]
    stages = [FITS[name](personalized, latents[:, None].repeat(3, 1, 1, 1, 1)) for name in ("free", "a word")]
    net = hypernet()
    loss = HyperNetPretraining(personalized, net, options=PretrainingOptions(beta=0.0, gamma=1.0)).step_loss
    diffusion = personalized.to(meta).diffusion
    net.to(meta)
    draws = {
        "latents": torch.empty(2, *diffusion.latent_shape, device=meta),
        "noise": torch.empty(2, *diffusion.latent_shape, device=meta),
        "timesteps": torch.zeros(2, dtype=torch.long, device=meta),
    }
    prompts = ["a [V] face"] * 2
    identity = {
        "identity_rows": torch.zeros(2, dtype=torch.long, device=meta),
        "identity_weights": torch.ones(2, device=meta),
        "target_embedding": torch.ones(2, net.encoder.embedding_size, device=meta),
    }
    theta = torch.empty(2, net.layout.size, device=meta)
    works = [(stage.step_loss, stage.rows.detach().to(meta), stage.prompt_tensors(prompts)) for stage in stages]
    works.append((loss, theta, {**diffusion.tokenize_prompts(prompts), **identity}))
    for work, trained, inputs in works:
        trained.requires_grad_()
        with OnDeviceAlone():
            value, *_ = work(trained, {**draws, **inputs})
            (gradient,) = torch.autograd.grad(value, trained)
        assert value.device == meta and gradient.shape == trained.shape
    personalized.bind(Residuals(theta, net.layout))
    condition = diffusion.encode_prompts(prompts)
    prediction = NoisePrediction(diffusion)
    inputs = {"noisy_latents": draws["latents"], "timesteps": draws["timesteps"]}
    inputs = {**inputs, **condition.tensors, **prediction.factors()}
    with OnDeviceAlone(), torch.no_grad():
        (noise_pred,) = prediction(inputs)
    assert noise_pred.device == meta and noise_pred.shape == draws["latents"].shape
