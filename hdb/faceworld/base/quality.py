"""Measures of the base's networks."""

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

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sampling import draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.captions import parse
from hdb.metrics.networks import AttributeClassifier
from hdb.metrics.similarity import ImageEmbedder


@torch.no_grad()
def reconstruction(
    base: StableDiffusion, images: Float[Tensor, "n 3 h w"], *, batch_size: int = 32
) -> dict[str, float]:
    """PSNR in dB, averaged over pictures, and SSIM of the autoencoder's reconstructions."""
    decoded = torch.cat([base.decode_latents(base.encode_images(part)) for part in images.split(batch_size)]).to(images)
    psnr = peak_signal_noise_ratio(decoded, images, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    return {"psnr": float(psnr), "ssim": float(structural_similarity_index_measure(decoded, images, data_range=1.0))}


def verification(vectors: Float[Tensor, "people views d"]) -> dict[str, float]:
    """How well unit vectors tell people apart.

    Returns:
        `auc` of all pairs of pictures; `tar_at_1_far`, the share of pairs of one person above the threshold that 1 % of
        the pairs of different people pass; `rank_1`, the share of people whose last view is nearest to their own first
        view; `same` and `different`, mean similarities.
    """
    people, views, d = vectors.shape
    flat = vectors.reshape(-1, d)
    identities = torch.arange(people).repeat_interleave(views)
    first, second = torch.triu_indices(len(flat), len(flat), 1)
    similarity = (flat @ flat.T)[first, second]
    same = (identities[first] == identities[second]).long()
    false_accepts, true_accepts, _ = binary_roc((similarity + 1) / 2, same)
    nearest = (vectors[:, -1] @ vectors[:, 0].T).argmax(1)
    return {
        "auc": float(binary_auroc((similarity + 1) / 2, same)),
        "tar_at_1_far": float(true_accepts[(false_accepts <= 0.01)].max()),
        "rank_1": float((nearest == torch.arange(people)).float().mean()),
        "same": float(similarity[same == 1].mean()),
        "different": float(similarity[same == 0].mean()),
    }


def distance_correlation(vectors: Float[Tensor, "people d"], shapes: Float[np.ndarray, "people p"]) -> float:
    """Spearman correlation of the distances between people by an embedding with those between their true shapes."""
    unit = F.normalize(vectors, dim=1)
    embedding_distances = 1 - unit @ unit.T
    shape_distances = torch.cdist(torch.from_numpy(shapes), torch.from_numpy(shapes))
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    return float(spearman_corrcoef(embedding_distances[first, second], shape_distances[first, second]))


def attribute_accuracy(
    classifier: AttributeClassifier, images: Float[Tensor, "n 3 h w"], labels: Sequence[dict[str, str]]
) -> dict[str, float]:
    """Share of pictures in which the classifier sees what their labels name: style, context, accessory, expression."""
    answers = classifier.predict(images)
    accuracies = {}
    for question in labels[0]:
        hits = [answer == label[question] for answer, label in zip(answers[question], labels, strict=True)]
        accuracies[question] = sum(hits) / len(labels)
    return accuracies


def generate(
    base: StableDiffusion,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 32,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 20,
) -> Float[Tensor, "n 3 h w"]:
    """One picture per prompt by the base alone, on the CPU."""
    sampling = SamplingOptions(num_inference_steps, guidance_scale)
    pictures = []
    for start in range(0, len(prompts), batch_size):
        part = list(prompts[start : start + batch_size])
        pictures.append(draw(base, part, seeds=range(seed + start, seed + start + len(part)), sampling=sampling))
    return torch.cat(pictures)


@torch.no_grad()
def clean_predictions(
    base: StableDiffusion,
    images: Float[Tensor, "n 3 h w"],
    prompts: Sequence[str],
    *,
    timestep: int,
    seed: int = 0,
    batch_size: int = 32,
) -> Float[Tensor, "n 3 h w"]:
    """What the denoiser takes noisy pictures for, decoded."""
    generator = torch.Generator().manual_seed(seed)
    decoded = []
    for start in range(0, len(images), batch_size):
        latents = base.encode_images(images[start : start + batch_size])
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        noisy_latents = base.add_noise(latents, noise, timesteps)
        condition = base.encode_prompts(prompts[start : start + batch_size])
        noise_pred = base.predict_noise(noisy_latents, timesteps, condition)
        decoded.append(base.decode_latents(base.predict_clean(noisy_latents, noise_pred, timesteps)))
    return torch.cat(decoded).to(images)


def sharpness(images: Float[Tensor, "n 3 h w"], renders: Float[Tensor, "m 3 h w"]) -> dict[str, float]:
    """The energy of the luminance's details, over that in renders: 1 for as sharp, less for softer.

    Returns:
        `medium` of 0.12 to 0.25 cycles a pixel, `high` of 0.25 to 0.5.
    """
    energies = [_detail_energies(pictures) for pictures in (images, renders)]
    return {name: energies[0][name] / energies[1][name] for name in energies[0]}


def _detail_energies(images: Float[Tensor, "n 3 h w"]) -> dict[str, float]:
    luminance = torch.einsum("c,nchw->nhw", images.new_tensor([0.299, 0.587, 0.114]), images)
    height, width = luminance.shape[1:]
    window = torch.outer(torch.hann_window(height), torch.hann_window(width)).to(luminance)
    spectrum = torch.fft.fft2((luminance - luminance.mean((1, 2), keepdim=True)) * window).abs().square().mean(0)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]).to(luminance)
    bands = {"medium": (0.12, 0.25), "high": (0.25, 0.5)}
    return {name: float(spectrum[(frequency >= low) & (frequency < high)].sum()) for name, (low, high) in bands.items()}


def prompt_labels(prompts: Sequence[str]) -> list[dict[str, str]]:
    """The labels that each prompt asks for."""
    return [parse(prompt)._asdict() for prompt in prompts]


def novelty(
    generated: Float[Tensor, "n d"], unseen: Float[Tensor, "m d"], training: Float[Tensor, "k d"]
) -> dict[str, float]:
    """Whether faces that the base generates are new and diverse, compared with renders of unseen people.

    Returns:
        `distance_ratio`, the median distance of a generated face to the nearest training person, over that of an unseen
        person; `spread_ratio`, the median distance of two generated faces, over that of two unseen people. Both are
        about 1 for new and diverse faces.
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


def embed_views(
    embedder: ImageEmbedder, images: Float[Tensor, "people views 3 h w"]
) -> Float[Tensor, "people views d"]:
    """Embeddings of all views of all people."""
    return embedder.embed_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def detect_faces(detector: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Bool[np.ndarray, " n"]:
    """Whether MTCNN finds a face in each picture, enlarged to 256 px because it misses faces below 20 px."""
    large = F.interpolate(images, scale_factor=256 / images.shape[-1], mode="bicubic").clamp(0, 1)
    boxes, _ = detector.detect((large * 255).round().permute(0, 2, 3, 1).cpu().numpy())
    return np.array([box is not None for box in boxes])
