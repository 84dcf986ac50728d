import itertools

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from hdb.diffusion.personalized import DenoisingOutput, PersonalizedDiffusion
from hdb.faces.datamodule import FaceData, FaceLoader
from hdb.faces.sources import FaceBatch, FaceSample, FaceSource
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.layout import Layout
from hdb.losses import weight_space_loss
from hdb.training.options import PretrainingOptions
from hdb.training.pretrain import HyperNetPretraining, someone_else
from hdb.training.stage import private_generator


class Colors(FaceSource):
    """People told apart by their color alone."""

    def __init__(self, num: int) -> None:
        super().__init__([str(index) for index in range(num)], seed=0)

    def sample(self, index, rng):
        color = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(index)).expand(-1, 64, 64)
        noise = torch.from_numpy(rng.random((2, 3, 64, 64), dtype="float32"))
        reference, target = 0.8 * color + 0.2 * noise
        return FaceSample(reference, target, "a [V] face", index)


class Log(Callback):
    """What was logged after each step, and at the end."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, *_):
        self.losses.append(trainer.callback_metrics["train/loss"].item())

    def on_fit_end(self, trainer, *_):
        self.final = {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.fixture
def pretrain(personalized, hypernet, trainer):
    """Runs a pretraining on four people, validated on three others."""

    def run(*, net=None, base=None, stop=4, callbacks=(), ckpt_path=None, trainer_options=None, **options):
        targets = options.pop("targets", None)
        losses = PretrainingOptions(**{"beta": 0.0, "warmup_steps": 1, **options})
        module = HyperNetPretraining(base or personalized, net or hypernet(), targets=targets, options=losses)
        train = FaceLoader(Colors(4), batch_size=2, shuffle=True, num_samples=6)
        val = FaceLoader(Colors(3), batch_size=3, shuffle=False)
        log = Log()
        checkpointing = {"enable_checkpointing": any(isinstance(x, ModelCheckpoint) for x in callbacks)}
        setup = {"max_steps": stop, "num_sanity_val_steps": 0, **checkpointing, **(trainer_options or {})}
        fit = trainer(callbacks=[log, *callbacks], **setup)
        fit.fit(module, train, val, ckpt_path=ckpt_path)
        return module, log

    return run


def saver(folder, **options) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, save_last=True, every_n_train_steps=1, save_top_k=0, **options)


def test_hypernetwork_moves_while_base_and_encoder_stay(pretrain, hypernet, tiny_diffusion):
    base = {name: value.clone() for name, value in tiny_diffusion.state_dict().items()}
    state = torch.get_rng_state()
    module, _ = pretrain()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, base[name]) for name, value in tiny_diffusion.state_dict().items())
    start = dict(hypernet().named_parameters())
    still = {name for name, value in module.hypernet.named_parameters() if torch.equal(value, start[name])}
    assert still == {name for name in start if name.startswith("encoder.")}


def test_a_killed_run_resumes_to_the_same_losses(pretrain, tmp_path):
    # 3 batches an epoch: it dies after step 4, in the middle of the second one.
    whole, whole_log = pretrain(stop=6)

    class Kill(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pretrain(stop=6, callbacks=[Kill(), saver(tmp_path)])
    resumed, resumed_log = pretrain(stop=6, ckpt_path=tmp_path / "last.ckpt")
    assert len(whole_log.losses) == 6 and resumed_log.losses == whole_log.losses[4:]
    assert resumed_log.final == whole_log.final
    for parameter, expected in zip(resumed.hypernet.parameters(), whole.hypernet.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_checkpoint_holds_what_was_trained_and_gives_the_network_back(
    pretrain, hypernet, build_encoder, tmp_path, freeze_encoder
):
    module, _ = pretrain(net=hypernet(freeze_encoder=freeze_encoder), callbacks=[saver(tmp_path)])
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"].keys()
    assert all(name.startswith("hypernet.") for name in names)
    assert any(name.startswith("hypernet.encoder.") for name in names) == (not freeze_encoder)
    loaded = HyperNet.from_checkpoint(tmp_path / "last.ckpt", encoder=build_encoder()).eval()
    photos = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(photos), module.hypernet.eval()(photos))


def test_checkpoints_of_something_else_are_refused_in_one_sentence(pretrain, hypernet, lidb, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        HyperNet.from_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "text.ckpt").write_text("these are no weights")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name in ("text.ckpt", "other.ckpt"):
        with pytest.raises(ValueError, match="no checkpoint of a hypernetwork"):
            HyperNet.from_checkpoint(tmp_path / name)

    pretrain(stop=1, callbacks=[saver(tmp_path)])
    lidb.layout = Layout(lidb.layout.slots, seed=7)
    with pytest.raises(ValueError, match="the checkpoint belongs to layout"):
        pretrain(ckpt_path=tmp_path / "last.ckpt")


def test_weight_space_loss_alone_finds_the_targets_residuals(pretrain, hypernet, lidb):
    generator = torch.Generator().manual_seed(0)
    targets = lidb.layout.initial_theta() + 0.1 * torch.randn(4, lidb.layout.size, generator=generator)
    options = {"alpha": 0.0, "beta": 1.0, "targets": (targets, torch.arange(4)), "linear_lr": 2e-2, "lr": 1e-2}
    module, log = pretrain(stop=12, **options)
    assert log.losses[-1] < 0.85 * log.losses[0]
    assert log.final["train/weight_space_loss"] == log.losses[-1]
    # and validation, whose three people are among the four of the targets, says the same number as by hand
    batch = next(iter(FaceLoader(Colors(3), batch_size=3, shuffle=False)))
    unpack = lidb.layout.unpack
    by_hand = weight_space_loss(unpack(module.hypernet(batch.reference)), unpack(targets[:3]))
    assert log.final["val/weight_space_loss"] == pytest.approx(by_hand.item(), rel=1e-3)


def test_losses_are_weighed_by_alpha_and_beta(pretrain, lidb):
    targets = (lidb.layout.initial_theta().expand(4, -1) + 0.1, torch.arange(4))
    _, log = pretrain(stop=1, alpha=0.5, beta=3.0, targets=targets)
    parts = 0.5 * log.final["train/diffusion_loss"] + 3.0 * log.final["train/weight_space_loss"]
    assert log.losses[0] == pytest.approx(parts, rel=1e-5)


def test_output_decay_shrinks_what_a_photo_changes_and_leaves_the_mean_free(pretrain, hypernet):
    _, log = pretrain(net=hypernet(), stop=1, alpha=1.0, output_decay=2.0)
    parts = log.final["train/diffusion_loss"] + 2.0 * log.final["train/output_change"]
    assert log.final["train/output_change"] > 0
    assert log.losses[0] == pytest.approx(parts, rel=1e-5)
    net = hypernet(iterations=0)  # the linear path alone, which does not read the mean
    torch.nn.init.normal_(net.linear_path.weight)
    (net(torch.rand(2, 3, 64, 64)) - net.mean_theta).square().sum().backward()
    assert net.mean.grad.abs().max() < 1e-4 < net.linear_path.weight.grad.abs().max()


def test_distance_of_factors_is_trained_on_and_logged(pretrain, hypernet, lidb):
    targets = (lidb.layout.initial_theta().expand(4, -1) + 0.1, torch.arange(4))
    net = hypernet(iterations=0, linear_path=False)  # predicts the shared start: 0.1 off everywhere
    options = {"alpha": 0.0, "beta": 1.0, "targets": targets, "distance": "factors", "linear_lr": 1e-3}
    _, log = pretrain(net=net, stop=3, **options)
    assert log.losses[0] == pytest.approx(0.01 * lidb.layout.size, rel=1e-4)
    assert log.losses[2] < log.losses[0]


@pytest.fixture
def free_base(personalized):
    """In the place of the base with LiDB bases: what a network that learned its own writes for."""
    return PersonalizedDiffusion(personalized.detach(), personalized.layout.as_lora)


def test_learned_bases_follow_the_diffusion_loss_and_come_back_from_the_checkpoint(
    pretrain, hypernet, build_encoder, free_base, tmp_path
):
    net = hypernet(learn_bases=True)
    before = [parameter.detach().clone() for parameter in net.bases.parameters()]
    options = {"base": free_base, "weight_decay": 100.0, "linear_lr": 0.0, "bases_lr": 1e-3, "lr": 0.0}
    module, _ = pretrain(net=net, callbacks=[saver(tmp_path)], **options)
    moved = torch.stack([(now - then).abs().max() for now, then in zip(net.bases.parameters(), before, strict=True)])
    assert moved.min() > 0 and moved.max() < 5e-3  # four steps of 1e-3 or less, and no decay
    loaded = HyperNet.from_checkpoint(tmp_path / "last.ckpt", encoder=build_encoder()).eval()
    photos = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(photos), module.hypernet.eval()(photos))
    with pytest.raises(ValueError, match="beta = 0.5 weighs .* with learned bases expected beta = 0"):
        pretrain(net=hypernet(learn_bases=True), base=free_base, beta=0.5)


def test_adam_forgets_how_large_gradients_were_as_fast_as_it_is_told(pretrain):
    squares = {}
    for beta2 in (0.9, 0.999):
        module, _ = pretrain(stop=1, adam_beta2=beta2)
        squares[beta2] = next(iter(module.optimizers().state.values()))["exp_avg_sq"]
    assert squares[0.9].max() > 0
    assert torch.allclose(squares[0.9], 100 * squares[0.999])  # after one step (1 - beta2) of the squares


def test_network_that_ignores_the_face_gains_nothing_over_somebody_elses_theta(pretrain, hypernet):
    _, log = pretrain(net=hypernet(iterations=0), stop=3, linear_lr=0.0, num_val_draws=2)
    assert log.final["val/own_minus_other"] == pytest.approx(0.0, abs=1e-7)


def test_own_minus_other_is_the_paired_difference_under_the_same_noise(pretrain, hypernet, tiny_diffusion, lidb):
    net = hypernet(iterations=0)
    torch.nn.init.normal_(net.linear_path.weight, generator=torch.Generator().manual_seed(0))
    net.fit_standardization(torch.stack([net.encoder(Colors(3)[i].reference[None]).embedding[0] for i in range(3)]))
    module, log = pretrain(net=net, stop=3, linear_lr=0.0, num_val_draws=2)

    batch = next(iter(FaceLoader(Colors(3), batch_size=3, shuffle=False)))
    latents, generator = tiny_diffusion.encode_images(batch.target), private_generator(0, 0, 0)
    noise = torch.randn(2, 3, *latents.shape[1:], generator=generator)
    share = (torch.rand(6, generator=generator) + torch.arange(6)) / 6
    timesteps = (1000 * share).long().view(2, 3)
    losses = torch.zeros(2, 3)
    with torch.no_grad():
        theta = module.hypernet(batch.reference)
        for whose, (draw, person) in itertools.product((0, 1), itertools.product(range(2), range(3))):
            one = slice(person, person + 1)
            lidb.bind(theta[[(person + whose) % 3]])
            noisy_latents = tiny_diffusion.add_noise(latents[one], noise[draw, one], timesteps[draw, one])
            prompt_embeds = tiny_diffusion.encode_prompts(["a [V] face"])
            noise_pred = tiny_diffusion.predict_noise(noisy_latents, timesteps[draw, one], prompt_embeds)
            losses[whose, person] += (noise_pred - noise[draw, one]).square().mean() / 2

    differences = losses[0] - losses[1]
    assert differences.abs().min() > 1e-3
    assert log.final["val/diffusion_loss"] == pytest.approx(losses[0].mean().item(), rel=1e-4)
    assert log.final["val/own_minus_other"] == pytest.approx(differences.mean().item(), rel=1e-2)
    assert log.final["val/own_better"] == pytest.approx((differences < 0).float().mean().item())
    half_width = 1.96 * differences.std() / 3**0.5
    assert log.final["val/own_minus_other_ci95"] == pytest.approx(half_width.item(), rel=1e-2)


def test_pretraining_runs_by_hand_with_a_trainer_and_a_data_module(personalized, hypernet, trainer):
    net = hypernet()
    stage = HyperNetPretraining(personalized, net, options=PretrainingOptions(beta=0.0, warmup_steps=1))
    train, val = Colors(4), Colors(3)
    val.names = ["a", "b", "c"]
    fit = trainer(max_steps=3, gradient_clip_val=1.0)
    fit.fit(stage, datamodule=FaceData(train, val, batch_size=2))
    assert fit.global_step == 3 and net.mean.abs().max() > 0
    assert {"train/loss", "val/own_minus_other", "val/own_better"} <= set(fit.callback_metrics)


def test_somebody_else_is_no_second_picture_of_oneself():
    assert someone_else([5, 6, 7]) == [1, 2, 0]
    assert someone_else([5, 5, 6, 6]) == [2, 2, 0, 0]


def test_settings_that_contradict_each_other_are_refused(pretrain, hypernet, lidb):
    with pytest.raises(ValueError, match="alpha and beta are both 0"):
        pretrain(alpha=0.0)
    with pytest.raises(ValueError, match="distance is 'theta', expected residuals or factors"):
        pretrain(distance="theta")
    with pytest.raises(ValueError, match="beta = 1.0 .* no targets were given"):
        pretrain(beta=1.0)
    with pytest.raises(ValueError, match="the hypernetwork belongs to layout"):
        pretrain(net=hypernet(layout=Layout(lidb.layout.slots, seed=7)))
    with pytest.raises(ValueError, match="no pre-optimized theta for identity .; there are 1"):
        pretrain(beta=1.0, targets=(torch.zeros(1, lidb.layout.size), torch.tensor([99])))
    with pytest.raises(ValueError, match=rf"expected \(n, {lidb.layout.size}\)"):
        pretrain(beta=1.0, targets=(torch.zeros(1, 5), torch.tensor([0])))
    with pytest.raises(ValueError, match="needs an end"):
        pretrain(stop=-1, trainer_options={"max_epochs": 1})


def test_micro_batches_of_one_step_see_different_noise(pretrain):
    class Noise(Callback):
        def __init__(self):
            self.drawn = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.drawn.append(module.draw_noise(1, module.step_generator(batch_idx))[0])

    noise = Noise()
    pretrain(stop=2, callbacks=[noise], trainer_options={"accumulate_grad_batches": 2})
    assert len(noise.drawn) == 3 and len({float(drawn.sum()) for drawn in noise.drawn}) == 3


def test_mixed_precision_predicts_full_precision_thetas(pretrain):
    class Thetas(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            with trainer.precision_plugin.forward_context():
                self.theta = module.hypernet(batch.reference)

    thetas = Thetas()
    _, exact = pretrain(stop=2)
    _, mixed = pretrain(stop=2, callbacks=[thetas], trainer_options={"precision": "bf16-mixed"})
    assert thetas.theta.dtype == torch.float32
    assert mixed.losses == pytest.approx(exact.losses, rel=2e-2)


def test_learned_bases_in_mixed_precision_fold_theta_in_full_precision(hypernet):
    bases = hypernet(learn_bases=True).bases
    theta = torch.randn(2, bases.layout.size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = bases(theta)
    assert torch.equal(mixed, bases(theta))


def test_identity_loss_of_a_perfect_answer_is_zero_and_grows_with_error(personalized, hypernet):
    """The clean picture that follows from the true noise is the target as the autoencoder keeps it."""
    stage = HyperNetPretraining(personalized, hypernet(), options=PretrainingOptions(beta=0.0, gamma=1.0))
    samples = [Colors(3)[index] for index in range(3)]
    batch = FaceBatch.from_samples(samples)
    latents, timesteps = personalized.diffusion.encode_images(batch.target).float(), torch.tensor([100, 500, 900])
    batch = batch._replace(target=personalized.diffusion.decode_latents(latents))
    noise = torch.randn(latents.shape, generator=private_generator(1))
    noisy = personalized.diffusion.add_noise(latents, noise, timesteps)

    def losses(noise_pred):
        denoised = DenoisingOutput(torch.zeros(3), noisy, noise_pred)
        inputs = stage.identity_tensors(batch, stage.identity_rows(batch, timesteps))
        return stage.step_loss.identity_losses(denoised, {**inputs, "timesteps": timesteps})

    perfect = losses(noise)
    assert len(perfect) == 2  # the third timestep is above 0.85
    assert perfect.abs().max() < 1e-4
    assert (losses(noise + 0.5 * torch.randn(noise.shape, generator=private_generator(2))) > perfect + 1e-4).all()


def test_identity_loss_looks_at_photographs_unless_options_say_otherwise(personalized, hypernet):
    batch = FaceBatch.from_samples([Colors(3)[index]._replace(photo=index != 1) for index in range(3)])
    timesteps = torch.tensor([100, 100, 100])
    for styled, num in ((False, 2), (True, 3)):
        options = PretrainingOptions(beta=0.0, gamma=1.0, identity_styled=styled)
        stage = HyperNetPretraining(personalized, hypernet(), options=options)
        assert len(stage.identity_rows(batch, timesteps)) == num


def test_identity_loss_reaches_the_hypernetwork_and_leaves_its_encoder_alone(pretrain, hypernet):
    net = hypernet()
    before = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    plain, _ = pretrain(net=hypernet(), stop=3)
    with_gamma, log = pretrain(net=net, stop=3, gamma=5.0, identity_until=1.0)
    assert log.final["train/identity_loss"] > 0
    assert not torch.allclose(with_gamma.hypernet.linear_path.weight, plain.hypernet.linear_path.weight)
    assert all(torch.equal(value, before[name]) for name, value in net.encoder.state_dict().items())


def test_gamma_without_a_frozen_encoder_is_refused(personalized, hypernet):
    with pytest.raises(ValueError, match="gamma = 0.1 .* expected a frozen encoder"):
        HyperNetPretraining(
            personalized, hypernet(freeze_encoder=False), options=PretrainingOptions(beta=0.0, gamma=0.1)
        )
