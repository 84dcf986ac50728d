import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.training.options import PreoptimizationOptions
from hdb.training.preoptimize import Preoptimization, load_thetas, save_thetas, shard_path

PROMPTS = [["a [V] face", "a [V] face in the snow"], ["a [V] face", "a face"], ["a [V] face", "a [V] face, clay"]]


@pytest.fixture
def fit(personalized, latents, trainer):
    """Runs a preoptimization and returns its thetas."""

    def run(*, rows: slice = slice(None), stop: int = -1, callbacks=None, ckpt_path=None, **options) -> torch.Tensor:
        prompts = options.pop("prompts", "a [V] face")
        gradient_clip = options.pop("gradient_clip", 1.0)
        module = Preoptimization(
            personalized,
            latents=latents[rows],
            prompts=prompts if isinstance(prompts, str) else prompts[rows],
            options=PreoptimizationOptions(**{"num_steps": 4, "lr": 1e-2, "views_per_step": 2, **options}),
        )
        module.gradient_clip = gradient_clip
        checkpointing = {"callbacks": callbacks, "enable_checkpointing": True} if callbacks else {}
        trainer(max_epochs=1, max_steps=stop, **checkpointing).fit(module, ckpt_path=ckpt_path)
        return module.rows.detach().clone()

    return run


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_batch_of_identities_equals_loop_over_identities(fit, clip):
    # A clip of 1e-3 is always active: with a norm over all rows, the rows would depend on each other.
    together = fit(prompts=PROMPTS, gradient_clip=clip)
    alone = torch.cat([fit(rows=slice(row, row + 1), prompts=PROMPTS, gradient_clip=clip) for row in range(3)])
    # Adam turns rounding in tiny gradients into steps, so a handful of numbers differ by part of a step.
    assert_close(together, alone, rtol=0, atol=1e-2)
    assert (together - alone).abs().mean() < 1e-5


def test_each_identity_is_clipped_by_its_own_norm(personalized, latents):
    module = Preoptimization(personalized, latents=latents)
    module.gradient_clip = 2.0
    directions = torch.nn.functional.normalize(torch.randn_like(module.rows), dim=1)
    module.rows.grad = directions * torch.tensor([[1.0], [2.0], [50.0]])
    module.configure_gradient_clipping(module.configure_optimizers()["optimizer"])
    assert_close(module.rows.grad, directions * torch.tensor([[1.0], [2.0], [2.0]]))


def test_fitting_denoises_better_than_the_shared_start(fit, personalized, latents):
    fitted, layout = fit(num_steps=15, lr=3e-2), personalized.layout
    noise = torch.randn(3, *latents.shape[2:], generator=torch.Generator().manual_seed(9))
    fixed = {"noise": noise, "timesteps": torch.tensor([300, 600, 900])}
    with torch.no_grad():
        fitted_losses, start_losses = (
            personalized.denoising_losses(people, latents[:, 0], ["a [V] face"] * 3, **fixed)
            for people in (Residuals(fitted, layout), Residuals.initial(layout))
        )
    assert (fitted_losses < start_losses).all()


def test_a_killed_run_resumes_to_the_same_thetas(fit, tmp_path):
    uninterrupted = fit(mean_pull=5.0)
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    stopped = fit(mean_pull=5.0, stop=2, callbacks=[saver])
    assert not torch.equal(stopped, uninterrupted)
    assert torch.equal(fit(mean_pull=5.0, ckpt_path=tmp_path / "last.ckpt"), uninterrupted)


def test_checkpoint_holds_the_thetas_and_nothing_of_the_base(fit, tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    thetas = fit(callbacks=[saver])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == {"thetas"}
    assert torch.equal(checkpoint["state_dict"]["thetas"], thetas)


def test_checkpoint_of_another_layout_is_refused(fit, lidb, tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1, save_top_k=0)
    fit(callbacks=[saver])
    lidb.layout = Layout(lidb.layout.slots, seed=7)
    with pytest.raises(ValueError, match="the checkpoint belongs to layout"):
        fit(ckpt_path=tmp_path / "last.ckpt")


def test_base_does_not_move_and_the_global_generator_is_left_alone(fit, tiny_diffusion):
    before = {name: value.clone() for name, value in tiny_diffusion.state_dict().items()}
    state = torch.get_rng_state()
    fit()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in tiny_diffusion.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_diffusion.parameters())
    assert not tiny_diffusion.training


def test_nothing_is_bound_after_the_run(fit, tiny_diffusion, lidb):
    lidb.bind(None)
    unbound = tiny_diffusion.encode_prompts(["a [V] face"]).embeds
    fit(num_steps=2)
    assert torch.equal(tiny_diffusion.encode_prompts(["a [V] face"]).embeds, unbound)


def test_mean_pull_draws_the_thetas_together(fit):
    free, pulled = fit(mean_pull=0.0), fit(mean_pull=50.0)
    assert pulled.std(0).mean() < 0.6 * free.std(0).mean()
    assert not torch.equal(pulled.mean(0), pulled[0])


def test_rate_has_fallen_to_zero_at_the_end(personalized, latents, trainer):
    module = Preoptimization(personalized, latents=latents, options=PreoptimizationOptions(num_steps=5))
    trainer(max_epochs=1).fit(module)
    assert module.lr_schedulers().get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_saved_shards_come_back_in_order(tmp_path, lidb):
    layout = lidb.layout
    thetas, identities = torch.randn(5, layout.size), torch.tensor([4, 8, 15, 16, 23])
    people = Residuals(thetas, layout)
    save_thetas(tmp_path, 1, people[3:], identities=identities[3:])
    save_thetas(tmp_path, 0, people[:3], identities=identities[:3])
    loaded, names = load_thetas(tmp_path, layout)
    assert torch.equal(loaded, thetas) and torch.equal(names, identities)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "thetas-00000.safetensors",
        "thetas-00001.safetensors",
    ]


def test_shards_that_do_not_fit_are_refused_in_one_sentence(tmp_path, lidb):
    layout, names = lidb.layout, torch.arange(2)
    with pytest.raises(ValueError, match="run preoptimize first"):
        load_thetas(tmp_path, layout)
    with pytest.raises(ValueError, match="1 values of .* not finite"):
        broken = torch.zeros(2, layout.size)
        broken[1, 3] = float("nan")
        save_thetas(tmp_path, 0, Residuals(broken, layout), identities=names)
    with pytest.raises(ValueError, match=rf"expected \(n, {layout.size}\)"):
        save_thetas(tmp_path, 0, Residuals(torch.zeros(2, 5), layout), identities=names)
    assert not list(tmp_path.iterdir())

    save_thetas(tmp_path, 0, Residuals(torch.zeros(2, layout.size), layout), identities=names)
    with pytest.raises(ValueError, match=f"belongs to layout {layout.digest}"):
        load_thetas(tmp_path, Layout(layout.slots, seed=7))
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match="no readable shard"):
        load_thetas(tmp_path, layout)


def test_prompts_that_do_not_match_the_latents_are_refused(personalized, latents):
    with pytest.raises(ValueError, match="prompts must be 3 x 2"):
        Preoptimization(personalized, latents=latents, prompts=[["a face"], ["a face"], ["a face"]])
