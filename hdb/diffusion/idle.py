"""Leaves out operations of diffusers' networks that compute nothing new."""

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class _One:
    """1 as a divisor: what is divided by it stays the tensor that it is."""

    def __rtruediv__(self, dividend: Tensor) -> Tensor:
        return dividend


def leave_out_divisions(network: nn.Module) -> None:
    """Takes divisions by 1 out of attention and residual blocks.

    diffusers scales the output of each by a factor that is 1 in Stable Diffusion. Forward and backward of a finetuning
    step, that is 108 of 3,300 operations which copy a tensor.
    """
    for module in network.modules():
        for factor in ("rescale_output_factor", "output_scale_factor"):
            if getattr(module, factor, None) == 1:
                setattr(module, factor, _One())


def activate_timesteps_once(unet: nn.Module) -> None:
    """Applies the activation to the embedding of timesteps once, before all residual blocks and not in each of them.

    diffusers has both orders, for different models. They give the same numbers.
    """
    blocks = [module for module in unet.modules() if getattr(module, "time_emb_proj", None) is not None]
    is_known = all(
        type(block) is ResnetBlock2D and type(block.nonlinearity) is nn.SiLU and not block.skip_time_act
        for block in blocks
    )
    if unet.time_embed_act is None and is_known:
        unet.time_embed_act = nn.SiLU()
        for block in blocks:
            block.skip_time_act = True
