"""Tiny networks of the real classes with reproducible random weights: Stable Diffusion, hypernetwork, judges."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from hdb.diffusion.families.sd1 import StableDiffusion1

RESOLUTION = 64
PROMPT_LENGTH = 24
# The weights file of each part of a Stable Diffusion 1.x in diffusers' layout.
WEIGHTS = {part: StableDiffusion1().weights_file(part) for part in StableDiffusion1.network_classes}


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer without merges, whose tokens are single characters."""
    characters = [chr(code) for code in range(33, 127)]
    tokens = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_LENGTH, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | config))
    return CLIPTokenizer.from_pretrained(folder)


def tiny_text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_LENGTH,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_parts(folder: Path) -> dict[str, object]:
    """The five parts of a Stable Diffusion for 64 px pictures and 8x8 latents, with attention at both levels."""
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            sample_size=RESOLUTION,
            block_out_channels=(4, 4, 8, 8),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            mid_block_add_attention=False,
        )
        text_encoder = CLIPTextModel(tiny_text_config(tokenizer))
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}


def tiny_sdxl_parts(folder: Path) -> dict[str, object]:
    """The seven parts of a Stable Diffusion XL for 64 px pictures and 8x8 latents."""
    tokenizers = [tiny_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    common = tiny_parts(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=32,
            attention_head_dim=(1, 2, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 16,
            norm_num_groups=4,
        )
        text_encoder_2 = CLIPTextModelWithProjection(tiny_text_config(tokenizers[1]))
    config = json.loads((Path(__file__).parents[1] / "configs/sdxl/scheduler.json").read_text())
    return {
        "unet": unet,
        "vae": common["vae"],
        "text_encoder": common["text_encoder"],
        "text_encoder_2": text_encoder_2,
        "tokenizer": tokenizers[0],
        "tokenizer_2": tokenizers[1],
        "scheduler": EulerDiscreteScheduler.from_config(config),
    }


def save_tiny_sdxl(folder: Path) -> Path:
    """Writes a pipeline folder of a Stable Diffusion XL in diffusers' layout."""
    pipeline = StableDiffusionXLPipeline(**tiny_sdxl_parts(folder), add_watermarker=False)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_base(folder: Path) -> Path:
    """Writes a pipeline folder in diffusers' layout."""
    parts = tiny_parts(folder)
    pipeline = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_encoder(folder: Path) -> Path:
    """Writes a ViT face encoder with random weights."""
    from hdb.hypernet.encoder import FaceEncoder

    shape = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 8}
    FaceEncoder(shape, resolution=32).save(folder)
    return folder


def save_tiny_hypernet(folder: Path, *, base: Path, encoder: Path) -> Path:
    """Writes an untrained hypernetwork, whose prediction depends on the face only a little."""
    from hdb.diffusion.stable_diffusion import StableDiffusion
    from hdb.hypernet.decoder import WeightDecoder
    from hdb.hypernet.encoder import FaceEncoder
    from hdb.hypernet.hypernet import HyperNet
    from hdb.lidb.layout import Layout

    diffusion = StableDiffusion.from_pretrained(base)
    face_encoder = FaceEncoder.from_folder(encoder)
    layout = Layout.from_models(diffusion.components, a=4, b=3)
    decoder = WeightDecoder(layout, face_encoder, width=8, num_heads=2)
    hypernet = HyperNet(face_encoder, decoder, layout, iterations=1, linear_path=True, base_digest=diffusion.digest)
    hypernet.save(folder, include_encoder=False)
    return folder


def save_tiny_judges(folder: Path) -> Path:
    """recognizer/, dino/, clip/ and classifier/ of random weights, as base training writes them."""
    from transformers import CLIPConfig

    from hdb.faceworld.base.classifier import HEADS
    from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
    from hdb.metrics.networks import AttributeClassifier

    for number, name in enumerate(("recognizer", "dino")):
        TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32, seed=number).save(folder / name)
    AttributeClassifier("resnet10t", heads=HEADS, resolution=32).save(folder / "classifier")
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tiny_text_config(tokenizer).to_dict(),
        vision_config={**vision, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    ClipEmbedder.from_parts(config, tokenizer).save(folder / "clip")
    return folder


def tiny_judges(weights: Path):
    """The judges that `save_tiny_judges` wrote in judges/ of a folder."""
    from hdb.metrics.judges import Judges
    from hdb.metrics.table import JudgeOptions

    folders = {name: str(weights / "judges" / name) for name in ("recognizer", "dino", "clip")}
    return Judges.from_options(JudgeOptions(**folders))
