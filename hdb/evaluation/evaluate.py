"""An evaluation: every method personalizes, draws and is scored on the same unseen people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.scores import Scorer
from hdb.evaluation.sheet import comparison_sheet
from hdb.evaluation.subjects import personalize_people
from hdb.evaluation.summary import summarize
from hdb.evaluation.tables import Table, all_tables
from hdb.methods.protocol import Method
from hdb.methods.table import OURS, SCALE
from hdb.training.ranks import continue_on_rank_zero, rank_shard, world_size


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: the content of results.json, and the pictures that it comes from."""

    results: dict[str, Any]
    pictures: Pictures

    @property
    def tables(self) -> list[Table]:
        return all_tables(self.results)

    @property
    def grid(self) -> Image.Image:
        """People beside our pictures of them and, if it was evaluated, the oracle's, else the base's."""
        ends = [end for end in reversed(SCALE) if end in self.results["methods"]]
        return comparison_sheet(self.pictures, methods=[OURS, *ends[:1]])


def evaluate(
    methods: Sequence[Method],
    people: UnseenPeople,
    prompts: list[str],
    scorer: Scorer,
    *,
    folder: Path,
    protocol: ProtocolOptions,
    sampling: SamplingOptions,
    seed: int = 0,
) -> Outcome:
    """Writes subjects/, images/ and manifest.jsonl under `folder`; what is there already is kept.

    All people are personalized before the first picture. Then pictures are drawn method by method and person by person,
    and scored as they come, so that memory does not grow with their number. Several processes share the people; once
    all pictures are drawn, the first process goes on alone.

    Args:
        methods: HyperDreamBooth among them.
        scorer: with the same prompts, without the identifier.
    """
    personalizations, costs, samplings = {}, {}, {}
    for method in methods:
        personalizations[method.name], costs[method.name] = personalize_people(
            method, people.photos, folder, batch_size=protocol.subjects_per_batch
        )
        samplings[method.name] = protocol.sampling_for(method.name, sampling)
    pictures = Pictures(people, prompts, folder, num_pictures=protocol.num_pictures, seed=seed)
    if world_size() > 1:
        shard = rank_shard(range(len(people.names)))
        for name, personalization in personalizations.items():
            pictures.draw(name, personalization, people=shard, sampling=samplings[name])
        continue_on_rank_zero()
    references = scorer.embed_references(people)
    per_method = {
        name: scorer.score(pictures.batches(name, personalization, sampling=samplings[name]), references)
        for name, personalization in personalizations.items()
    }
    facts = {
        "identities": people.names,
        "prompts": prompts,
        "images": protocol.num_pictures,
        "seed": seed,
        "references": protocol.num_references,
        "gallery": len(references.gallery),
        "subjects_per_batch": protocol.subjects_per_batch,
        "sampling": asdict(sampling),
        "identity_guidance_scales": protocol.identity_guidance_scales,
    }
    summary = summarize(per_method, costs, num_resamples=protocol.num_resamples, seed=seed)
    return Outcome({"protocol": facts, **summary}, pictures)
