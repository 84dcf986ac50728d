"""WeightDecoder: face features and weight tokens in, refined weights out."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hdb.hypernet.encoder import FaceEncoder, FaceFeatures
from hdb.lidb.layout import Layout


class WeightDecoder(nn.Module):
    """A transformer over one sequence: the face features, then one token per slot of the layout.

        change (n, p) -> weight tokens (n, s, width) + positions
        [face tokens; weight tokens] (n, 1 + t + s, width) -> layers -> weight tokens -> step (n, p)

    A weight token is a linear image of its slot's numbers, so that a zero change is a zero token, plus a learned
    position. Each slot has its own linear input and output. The embedding of the face is one more face token.

    Paper: a transformer decoder with 2 hidden layers and learned linear outputs. Open there: width, heads, start of the
    outputs. Here: outputs start at 1 % of a feature's size, so that the first prediction is nearly the shared start of
    the layout, yet gradients reach the layers below.

    Args:
        layout: its slots are the weight tokens.
        encoder: its feature sizes are the input sizes; the encoder itself is not kept.
        seed: of the random initialization.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    places: Int[Tensor, " p"]

    def __init__(
        self,
        layout: Layout,
        encoder: FaceEncoder,
        *,
        width: int = 1024,
        num_layers: int = 2,
        num_heads: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, not {width} with {num_heads} heads")
        self.config = {"width": width, "num_layers": num_layers, "num_heads": num_heads}
        sizes = [layout.rank * (slot.a + slot.b) for slot in layout.slots]
        # Slots differ in size: heads are padded to the largest, and `places` says where theta lies in (slots, largest).
        num_slots, largest = len(sizes), max(sizes)
        places = torch.cat([slot * largest + torch.arange(size) for slot, size in enumerate(sizes)])
        self.register_buffer("places", places, persistent=False)

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.face_norm = nn.LayerNorm(encoder.token_size)
            self.face_in = nn.Linear(encoder.token_size, width)
            self.embedding_in = nn.Linear(encoder.embedding_size, width)
            self.positions = nn.Parameter(torch.randn(num_slots, width))
            self.weights_in = nn.Parameter(torch.randn(num_slots, largest, width) / math.sqrt(largest))
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(num_layers)
            )
            self.weights_norm = nn.LayerNorm(width)
            self.weights_out = nn.Parameter(0.01 * torch.randn(num_slots, width, largest))

    def face_tokens(self, features: FaceFeatures) -> Float[Tensor, "n f width"]:
        """The face's part of the sequence: the same in every iteration, so it is computed once."""
        embedding = self.embedding_in(features.embedding)
        return torch.cat([embedding[:, None], self.face_in(self.face_norm(features.tokens))], dim=1)

    def forward(self, face_tokens: Float[Tensor, "n f width"], change: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """One refinement: the step to add to `change`, which is theta minus the layout's shared start."""
        num_slots, largest, _ = self.weights_in.shape
        padded = change.new_zeros(len(change), num_slots * largest).index_copy(1, self.places, change)
        weights = torch.einsum("nsi,siw->nsw", padded.unflatten(1, (num_slots, largest)), self.weights_in)
        sequence = torch.cat([face_tokens, weights + self.positions], dim=1)
        *layers, last = self.layers
        with _attention(sequence.device):
            for layer in layers:
                sequence = layer(sequence)
            weights = self.weights_norm(_end_of(last, sequence, face_tokens.shape[1]))
        # Divided by √width, a step of Adam on these outputs moves theta about as far as on the direct path's weights,
        # whatever the width: one rate fits both.
        step = torch.einsum("nsw,swo->nso", weights / math.sqrt(weights.shape[2]), self.weights_out)
        return step.flatten(1).index_select(1, self.places)


def _end_of(
    layer: nn.TransformerEncoderLayer, sequence: Float[Tensor, "n l width"], start: int
) -> Float[Tensor, "n m width"]:
    """What a layer makes of the tokens from `start` on, which see all.

    After the last layer nobody reads the others, with a ViT-H more than half of all.
    """
    seen, tokens = layer.norm1(sequence), sequence[:, start:]
    tokens = tokens + layer.self_attn(seen[:, start:], seen, seen, need_weights=False)[0]
    return tokens + layer.linear2(layer.activation(layer.linear1(layer.norm2(tokens))))


def _attention(device: torch.device) -> AbstractContextManager:
    """On a CPU matrix products: backward of fused attention took a quarter of a whole step of pretraining there."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
