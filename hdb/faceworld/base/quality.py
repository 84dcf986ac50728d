"""What each part of the base reached, measured on people that no training saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, binary_roc
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.regression import spearman_corrcoef

from hdb.diffusion.sampling import SamplingOptions, draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.captions import parse
from hdb.losses import diffusion_loss
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.similarity import ImageEmbedder


@torch.no_grad()
def reconstruction(
    base: StableDiffusion, images: Float[Tensor, "n 3 h w"], *, batch_size: int = 32
) -> dict[str, float]:
    """PSNR in dB (mean over pictures) and SSIM of pictures that went through the autoencoder and back."""
    decoded = torch.cat([base.decode_latents(base.encode_images(part)) for part in images.split(batch_size)]).to(images)
    psnr = peak_signal_noise_ratio(decoded, images, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    return {"psnr": float(psnr), "ssim": float(structural_similarity_index_measure(decoded, images, data_range=1.0))}


@torch.no_grad()
def denoising(
    base: StableDiffusion, images: Float[Tensor, "n 3 h w"], captions: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """The denoising loss of pictures under their captions, at timesteps spread evenly; of all and by quarter of noise.

    The same draws at every call, so two bases of the same latents can be compared. Other latents have other losses.
    """
    generator, losses = torch.Generator().manual_seed(seed), []
    timesteps = (torch.randperm(len(images), generator=generator) + 0.5) / len(images)
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        latents = base.encode_images(images[part])
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        steps = (timesteps[part] * base.num_train_timesteps).long().to(latents.device)
        noisy = base.add_noise(latents, noise, steps)
        noise_pred = base.predict_noise(noisy, steps, base.encode_prompts(list(captions[part])))
        losses.append(diffusion_loss(noise_pred, base.denoising_target(latents, noise, steps), reduction="none").cpu())
    loss, quarter = torch.cat(losses), (timesteps * 4).long()
    return {"loss": float(loss.mean())} | {
        f"{k / 4:.2f} to {(k + 1) / 4:.2f}": float(loss[quarter == k].mean()) for k in range(4)
    }


def verification(vectors: Float[Tensor, "people views d"]) -> dict[str, float]:
    """How well unit vectors tell people apart: every pair of pictures, and the nearest of one picture of each.

    `tar_at_1_far` is the share of same-person pairs above the threshold that 1 % of the pairs of strangers pass;
    `rank_1` the share of last views whose nearest first view, among all people's, is their own.
    """
    people, views, d = vectors.shape
    flat = vectors.reshape(-1, d)
    who = torch.arange(people).repeat_interleave(views)
    first, second = torch.triu_indices(len(flat), len(flat), 1)
    similarity, same = (flat @ flat.T)[first, second], (who[first] == who[second]).long()
    false_accepts, true_accepts, _ = binary_roc((similarity + 1) / 2, same)
    nearest = (vectors[:, -1] @ vectors[:, 0].T).argmax(1)
    return {
        "auc": float(binary_auroc((similarity + 1) / 2, same)),
        "tar_at_1_far": float(true_accepts[(false_accepts <= 0.01)].max()),
        "rank_1": float((nearest == torch.arange(people)).float().mean()),
        "same": float(similarity[same == 1].mean()),
        "different": float(similarity[same == 0].mean()),
    }


def agreement(vectors: Float[Tensor, "people d"], traits: Float[np.ndarray, "people p"]) -> float:
    """Spearman correlation of two kinds of distance between people: of their unit vectors, and of their true shapes."""
    true = torch.cdist(torch.from_numpy(traits), torch.from_numpy(traits))
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    seen = 1 - F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
    return float(spearman_corrcoef(seen[first, second], true[first, second]))


def attributes(
    classifier: AttributeClassifier, images: Float[Tensor, "n 3 h w"], labels: Sequence[dict[str, str]]
) -> dict[str, float]:
    """Share of pictures in which the classifier sees the style, context, accessory and expression they should have."""
    answers = classifier.predict(images)
    return {
        question: sum(given == right[question] for given, right in zip(answers[question], labels, strict=True))
        / len(labels)
        for question in answers
    }


def generate(
    base: StableDiffusion,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 32,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 20,
) -> Float[Tensor, "n 3 h w"]:
    """One picture per prompt, without any personal weights, on the CPU."""
    pictures, sampling = [], SamplingOptions(num_inference_steps, guidance_scale)
    for start in range(0, len(prompts), batch_size):
        part = list(prompts[start : start + batch_size])
        pictures.append(draw(base, part, seeds=range(seed + start, seed + start + len(part)), sampling=sampling))
    return torch.cat(pictures)


def asked(prompts: Sequence[str]) -> list[dict[str, str]]:
    """What each prompt asks for, as `attributes` takes it."""
    return [parse(prompt)._asdict() for prompt in prompts]


def novelty(
    generated: Float[Tensor, "n d"], unseen: Float[Tensor, "m d"], training: Float[Tensor, "k d"]
) -> dict[str, float]:
    """Are the base's own faces new, and as different from each other as people are? Both 1 where they are.

    `distance_ratio`: median distance of a generated face to the nearest training person, over that of renders of
    unseen people. `spread_ratio`: median distance of two generated faces, over that of two unseen people.
    """

    def nearest(vectors: Tensor) -> Tensor:
        return (1 - (vectors @ training.T).amax(1)).median()

    def spread(vectors: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(vectors), len(vectors), 1)
        return (1 - (vectors @ vectors.T)[first, second]).median()

    return {
        "distance_ratio": float(nearest(generated) / nearest(unseen)),
        "spread_ratio": float(spread(generated) / spread(unseen)),
    }


def embed(embedder: ImageEmbedder, images: Float[Tensor, "people views 3 h w"]) -> Float[Tensor, "people views d"]:
    """Vectors of every person's views."""
    return embedder.embed_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def faces_found(detector: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Bool[np.ndarray, " n"]:
    """In which pictures MTCNN finds a face, at four times their size: it wants faces of 20 px and more."""
    large = F.interpolate(images, scale_factor=256 / images.shape[-1], mode="bicubic").clamp(0, 1)
    boxes, _ = detector.detect((large * 255).round().permute(0, 2, 3, 1).cpu().numpy())
    return np.array([found is not None for found in boxes])
