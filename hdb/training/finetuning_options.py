"""FinetuningOptions: how personal weights are fitted to photos."""

from dataclasses import dataclass

from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.limits import choice_field, number_field
from hdb.training.stage import check_timesteps, timesteps_field

# By `basis`. At 64 px 3e-2 with lidb and 4e-3 with free ruin other views of the person.
DEFAULT_LR = {"lidb": 5e-3, "free": 1e-3}
MASKS = (None, "face")


@dataclass
class FinetuningOptions:
    """Rank-relaxed fast finetuning. Paper: 40 iterations. The public code has rank 4.

    `rank` is that of the residual after relaxation. `basis` lidb keeps the residual within the frozen bases and the
    file small; free makes it an ordinary LoRA of this rank. `lr` null is 5e-3 with lidb and 1e-3 with free. `num_steps`
    is the number of iterations. `batch_size` counts draws of noise and timestep per subject and step. `timesteps` names
    the distribution they are drawn from; `stratified` spreads those of a step evenly over it.

    `train_text_encoder` false leaves the text encoder's layers as they start. Ours; it keeps more of the prompt, and
    LoRA trainers do so by default. `prior_preservation` is the weight of DreamBooth's loss on `num_class_pictures`
    pictures of the class prompt drawn by the base. `mask` face weighs the loss to the face in the photo. Both are ours,
    are off by default, and keep finetuning from copying more of the photo than the person.
    """

    basis: str = choice_field("lidb", ("lidb", "free"))
    rank: int = number_field(4, ge=1)
    num_steps: int = number_field(40, ge=1)
    lr: float | None = number_field(None, gt=0)
    batch_size: int = number_field(4, ge=1)
    timesteps: str = timesteps_field()
    stratified: bool = True
    train_text_encoder: bool = True
    prior_preservation: float = number_field(0.0, ge=0)
    num_class_pictures: int = number_field(32, ge=1)
    mask: str | None = choice_field(None, ("face",), message="{name} is {value!r}, expected {expected} or null")

    @property
    def learning_rate(self) -> float:
        """`lr`, or the default of the basis."""
        return DEFAULT_LR[self.basis] if self.lr is None else self.lr

    def check(self, layout: Layout) -> None:
        """Checks that a prediction can be finetuned with these options.

        Args:
            layout: Of the prediction.

        Raises:
            ValueError: An unknown basis, mask or name of timesteps, lidb where the prediction has left the bases, or a
                rank below the prediction's.
        """
        if self.basis not in DEFAULT_LR:
            raise ValueError(f"finetuning.basis is {self.basis!r}, expected {' or '.join(DEFAULT_LR)}")
        if self.basis == "lidb" and layout.free:
            raise ValueError(
                "finetuning.basis is lidb, but the hypernetwork learned bases of its own and predicts a free LoRA; "
                "expected finetuning.basis=free, and finetuning.lr=null no_hyper_lr=null or rates for it, about a tenth"
            )
        if self.mask not in MASKS:
            raise ValueError(f"mask is {self.mask!r}, expected face or null")
        check_timesteps(self.timesteps)
        Residuals.initial(layout).relax(self.rank, free=self.basis == "free")
