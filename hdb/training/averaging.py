"""AveragedWeights: an exponential moving average of the hypernetwork's weights."""

from typing import Any

import lightning as L
from diffusers.training_utils import EMAModel
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from hdb.hypernet.hypernet import AVERAGED


class AveragedWeights(L.Callback):
    """Keeps an exponential moving average of the trainable weights and validates it in their place.

        average <- d · average + (1 - d) · weights        d = min(decay, (1 + t) / (10 + t)) after t steps, 0 at first

    Training itself continues with the weights. A checkpoint holds both: a resumed run takes the weights, every other
    reader takes the average.

    Args:
        decay: 0.999 averages over about 1,000 steps.
    """

    def __init__(self, *, decay: float) -> None:
        self.decay = decay
        self.average: EMAModel | None = None
        self.loaded: tuple[dict[str, Any], int] | None = None  # average and step of the checkpoint that is resumed

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parameters = trainable_parameters(pl_module)
        self.average = EMAModel(parameters.values(), decay=self.decay)
        if self.loaded is not None:
            weights, step = self.loaded
            shadow_params = [weights[name] for name in parameters]
            self.average.load_state_dict({"shadow_params": shadow_params, "optimization_step": step})
            self.average.to(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        step_finished = trainer.global_step > self.average.optimization_step  # a step may take several batches
        if step_finished:
            self.average.step(trainable_parameters(pl_module).values())

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            parameters = trainable_parameters(pl_module).values()
            self.average.store(parameters)
            self.average.copy_to(parameters)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average is not None and self.average.temp_stored_params is not None:
            self.average.restore(trainable_parameters(pl_module).values())

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)  # the checkpoint that follows must hold the weights

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        names = trainable_parameters(pl_module)
        checkpoint[AVERAGED] = dict(zip(names, self.average.shadow_params, strict=True))
        checkpoint[f"{AVERAGED}_steps"] = self.average.optimization_step

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint[AVERAGED], checkpoint[f"{AVERAGED}_steps"]

    def replace_weights(self, pl_module: L.LightningModule) -> None:
        """Replaces the weights by their average for good. Training cannot continue from there."""
        self.average.copy_to(trainable_parameters(pl_module).values())


def trainable_parameters(pl_module: L.LightningModule) -> dict[str, nn.Parameter]:
    """The parameters that require gradients, by their names in a checkpoint."""
    return {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
