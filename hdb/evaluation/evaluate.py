"""An evaluation: every method personalizes, draws and is scored on the same unseen people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.sheet import save_image
from hdb.evaluation.people import ProtocolOptions, Unseen
from hdb.evaluation.pictures import Pictures, comparison
from hdb.evaluation.scores import Panel, score_pictures
from hdb.evaluation.subjects import personalize_everybody
from hdb.evaluation.tables import paired, shares_table, summarize, table
from hdb.methods.protocol import Method
from hdb.methods.table import OURS, SCALE


class Outcome(NamedTuple):
    """What an evaluation found: results.json, and people beside what was drawn of them."""

    results: dict[str, Any]
    grid: Image.Image

    @property
    def tables(self) -> str:
        """Both tables as text."""
        methods, gallery = self.results["methods"], self.results["protocol"]["gallery"]
        return f"{table(methods)}\n\n{shares_table(methods, gallery=gallery)}"


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
    """Writes subjects/, images/, manifest.jsonl and grid.png under `folder`; goes on with what is there.

    All people are personalized before the first picture. Scores come from the pictures on disk.

    Args:
        methods: ours among them.
        panel: of the same prompts.
    """
    at_once = options.subjects_per_batch
    made = {of.name: personalize_everybody(of, people.photos, folder, at_once=at_once) for of in methods}
    pictures = Pictures(people, prompts, folder, num_pictures=options.num_pictures, seed=seed)
    gallery, per_method = panel.judges.recognizer.embed_images(people.gallery), {}
    for name, (personalization, _) in made.items():
        pictures.draw(name, personalization, sampling=sampling)
        per_method[name] = score_pictures(panel, pictures.read(name), people.references, gallery=gallery)
    resampling = {"num_resamples": options.num_resamples, "seed": seed}
    summary = summarize(per_method, **resampling)
    for name, (_, cost) in made.items():
        summary[name] |= cost
    protocol = {
        "identities": people.names,
        "prompts": prompts,
        "images": options.num_pictures,
        "seed": seed,
        "references": options.num_references,
        "gallery": len(gallery),
        "subjects_per_batch": at_once,
    }
    beside = [end for end in reversed(SCALE) if end in per_method]
    grid = comparison(pictures, methods=[OURS, *beside[:1]])
    save_image(grid, folder / "grid.png")
    return Outcome({"protocol": protocol, "methods": summary, "paired": paired(per_method, **resampling)}, grid)
