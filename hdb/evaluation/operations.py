"""Operations of each piece of work, counted on the meta device: nothing is computed, no weight read or made."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.random_base import build_random_stable_diffusion, resolve_base_configs
from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.cost import CPU_ATTENTION
from hdb.faces.caches import Cached
from hdb.faces.sources import FaceBatch
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.folder import read_config
from hdb.hypernet.options import HyperNetOptions, build_hypernet
from hdb.lidb.layout import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.pretraining_options import PretrainingOptions

META = torch.device("meta")


@dataclass(frozen=True)
class Pass:
    """What a piece of work takes: operations, and the bytes that are kept for backward, in single precision."""

    operations: int
    kept: int = 0


class Pieces:
    """A base and a hypernetwork of which there are only shapes; each method, or property, counts a piece of work.

    Operations are those of matrix products, convolutions and attention, two per multiplication and addition.

    Args:
        base: a folder, or a name that `resolve_base_configs` knows.
    """

    def __init__(self, base: str, lidb: LiDBOptions, net: HyperNetOptions) -> None:
        self.diffusion = build_random_stable_diffusion(resolve_base_configs(base), device=META, dtype=torch.float32)
        self.diffusion.use_plain_attention()
        layout = build_layout(self.diffusion, lidb)
        self.hypernet = build_hypernet(net, shaped_encoder(net.encoder), layout).to(META)
        self.personalized = PersonalizedDiffusion(self.diffusion, self.hypernet.layout).to(META)
        self.personalized.bind(self.people(1))  # stacks the bases, once: a pass keeps them no more than other weights

    @property
    def photos(self) -> Tensor:
        return torch.empty(1, 3, self.diffusion.resolution, self.diffusion.resolution, device=META)

    def people(self, num: int, *, trained: bool = False) -> Residuals:
        theta = torch.empty(num, self.hypernet.layout.size, device=META, requires_grad=trained)
        return Residuals(theta, self.hypernet.layout)

    @cached_property
    def encoding(self) -> Pass:
        """A picture to latents."""
        return self._counted(lambda: self.diffusion.encode_images(self.photos))

    @cached_property
    def predicting(self) -> Pass:
        """A photo to theta."""
        return self._counted(lambda: self.hypernet(self.photos))

    @cached_property
    def denoising(self) -> Pass:
        """One look at noisy latents under a theta."""
        return self._counted(lambda: self._denoised(self.people(1), self._latents(1)))

    @cached_property
    def reading(self) -> Pass:
        """A prompt to its embeddings, under a theta."""
        with self.personalized.bound(self.people(1)):
            return self._counted(lambda: self.diffusion.encode_prompts([INSTANCE_PROMPT]))

    @cached_property
    def decoding(self) -> Pass:
        """Latents to a picture."""
        return self._counted(lambda: self.diffusion.decode_latents(self._latents(1)))

    def drawing(self, sampling: SamplingOptions) -> Pass:
        """A picture: each of its prompts is encoded once, and looked under at each step."""
        text = self.reading.operations
        looks = sampling.num_inference_steps * (self.denoising.operations - text)  # which encodes a prompt, too
        return Pass(sampling.num_predictions * (text + looks) + self.decoding.operations)

    def fitting(self, num: int) -> Pass:
        """A step of fitting `num` thetas on a draw each, in both directions."""
        people = self.people(num, trained=True)
        return self._counted(lambda: self._denoised(people, self._latents(num)).mean().backward(), trained=True)

    def pretraining(self, num: int, options: PretrainingOptions, *, cached: bool) -> Pass:
        """A step of pretraining on a batch of `num`, in both directions.

        The pieces of `HyperNetPretraining.training_step`, which asks how many samples the identity loss looks at: here
        those that it looks at on average.
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
        latents = self._latents(rows) + 0 * theta.mean()  # some that depend on theta
        if not cached:
            with torch.no_grad():
                self.hypernet.encoder(self.photos.expand(rows, -1, -1, -1))
        return self.hypernet.encoder(self.diffusion.decode_latents(latents)).embedding.mean()

    def _denoised(self, people: Residuals, latents: Tensor) -> Tensor:
        num = len(latents)
        given = {"noise": torch.empty_like(latents), "timesteps": self._timesteps(num)}
        return self.personalized.denoising_losses(people, latents, [INSTANCE_PROMPT] * num, **given)

    def _batch(self, num: int, *, cached: bool) -> FaceBatch:
        photos, kept = self.photos.expand(num, -1, -1, -1), None
        if cached:
            with torch.no_grad():
                seen = self.hypernet.encoder(self.photos)
            embedding, tokens = (of.expand(num, *of.shape[1:]) for of in seen)
            kept = Cached(self._latents(num), embedding, embedding, tokens)
        return FaceBatch(photos, photos, [INSTANCE_PROMPT] * num, torch.arange(num), cached=kept)

    def _latents(self, num: int) -> Tensor:
        return torch.empty(num, *self.diffusion.latent_shape, device=META)

    def _timesteps(self, num: int) -> Tensor:
        return torch.zeros(num, dtype=torch.long, device=META)

    def _counted(self, work: Callable[[], object], *, trained: bool = False) -> Pass:
        """Operations of a call, in both directions where it is one of training, and what it keeps for backward."""
        resident = (*self.diffusion.state_dict().values(), *self.hypernet.state_dict().values())
        with torch.set_grad_enabled(trained), keeping(resident) as kept:
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                work()
        return Pass(counter.get_total_flops(), sum(kept.values()))


@contextmanager
def keeping(resident: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps within the `with` block, but for those of resident tensors.

    Attention maps are left out: on a GPU attention is one operation that keeps none, on the meta device it is not.
    """
    kept: dict[int, int] = {}
    alive = [tensor.untyped_storage() for tensor in resident]  # so that no other storage gets the number of one
    apart = {storage._cdata for storage in alive}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        kept[storage._cdata] = storage.nbytes()
        if "Softmax" in type(tensor.grad_fn).__name__:
            apart.add(storage._cdata)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
    for number in apart & set(kept):
        del kept[number]


def shaped_encoder(name: str) -> FaceEncoder:
    """A face encoder of which there are only shapes: by timm's name, or of a folder's config."""
    with META:
        return FaceEncoder.from_config(read_config(name)) if Path(name).is_dir() else FaceEncoder(name)
