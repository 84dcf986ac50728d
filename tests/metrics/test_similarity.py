"""Scores, their mean over processes, and how sure they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.stats import bootstrap
from torch import Tensor

from hdb.metrics.similarity import (
    ClipImage,
    ClipText,
    DinoScore,
    FaceRec,
    bootstrap_ci,
    cosines,
    image_scores,
    normalized,
    paired_ci,
    text_scores,
)


class ColorEmbedder(torch.nn.Module):
    """Mean color as a unit vector; black has no face. A text is the color it names."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def embed_images(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        return torch.stack([torch.eye(3)[("red", "green", "blue").index(text)] for text in texts])


def pictures(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_scores_are_cosines():
    first, second = pictures(5, 0), pictures(5, 1)
    expected = torch.nn.functional.cosine_similarity(first.mean((2, 3)), second.mean((2, 3)))
    assert torch.allclose(image_scores(ColorEmbedder(), first, second), expected, atol=1e-6)
    alone = torch.stack([image_scores(ColorEmbedder(), first[i : i + 1], second[:1])[0] for i in range(5)])
    assert torch.allclose(image_scores(ColorEmbedder(), first, second[:1]), alone, atol=1e-6)
    reds = first.mean((2, 3))[:, 0] / first.mean((2, 3)).norm(dim=1)
    assert torch.allclose(text_scores(ColorEmbedder(), first, ["red"] * 5), reds, atol=1e-6)


def test_other_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match="5 generated pictures were given 2 answers; expected as many, or 1"):
        cosines(torch.ones(5, 3), torch.ones(2, 3))


@pytest.mark.parametrize("metric", [FaceRec, DinoScore, ClipImage])
def test_metric_is_the_mean_of_scores_over_unequal_batches(metric):
    generated, references = pictures(7, 0), pictures(7, 1)
    mean = metric(ColorEmbedder())
    for part in (slice(0, 5), slice(5, 7)):
        mean.update(generated[part], references[part])
    assert mean.compute().item() == pytest.approx(image_scores(ColorEmbedder(), generated, references).mean().item())


def test_clip_text_compares_pictures_with_prompts():
    colors = torch.eye(3)[:, :, None, None].expand(-1, -1, 4, 4)
    metric = ClipText(ColorEmbedder())
    metric.update(colors, ["red", "green", "red"])
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_pictures_without_a_face_score_zero_and_are_counted():
    generated = torch.cat([torch.ones(3, 3, 4, 4), torch.zeros(1, 3, 4, 4)])
    metric = FaceRec(ColorEmbedder())
    metric.update(generated, torch.ones(1, 3, 4, 4))
    assert metric.compute().item() == pytest.approx(0.75) and metric.share_without_face() == 0.25


def test_a_metric_puts_no_judge_into_checkpoints():
    holder = torch.nn.Module()
    holder.metric = FaceRec(ColorEmbedder())
    assert not list(holder.parameters()) and not holder.state_dict()


def score_one_share(rank: int, folder: str) -> None:
    """A process of two: one has five pictures of seven, the other two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = slice(0, 5) if rank == 0 else slice(5, 7)
    generated = pictures(7, 0)
    generated[6] = 0
    face_rec, clip_text = FaceRec(ColorEmbedder()), ClipText(ColorEmbedder())
    face_rec.update(generated[share], pictures(7, 1)[share])
    clip_text.update(generated[share], ["red", "green", "blue", "red", "red", "blue", "red"][share])
    mean, fit = face_rec.compute(), clip_text.compute()
    face_rec.sync()
    torch.save((mean, fit, torch.tensor(face_rec.share_without_face())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path):
    # Forked, not spawned: a fresh process would spend ten times the test's time on importing torch.
    mp.start_processes(score_one_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    generated = pictures(7, 0)
    generated[6] = 0
    expected = torch.stack(
        [
            image_scores(ColorEmbedder(), generated, pictures(7, 1)).mean(),
            text_scores(ColorEmbedder(), generated, ["red", "green", "blue", "red", "red", "blue", "red"]).mean(),
            torch.tensor(1 / 7),
        ]
    )
    for rank in range(2):
        assert torch.allclose(torch.stack(torch.load(tmp_path / f"{rank}.pt", weights_only=True)), expected, atol=1e-6)


def test_bootstrap_interval_equals_scipy_s():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 40)
    ours = bootstrap_ci(scores, num_samples=20000, seed=1)
    theirs = bootstrap((scores,), np.mean, n_resamples=20000, method="percentile", rng=2).confidence_interval
    assert ours.mean == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=1.5e-3)


def test_bootstrap_is_repeatable_and_narrows_with_more_people():
    scores = np.random.default_rng(0).normal(0.5, 0.1, 400)
    assert bootstrap_ci(scores, seed=3) == bootstrap_ci(scores, seed=3)
    few, many = bootstrap_ci(scores[:25]), bootstrap_ci(scores)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.35)


def test_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    people = rng.normal(0.5, 0.2, 30)  # some people are easier than others, for every method
    better, worse = people + rng.normal(0.05, 0.02, 30), people
    difference = paired_ci(better, worse)
    assert difference.low > 0 and bootstrap_ci(better).low < bootstrap_ci(worse).high
    assert difference.mean == pytest.approx((better - worse).mean())
    with pytest.raises(ValueError, match="got 30 and 29"):
        paired_ci(better, worse[1:])


def test_intervals_of_nothing_or_of_nan_are_refused():
    for scores in ([], [0.5, float("nan")], [[0.5]]):
        with pytest.raises(ValueError, match="finite numbers, one per identity"):
            bootstrap_ci(np.array(scores))


def test_normalized_score_is_0_without_and_1_with_the_true_answer():
    at = [normalized(score, unpersonalized=0.2, oracle=0.7) for score in (0.2, 0.7, 0.45, 0.1)]
    assert at == pytest.approx([0, 1, 0.5, -0.2])
    assert normalized(0.5, unpersonalized=0.3, oracle=0.3) is None
