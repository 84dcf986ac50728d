"""DreamBooth: the base itself finetuned on one person; and its two quicker variants."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hdb.diffusion.guidance import UnboundContext
from hdb.diffusion.sampling import SamplingOptions, draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.weights import copy_weights, exchange_weights, named_weights, weights_checksum
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.stored import check_person, write_person
from hdb.training.dreambooth import DreamBoothFinetuning, DreamBoothOptions

Weights = Mapping[str, Tensor]


class DreamBooth:
    """Finetunes UNet and text encoder whole with prior preservation, one person after the other.

    The base is changed meanwhile, and put back bit by bit before the next person and after the last. Class pictures are
    drawn once, by the base as it is, and count to the time of whoever comes first.

    Source: Ruiz et al., DreamBooth, https://arxiv.org/abs/2208.12242
    """

    at_once = 1

    def __init__(self, context: TrainingContext, options: DreamBoothOptions, *, name: str = "dreambooth") -> None:
        self.context, self.options, self.name = context, options, name

    def personalize(self, photos: Photos) -> "PersonalModels":
        context = self.context
        models = [self._finetune(latents) for latents in context.latents(photos.images).split(1)]
        return PersonalModels(context.diffusion, models, dtype=context.dtype)

    def _finetune(self, reference: Float[Tensor, "1 c h w"]) -> Weights:
        context, options = self.context, self.options
        stage = DreamBoothFinetuning(
            context.personalized,
            reference=reference,
            prompt=context.prompt,
            options=options,
            prior=context.prior(options.prior_preservation, num_pictures=options.num_class_pictures),
            seed=context.seed,
        )
        before = weights_checksum(named_weights(context.diffusion))
        with exchange_weights(context.diffusion) as weights:
            context.fit(stage, num_steps=options.num_steps)
            trained = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        if (after := weights_checksum(named_weights(context.diffusion))) != before:
            raise RuntimeError(f"{self.name} left the base with the checksum {after}, it was {before}")
        return trained

    def load(self, paths: Sequence[Path]) -> "PersonalModels":
        return PersonalModels.read(self.context.diffusion, paths)


class PersonalModels:
    """A UNet and a text encoder of their own for each of n people; the base holds one of them at a time.

    Args:
        models: the weights of each, as `named_weights` names them, or the file they are in: of many people they would
            not fit in memory.
        scale: how far from the base towards the person's weights; 1 is the person.
        dtype: of the files, float16 or float32.
    """

    kind = "model"
    stores = "all weights of UNet and text encoder"

    def __init__(
        self,
        diffusion: StableDiffusion,
        models: Sequence[Weights | Path],
        *,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.diffusion, self.models, self.scale, self.dtype = diffusion, list(models), scale, dtype
        self._is_bound = False

    @classmethod
    def read(cls, diffusion: StableDiffusion, paths: Sequence[Path], *, scale: float | None = None) -> "PersonalModels":
        """People's files; their weights are read when they are drawn.

        Raises:
            ValueError: one is missing, damaged, of another kind or for another base.
        """
        shapes = {name: value.shape for name, value in named_weights(diffusion).items()}
        for path in paths:
            check_person(path, kind=cls.kind, base=diffusion, shapes=shapes)
        return cls(diffusion, [Path(path) for path in paths], scale=1.0 if scale is None else scale)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, rows: list[int]) -> "PersonalModels":
        models = [self.models[row] for row in rows]
        return PersonalModels(self.diffusion, models, scale=self.scale, dtype=self.dtype)

    @property
    def num_bytes(self) -> int:
        return sum(value.numel() for value in named_weights(self.diffusion).values()) * self.dtype.itemsize

    def weights(self, person: int) -> Weights:
        """Those of one person.

        Raises:
            ValueError: their file is damaged, or holds numbers that are not finite.
        """
        model = self.models[person]
        if isinstance(model, Mapping):
            return model
        try:
            weights = load_file(model)
        except SafetensorError as error:
            raise ValueError(f"{model} is damaged: {error}; expected a safetensors file") from error
        for name, value in weights.items():
            if bad := value.numel() - int(value.isfinite().sum()):
                raise ValueError(f"{model}: {name} has {bad} values that are not finite, expected 0")
        return weights

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for person, (path, of) in enumerate(zip(paths, about, strict=True)):
            weights = {name: value.to(self.dtype) for name, value in self.weights(person).items()}
            write_person(path, weights, kind=self.kind, base=self.diffusion, about=of)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """As `Personalization.bound`, of one person; within the block their weights are read once.

        Raises:
            ValueError: of more than one.
        """
        if len(self) != 1:
            raise ValueError(f"the base can be 1 person's model at a time, given {len(self)}")
        if self._is_bound:
            yield
            return
        weights, before = self.weights(0), self.diffusion.original_weights
        backup = copy_weights(self.diffusion)
        base = backup if before is None else before  # within another person's block the base is not what it holds
        if self.scale != 1:
            weights = {
                name: torch.lerp(value.float().cpu(), weights[name].float(), self.scale) for name, value in base.items()
            }
        with exchange_weights(self.diffusion, weights, backup=backup):
            del weights  # another copy in memory: of Stable Diffusion 1.5 nearly 4 GB
            self._is_bound, self.diffusion.original_weights = True, base
            try:
                yield
            finally:
                self._is_bound, self.diffusion.original_weights = False, before

    def _unbound(self, sampling: SamplingOptions) -> UnboundContext | None:
        """Puts the base's weights in and the bound person's back, of whom a copy is made once; None if nobody asks."""
        if sampling.identity_guidance_scale is None:
            return None
        return partial(
            exchange_weights, self.diffusion, self.diffusion.original_weights, backup=copy_weights(self.diffusion)
        )

    def pictures(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions
    ) -> Float[Tensor, "m 3 h w"]:
        """One person after the other. With identity guidance the base's weights are put in and out at each step.

        Raises:
            ValueError: the number of prompts is no multiple of the number of people.
        """
        if len(prompts) % len(self) or not prompts:
            raise ValueError(f"{len(prompts)} prompts for {len(self)} people: expected a multiple")
        pictures: list[Tensor] = [torch.empty(0)] * len(prompts)
        for person in range(len(self)):
            own, model = slice(person, None, len(self)), self if len(self) == 1 else self[[person]]
            with model.bound():
                wanted = {"seeds": seeds[own], "sampling": sampling, "unbound": self._unbound(sampling)}
                pictures[own] = draw(self.diffusion, prompts[own], **wanted)
        return torch.stack(pictures)
