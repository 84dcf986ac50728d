"""A whole pretraining: batches that make a step, averaged weights, the best checkpoint, where it begins."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from hdb.faces.datamodule import FaceData
from hdb.faces.sources import FaceSample, FaceSource
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import initialize_hypernet
from hdb.training.curves import read_curve
from hdb.training.hypernet_run import fit_hypernet
from hdb.training.options import PretrainingOptions, ScheduleOptions
from hdb.training.pretrain import HyperNetPretraining


class Colors(FaceSource):
    """People told apart by their color alone."""

    def sample(self, index, rng):
        picture = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(index)).expand(-1, 64, 64)
        return FaceSample(picture, picture, "a [V] face", int(self.names[index]))


class Recorder(Callback):
    """Records the weights after each step, the weights at each validation, and the losses."""

    def __init__(self, *, die_at: int | None = None) -> None:
        self.steps, self.validated, self.losses = [], [], []
        self.die_at = die_at

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.die_at:
            raise RuntimeError("killed")

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.steps.append(module.hypernet.mean.detach().clone())
        self.losses.append((trainer.global_step, float(trainer.callback_metrics["train/loss"])))

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append((trainer.global_step, module.hypernet.mean.detach().clone()))


@pytest.fixture
def fit(personalized, hypernet, tmp_path):
    """Pretrains on four people, three steps of one batch of two. Returns stage, scores and recorder."""

    def run(recorder=None, *, net=None, folder="run", resume=False, **schedule):
        options = PretrainingOptions(beta=0.0, warmup_steps=0, linear_lr=1e-2, num_val_draws=1)
        stage = HyperNetPretraining(personalized, net or hypernet(iterations=1), options=options)
        people = [str(index) for index in range(8)]
        data = FaceData(Colors(people[:4], seed=0), Colors(people[4:], seed=0), batch_size=2)
        recorder = recorder or Recorder()
        setup = {"max_steps": 3, "val_every": 3, "checkpoint_every": 1, **schedule}
        quiet = {
            "accelerator": "cpu",
            "logger": CSVLogger(tmp_path / "csv"),
            "enable_progress_bar": False,
            "callbacks": [recorder],
        }
        scores = fit_hypernet(
            stage, data, tmp_path / folder, schedule=ScheduleOptions(**setup), trainer=quiet, resume=resume
        )
        return stage, scores, recorder

    return run


def test_a_run_is_validated_once_at_its_end(fit):
    _, scores, recorder = fit()
    assert [step for step, _ in recorder.validated] == [3]
    assert scores["step"] == 3 and {"val/diffusion_loss", "val/own_minus_other", "val/own_better"} <= set(scores)
    _, _, late = fit(folder="late", val_every=2)
    assert [step for step, _ in late.validated] == [2, 3]


def test_a_step_of_two_batches_moves_by_the_mean_of_their_gradients(fit, tmp_path):
    _, scores, recorder = fit(accumulate_grad_batches=2, val_every=1)
    assert scores["step"] == 3 and [step for step, _ in recorder.losses] == [0, 1, 1, 2, 2, 3]
    assert torch.equal(recorder.steps[1], recorder.steps[2]) and not torch.equal(recorder.steps[2], recorder.steps[3])
    assert [step for step, _ in recorder.validated] == [1, 2, 3]
    means = [sum(loss for _, loss in recorder.losses[i : i + 2]) / 2 for i in (0, 2, 4)]
    assert read_curve(tmp_path / "run") == [[i + 1, pytest.approx(mean, rel=1e-5)] for i, mean in enumerate(means)]


def average(steps, *, decay):
    """Of the weights after each step, by hand."""
    mean = steps[0]
    for t, weights in enumerate(steps[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * weights
    return mean


def test_the_moving_average_is_validated_and_passed_on_while_training_goes_on_without_it(fit, build_encoder, tmp_path):
    _, _, plain = fit(folder="plain")
    stage, _, recorder = fit(ema_decay=0.2, val_every=2)
    assert all(torch.equal(*pair) for pair in zip(recorder.steps, plain.steps, strict=True))
    (two, first), (three, last) = recorder.validated
    assert (two, three) == (2, 3)
    torch.testing.assert_close(first, average(recorder.steps[:2], decay=0.2))
    torch.testing.assert_close(last, average(recorder.steps, decay=0.2))
    assert torch.equal(stage.hypernet.mean, last)
    for read, named in ((HyperNet.from_checkpoint, "last.ckpt"), (HyperNet.from_folder, "hypernet")):
        found = read(tmp_path / "run" / named, encoder=build_encoder())
        torch.testing.assert_close(found.mean, last, atol=1e-4, rtol=1e-3)  # the folder is in half precision
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]["hypernet.mean"]
    assert torch.equal(kept, recorder.steps[-1])


def test_a_killed_run_resumes_to_the_same_average(fit, tmp_path):
    whole, _, _ = fit(ema_decay=0.2, folder="whole")
    with pytest.raises(RuntimeError, match="killed"):
        fit(Recorder(die_at=2), ema_decay=0.2)
    resumed, _, recorder = fit(ema_decay=0.2, resume=True)
    assert len(recorder.steps) == 1 and torch.equal(resumed.hypernet.mean, whole.hypernet.mean)


def test_the_best_checkpoint_is_that_of_the_best_validation(fit, build_encoder, tmp_path):
    class ScriptedScores(Recorder):
        def on_validation_epoch_end(self, trainer, module):
            super().on_validation_epoch_end(trainer, module)
            module.log("val/face_rec", {1: 0.25, 2: 0.75, 3: 0.5}[trainer.global_step])

    _, scores, recorder = fit(ScriptedScores(), val_every=1, best_metric="val/face_rec")
    assert (scores["best"], scores["val/face_rec"]) == (0.75, 0.5)
    best = HyperNet.from_checkpoint(tmp_path / "run" / "best.ckpt", encoder=build_encoder())
    assert torch.equal(best.mean, recorder.steps[1])


@pytest.mark.parametrize("named", ["run", "run/last.ckpt", "run/hypernet"])
def test_a_run_begins_from_the_weights_of_another(fit, hypernet, tmp_path, named):
    (tmp_path / "run").mkdir()
    other, _, _ = fit()
    new = hypernet(iterations=1)
    initialize_hypernet(new, str(tmp_path / named), [], device=torch.device("cpu"))
    names = [name for name in new.state_dict() if not name.startswith("encoder.")]
    for name in names:
        torch.testing.assert_close(new.state_dict()[name], other.hypernet.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in new.encoder.parameters())


def test_a_run_does_not_begin_from_what_means_something_else(fit, hypernet, tmp_path):
    fit()
    folder = str(tmp_path / "run")
    cpu = torch.device("cpu")
    for options, message in (
        ({"base_digest": "0123"}, "was trained on the base , not on that of this run .0123.*init_from="),
        ({"linear_path": False}, "weights of another hypernetwork: .* unexpected"),
    ):
        with pytest.raises(ValueError, match=message):
            initialize_hypernet(hypernet(iterations=1, **options), folder, [], device=cpu)
    fit(net=hypernet(iterations=1, freeze_encoder=False), folder="with_encoder")
    with pytest.raises(ValueError, match="encoder that was trained with it: expected hypernet.freeze_encoder=false"):
        initialize_hypernet(hypernet(iterations=1), str(tmp_path / "with_encoder"), [], device=cpu)
    with pytest.raises(ValueError, match="needs config.json"):
        initialize_hypernet(hypernet(iterations=1), str(tmp_path / "nowhere"), [], device=cpu)


def test_prompts_are_those_asked_for_and_some_are_dropped(personalized, hypernet):
    options = {"beta": 0.0, "instance_prompt": "portrait of [V]"}
    batch = ["a [V] face", "a [V] face, oil painting"] * 200
    stage = HyperNetPretraining(personalized, hypernet(), options=PretrainingOptions(**options))
    assert stage.training_prompts(batch[:2], torch.Generator()) == ["portrait of [V]", "a [V] face, oil painting"]
    dropping = PretrainingOptions(**options, condition_dropout=0.25)
    stage = HyperNetPretraining(personalized, hypernet(), options=dropping)
    drawn = stage.training_prompts(batch, torch.Generator().manual_seed(0))
    assert 0.2 < drawn.count("") / 400 < 0.3
    assert stage.prompts(batch).count("") == 0  # validation asks about what was asked for
    with pytest.raises(ValueError, match="instance_prompt is 'a face', expected one with .V. in it"):
        HyperNetPretraining(personalized, hypernet(), options=PretrainingOptions(beta=0.0, instance_prompt="a face"))
