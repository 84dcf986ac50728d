"""DreamBooth: the base itself finetuned on one person."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hdb.diffusion.guidance import UnboundContext
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sampling import draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.weights import copy_weights, exchange_weights, named_weights, weights_checksum
from hdb.methods.context import TrainingContext
from hdb.methods.protocol import Photos
from hdb.methods.stored import check_person_file, write_person_file
from hdb.training.dreambooth import DreamBoothFinetuning
from hdb.training.options import DreamBoothOptions

Weights = Mapping[str, Tensor]


class DreamBooth:
    """Finetunes UNet and text encoder with prior preservation, one person after the other.

    The base is restored bit by bit after each person. Class pictures are drawn once, by the original base, and their
    time counts towards the first person.

    Args:
        name: Of the row in the table.

    Source: Ruiz et al., DreamBooth, https://arxiv.org/abs/2208.12242
    """

    max_batch_size = 1

    def __init__(self, context: TrainingContext, options: DreamBoothOptions, *, name: str = "dreambooth") -> None:
        self.context = context
        self.options = options
        self.name = name

    def personalize(self, photos: Photos) -> "PersonalModels":
        references = self.context.latents(photos.images).split(1)
        sides = [None] * len(photos) if photos.sides is None else photos.sides[:, 0].tolist()
        models = [self._finetune(reference, side) for reference, side in zip(references, sides, strict=True)]
        return PersonalModels(self.context.diffusion, models, dtype=self.context.dtype)

    def _finetune(self, reference: Float[Tensor, "1 c h w"], photo_side: int | None) -> Weights:
        context = self.context
        options = self.options
        stage = DreamBoothFinetuning(
            context.personalized,
            reference=reference,
            prompt=context.prompt,
            options=options,
            prior=context.prior(options.prior_preservation, num_pictures=options.num_class_pictures),
            photo_side=photo_side,
            seed=context.seed,
        )
        checksum_before = weights_checksum(named_weights(context.diffusion))
        with exchange_weights(context.diffusion) as weights:
            context.fit(stage, num_steps=options.num_steps)
            trained = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        checksum_after = weights_checksum(named_weights(context.diffusion))
        if checksum_after != checksum_before:
            raise RuntimeError(
                f"{self.name} left the base with the checksum {checksum_after}, it was {checksum_before}"
            )
        return trained

    def load(self, paths: Sequence[Path]) -> "PersonalModels":
        return PersonalModels.from_files(self.context.diffusion, paths)


class PersonalModels:
    """A finetuned UNet and text encoder for each of n people. The base holds the weights of one person at a time.

    Args:
        models: The weights of each person under the names of `named_weights`, or the file that holds them, since the
            weights of many people do not fit in memory.
        scale: Interpolates between the base (0) and the person's weights (1).
        dtype: Of the files, float16 or float32.
    """

    kind = "model"

    def __init__(
        self,
        diffusion: StableDiffusion,
        models: Sequence[Weights | Path],
        *,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.diffusion = diffusion
        self.models = list(models)
        self.scale = scale
        self.dtype = dtype
        self._is_bound = False

    @classmethod
    def from_files(
        cls, diffusion: StableDiffusion, paths: Sequence[Path], *, scale: float | None = None
    ) -> "PersonalModels":
        """People from their files, whose weights are read when they are drawn.

        Raises:
            ValueError: A file is missing, damaged, of another kind or for another base.
        """
        shapes = {name: value.shape for name, value in named_weights(diffusion).items()}
        for path in paths:
            check_person_file(path, kind=cls.kind, base=diffusion, shapes=shapes)
        return cls(diffusion, [Path(path) for path in paths], scale=1.0 if scale is None else scale)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, rows: list[int]) -> "PersonalModels":
        models = [self.models[row] for row in rows]
        return PersonalModels(self.diffusion, models, scale=self.scale, dtype=self.dtype)

    def weights(self, person: int) -> Weights:
        """The weights of one person.

        Raises:
            ValueError: Their file is damaged, or holds numbers that are not finite.
        """
        model = self.models[person]
        if isinstance(model, Mapping):
            return model
        try:
            weights = load_file(model)
        except SafetensorError as error:
            raise ValueError(f"{model} is damaged: {error}; expected a safetensors file") from error
        for name, value in weights.items():
            num_invalid = value.numel() - int(value.isfinite().sum())
            if num_invalid:
                raise ValueError(f"{model}: {name} has {num_invalid} values that are not finite, expected 0")
        return weights

    def save(self, paths: Sequence[Path], *, about: Sequence[Mapping[str, str]]) -> None:
        for person, (path, provenance) in enumerate(zip(paths, about, strict=True)):
            weights = {name: value.to(self.dtype) for name, value in self.weights(person).items()}
            write_person_file(path, weights, kind=self.kind, base=self.diffusion, about=provenance)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Puts the weights of the one person into the base within a `with` block. Nested blocks read them only once.

        Raises:
            ValueError: There is more than one person.
        """
        if len(self) != 1:
            raise ValueError(f"the base can be 1 person's model at a time, given {len(self)}")
        if self._is_bound:
            yield
            return
        weights = self.weights(0)
        current_weights = copy_weights(self.diffusion)
        outer_original_weights = self.diffusion.original_weights  # set within another person's block
        original_weights = current_weights if outer_original_weights is None else outer_original_weights
        if self.scale != 1:
            weights = {
                name: torch.lerp(value.float().cpu(), weights[name].float(), self.scale)
                for name, value in original_weights.items()
            }
        with exchange_weights(self.diffusion, weights, backup=current_weights):
            del weights  # they are in the base now, and of Stable Diffusion 1.5 the copy takes nearly 4 GB
            self._is_bound = True
            self.diffusion.original_weights = original_weights
            try:
                yield
            finally:
                self._is_bound = False
                self.diffusion.original_weights = outer_original_weights

    def _unbound(self, sampling: SamplingOptions) -> UnboundContext | None:
        """For identity guidance: a context with the original weights in the base. None without identity guidance."""
        if sampling.identity_guidance_scale is None:
            return None
        original_weights = self.diffusion.original_weights
        return partial(exchange_weights, self.diffusion, original_weights, backup=copy_weights(self.diffusion))

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """Draws one person after the other. Identity guidance exchanges the weights twice in each step.

        Raises:
            ValueError: The number of prompts is no multiple of the number of people.
        """
        num_people = len(self)
        if len(prompts) % num_people or not prompts:
            raise ValueError(f"{len(prompts)} prompts for {num_people} people: expected a multiple")
        pictures: list[Tensor] = [torch.empty(0)] * len(prompts)
        for person in range(num_people):
            model = self if num_people == 1 else self[[person]]  # `self` may be bound already
            with model.bound():
                pictures[person::num_people] = draw(
                    self.diffusion,
                    prompts[person::num_people],
                    seeds=seeds[person::num_people],
                    sampling=sampling,
                    unbound=self._unbound(sampling),
                    callback_on_step_end=callback_on_step_end,
                )
        return torch.stack(pictures)
