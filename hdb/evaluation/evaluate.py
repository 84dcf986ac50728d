"""An evaluation: every method personalizes, draws and is scored on the same unseen people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.people import ProtocolOptions, Unseen
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.scores import Answers, Panel, scored
from hdb.evaluation.sheet import comparison
from hdb.evaluation.subjects import personalize_everybody
from hdb.evaluation.summary import summarize
from hdb.evaluation.tables import Table, all_tables
from hdb.methods.protocol import Method
from hdb.methods.table import OURS, SCALE
from hdb.training.ranks import continue_on_rank_zero, rank_shard, world_size


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: results.json, and the pictures that it comes from."""

    results: dict[str, Any]
    pictures: Pictures

    @property
    def tables(self) -> list[Table]:
        return all_tables(self.results)

    @property
    def grid(self) -> Image.Image:
        """People beside what ours drew of them and, where there is one, the true answer."""
        beside = [end for end in reversed(SCALE) if end in self.results["methods"]]
        return comparison(self.pictures, methods=[OURS, *beside[:1]])


def evaluate(
    methods: Sequence[Method],
    people: Unseen,
    prompts: list[str],
    panel: Panel,
    *,
    folder: Path,
    options: ProtocolOptions,
    sampling: SamplingOptions,
    seed: int = 0,
) -> Outcome:
    """Writes subjects/, images/ and manifest.jsonl under `folder`; what is there already is kept.

    All people are personalized before the first picture. Then method by method and person by person pictures are drawn
    and scored as they come: what is kept in memory does not grow with their number. Several processes share people;
    once all pictures are drawn the first goes on alone.

    Args:
        methods: ours among them.
        panel: of the same prompts.
    """
    at_once = options.subjects_per_batch
    made = {of.name: personalize_everybody(of, people.photos, folder, at_once=at_once) for of in methods}
    pictures = Pictures(people, prompts, folder, num_pictures=options.num_pictures, seed=seed)
    if world_size() > 1:
        for name, (personalization, _) in made.items():
            drawing = {"people": rank_shard(range(len(people.names))), "sampling": options.sampling_of(name, sampling)}
            pictures.draw(name, personalization, **drawing)
        continue_on_rank_zero()
    answers = Answers(panel, people)
    per_method = {
        name: scored(pictures.drawn(name, of, sampling=options.sampling_of(name, sampling)), panel, answers)
        for name, (of, _) in made.items()
    }
    protocol = {
        "identities": people.names,
        "prompts": prompts,
        "images": options.num_pictures,
        "seed": seed,
        "references": options.num_references,
        "gallery": len(answers.gallery),
        "subjects_per_batch": at_once,
        "sampling": asdict(sampling),
        "without_identity_guidance": options.without_identity_guidance,
    }
    costs = {name: cost for name, (_, cost) in made.items()}
    summary = summarize(per_method, costs, num_resamples=options.num_resamples, seed=seed)
    return Outcome({"protocol": protocol, **summary}, pictures)
