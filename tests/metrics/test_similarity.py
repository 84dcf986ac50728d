"""The metric of two embeddings: its means over pictures, people and processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from hdb.metrics.similarity import EmbeddingMetric, cosine_similarity

PEOPLE = torch.tensor([0, 1, 2, 0, 1, 0, 2])


def vectors(num: int, seed: int) -> Tensor:
    """Unit vectors."""
    return torch.nn.functional.normalize(torch.randn(num, 8, generator=torch.Generator().manual_seed(seed)))


def test_other_numbers_of_references_are_refused():
    with pytest.raises(ValueError, match="5 generated pictures and 2 references: expected as many, or 1"):
        cosine_similarity(torch.ones(5, 3), torch.ones(2, 3))


def test_the_metric_is_the_mean_of_cosines_over_unequal_batches():
    generated, references = vectors(7, 0), vectors(7, 1)
    metric = EmbeddingMetric()
    for batch in (slice(0, 5), slice(5, 7)):
        metric.update(generated[batch], references[batch])
    expected = torch.nn.functional.cosine_similarity(generated, references).mean()
    assert metric.compute().item() == pytest.approx(expected.item())


def test_one_reference_serves_for_all():
    generated, reference = vectors(5, 0), vectors(1, 1)
    metric = EmbeddingMetric()
    metric.update(generated, reference)
    expected = torch.nn.functional.cosine_similarity(generated, reference).mean()
    assert metric.compute().item() == pytest.approx(expected.item())


def test_pictures_are_averaged_person_by_person_in_the_order_of_their_numbers():
    generated, references = vectors(6, 0), vectors(6, 1)
    people, cosines = torch.tensor([5, 2, 5, 9, 2, 5]), cosine_similarity(generated, references)
    metric = EmbeddingMetric()
    for batch in (slice(0, 4), slice(4, 6)):
        metric.update(generated[batch], references[batch], people[batch])
    expected = torch.stack([cosines[people == person].mean() for person in (2, 5, 9)])
    assert torch.allclose(metric.per_person(), expected, atol=1e-6)


def test_pictures_without_a_face_score_zero():
    generated = torch.cat([vectors(1, 1).expand(3, -1), torch.zeros(1, 8)])
    metric = EmbeddingMetric()
    metric.update(generated, vectors(1, 1))
    assert metric.compute().item() == pytest.approx(0.75)


def test_another_score_than_the_cosine_is_averaged_alike():
    metric = EmbeddingMetric(lambda first, second: (first - second).norm(dim=1))
    metric.update(torch.eye(2), torch.eye(2)[:1], torch.tensor([4, 3]))
    assert metric.per_person().tolist() == pytest.approx([2**0.5, 0])


def test_a_metric_puts_nothing_into_checkpoints():
    holder = torch.nn.Module()
    holder.metric = EmbeddingMetric()
    holder.metric.update(vectors(2, 0), vectors(2, 1))
    assert not list(holder.parameters()) and not holder.state_dict()


def score_one_share(rank: int, folder: str) -> None:
    """A process of two: one has five pictures of seven, the other two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share = slice(0, 5) if rank == 0 else slice(5, 7)
    metric = EmbeddingMetric()
    metric.update(vectors(7, 0)[share], vectors(7, 1)[share], PEOPLE[share])
    mean = metric.compute()
    metric.sync()
    torch.save(torch.cat([mean[None], metric.per_person()]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path):
    # Forked, not spawned: a fresh process would spend ten times the test's time on importing torch.
    mp.start_processes(score_one_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    cosines = cosine_similarity(vectors(7, 0), vectors(7, 1))
    people = [cosines[PEOPLE == person].mean() for person in range(3)]
    expected = torch.stack([cosines.mean(), *people])
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected, atol=1e-6)
