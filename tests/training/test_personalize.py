from dataclasses import asdict, replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from experiments.config import Evaluate, load
from hdb.lidb.residuals import Residuals
from hdb.methods.context import TrainingContext
from hdb.methods.hyperdreambooth import Finetuner
from hdb.methods.protocol import Photos
from hdb.training.options import FinetuningOptions
from hdb.training.personalize import SubjectFinetuning


@pytest.fixture
def start(personalized) -> Residuals:
    """Three different predictions."""
    layout = personalized.layout
    noise = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(3))
    return Residuals(layout.initial_theta() + 0.05 * noise, layout)


@pytest.fixture
def finetune(personalized, latents, start, trainer):
    def run(*, rows: slice = slice(None), stop: int = -1, callbacks=None, ckpt_path=None, **options):
        arguments = {"reference": latents[rows, 0], "start": start[rows]}
        gradient_clip = options.pop("gradient_clip", 1.0)
        for name in ("reference", "start", "prompt", "seed"):
            if name in options:
                arguments[name] = options.pop(name)
        finetuning = FinetuningOptions(**{"num_steps": 4, "batch_size": 2, "rank": 2, **options})
        module = SubjectFinetuning(personalized, options=finetuning, **arguments)
        module.gradient_clip = gradient_clip
        checkpointing = {"callbacks": callbacks, "enable_checkpointing": True} if callbacks else {}
        trainer(max_epochs=1, max_steps=stop, **checkpointing).fit(module, ckpt_path=ckpt_path)
        return module

    return run


def test_finetuning_starts_at_the_prediction(personalized, latents, start):
    module = SubjectFinetuning(personalized, reference=latents[:, 0], start=start, options=FinetuningOptions(rank=4))
    fixed = {"noise": torch.randn(3, *latents.shape[2:]), "timesteps": torch.tensor([100, 500, 900])}
    assert module.layout.rank == 4 and module.fitted.theta.shape[1] == 4 * start.theta.shape[1]
    with torch.no_grad():
        relaxed, predicted = (
            personalized.denoising_losses(people, latents[:, 0], ["a [V] face"] * 3, **fixed)
            for people in (module.fitted, start)
        )
    assert_close(relaxed, predicted, rtol=1e-5, atol=1e-6)


def test_finetuning_without_bases_starts_at_the_prediction_and_leaves_them(finetune, lidb, start):
    before, predicted = finetune(num_steps=1, lr=0.0, basis="free"), start.relax(2, free=True)
    layout = predicted.layout
    assert before.layout == layout == replace(lidb.layout, rank=2).as_lora
    assert_close(before.fitted.theta, predicted.theta, rtol=0, atol=0)
    after = finetune(basis="free")
    slot = lidb.layout.slots[0]
    basis = slot.aux_bases(seed=lidb.layout.seed)[1]
    factors = (layout.unpack(people.theta)[slot.name] for people in (after.fitted, predicted))
    (_, up), (_, start_up) = factors
    moved = (up - start_up)[0]
    assert (moved - basis @ (basis.mT @ moved)).norm() > 0.1 * moved.norm() > 0


@pytest.mark.parametrize(("basis", "lr"), [("lidb", 5e-3), ("free", 1e-3)])
def test_each_basis_has_a_learning_rate_of_its_own(finetune, basis, lr):
    default = finetune(basis=basis).fitted.theta
    assert torch.equal(default, finetune(basis=basis, lr=lr).fitted.theta)
    assert not torch.equal(default, finetune(basis=basis, lr=6e-3 - lr).fitted.theta)


def test_options_say_whether_timesteps_are_stratified_and_refuse_bases_that_a_prediction_has_left(
    finetune, personalized, start
):
    thetas = {stratified: finetune(stratified=stratified).fitted.theta for stratified in (True, False)}
    assert not torch.equal(thetas[True], thetas[False])
    assert torch.equal(thetas[True], finetune().fitted.theta)
    with pytest.raises(
        ValueError, match="basis is lidb, but the hypernetwork learned .* expected finetuning.basis=free"
    ):
        finetune(start=Residuals.initial(personalized.layout.as_lora))


@pytest.mark.parametrize("basis", ["lidb", "free"])
def test_without_the_text_encoder_its_layers_stay_and_the_others_learn_as_if_it_were_frozen(finetune, start, basis):
    left = start.relax(2, free=basis == "free")
    begun = left.layout.unpack(left.theta)
    module = finetune(basis=basis, num_steps=3, train_text_encoder=False)
    ended = module.layout.unpack(module.fitted.theta)
    text = [name for name in begun if name.startswith("text_encoder.")]
    assert text and len(text) < len(begun)
    for name, factors in begun.items():
        same = [torch.equal(*pair) for pair in zip(factors, ended[name], strict=True)]
        assert all(same) if name in text else not any(same), name
    both = finetune(basis=basis, num_steps=3).fitted.theta
    assert not torch.equal(both, module.fitted.theta)


def test_without_the_text_encoder_a_first_step_has_the_gradient_of_training_both_in_the_unet(
    personalized, latents, start
):
    gradients = []
    for trained in (True, False):
        options = FinetuningOptions(rank=2, train_text_encoder=trained)
        module = SubjectFinetuning(personalized, reference=latents[:, 0], start=start, options=options)
        draws = {"noise": torch.ones(3, *latents.shape[2:]), "timesteps": torch.tensor([100, 500, 900])}
        module.losses(latents[:, 0], ["a [V] face"] * 3, **draws).sum().backward()
        gradients.append(module.layout.unpack(module.rows.grad))
    for name, factors in gradients[0].items():
        if name.startswith("text_encoder."):
            assert any(grad.abs().max() > 0 for grad in factors)
            assert all(not grad.any() for grad in gradients[1][name])
        else:
            for both, unet in zip(factors, gradients[1][name], strict=True):
                assert_close(unet, both, rtol=1e-4, atol=1e-7)


def test_prompts_that_nothing_changes_are_encoded_once(finetune, personalized, monkeypatch):
    encoded = []
    encode = personalized.diffusion.encode_tokens
    monkeypatch.setattr(
        personalized.diffusion, "encode_tokens", lambda tokens: encoded.append(tokens) or encode(tokens)
    )
    finetune(num_steps=3, train_text_encoder=False)
    once = len(encoded)
    finetune(num_steps=3)
    assert (once, len(encoded) - once) == (1, 3)


def test_a_method_finetunes_as_its_config_says(finetune, personalized, start):
    photos = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reference = personalized.diffusion.encode_images(photos).float()
    for words in (
        ["methods.finetuning.stratified=False"],
        ["methods.finetuning.batch_size=3", "methods.finetuning.timesteps=high_noise"],
    ):
        finetuning = load(Evaluate, [*words, "methods.finetuning.num_steps=2"]).methods.finetuning
        made = Finetuner(TrainingContext(personalized, trainer={"accelerator": "cpu"}), finetuning).finetune(
            Photos(["a", "b", "c"], photos), start
        )
        assert torch.equal(made.residuals.theta, finetune(reference=reference, **asdict(finetuning)).fitted.theta)


def test_many_subjects_in_one_run_end_where_each_ends_alone(finetune):
    prompts = ["a [V] face", "a [V] face with glasses", "a face"]
    together = finetune(prompt=prompts, gradient_clip=1e-3).fitted.theta
    alone = [finetune(rows=slice(i, i + 1), prompt=prompts[i], gradient_clip=1e-3).fitted.theta for i in range(3)]
    # Adam turns rounding in tiny gradients into steps, so a handful of numbers differ by part of a step.
    assert_close(together, torch.cat(alone), rtol=0, atol=5e-3)
    assert (together - torch.cat(alone)).abs().mean() < 1e-5


def test_steps_on_the_reference_denoise_it_better(finetune, personalized, latents, start):
    module = finetune(num_steps=20, lr=1e-2, rank=4)
    noise = torch.randn(3, *latents.shape[2:], generator=torch.Generator().manual_seed(9))
    fixed = {"noise": noise, "timesteps": torch.tensor([300, 600, 900])}
    with torch.no_grad():
        after, before = (
            personalized.denoising_losses(people, latents[:, 0], ["a [V] face"] * 3, **fixed)
            for people in (module.fitted, start)
        )
    assert after.mean() < before.mean() - 0.02


def test_shared_start_has_a_gradient_in_every_slot_and_all_zero_factors_are_a_saddle(personalized, lidb, latents):
    def gradients(theta: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        theta = theta.clone().requires_grad_()
        noise, timesteps = torch.randn(1, *latents.shape[2:]), torch.tensor([500])
        person = Residuals(theta, lidb.layout)
        losses = personalized.denoising_losses(person, latents[:1, 0], ["a [V] face"], noise=noise, timesteps=timesteps)
        return lidb.layout.unpack(torch.autograd.grad(losses.sum(), theta)[0])

    assert all(up.abs().max() > 0 for _, up in gradients(lidb.layout.initial_theta()).values())
    assert all(not factor.any() for pair in gradients(torch.zeros(1, lidb.layout.size)).values() for factor in pair)


def test_every_rank_of_every_slot_moves(finetune, start):
    module = finetune(num_steps=3, rank=3)
    first = module.layout.unpack(module.fitted.theta)
    start_layout_theta = finetune(num_steps=3, rank=3, lr=0.0)
    for name, (down, up) in start_layout_theta.layout.unpack(start_layout_theta.fitted.theta).items():
        assert ((first[name][0] - down).abs().amax(2) > 0).all(), name
        assert ((first[name][1] - up).abs().amax(1) > 0).all(), name


def test_a_killed_run_resumes_to_the_same_theta(finetune, tmp_path):
    uninterrupted = finetune().fitted.theta
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    finetune(stop=2, callbacks=[saver])
    assert torch.equal(finetune(ckpt_path=tmp_path / "last.ckpt").fitted.theta, uninterrupted)


def test_theta_depends_on_the_seed_and_on_no_global_state(finetune):
    torch.manual_seed(1)
    first = finetune(seed=0).fitted.theta
    torch.manual_seed(2)
    assert torch.equal(finetune(seed=0).fitted.theta, first)
    assert not torch.equal(finetune(seed=1).fitted.theta, first)
    assert not torch.equal(finetune(timesteps="high_noise").fitted.theta, first)


def test_starting_from_nobody_needs_one_row_for_all(finetune, lidb):
    thetas = finetune(start=Residuals.initial(lidb.layout)).fitted.theta
    assert not torch.equal(thetas[0], thetas[1])


def test_base_does_not_move(finetune, tiny_diffusion):
    before = {name: value.clone() for name, value in tiny_diffusion.state_dict().items()}
    finetune()
    assert all(torch.equal(value, before[name]) for name, value in tiny_diffusion.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_diffusion.parameters())


def test_starts_and_ranks_that_do_not_fit_are_refused(finetune, start, lidb):
    with pytest.raises(ValueError, match="rank 1 to 0"):
        finetune(rank=0)
    with pytest.raises(ValueError, match="1 values of .* not finite"):
        broken = start.theta.clone()
        broken[2, 7] = float("nan")
        finetune(start=Residuals(broken, start.layout))
    with pytest.raises(ValueError, match="not 2 for 3 people"):
        finetune(start=start[:2])
    with pytest.raises(ValueError, match=rf"expected \(n, {lidb.layout.size}\)"):
        finetune(start=Residuals(start.theta[:, :-1], start.layout))
    with pytest.raises(ValueError, match="prompts must be 3 x 1"):
        finetune(prompt=["a [V] face"])


def test_several_views_of_each_are_all_learned_from(finetune, personalized, latents, start):
    one, same = finetune(), finetune(reference=latents[:, :1].expand(-1, 3, -1, -1, -1))
    assert_close(one.fitted.theta, same.fitted.theta, rtol=0, atol=0)
    assert not torch.equal(finetune(reference=latents[:, :2]).fitted.theta, one.fitted.theta)
