"""WeightDecoder: a transformer that turns face features and weight tokens into a step of theta."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hdb.hypernet.encoder import FaceEncoder, FaceFeatures
from hdb.lidb.layout import Layout


class WeightDecoder(nn.Module):
    """A transformer over one sequence: the face features, then one weight token per slot of the layout.

        change (n, p) -> weight tokens (n, s, width) + positions
        [face tokens; weight tokens] (n, 1 + t + s, width) -> layers -> weight tokens -> step (n, p)

    Each slot has its own linear input and output layer. A weight token is a linear image of the slot's numbers plus a
    learned position, so that a change of zero gives a token of zero. The face embedding is one more face token.

    Paper: a transformer decoder with 2 hidden layers and learned linear outputs. Open there: width, heads, scale of the
    outputs at initialization. Here: outputs start at 1 % of a feature's size. The first prediction is then close to the
    layout's initial theta, and gradients still reach the layers below.

    Args:
        layout: Its slots are the weight tokens.
        encoder: Sets the sizes of the face features. The encoder itself is not kept.
        width: Size of a token.
        seed: Of the random initialization.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    theta_indices: Int[Tensor, " p"]

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
        # Slots differ in size. Their input and output layers are padded to the largest and stacked, and theta_indices
        # are the positions of theta's numbers in the flattened (num_slots, largest).
        sizes = [layout.rank * (slot.a + slot.b) for slot in layout.slots]
        num_slots = len(sizes)
        largest = max(sizes)
        theta_indices = torch.cat([slot * largest + torch.arange(size) for slot, size in enumerate(sizes)])
        self.register_buffer("theta_indices", theta_indices, persistent=False)

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
        """The part of the sequence that is the same in every iteration, and so is computed once."""
        embedding_token = self.embedding_in(features.embedding)[:, None]
        patch_tokens = self.face_in(self.face_norm(features.tokens))
        return torch.cat([embedding_token, patch_tokens], dim=1)

    def forward(self, face_tokens: Float[Tensor, "n f width"], change: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """One refinement.

        Args:
            face_tokens: From `face_tokens`.
            change: Theta minus the layout's initial theta.

        Returns:
            The step to add to `change`.
        """
        num_slots, largest, _ = self.weights_in.shape
        padded = change.new_zeros(len(change), num_slots * largest).index_copy(1, self.theta_indices, change)
        weight_tokens = torch.einsum("nsi,siw->nsw", padded.unflatten(1, (num_slots, largest)), self.weights_in)
        sequence = torch.cat([face_tokens, weight_tokens + self.positions], dim=1)
        with _attention_backend(sequence.device):
            for layer in self.layers[:-1]:
                sequence = layer(sequence)
            weight_tokens = _last_tokens(self.layers[-1], sequence, start=face_tokens.shape[1])
            weight_tokens = self.weights_norm(weight_tokens)
        # Divided by √width, so that a step of Adam on these outputs moves theta about as far as one on the linear path,
        # whatever the width, and one learning rate suits both.
        step = torch.einsum("nsw,swo->nso", weight_tokens / math.sqrt(weight_tokens.shape[2]), self.weights_out)
        return step.flatten(1).index_select(1, self.theta_indices)


def _last_tokens(
    layer: nn.TransformerEncoderLayer, sequence: Float[Tensor, "n l width"], *, start: int
) -> Float[Tensor, "n m width"]:
    """The layer's outputs for the tokens from `start` on, which attend to the whole sequence.

    The outputs of the face tokens are not needed after the last layer. With a ViT-H they are more than half of all.
    """
    normed = layer.norm1(sequence)
    tokens = sequence[:, start:]
    tokens = tokens + layer.self_attn(normed[:, start:], normed, normed, need_weights=False)[0]
    return tokens + layer.linear2(layer.activation(layer.linear1(layer.norm2(tokens))))


def _attention_backend(device: torch.device) -> AbstractContextManager:
    """Plain matrix products on a CPU, where the backward pass of fused attention takes a quarter of a training step."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
