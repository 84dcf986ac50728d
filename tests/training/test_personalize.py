from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from experiments.config import Evaluate, load
from experiments.methods import subject_finetuning
from hdb.training.denoising import Timesteps
from hdb.training.personalize import SubjectFinetuning


@pytest.fixture
def start(lidb) -> torch.Tensor:
    """Three different predictions."""
    noise = torch.randn(3, lidb.layout.size, generator=torch.Generator().manual_seed(3))
    return lidb.layout.initial() + 0.05 * noise


@pytest.fixture
def finetune(tiny_diffusion, lidb, latents, start, trainer):
    def run(*, rows: slice = slice(None), stop: int = -1, callbacks=None, ckpt_path=None, **options):
        module = SubjectFinetuning(
            tiny_diffusion,
            lidb,
            **{
                "reference": latents[rows, 0],
                "start": start[rows],
                "num_steps": 4,
                "batch_size": 2,
                "rank": 2,
                **options,
            },
        )
        checkpointing = {"callbacks": callbacks, "enable_checkpointing": True} if callbacks else {}
        trainer(max_epochs=1, max_steps=stop, **checkpointing).fit(module, ckpt_path=ckpt_path)
        return module

    return run


def test_finetuning_starts_at_the_prediction(tiny_diffusion, lidb, latents, start):
    module = SubjectFinetuning(tiny_diffusion, lidb, reference=latents[:, 0], start=start, rank=4)
    fixed = {"noise": torch.randn(3, *latents.shape[2:]), "timesteps": torch.tensor([100, 500, 900])}
    assert module.layout.rank == 4 and module.theta.shape[1] == 4 * start.shape[1]
    with torch.no_grad():
        relaxed, predicted = (
            module.denoising_losses(theta, latents[:, 0], ["a [V] face"] * 3, layout=layout, **fixed)
            for theta, layout in ((module.thetas, module.layout), (start, lidb.layout))
        )
    assert_close(relaxed, predicted, rtol=1e-5, atol=1e-6)


def test_finetuning_without_bases_starts_at_the_prediction_and_leaves_them(finetune, lidb, start):
    before = finetune(num_steps=1, lr=0.0, free=True)
    layout, predicted = lidb.layout.relax(start, 2, free=True)
    assert before.layout == layout == replace(lidb.layout, rank=2).freed
    assert_close(before.theta, predicted, rtol=0, atol=0)
    after = finetune(free=True)
    slot = lidb.layout.slots[0]
    basis = slot.aux(seed=lidb.layout.seed)[1]
    moved = (after.layout.unpack(after.theta)[slot.name][1] - layout.unpack(predicted)[slot.name][1])[0]
    assert (moved - basis @ (basis.mT @ moved)).norm() > 0.1 * moved.norm() > 0


@pytest.mark.parametrize(("free", "lr"), [(False, 5e-3), (True, 1e-3)])
def test_each_basis_has_a_learning_rate_of_its_own(finetune, free, lr):
    assert torch.equal(finetune(free=free).theta, finetune(free=free, lr=lr).theta)
    assert not torch.equal(finetune(free=free).theta, finetune(free=free, lr=6e-3 - lr).theta)


def test_config_says_whether_timesteps_are_stratified_and_refuses_bases_that_a_prediction_has_left(
    finetune, tiny_diffusion, lidb, start, trainer
):
    photos, thetas = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), {}
    reference = tiny_diffusion.encode_images(photos).float()
    for stratified in (True, False):
        config = load(Evaluate, [f"finetuning.stratified={stratified}", "finetuning.num_steps=2"])
        module = subject_finetuning(config, tiny_diffusion, lidb, photos, start, lr=None)
        trainer(max_epochs=1).fit(module)
        thetas[stratified] = module.theta
        options = {"batch_size": 4, "rank": 4, "num_steps": 2, "reference": reference}
        assert torch.equal(module.theta, finetune(**options, stratified=stratified).theta)
    assert not torch.equal(thetas[True], thetas[False])
    lidb.layout = lidb.layout.freed
    with pytest.raises(
        ValueError, match="basis is lidb, but the hypernetwork learned .* expected finetuning.basis=free"
    ):
        subject_finetuning(config, tiny_diffusion, lidb, photos, lidb.layout.initial(), lr=None)


def test_many_subjects_in_one_run_end_where_each_ends_alone(finetune):
    prompts = ["a [V] face", "a [V] face with glasses", "a face"]
    together = finetune(prompt=prompts, gradient_clip=1e-3).theta
    alone = [finetune(rows=slice(i, i + 1), prompt=prompts[i], gradient_clip=1e-3).theta for i in range(3)]
    # Adam turns rounding in tiny gradients into steps, so a handful of numbers differ by part of a step.
    assert_close(together, torch.cat(alone), rtol=0, atol=5e-3)
    assert (together - torch.cat(alone)).abs().mean() < 1e-5


def test_steps_on_the_reference_denoise_it_better(finetune, tiny_diffusion, lidb, latents, start):
    module = finetune(num_steps=20, lr=1e-2, rank=4)
    noise = torch.randn(3, *latents.shape[2:], generator=torch.Generator().manual_seed(9))
    fixed = {"noise": noise, "timesteps": torch.tensor([300, 600, 900])}
    with torch.no_grad():
        after, before = (
            module.denoising_losses(theta, latents[:, 0], ["a [V] face"] * 3, layout=layout, **fixed)
            for theta, layout in ((module.thetas, module.layout), (start, lidb.layout))
        )
    assert after.mean() < before.mean() - 0.02


def test_shared_start_has_a_gradient_in_every_slot_and_all_zero_factors_are_a_saddle(tiny_diffusion, lidb, latents):
    def gradients(theta: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        theta = theta.clone().requires_grad_()
        module = SubjectFinetuning(tiny_diffusion, lidb, reference=latents[:1, 0], start=theta, rank=1)
        noise, timesteps = torch.randn(1, *latents.shape[2:]), torch.tensor([500])
        losses = module.denoising_losses(theta, latents[:1, 0], ["a [V] face"], noise=noise, timesteps=timesteps)
        return lidb.layout.unpack(torch.autograd.grad(losses.sum(), theta)[0])

    assert all(up.abs().max() > 0 for _, up in gradients(lidb.layout.initial()).values())
    assert all(not factor.any() for pair in gradients(torch.zeros(1, lidb.layout.size)).values() for factor in pair)


def test_every_rank_of_every_slot_moves(finetune, start):
    module = finetune(num_steps=3, rank=3)
    first = module.layout.unpack(module.theta)
    start_layout_theta = finetune(num_steps=3, rank=3, lr=0.0)
    for name, (down, up) in start_layout_theta.layout.unpack(start_layout_theta.theta).items():
        assert ((first[name][0] - down).abs().amax(2) > 0).all(), name
        assert ((first[name][1] - up).abs().amax(1) > 0).all(), name


def test_a_killed_run_resumes_to_the_same_theta(finetune, tmp_path):
    uninterrupted = finetune().theta
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    finetune(stop=2, callbacks=[saver])
    assert torch.equal(finetune(ckpt_path=tmp_path / "last.ckpt").theta, uninterrupted)


def test_theta_depends_on_the_seed_and_on_no_global_state(finetune):
    torch.manual_seed(1)
    first = finetune(seed=0).theta
    torch.manual_seed(2)
    assert torch.equal(finetune(seed=0).theta, first)
    assert not torch.equal(finetune(seed=1).theta, first)
    assert not torch.equal(finetune(timesteps=Timesteps.named("high_noise")).theta, first)


def test_starting_from_nobody_needs_one_row_for_all(finetune, lidb):
    thetas = finetune(start=lidb.layout.initial()).theta
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
        broken = start.clone()
        broken[2, 7] = float("nan")
        finetune(start=broken)
    with pytest.raises(ValueError, match="not 2 for 3 people"):
        finetune(start=start[:2])
    with pytest.raises(ValueError, match=rf"expected \(n, {lidb.layout.size}\)"):
        finetune(start=start[:, :-1])
    with pytest.raises(ValueError, match="prompts must be 3 x 1"):
        finetune(prompt=["a [V] face"])
