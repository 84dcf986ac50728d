"""The judges an experiment names, and the four scores under them."""

from collections import Counter

import pytest
import torch

from hdb.metrics.judges import JudgeOptions, Judges, Scores

PROMPTS = ["a photo of a face", "a face, oil painting", "a face in the snow", "a photo of a face"]


@pytest.fixture(scope="module")
def judges(tiny_weights) -> Judges:
    return Judges.read(JudgeOptions(*(f"{tiny_weights}/judges/{name}" for name in ("recognizer", "dino", "clip"))))


def pictures(num: int, seed: int) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_scores_are_the_mean_cosines_of_each_judge_over_pictures_and_over_people(judges):
    generated, references, people = pictures(4, 0), pictures(4, 1), torch.tensor([3, 1, 3, 1])
    scores = Scores(judges)
    scores.update(generated[:3], references[:3], PROMPTS[:3], people[:3])
    scores.update(generated[3:], references[3:], PROMPTS[3:], people[3:])
    answers = {
        "face_rec": (judges.recognizer, judges.recognizer.embed_images(references)),
        "dino": (judges.dino, judges.dino.embed_images(references)),
        "clip_i": (judges.clip, judges.clip.embed_images(references)),
        "clip_t": (judges.clip, judges.clip.embed_texts(PROMPTS)),
    }
    means, of_people = scores.compute(), scores.per_person()
    assert list(means) == list(of_people) == list(answers)
    for name, (judge, known) in answers.items():
        expected = (judge.embed_images(generated) * known).sum(1)
        assert means[name].item() == pytest.approx(expected.mean().item(), abs=1e-5)
        by_hand = [expected[people == person].mean().item() for person in (1, 3)]
        assert of_people[name].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_a_picture_is_embedded_once_per_network_and_a_reference_that_was_seen_not_again(judges, monkeypatch):
    calls = Counter()
    for name, judge in judges._asdict().items():
        real = judge.embed_images
        monkeypatch.setattr(
            judge, "embed_images", lambda images, real=real, name=name: (calls.update([name]), real(images))[1]
        )
    known = judges.embed_images(pictures(1, 1))
    Scores(judges).update(pictures(4, 0), known, PROMPTS)
    assert calls == {"recognizer": 2, "dino": 2, "clip": 2}


def test_a_recognizer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no face recognizer in nowhere/judge: expected a folder, or vggface2"):
        Judges.read(JudgeOptions(recognizer="nowhere/judge"))
