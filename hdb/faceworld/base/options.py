"""Options of the trainings of the base, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass, field

from hdb.limits import choice_field, number_field, seed_field
from hdb.training.options import accelerator_field, precision_field

# Part -> its folder within the weights, in the order of training: the denoiser needs the two parts before it.
PARTS = {
    "autoencoder": "base/vae",
    "text": "clip",
    "denoiser": "base",
    "encoder": "encoder",
    "recognizer": "recognizer",
    "dino": "dino",
    "classifier": "classifier",
}
OPTIMIZERS = ("adamw", "muon")


@dataclass
class PartOptions:
    """How one network of faceworld's base is trained.

    `share` is its share of `minutes`, where those are given. `optimizer` is adamw or muon, which takes a rate ten times
    that of adamw.
    """

    steps: int = number_field(1000, ge=1)
    batch_size: int = number_field(32, ge=1)
    lr: float = number_field(1e-3, gt=0)
    share: float = number_field(0.1, gt=0, le=1)
    optimizer: str = choice_field("adamw", OPTIMIZERS)


@dataclass
class BaseTrainingOptions:
    """How the parts of the base are trained. `minutes` is the time for all parts together; null counts steps."""

    root: str = "data/faceworld"
    resolution: int = number_field(128, ge=16)
    num_identities: int | None = number_field(None, ge=1)
    views_per_identity: int = number_field(12, ge=1)
    num_workers: int = number_field(2, ge=0)
    output: str = "outputs/base"
    weights: str = "outputs/base/weights"
    minutes: float | None = number_field(None, gt=0)
    autoencoder: PartOptions = field(default_factory=lambda: PartOptions(4000, 32, 2e-3, 0.18))
    text: PartOptions = field(default_factory=lambda: PartOptions(2000, 128, 1e-3, 0.06))
    denoiser: PartOptions = field(default_factory=lambda: PartOptions(40000, 64, 6e-4, 0.44))
    encoder: PartOptions = field(default_factory=lambda: PartOptions(4000, 64, 1e-3, 0.10))
    recognizer: PartOptions = field(default_factory=lambda: PartOptions(4000, 64, 1e-3, 0.10))
    dino: PartOptions = field(default_factory=lambda: PartOptions(2000, 64, 5e-4, 0.08))
    classifier: PartOptions = field(default_factory=lambda: PartOptions(2000, 64, 1e-3, 0.04))
    accelerator: str = accelerator_field()
    precision: str = precision_field()
    seed: int = seed_field()

    def part(self, name: str) -> PartOptions:
        """The options of one part."""
        return {
            "autoencoder": self.autoencoder,
            "text": self.text,
            "denoiser": self.denoiser,
            "encoder": self.encoder,
            "recognizer": self.recognizer,
            "dino": self.dino,
            "classifier": self.classifier,
        }[name]


@dataclass
class MeasureOptions(BaseTrainingOptions):
    """How much is measured: `num_measured` people and `num_generated` pictures of the base."""

    num_measured: int = number_field(200, ge=1)
    num_generated: int = number_field(600, ge=1)
