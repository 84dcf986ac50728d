"""LoRA DreamBooth: an ordinary LoRA learned from nothing."""

from hdb.methods.hyperdreambooth import NoHyper
from hdb.training.personalize import FinetuningOptions


def lora_options() -> FinetuningOptions:
    """A free LoRA of rank 4 on one draw a step; steps and rate of diffusers' example."""
    return FinetuningOptions(basis="free", rank=4, num_steps=500, lr=1e-4, batch_size=1)


class LoRADreamBooth(NoHyper):
    """Finetunes a free LoRA from zero, with as many steps and at a rate of its own, and with no hypernetwork.

    What differs from `NoHyper` is all in the options of its finetuner: without bases, and more than 40 steps.

    Source: Ryu, Low-rank Adaptation for Fast Text-to-Image Diffusion Fine-tuning; the paper's "LoRA DreamBooth".
    """

    name = "lora_dreambooth"
