"""The networks of the base with random weights: small versions of the classes of Stable Diffusion 1.5 and of timm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPTokenizer

from hdb.faceworld.captions import VOCABULARY

TEXT_LENGTH = 36  # tokens; the longest caption has 33
DOWNSAMPLING = 8


def autoencoder(resolution: int) -> AutoencoderKL:
    """8x8 pixels -> one latent position of 24 numbers.

    With two groups the norm before the last convolution is nearly linear, as `principal` needs it.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=24,
        block_out_channels=(24, 48, 80, 112),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=resolution,
        mid_block_add_attention=resolution >= 128,
        scaling_factor=1.0,
    )


def denoiser(resolution: int) -> UNet2DConditionModel:
    """UNet with attention at every level, as the finest one decides identity.

    64 px: 8x8 and 4x4 latents, 6.8 M parameters, 0.22 GMAC. 128 px: 16x16, 8x8 and 4x4.
    """
    channels = (128, 128) if resolution < 128 else (160, 224, 288)
    return UNet2DConditionModel(
        sample_size=resolution // DOWNSAMPLING,
        in_channels=24,
        out_channels=24,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # in diffusers this is the number of heads, as in the config of SD 1.5
        norm_num_groups=32,
    )


def noise_scheduler() -> DDPMScheduler:
    """SD 1.5's betas, but predicting velocity: with few latents the noise alone says little about the picture."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair encoding, in which each word of faceworld's captions is one token.

    The vocabulary holds every printable character, so that other words can be spelled.
    """
    printable = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    merges = byte_pair_merges(re.findall("[a-z]+", " ".join(VOCABULARY).lower()))
    tokens = ["<|startoftext|>", "<|endoftext|>", *printable]
    tokens += [f"{character}</w>" for character in printable]
    tokens += [left + right for left, right in merges]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


def byte_pair_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges of the most frequent pairs of tokens until each word is one token.

    Ties go to the first pair in the order of the alphabet. The trainer of the library tokenizers breaks them by chance,
    so that a resumed training would read other tokens than before.

    >>> byte_pair_merges(["hat", "at"])
    [('a', 't</w>'), ('h', 'at</w>')]
    """
    splits = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))]
    merges = []
    while True:
        counts = Counter(pair for tokens in splits for pair in pairwise(tokens))
        if not counts:
            return merges
        merge = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(merge)
        for tokens in splits:
            for position in range(len(tokens) - 2, -1, -1):
                if tuple(tokens[position : position + 2]) == merge:
                    tokens[position : position + 2] = ["".join(merge)]


def clip(resolution: int, tokenizer: CLIPTokenizer) -> CLIPConfig:
    """The config of this world's CLIP. Its text tower becomes the text encoder of the base."""
    wide = resolution >= 128
    return CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_dim": 128,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 256 if wide else 160,
            "intermediate_size": 1024 if wide else 480,
            "num_hidden_layers": 6 if wide else 4,
            "num_attention_heads": 4,
            "image_size": resolution,
            "patch_size": resolution // 8,
            "projection_dim": 128,
        },
        projection_dim=128,
    )


def face_encoder(resolution: int) -> dict[str, Any]:
    """timm arguments of the face encoder: at 64 px a small residual network, for training on a CPU; else a ViT."""
    if resolution < 128:
        return {"model": "resnet10t", "num_classes": 192, "channels": (32, 64, 128, 256), "stem_width": 24}
    return {
        "img_size": resolution,
        "patch_size": 8,
        "embed_dim": 256,
        "depth": 8,
        "num_heads": 4,
        "num_classes": 256,
        "global_pool": "avg",
        "class_token": False,
        "fc_norm": True,
    }


def recognizer(resolution: int) -> tuple[str, dict[str, Any]]:
    """timm name and arguments of the judge of identity."""
    return "resnet10t", {"num_classes": 128, "channels": (32, 64, 128, 256), "stem_width": 32}


def dino(resolution: int) -> tuple[str, dict[str, Any]]:
    """timm name and arguments of the self-supervised judge."""
    wide = resolution >= 128
    return "vit_tiny_patch16_224", {
        "img_size": resolution,
        "patch_size": 8,
        "embed_dim": 192 if wide else 144,
        "depth": 6 if wide else 4,
        "num_heads": 3,
        "num_classes": 0,
        "dynamic_img_size": True,
    }


def classifier(resolution: int) -> tuple[str, dict[str, Any]]:
    """timm name and arguments of the judge of style, context, accessory and expression."""
    return "resnet10t", {"channels": (32, 64, 128, 256), "stem_width": 32}


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
