"""Search for the learning rate and other settings of a method, on validation people, before anybody is tested."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.scores import ReferenceEmbeddings, Scorer
from hdb.evaluation.subjects import personalize_people
from hdb.evaluation.summary import to_json
from hdb.methods.protocol import Method
from hdb.methods.table import METHODS, OURS, methods_named
from hdb.metrics.intervals import bootstrap_ci

CHOSEN_BY = ("face_rec", "clip_t")

Grid = Mapping[str, Sequence[float | int | bool | str]]


def plan_settings(grids: Mapping[str, Grid], methods: Sequence[str] | None) -> dict[str, list[tuple[str, ...]]]:
    """Method -> its settings, each as words of a command.

    Args:
        grids: method -> field of the config -> the values to try.
        methods: None takes all that have a grid.

    Raises:
        ValueError: an unknown method, or one without a grid; no method; a field that says how pictures are drawn.
    """
    names = list(grids) if methods is None else list(methods)
    methods_named([OURS, *names])
    if not names:
        raise ValueError("there is no method to search for, expected at least one in grids")
    for name in names:
        if not grids.get(name) or not all(grids[name].values()):
            raise ValueError(f"grids has no field for {name}, expected one at least with its values")
    for field in (field for name in names for field in grids[name]):
        if field.startswith("sampling.") or "identity_guidance_scales" in field:
            raise ValueError(f"grids has {field}, but all settings are drawn alike: expected a search for each value")
    return {name: grid_settings(grids[name]) for name in names}


def grid_settings(grid: Grid) -> list[tuple[str, ...]]:
    """Every combination of the values, as words of a command.

    >>> grid_settings({"dreambooth.lr": [1e-5, 1e-4], "dreambooth.num_steps": [40]})
    [('dreambooth.lr=1e-05', 'dreambooth.num_steps=40'), ('dreambooth.lr=0.0001', 'dreambooth.num_steps=40')]
    >>> grid_settings({"k1.basis": ["free"], "k1.stratified": [True, False]})
    [('k1.basis=free', 'k1.stratified=true'), ('k1.basis=free', 'k1.stratified=false')]
    """
    words = [[f"{name}={_to_word(value)}" for value in values] for name, values in grid.items()]
    return list(product(*words))


def _to_word(value: float | int | bool | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"


def setting_folder_name(words: Sequence[str], settings: Mapping[str, object]) -> str:
    """The name of a setting's folder: its words and a digest of all settings, so that no other setting finds its files.

    Args:
        settings: everything that the result depends on.
    """
    content = json.dumps(settings, sort_keys=True, default=str)
    return "-".join([*words, hashlib.sha256(content.encode()).hexdigest()[:8]])


@dataclass(frozen=True)
class Trial:
    """Scores settings of methods on the same people and prompts.

    Args:
        scorer: with the same prompts, without the identifier.
    """

    people: UnseenPeople
    prompts: list[str]
    scorer: Scorer
    protocol: ProtocolOptions
    sampling: SamplingOptions
    seed: int = 0

    @cached_property
    def references(self) -> ReferenceEmbeddings:
        """Embedded once for all settings."""
        return self.scorer.embed_references(self.people)

    def run(self, method: Method, folder: Path) -> dict[str, Any]:
        """Scores and costs of one method as it is set; files and pictures that are in `folder` are kept."""
        protocol = self.protocol
        personalization, cost = personalize_people(
            method, self.people.photos, folder, batch_size=protocol.subjects_per_batch
        )
        pictures = Pictures(self.people, self.prompts, folder, num_pictures=protocol.num_pictures, seed=self.seed)
        sampling = protocol.sampling_for(method.name, self.sampling)
        batches = pictures.batches(method.name, personalization, sampling=sampling)
        scores = self.scorer.score(batches, self.references)
        means = {
            name: to_json(bootstrap_ci(scores[name], num_samples=protocol.num_resamples, seed=self.seed))
            for name in CHOSEN_BY
        }
        return means | cost

    def compare(
        self,
        settings: Iterable[tuple[Sequence[str], Method, Path]],
        *,
        unpersonalized: Mapping[str, Any],
        within: float,
    ) -> dict[str, Any]:
        """Runs every setting of a method and chooses one; see `choose_setting`.

        Args:
            settings: words of each, the method so set, and its folder.
        """
        outcomes = []
        for words, method, folder in settings:
            outcome = {"words": words} | self.run(method, folder)
            print(setting_line(method.name, outcome))
            outcomes.append(outcome)
        chosen = choose_setting(outcomes, unpersonalized=unpersonalized, within=within)
        return {
            "chosen": chosen,
            "settings": outcomes,
            "unpersonalized": unpersonalized,
            "people": self.people.names,
        }


def read_searches(folder: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    """Method -> the settings that a search in a folder tried; methods that were not searched for are left out.

    Raises:
        ValueError: a file with the name of a method is not a search's.
    """
    searches = {}
    for name in METHODS:
        path = Path(folder) / f"{name}.json"
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text())["settings"]
            for setting in settings:
                _ = [setting[metric]["mean"] for metric in CHOSEN_BY]
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__} {error}"
            raise ValueError(f"{path} is no search's result ({problem}): expected its settings") from None
        searches[name] = settings
    return searches


def setting_line(name: str, setting: Mapping[str, Any]) -> str:
    """A setting and its scores in one line, for the terminal."""
    scores = ", ".join(f"{metric} {setting[metric]['mean']:.3f}" for metric in CHOSEN_BY)
    return f"{name} {' '.join(setting['words'])}: {scores}, {setting['seconds']:.1f} s"


def choose_setting(
    settings: Sequence[Mapping[str, Any]], *, unpersonalized: Mapping[str, Any], within: float
) -> dict[str, Any]:
    """The setting of best face_rec that keeps the prompt, and that of best face_rec alone.

    Args:
        settings: `words` of each setting beside its scores.
        unpersonalized: scores of the base as it is.
        within: how far clip_t may fall below the base's.

    Returns:
        `keeps_prompt` (None where no setting does) and `face_rec_alone`, as words.

    >>> def setting(name, face_rec, clip_t):
    ...     return {"words": [name], "face_rec": {"mean": face_rec}, "clip_t": {"mean": clip_t}}
    >>> settings = [setting("a", 0.4, 0.7), setting("b", 0.6, 0.5)]
    >>> choose_setting(settings, unpersonalized=setting("", 0.1, 0.71), within=0.02)
    {'keeps_prompt': ['a'], 'face_rec_alone': ['b']}
    """

    def face_rec(setting: Mapping[str, Any]) -> float:
        return setting["face_rec"]["mean"]

    min_clip_t = unpersonalized["clip_t"]["mean"] - within
    keeping_prompt = [setting for setting in settings if setting["clip_t"]["mean"] >= min_clip_t]
    keeps_prompt = max(keeping_prompt, key=face_rec)["words"] if keeping_prompt else None
    return {"keeps_prompt": keeps_prompt, "face_rec_alone": max(settings, key=face_rec)["words"]}
