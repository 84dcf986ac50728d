"""GraphedDenoiser: predicts noise while pictures are sampled, from a CUDA graph where that is possible."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.graphs import Tensors, autocast_dtype, autocast_without_cache, module_tensors, tolerance_of
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.linear import LiDBLinear


@dataclass(frozen=True)
class NoisePrediction:
    """The denoiser under bound residuals as a function of tensors alone: the factors of its layers are inputs, too."""

    diffusion: StableDiffusion

    @cached_property
    def all_layers(self) -> dict[str, LiDBLinear]:
        """The layers of the denoiser to which residuals can be bound, looked for once and not at every step."""
        modules = self.diffusion.unet.named_modules()
        return {name: layer for name, layer in modules if isinstance(layer, LiDBLinear)}

    @property
    def layers(self) -> dict[str, LiDBLinear]:
        """The layers of the denoiser to which residuals are bound."""
        return {name: layer for name, layer in self.all_layers.items() if layer.down is not None}

    def factors(self) -> dict[str, Tensor]:
        """The factors that are bound, by the name of their layer."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.down"], tensors[f"{name}.up"] = layer.lora_factors()
        return tensors

    def __call__(self, inputs: Tensors) -> tuple[Float[Tensor, "n c h w"]]:
        layers = self.layers
        bound = {name: layer.lora_factors() for name, layer in layers.items()}
        condition = TextCondition.from_tensors(inputs)
        try:
            for name, layer in layers.items():
                layer.bind_lora(inputs[f"{name}.down"], inputs[f"{name}.up"])
            with autocast_without_cache(self.diffusion.device, autocast_dtype(self.diffusion.device)):
                return (self.diffusion.predict_noise(inputs["noisy_latents"], inputs["timesteps"], condition),)
        finally:
            for name, layer in layers.items():
                layer.bind_lora(*bound[name])


class GraphedDenoiser:
    """`StableDiffusion.predict_noise` under whatever is bound, for many calls with tensors of the same shapes.

    A step of the denoiser of Stable Diffusion 1.5 is 1,500 kernels, started one by one from Python or all by a graph.
    """

    def __init__(self, diffusion: StableDiffusion) -> None:
        self.diffusion = diffusion
        self.prediction = NoisePrediction(diffusion)
        self._is_graphed: bool | None = None

    @property
    def is_graphed(self) -> bool:
        """Whether graphs are tried. What they would hold already is dropped if the base has moved since."""
        if self._is_graphed is None:
            graphs = self.diffusion.graphs
            reason = graphs.refusal(self.diffusion.device, memory_is_low=self.diffusion.memory_is_low)
            self._is_graphed = reason is None
            if self._is_graphed:
                graphs.forget_moved(module_tensors(self.diffusion), key=self.prediction)
        return self._is_graphed

    def __call__(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        if not self.is_graphed:
            return self.diffusion.predict_noise(noisy_latents, timesteps, condition)
        device = self.diffusion.device
        dtype = autocast_dtype(device)
        (noise_pred,) = self.diffusion.graphs.run(
            self.prediction,
            {
                "noisy_latents": noisy_latents,
                "timesteps": timesteps,
                **condition.tensors,
                **self.prediction.factors(),
            },
            name="drawing",
            key=self.prediction,
            reads=lambda: module_tensors(self.diffusion),
            device=device,
            tolerance=tolerance_of(dtype or self.diffusion.dtype),
            dtype=dtype,
        )
        return noise_pred
