"""Options of a new hypernetwork, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass

from hdb.limits import number_field, seed_field


@dataclass
class HyperNetOptions:
    """The hypernetwork. Paper: a ViT-H encoder and a transformer decoder of 2 layers; k = 4 is the public code's.

    `encoder` is a timm model, whose weights are downloaded, or a folder. `freeze_encoder` keeps its weights fixed.
    `width` is the size of the decoder's tokens. `num_layers` is the number of its layers. `num_heads` is the number of
    its attention heads. `iterations` is how often the decoder refines theta. `linear_path` adds a linear map from the
    face embedding to theta. `learn_bases` trains the aux bases, which excludes the weight-space loss and finetuning
    within frozen bases. `seed` initializes the decoder.
    """

    encoder: str = "vit_huge_patch14_224.orig_in21k"
    freeze_encoder: bool = True
    width: int = number_field(1024, ge=1)
    num_layers: int = number_field(2, ge=1)
    num_heads: int = number_field(8, ge=1)
    iterations: int = number_field(4, ge=0)
    linear_path: bool = False
    learn_bases: bool = False
    seed: int = seed_field()

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if the width is not divisible by the number of heads."""
        if self.width % self.num_heads:
            raise ValueError(
                f"{prefix}width is {self.width}, expected a multiple of {prefix}num_heads, which is {self.num_heads}"
            )
