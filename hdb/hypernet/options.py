"""A new hypernetwork as its options say, its embeddings standardized."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.layout import Layout
from hdb.limits import number_field, seed_field

NUM_STANDARDIZED = 256  # references that the scale of the embeddings is measured on


@dataclass
class HyperNetOptions:
    """Reference to theta. Paper: a ViT-H encoder and a transformer decoder of 2 layers; k = 4 is the public code's.

    `learn_bases` trains the bases, too: no weight-space loss then, and finetuning is free.
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
        """Raises ValueError if the heads do not share the width evenly."""
        if self.width % self.num_heads:
            given = f"{prefix}width is {self.width}"
            raise ValueError(f"{given}, expected a multiple of {prefix}num_heads, which is {self.num_heads}")


def build_hypernet(
    options: HyperNetOptions, encoder: FaceEncoder, layout: Layout, *, base_digest: str = ""
) -> HyperNet:
    """An untrained hypernetwork around an encoder, which writes weights of this layout."""
    decoder = WeightDecoder(
        layout,
        encoder,
        width=options.width,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        seed=options.seed,
    )
    return HyperNet(
        encoder,
        decoder,
        layout,
        iterations=options.iterations,
        linear_path=options.linear_path,
        freeze_encoder=options.freeze_encoder,
        learn_bases=options.learn_bases,
        base_digest=base_digest,
    )


@torch.no_grad()
def standardize_embeddings(
    hypernet: HyperNet, references: Iterable[Float[Tensor, "3 h w"]], *, device: torch.device
) -> None:
    """Takes mean and scale of the embeddings from the first references of the training people.

    Args:
        device: where the encoder works: a ViT-H would take many minutes on a CPU.
    """
    seen, encoder = torch.stack(list(islice(references, NUM_STANDARDIZED))), hypernet.encoder.to(device)
    embeddings = [encoder(part.to(device)).embedding for part in seen.split(32)]
    hypernet.fit_standardization(torch.cat(embeddings).to(hypernet.embedding_mean.device))
