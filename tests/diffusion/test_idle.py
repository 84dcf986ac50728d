"""Operations that are left out of diffusers' networks change no number."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from hdb.diffusion.idle import activate_timesteps_once, leave_out_divisions
from hdb.evaluation.cost import StartedOperations


@pytest.mark.parametrize("scale_factor", [1.0, 2.0])
def test_a_network_gives_the_same_numbers_with_fewer_operations(tiny_base, scale_factor):
    unet = UNet2DConditionModel.from_pretrained(tiny_base, subfolder="unet")
    unet.mid_block.resnets[0].output_scale_factor = scale_factor
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 700]), torch.randn(2, 5, 16)

    def predict():
        with torch.no_grad(), StartedOperations() as started:
            return unet(*inputs).sample, started.counts

    before, counts = predict()
    leave_out_divisions(unet)
    activate_timesteps_once(unet)
    activate_timesteps_once(unet)  # as when a second base is made of the same network
    after, fewer = predict()
    assert torch.equal(after, before)
    num_blocks = sum(hasattr(module, "time_emb_proj") for module in unet.modules())
    assert counts["silu"] - fewer["silu"] == num_blocks - 1
    num_divisions = 1 if scale_factor == 1 else 2  # that of the frequencies of timesteps, and a real one
    assert counts["div"] > num_blocks and fewer["div"] == num_divisions
