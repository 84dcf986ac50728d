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

from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.evaluate import evaluate
from hdb.evaluation.people import ProtocolOptions, Unseen
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.scores import Answers, Panel, scored
from hdb.evaluation.search import Trial
from hdb.limits import check_limits
from hdb.methods.protocol import Photos
from hdb.methods.table import OURS
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
        self.most.append(sum(of() is not None for of in self.alive))
        self.log.append(f"draw {len(prompts)}")
        drawn = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        batch = torch.stack(drawn)
        self.alive.append(weakref.ref(batch))
        return batch


@pytest.fixture
def judges(tiny_weights) -> Judges:
    return tiny_judges(tiny_weights)


@pytest.fixture
def people() -> Unseen:
    references = torch.rand(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return Unseen(["a", "b", "c"], references, references[:0, 0])


def test_a_person_is_bound_once_for_all_prompts_and_no_picture_outlives_its_batch(judges, people, tmp_path):
    panel, noise = Panel(judges, PROMPTS), Noise([0, 1, 2], [], [], [])
    few = SamplingOptions(num_inference_steps=1, batch_size=4)
    pictures = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
    held = []

    def watched() -> Iterator:
        for batch in pictures.drawn("noise", noise, sampling=few):
            held.append(weakref.ref(batch.pictures))
            gc.collect()
            assert sum(of() is not None for of in held) <= 2
            yield batch

    first = scored(watched(), panel, Answers(panel, people))
    assert noise.log == [f"{word}" for k in range(3) for word in (f"bind {k}", "draw 4", "draw 2", f"free {k}")]
    assert max(noise.most) == 0
    again = scored(pictures.drawn("noise", noise, sampling=few), panel, Answers(panel, people))
    assert len(noise.log) == 12  # all from disk, nobody bound
    assert all((first[name] == again[name]).all() for name in first)


def test_only_what_is_missing_is_drawn(judges, people, tmp_path):
    noise, few = Noise([0, 1, 2], [], [], []), SamplingOptions(num_inference_steps=1, batch_size=2)
    pictures = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
    whole = torch.cat([batch.pictures for batch in pictures.drawn("noise", noise, sampling=few)])
    gone = tmp_path / pictures.path("noise", 1, 2, 0)
    gone.unlink()
    noise.log.clear()
    again = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
    assert torch.equal(torch.cat([batch.pictures for batch in again.drawn("noise", noise, sampling=few)]), whole)
    assert noise.log == ["bind 1", "draw 2", "free 1"]
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 18


def test_a_picture_is_embedded_once_per_network_and_references_once_for_all_methods(judges, people, tmp_path):
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

    panel = Panel(Judges({name: Counting(name) for name in judges}), PROMPTS)
    answers, few = Answers(panel, people), SamplingOptions(num_inference_steps=1, batch_size=5)
    assert counts == {"recognizer": 6 + 3, "dino": 6, "clip": 6}  # references, and the gallery
    for method in ("one", "two"):
        pictures = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
        scored(pictures.drawn(method, Noise([0, 1, 2], [], [], []), sampling=few), panel, answers)
    assert counts == {"recognizer": 9 + 36, "dino": 6 + 36, "clip": 6 + 36}


def test_scores_are_the_mean_cosines_of_a_persons_pictures(judges, people, tmp_path):
    panel, few = Panel(judges, PROMPTS), SamplingOptions(num_inference_steps=1, batch_size=4)
    pictures = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
    found = scored(pictures.drawn("noise", Noise([0, 1, 2], [], [], []), sampling=few), panel, Answers(panel, people))
    texts = judges["clip"].embed_texts(PROMPTS)
    for person in range(3):
        drawn = torch.stack([pictures.read("noise", person, p, k) for p in range(3) for k in range(2)])
        seen, known = judges.embed_images(drawn), judges.embed_images(people.references[person])
        pairs = zip(("face_rec", "dino", "clip_i"), seen.values(), known.values(), strict=True)
        by_hand = {name: float((vectors @ of.T).mean()) for name, vectors, of in pairs}
        by_hand["clip_t"] = float((seen["clip"] * texts.repeat_interleave(2, 0)).sum(1).mean())
        strangers = [other for other in range(3) if other != person]
        theirs = judges["recognizer"].embed_images(people.references[strangers].flatten(0, 1))
        by_hand["others"] = float((seen["recognizer"] @ theirs.T).mean())
        for name, expected in by_hand.items():
            assert found[name][person] == pytest.approx(expected, abs=1e-6)


def test_a_model_of_ones_own_is_read_once_for_all_prompts(tiny_diffusion, tmp_path, monkeypatch, people):
    from hdb.diffusion.weights import named_weights
    from hdb.methods import dreambooth

    weights = {name: value.detach().clone() for name, value in named_weights(tiny_diffusion).items()}
    paths = [tmp_path / f"{name}.safetensors" for name in people.names]
    dreambooth.PersonalModels(tiny_diffusion, [weights] * 3).save(paths, about=[{}] * 3)
    reads, real = [], dreambooth.load_file
    monkeypatch.setattr(dreambooth, "load_file", lambda path: reads.append(path) or real(path))
    models = dreambooth.PersonalModels.read(tiny_diffusion, paths)
    pictures = Pictures(people, PROMPTS, tmp_path, num_pictures=2)
    for _ in pictures.drawn("dreambooth", models, sampling=SamplingOptions(num_inference_steps=1, batch_size=2)):
        pass
    assert reads == paths


class Seen(Noise):
    """A method whose people are noise, too; keeps how they were to be drawn."""

    def __init__(self, name: str) -> None:
        super().__init__([0, 1, 2], [], [], [])
        self.name, self.samplings = name, []

    def personalize(self, photos: Photos) -> "Seen":
        return self

    def __getitem__(self, rows: list[int]) -> "Seen":
        return self

    def pictures(self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions) -> Tensor:
        self.samplings.append(sampling)
        return super().pictures(prompts, seeds=seeds, sampling=sampling)


def test_methods_that_are_the_better_for_it_are_guided_by_the_prompt_alone(judges, people, tmp_path):
    apart = SamplingOptions(num_inference_steps=1, guidance_scale=2.0, identity_guidance_scale=1.5)
    options = ProtocolOptions(num_pictures=1, num_gallery=3, without_identity_guidance=["no_hyper"])
    methods, panel = [Seen("no_hyper"), Seen(OURS)], Panel(judges, PROMPTS)
    evaluate(methods, people, PROMPTS, panel, folder=tmp_path / "all", options=options, sampling=apart)
    alone, ours = (set(map(astuple, method.samplings)) for method in methods)
    assert ours == {astuple(apart)} and alone == {astuple(replace(apart, identity_guidance_scale=None))}
    trial = Trial(people, PROMPTS, panel, options, apart)
    trial.of(again := Seen("no_hyper"), tmp_path / "search")
    assert set(map(astuple, again.samplings)) == alone


def test_what_is_drawn_otherwise_must_be_a_method():
    with pytest.raises(ValueError, match="without_identity_guidance is .'lora'., expected some of unpersonalized, "):
        check_limits(ProtocolOptions(without_identity_guidance=["lora"]))
