"""40 steps on one person against PEFT: python tests/race.py [pairs] [steps], from the root of the repository.

The rival is a LoRA of rank 4 on the same layers of the same base, in a plain loop of diffusers: what one would write
without this repository. Both learn four draws of noise a step; who is first changes from pair to pair. Seconds are
those of the processor, all threads together, so that they count on a busy machine, too.
"""

import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain

import torch
from lightning import Trainer
from peft import LoraConfig, get_peft_model
from torch.nn.functional import mse_loss

from hdb.diffusion.base import prepare_for_device
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.layout import LiDBOptions
from hdb.lidb.names import find_target_layers
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.options import FinetuningOptions
from hdb.training.personalize import SubjectFinetuning

BASE, RANK, DRAWS = "hdb/faceworld/weights/base", 4, 4


def ours(num_people: int, *, steps: int) -> Callable[[], object]:
    base = prepare_for_device(StableDiffusion.from_pretrained(BASE), memory="normal")
    personalized = PersonalizedDiffusion(base, build_layout(base, LiDBOptions(a=48, b=24)))
    reference, start = torch.randn(num_people, *base.latent_shape), Residuals.initial(personalized.layout)
    options = FinetuningOptions(rank=RANK, num_steps=steps, batch_size=DRAWS)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}

    def run() -> None:
        stage = SubjectFinetuning(personalized, reference=reference, start=start, options=options)
        Trainer(max_steps=steps, accelerator="cpu", enable_progress_bar=False, **quiet).fit(stage)

    return run


def rival(*, steps: int) -> Callable[[], object]:
    base = StableDiffusion.from_pretrained(BASE)
    found = set(find_target_layers(base.components).values())
    unet, text_encoder = (
        get_peft_model(
            model,
            LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=[name for name, of in model.named_modules() if of in found]
            ),
        )
        for model in (base.unet, base.text_encoder)
    )
    scheduler, ids = base.noise_schedule, base.tokenize([INSTANCE_PROMPT])
    latents = torch.randn(1, *base.latent_shape).expand(DRAWS, -1, -1, -1)
    weights = [weight for weight in chain(unet.parameters(), text_encoder.parameters()) if weight.requires_grad]

    def run() -> None:
        optimizer = torch.optim.AdamW(weights, lr=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            noise, timesteps = torch.randn_like(latents), torch.randint(base.num_train_timesteps, (DRAWS,))
            embeds = text_encoder(input_ids=ids).last_hidden_state.repeat(DRAWS, 1, 1)
            answer = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, embeds).sample
            mse_loss(answer, base.denoising_target(latents, noise, timesteps)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    return run


def seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(pairs: int = 5, steps: int = 40) -> None:
    alone, together, peft = ours(1, steps=steps), ours(12, steps=steps), rival(steps=steps)
    alone(), peft()
    ratios, shares = [], []
    for pair in range(pairs):
        taken = {run: seconds(run) for run in ((alone, together, peft) if pair % 2 else (peft, together, alone))}
        ratios.append(taken[alone] / taken[peft])
        shares.append(taken[together] / 12 / taken[peft])
    for name, values in (("one person / PEFT", ratios), ("one of 12 people at once / PEFT", shares)):
        print(f"{name:34}{statistics.median(values):6.2f} [{min(values):.2f}, {max(values):.2f}]")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
