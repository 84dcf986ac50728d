"""The moving average of a network's weights, which is validated and passed on in their place."""

from typing import Any

import lightning as L
from diffusers.training_utils import EMAModel
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from hdb.hypernet.hypernet import AVERAGED


class AveragedWeights(L.Callback):
    """Keeps an exponential moving average of what is trained of the hypernetwork, and validates that.

        average <- d · average + (1 - d) · weights        d = min(decay, (1 + t) / (10 + t)) after t steps, 0 at first

    Training itself continues with the weights. A checkpoint holds both: a run resumes from the weights, whoever else
    reads it takes the average.

    Args:
        decay: 0.999 remembers about 1,000 steps.
    """

    def __init__(self, *, decay: float) -> None:
        self.decay, self.average, self.restored = decay, None, None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = trained(pl_module)
        self.average = EMAModel(names.values(), decay=self.decay)
        if self.restored is not None:
            state, step = self.restored
            self.average.load_state_dict({"shadow_params": [state[name] for name in names], "optimization_step": step})
            self.average.to(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step > self.average.optimization_step:  # not after each of several batches to a step
            self.average.step(trained(pl_module).values())

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.average.store(trained(pl_module).values())
            self.average.copy_to(trained(pl_module).values())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.average is not None and self.average.temp_stored_params is not None:
            self.average.restore(trained(pl_module).values())

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)  # the checkpoint that is written now must hold the weights

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[AVERAGED] = dict(zip(trained(pl_module), self.average.shadow_params, strict=True))
        checkpoint[f"{AVERAGED}_steps"] = self.average.optimization_step

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint[AVERAGED], checkpoint[f"{AVERAGED}_steps"]

    def pass_on(self, pl_module: L.LightningModule) -> None:
        """Puts the average in the place of the weights for good: training cannot continue from there."""
        self.average.copy_to(trained(pl_module).values())


def trained(pl_module: L.LightningModule) -> dict[str, nn.Parameter]:
    """What is trained, by the names of a checkpoint."""
    return {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
