"""Pictures are scored as they come: what is kept does not grow with their number."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace

import pytest
import torch
from tiny import tiny_judges
from torch import Tensor, nn

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.weights import named_weights
from hdb.evaluation.evaluate import evaluate
from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import PictureBatch, Pictures
from hdb.evaluation.scores import Scorer
from hdb.evaluation.search import Trial
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.methods import dreambooth
from hdb.methods.protocol import Photos
from hdb.methods.table import OURS
from hdb.methods.theta import PersonalTheta
from hdb.metrics.judges import Judges

PROMPTS = ["a photo of a [V] face", "a [V] face, oil painting", "a [V] face in the snow"]


class Noise:
    """People drawn as white noise; counts the pictures that are still held when new ones are drawn."""

    def __init__(self, people: list[int], log: list[str], alive: list[weakref.ref], most: list[int]) -> None:
        self.people, self.log, self.alive, self.most = people, log, alive, most

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, rows: list[int]) -> "Noise":
        return Noise([self.people[row] for row in rows], self.log, self.alive, self.most)

    @contextmanager
    def bound(self) -> Iterator[None]:
        self.log.append(f"bind {self.people[0]}")
        yield
        self.log.append(f"free {self.people[0]}")

    def pictures(self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions) -> Tensor:
        gc.collect()
        self.most.append(sum(pictures() is not None for pictures in self.alive))
        self.log.append(f"draw {len(prompts)}")
        drawn = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        batch = torch.stack(drawn)
        self.alive.append(weakref.ref(batch))
        return batch


@pytest.fixture
def noise() -> Noise:
    return Noise([0, 1, 2], [], [], [])


@pytest.fixture
def judges(tiny_weights) -> Judges:
    return tiny_judges(tiny_weights)


@pytest.fixture
def people() -> UnseenPeople:
    references = torch.rand(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return UnseenPeople(["a", "b", "c"], references, references[:0, 0])


@pytest.fixture
def pictures(people, tmp_path) -> Pictures:
    return Pictures(people, PROMPTS, tmp_path, num_pictures=2)


def options(*, batch_size: int) -> SamplingOptions:
    return SamplingOptions(num_inference_steps=1, batch_size=batch_size)


def test_a_person_is_bound_once_for_all_prompts_and_no_picture_outlives_its_batch(judges, people, pictures, noise):
    scorer, held = Scorer(judges, PROMPTS), []

    def watched() -> Iterator[PictureBatch]:
        for batch in pictures.batches("noise", noise, sampling=options(batch_size=4)):
            held.append(weakref.ref(batch.pictures))
            gc.collect()
            assert sum(pictures() is not None for pictures in held) <= 2
            yield batch

    references = scorer.embed_references(people)
    first = scorer.score(watched(), references)
    assert noise.log == [f"{word}" for k in range(3) for word in (f"bind {k}", "draw 4", "draw 2", f"free {k}")]
    assert max(noise.most) == 0
    again = scorer.score(pictures.batches("noise", noise, sampling=options(batch_size=4)), references)
    assert len(noise.log) == 12  # all from disk, nobody bound
    assert all((first[name] == again[name]).all() for name in first)


def test_only_what_is_missing_is_drawn(people, pictures, noise, tmp_path):
    def draw(pictures: Pictures) -> Tensor:
        return torch.cat([batch.pictures for batch in pictures.batches("noise", noise, sampling=options(batch_size=2))])

    whole = draw(pictures)
    (tmp_path / pictures.path("noise", 1, 2, 0)).unlink()
    noise.log.clear()
    assert torch.equal(draw(Pictures(people, PROMPTS, tmp_path, num_pictures=2)), whole)
    assert noise.log == ["bind 1", "draw 2", "free 1"]
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 18


def test_a_picture_that_somebody_damaged_is_named(pictures, noise, tmp_path):
    list(pictures.batches("noise", noise, sampling=options(batch_size=2)))
    path = tmp_path / pictures.path("noise", 1, 2, 0)
    for content in (path.read_bytes()[:500], b"no picture", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} cannot be read .*: delete it, and the same command draws it"):
            pictures.read("noise", 1, 2, 0)


def test_a_picture_is_embedded_once_per_network_and_references_once_for_all_methods(judges, people, pictures, noise):
    counts = dict.fromkeys(judges, 0)

    class Counting(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.judge = name, judges[name]

        def embed_images(self, images: Tensor) -> Tensor:
            counts[self.name] += len(images)
            return self.judge.embed_images(images)

        def embed_texts(self, texts: Sequence[str]) -> Tensor:
            return self.judge.embed_texts(texts)

    scorer = Scorer(Judges({name: Counting(name) for name in judges}), PROMPTS)
    references = scorer.embed_references(people)
    assert counts == {"recognizer": 6 + 3, "dino": 6, "clip": 6}  # references, and the gallery
    for method in ("one", "two"):
        scorer.score(pictures.batches(method, noise, sampling=options(batch_size=5)), references)
    assert counts == {"recognizer": 9 + 36, "dino": 6 + 36, "clip": 6 + 36}


def test_scores_are_the_mean_cosines_of_a_persons_pictures(judges, people, pictures, noise):
    scorer = Scorer(judges, PROMPTS)
    batches = pictures.batches("noise", noise, sampling=options(batch_size=4))
    scores = scorer.score(batches, scorer.embed_references(people))
    texts = judges["clip"].embed_texts(PROMPTS)
    for person in range(3):
        drawn = torch.stack([pictures.read("noise", person, p, k) for p in range(3) for k in range(2)])
        generated, references = judges.embed_images(drawn), judges.embed_images(people.references[person])
        by_hand = {}
        for metric, judge in (("face_rec", "recognizer"), ("dino", "dino"), ("clip_i", "clip")):
            by_hand[metric] = float((generated[judge] @ references[judge].T).mean())
        by_hand["clip_t"] = float((generated["clip"] * texts.repeat_interleave(2, 0)).sum(1).mean())
        strangers = [other for other in range(3) if other != person]
        theirs = judges["recognizer"].embed_images(people.references[strangers].flatten(0, 1))
        by_hand["others"] = float((generated["recognizer"] @ theirs.T).mean())
        for name, expected in by_hand.items():
            assert scores[name][person] == pytest.approx(expected, abs=1e-6)


def test_residuals_are_folded_once_for_all_prompts_of_a_person(tiny_diffusion, pictures, monkeypatch):
    personalized = PersonalizedDiffusion(tiny_diffusion, build_layout(tiny_diffusion, LiDBOptions(a=4, b=3)))
    theta = personalized.layout.initial_theta().repeat(3, 1)
    theta += torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    people = PersonalTheta(personalized, Residuals(theta, personalized.layout))
    sampling, folds, fold = options(batch_size=2), [], personalized.lidb._fold
    monkeypatch.setattr(personalized.lidb, "_fold", lambda *args, **kwargs: folds.append(1) or fold(*args, **kwargs))
    batches = list(pictures.batches(OURS, people, sampling=sampling))
    assert len(batches) == 9 and len(folds) == 3
    prompts = [PROMPTS[prompt] for prompt in batches[3].prompts]
    alone = people[[1]].pictures(prompts, seeds=[pictures.seed(1, 0, k) for k in range(2)], sampling=sampling)
    assert torch.equal((alone * 255).round(), (batches[3].pictures * 255).round())


def test_a_model_of_ones_own_is_read_once_for_all_prompts(tiny_diffusion, tmp_path, monkeypatch, people, pictures):
    weights = {name: value.detach().clone() for name, value in named_weights(tiny_diffusion).items()}
    paths = [tmp_path / f"{name}.safetensors" for name in people.names]
    dreambooth.PersonalModels(tiny_diffusion, [weights] * 3).save(paths, about=[{}] * 3)
    reads, real = [], dreambooth.load_file
    monkeypatch.setattr(dreambooth, "load_file", lambda path: reads.append(path) or real(path))
    models = dreambooth.PersonalModels.from_files(tiny_diffusion, paths)
    for _ in pictures.batches("dreambooth", models, sampling=options(batch_size=2)):
        pass
    assert reads == paths


class NoiseMethod(Noise):
    """A method whose people are noise, too; keeps how they were to be drawn."""

    def __init__(self, name: str) -> None:
        super().__init__([0, 1, 2], [], [], [])
        self.name, self.samplings = name, []

    def personalize(self, photos: Photos) -> "NoiseMethod":
        return self

    def __getitem__(self, rows: list[int]) -> "NoiseMethod":
        return self

    def pictures(self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions) -> Tensor:
        self.samplings.append(sampling)
        return super().pictures(prompts, seeds=seeds, sampling=sampling)


def test_methods_have_the_scale_of_identity_guidance_that_is_better_for_them(judges, people, tmp_path):
    guided = SamplingOptions(num_inference_steps=1, guidance_scale=2.0, identity_guidance_scale=1.5)
    protocol = ProtocolOptions(
        num_pictures=1, num_gallery=3, identity_guidance_scales={"no_hyper": None, "only_hyper": 3.0}
    )
    methods = [NoiseMethod("no_hyper"), NoiseMethod("only_hyper"), NoiseMethod(OURS)]
    scorer = Scorer(judges, PROMPTS)
    evaluate(methods, people, PROMPTS, scorer, folder=tmp_path / "all", protocol=protocol, sampling=guided)
    alone, more, ours = (set(map(astuple, method.samplings)) for method in methods)
    assert ours == {astuple(guided)} and alone == {astuple(replace(guided, identity_guidance_scale=None))}
    assert more == {astuple(replace(guided, identity_guidance_scale=3.0))}
    by_prompt = replace(guided, identity_guidance_scale=None)
    assert protocol.sampling_for("only_hyper", by_prompt) == by_prompt  # switched off for all
    trial = Trial(people, PROMPTS, scorer, protocol, guided)
    again = NoiseMethod("no_hyper")
    trial.run(again, tmp_path / "search")
    assert set(map(astuple, again.samplings)) == alone
