"""The list of metrics, and their scores under the judges that it needs."""

from collections import Counter

import pytest
import torch
from tiny import tiny_judges

from hdb.metrics.embedders import EMBEDDERS, EmbedderEntry
from hdb.metrics.judges import Judges, Scores
from hdb.metrics.table import METRICS, JudgeOptions, MetricEntry
from hdb.training.options import METRIC_MODES

PROMPTS = ["a photo of a face", "a face, oil painting", "a face in the snow", "a photo of a face"]


@pytest.fixture(scope="module")
def judges(tiny_weights) -> Judges:
    return tiny_judges(tiny_weights)


def pictures(num: int, seed: int) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_mean_cosines_of_each_judge_over_pictures_and_over_people(judges):
    generated, references, people = pictures(4, 0), pictures(4, 1), torch.tensor([3, 1, 3, 1])
    scores = Scores(judges)
    scores.update(generated[:3], references[:3], PROMPTS[:3], people[:3])
    scores.update(generated[3:], references[3:], PROMPTS[3:], people[3:])
    compared = {
        "face_rec": (judges["recognizer"], judges["recognizer"].embed_images(references)),
        "dino": (judges["dino"], judges["dino"].embed_images(references)),
        "clip_i": (judges["clip"], judges["clip"].embed_images(references)),
        "clip_t": (judges["clip"], judges["clip"].embed_texts(PROMPTS)),
    }
    means, per_person = scores.compute(), scores.per_person()
    assert list(means) == list(per_person) == list(compared)
    for name, (judge, others) in compared.items():
        expected = (judge.embed_images(generated) * others).sum(1)
        assert means[name].item() == pytest.approx(expected.mean().item(), abs=1e-5)
        by_hand = [expected[people == person].mean().item() for person in (1, 3)]
        assert per_person[name].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_one_reference_serves_for_all_and_embeddings_for_pictures(judges):
    generated, reference, prompts = pictures(4, 0), pictures(1, 1), judges.embed_prompts(PROMPTS)
    means = []
    for shown, compared in (
        (generated, reference),
        (judges.embed_images(generated), judges.embed_images(reference)),
        (generated, reference.expand(4, -1, -1, -1)),
    ):
        scores = Scores(judges)
        scores.update(shown, compared, prompts)
        means.append({name: score.item() for name, score in scores.compute().items()})
    assert means[1] == pytest.approx(means[0], abs=1e-6) and means[2] == pytest.approx(means[0], abs=1e-6)


def test_a_picture_is_embedded_once_per_network_and_the_embeddings_of_a_reference_are_used_as_they_are(
    judges, monkeypatch
):
    calls = Counter()
    for name, judge in judges.items():
        real = judge.embed_images
        monkeypatch.setattr(
            judge, "embed_images", lambda images, real=real, name=name: (calls.update([name]), real(images))[1]
        )
    references = judges.embed_images(pictures(1, 1))
    Scores(judges).update(pictures(4, 0), references, PROMPTS)
    assert calls == {"recognizer": 2, "dino": 2, "clip": 2}


def test_a_metric_under_a_network_of_its_own_is_a_line_in_each_list(tiny_weights, monkeypatch):
    class MeanColor(torch.nn.Module):
        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    def distance(generated: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return (generated - references).norm(dim=1)

    monkeypatch.setitem(EMBEDDERS, "color", EmbedderEntry(lambda source: MeanColor(), lambda source: None))
    monkeypatch.setitem(METRICS, "color", MetricEntry("color", score=distance, higher_is_better=False))
    monkeypatch.setattr(JudgeOptions, "color", "", raising=False)
    scores, generated = Scores(tiny_judges(tiny_weights)), pictures(4, 0)
    scores.update(generated, pictures(4, 1), PROMPTS, torch.arange(4))
    means = scores.compute()
    assert list(means) == ["face_rec", "dino", "clip_i", "clip_t", "color"]
    expected = (generated.mean((2, 3)) - pictures(4, 1).mean((2, 3))).norm(dim=1)
    assert scores.per_person()["color"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_network_may_be_the_best_by_every_metric_of_the_list():
    assert {f"val/{name}": entry.mode for name, entry in METRICS.items()}.items() <= METRIC_MODES.items()


def test_a_recognizer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no face recognizer in nowhere/judge: expected a folder, or vggface2"):
        Judges.from_options(JudgeOptions(recognizer="nowhere/judge"))
