"""GraphedDenoiser: predicts noise while pictures are sampled, from a CUDA graph where that is possible."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.graphed_work import GraphedWork
from hdb.diffusion.graphs import Tensors, autocast_dtype, autocast_without_cache
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


class GraphedDenoiser(GraphedWork):
    """`StableDiffusion.predict_noise` under whatever is bound, for many calls with tensors of the same shapes.

    A step of the denoiser of Stable Diffusion 1.5 is 1,500 kernels, started one by one from Python or all by a graph.
    """

    def __init__(self, diffusion: StableDiffusion) -> None:
        self.prediction = NoisePrediction(diffusion)
        super().__init__(diffusion, name="drawing", key=self.prediction)

    def __call__(
        self,
        noisy_latents: Float[Tensor, "n c h w"],
        timesteps: Int[Tensor, " n"] | Float[Tensor, " n"],
        condition: TextCondition,
    ) -> Float[Tensor, "n c h w"]:
        if not self.is_graphed:
            return self.diffusion.predict_noise(noisy_latents, timesteps, condition)
        inputs = {"noisy_latents": noisy_latents, "timesteps": timesteps}
        (noise_pred,) = self.run(self.prediction, {**inputs, **condition.tensors, **self.prediction.factors()})
        return noise_pred
