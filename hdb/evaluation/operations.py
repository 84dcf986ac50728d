"""Counts the operations of each piece of work on the meta device: nothing is computed, and no weight is read."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.random_base import build_random_stable_diffusion, resolve_base_configs
from hdb.evaluation.cost import CPU_ATTENTION
from hdb.faces.caches import CachedTensors
from hdb.faces.sources import FaceBatch
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.folder import read_config
from hdb.hypernet.hypernet import build_hypernet
from hdb.hypernet.options import HyperNetOptions
from hdb.lidb.layout import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.options import PretrainingOptions
from hdb.training.pretrain import HyperNetPretraining

META = torch.device("meta")


@dataclass(frozen=True)
class CountedCost:
    """What a piece of work costs, counted and not measured.

    Args:
        operations: two for each multiplication and addition.
        kept_bytes: what autograd keeps for backward, in single precision.
    """

    operations: int
    kept_bytes: int = 0


class OperationCounter:
    """A base and a hypernetwork on the meta device, and what each piece of their work costs there.

    Counted are matrix products, convolutions and attention. A theta holds the numbers of one person, from which follow
    the residuals of the base's weights.

    Args:
        base: a folder, or a name that `resolve_base_configs` knows.
        memory: `low` recomputes the UNet's blocks in backward.
    """

    def __init__(self, base: str, lidb: LiDBOptions, net: HyperNetOptions, *, memory: str = "normal") -> None:
        self.diffusion = build_random_stable_diffusion(resolve_base_configs(base), device=META, dtype=torch.float32)
        self.diffusion.use_plain_attention()
        layout = build_layout(self.diffusion, lidb)
        self.hypernet = build_hypernet(net, shaped_encoder(net.encoder), layout).to(META)
        self.personalized = PersonalizedDiffusion(self.diffusion, self.hypernet.layout).to(META)
        if memory == "low":
            self.diffusion.unet.enable_gradient_checkpointing(self._checkpoint)
        self.kept_by_blocks = KeptByBlocks()
        self.personalized.bind(self.residuals(1))  # stacks the bases now, so that they count as kept nowhere

    @property
    def photos(self) -> Tensor:
        """One photo."""
        return torch.empty(1, 3, self.diffusion.resolution, self.diffusion.resolution, device=META)

    def residuals(self, num: int, *, trained: bool = False) -> Residuals:
        """The residuals of `num` people, with a gradient of their thetas if they are trained."""
        theta = torch.empty(num, self.hypernet.layout.size, device=META, requires_grad=trained)
        return Residuals(theta, self.hypernet.layout)

    @cached_property
    def image_encoding(self) -> CountedCost:
        """Encoding a picture as latents."""
        return self._counted(lambda: self.diffusion.encode_images(self.photos))

    @cached_property
    def prediction(self) -> CountedCost:
        """Predicting theta from a photo."""
        return self._counted(lambda: self.hypernet(self.photos))

    @cached_property
    def denoising(self) -> CountedCost:
        """Encoding a prompt and predicting the noise of latents once, with the base under a theta."""
        return self._counted(lambda: self._denoised(self.residuals(1), self._latents(1)))

    @cached_property
    def prompt_encoding(self) -> CountedCost:
        """Encoding a prompt with the base under a theta."""
        with self.personalized.bound(self.residuals(1)):
            return self._counted(lambda: self.diffusion.encode_prompts([INSTANCE_PROMPT]))

    @cached_property
    def decoding(self) -> CountedCost:
        """Decoding latents as a picture."""
        return self._counted(lambda: self.diffusion.decode_latents(self._latents(1)))

    def drawing(self, sampling: SamplingOptions) -> CountedCost:
        """Drawing a picture: each prompt of guidance is encoded once, and its noise predicted at each step."""
        text = self.prompt_encoding.operations
        unet = self.denoising.operations - text
        predictions = sampling.num_predictions * (text + sampling.num_inference_steps * unet)
        return CountedCost(predictions + self.decoding.operations)

    def fitting(self, num: int) -> CountedCost:
        """A step of fitting `num` thetas on a draw each, forward and backward."""
        residuals = self.residuals(num, trained=True)
        return self._counted(lambda: self._denoised(residuals, self._latents(num)).mean().backward(), trained=True)

    def pretraining(self, num: int, options: PretrainingOptions, *, cached: bool) -> CountedCost:
        """A step of pretraining on a batch of `num`, forward and backward.

        These are the parts of `HyperNetPretraining.training_step`, which draws how many samples the identity loss is
        of. Here it is of as many as on average.
        """
        stage = HyperNetPretraining(self.personalized, self.hypernet, options=PretrainingOptions(beta=0.0))
        batch = self._batch(num, cached=cached)

        def step() -> None:
            theta = stage.predict_theta(batch)
            loss = theta.mean()
            if options.alpha:
                losses = self._denoised(Residuals(theta, self.hypernet.layout), stage.encode_targets(batch))
                loss = loss + losses.mean()
            if options.gamma:
                rows = min(options.identity_samples, math.ceil(num * options.identity_until))
                loss = loss + self._identity(theta, rows, cached=cached)
            loss.backward()

        return self._counted(step, trained=True)

    def _identity(self, theta: Tensor, rows: int, *, cached: bool) -> Tensor:
        latents = self._latents(rows) + 0 * theta.mean()  # depends on theta, as denoised latents do
        if not cached:
            with torch.no_grad():
                self.hypernet.encoder(self.photos.expand(rows, -1, -1, -1))
        return self.hypernet.encoder(self.diffusion.decode_latents(latents)).embedding.mean()

    def _denoised(self, residuals: Residuals, latents: Tensor) -> Tensor:
        num = len(latents)
        return self.personalized.denoising_losses(
            residuals,
            latents,
            [INSTANCE_PROMPT] * num,
            noise=torch.empty_like(latents),
            timesteps=torch.zeros(num, dtype=torch.long, device=META),
        )

    def _batch(self, num: int, *, cached: bool) -> FaceBatch:
        photos, caches = self.photos.expand(num, -1, -1, -1), None
        if cached:
            with torch.no_grad():
                features = self.hypernet.encoder(self.photos)
            embedding = features.embedding.expand(num, -1)
            tokens = features.tokens.expand(num, -1, -1)
            caches = CachedTensors(self._latents(num), embedding, embedding, tokens)
        return FaceBatch(photos, photos, [INSTANCE_PROMPT] * num, torch.arange(num), cached=caches)

    def _latents(self, num: int) -> Tensor:
        return torch.empty(num, *self.diffusion.latent_shape, device=META)

    def _counted(self, work: Callable[[], object], *, trained: bool = False) -> CountedCost:
        """Operations of a call, with those of backward if it calls that, and what it keeps for backward."""
        self.kept_by_blocks = KeptByBlocks()
        with torch.set_grad_enabled(trained), record_kept_storages(self._resident) as kept:
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                work()
        return CountedCost(counter.get_total_flops(), sum(kept.values()) + self.kept_by_blocks.num_bytes)

    @property
    def _resident(self) -> tuple[Tensor, ...]:
        """Tensors that are there before and after a piece of work."""
        return (*self.diffusion.state_dict().values(), *self.hypernet.state_dict().values())

    def _checkpoint(self, block: nn.Module, *args: object) -> Tensor:
        """Runs a block of the UNet as gradient checkpointing does: forward, and forward again if it has a gradient."""
        with record_kept_storages(self._resident) as kept:
            output = block(*args)
        if output.requires_grad:  # not of blocks before the first LiDB layer
            with torch.no_grad():
                block(*args)
            self.kept_by_blocks.add(kept, [arg for arg in args if isinstance(arg, Tensor)])
        return output


class KeptByBlocks:
    """What gradient checkpointing keeps: the inputs of all blocks, and what the one that is recomputed keeps."""

    def __init__(self) -> None:
        self.inputs: dict[int, int] = {}  # storage -> bytes; several blocks share the prompt's embedding
        self.largest = 0
        self.alive: list[Tensor] = []  # so that the number of a storage is not used again

    def add(self, kept: Mapping[int, int], inputs: Sequence[Tensor]) -> None:
        """Adds a block.

        Args:
            kept: bytes of what the block alone keeps for backward, by storage.
        """
        for tensor in inputs:
            storage = tensor.untyped_storage()
            self.inputs[storage._cdata] = storage.nbytes()
            self.alive.append(tensor)
        self.largest = max(self.largest, sum(kept.values()))

    @property
    def num_bytes(self) -> int:
        return sum(self.inputs.values()) + self.largest


@contextmanager
def record_kept_storages(resident: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps within the `with` block, except those of resident tensors.

    Attention maps are left out: on a GPU attention is one operation that keeps none, on the meta device it is not.
    """
    kept: dict[int, int] = {}
    alive = [tensor.untyped_storage() for tensor in resident]  # so that the number of a storage is not used again
    ignored = {storage._cdata for storage in alive}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        kept[storage._cdata] = storage.nbytes()
        if "Softmax" in type(tensor.grad_fn).__name__:
            ignored.add(storage._cdata)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
    for number in ignored & set(kept):
        del kept[number]


def shaped_encoder(name: str) -> FaceEncoder:
    """A face encoder on the meta device, by timm's name or from a folder's config."""
    with META:
        return FaceEncoder.from_config(read_config(name)) if Path(name).is_dir() else FaceEncoder(name)
