"""Scores, and their means over pictures, people and processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from hdb.metrics.similarity import ClipImage, ClipText, DinoScore, FaceRec, cosines

PEOPLE = torch.tensor([0, 1, 2, 0, 1, 0, 2])


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


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Of mean colors, by torch."""
    return torch.nn.functional.cosine_similarity(first.mean((2, 3)), second.mean((2, 3)))


def test_other_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match="5 generated pictures were given 2 answers; expected as many, or 1"):
        cosines(torch.ones(5, 3), torch.ones(2, 3))


@pytest.mark.parametrize("metric", [FaceRec, DinoScore, ClipImage])
def test_metric_is_the_mean_of_cosines_over_unequal_batches(metric):
    generated, references = pictures(7, 0), pictures(7, 1)
    mean = metric(ColorEmbedder())
    for part in (slice(0, 5), slice(5, 7)):
        mean.update(generated[part], references[part])
    assert mean.compute().item() == pytest.approx(cosine(generated, references).mean().item())


def test_one_reference_serves_for_all_and_vectors_for_pictures():
    generated, reference, embed = pictures(5, 0), pictures(1, 1), ColorEmbedder().embed_images
    means = []
    for given in ((generated, reference), (embed(generated), embed(reference)), (generated, embed(reference))):
        metric = FaceRec(ColorEmbedder())
        metric.update(*given)
        means.append(metric.compute().item())
    assert means == pytest.approx([cosine(generated, reference.expand(5, -1, -1, -1)).mean().item()] * 3)


def test_pictures_are_averaged_person_by_person_in_the_order_of_their_numbers():
    generated, references = pictures(6, 0), pictures(6, 1)
    people, expected = torch.tensor([5, 2, 5, 9, 2, 5]), cosine(generated, references)
    metric = DinoScore(ColorEmbedder())
    for part in (slice(0, 4), slice(4, 6)):
        metric.update(generated[part], references[part], people[part])
    by_hand = torch.stack([expected[people == person].mean() for person in (2, 5, 9)])
    assert torch.allclose(metric.per_person(), by_hand, atol=1e-6)


def test_clip_text_compares_pictures_with_prompts():
    colors = torch.eye(3)[:, :, None, None].expand(-1, -1, 4, 4)
    metric = ClipText(ColorEmbedder())
    metric.update(colors, ["red", "green", "red"])
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_pictures_without_a_face_score_zero():
    generated = torch.cat([torch.ones(3, 3, 4, 4), torch.zeros(1, 3, 4, 4)])
    metric = FaceRec(ColorEmbedder())
    metric.update(generated, torch.ones(1, 3, 4, 4))
    assert metric.compute().item() == pytest.approx(0.75)


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
    face_rec.update(generated[share], pictures(7, 1)[share], PEOPLE[share])
    clip_text.update(generated[share], ["red", "green", "blue", "red", "red", "blue", "red"][share])
    mean, fit = face_rec.compute(), clip_text.compute()
    face_rec.sync()
    torch.save(torch.cat([mean[None], fit[None], face_rec.per_person()]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path):
    # Forked, not spawned: a fresh process would spend ten times the test's time on importing torch.
    mp.start_processes(score_one_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    generated = pictures(7, 0)
    generated[6] = 0
    of_picture = cosine(generated, pictures(7, 1))
    colors = torch.nn.functional.normalize(generated.mean((2, 3)), dim=1)
    fit = colors[range(7), [0, 1, 2, 0, 0, 2, 0]].mean()
    people = [of_picture[PEOPLE == person].mean() for person in range(3)]
    expected = torch.stack([of_picture.mean(), fit, *people])
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected, atol=1e-6)
