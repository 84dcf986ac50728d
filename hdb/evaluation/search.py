"""Which rate a method deserves: settings of it compared on validation people, before anybody is tested."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.people import ProtocolOptions, Unseen
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.scores import Answers, Panel, scored
from hdb.evaluation.subjects import personalize_everybody
from hdb.evaluation.summary import to_json
from hdb.methods.protocol import Method
from hdb.methods.table import METHODS, OURS, methods_named
from hdb.metrics.intervals import bootstrap_ci

CHOSEN_BY = ("face_rec", "clip_t")

Grid = Mapping[str, Sequence[float | int | bool | str]]


def plans(grids: Mapping[str, Grid], methods: Sequence[str] | None) -> dict[str, list[tuple[str, ...]]]:
    """The settings of some methods, or of all that have a grid.

    Raises:
        ValueError: an unknown method, or one without a grid; no method at all; a field of how pictures are drawn.
    """
    chosen = list(grids) if methods is None else methods
    methods_named([OURS, *chosen])
    if not chosen:
        raise ValueError("there is no method to search for, expected at least one in grids")
    if without := [name for name in chosen if not grids.get(name) or not all(grids[name].values())]:
        raise ValueError(f"grids has no field for {without[0]}, expected one at least with its values")
    fields = [field for name in chosen for field in grids[name]]
    if drawing := [field for field in fields if field.startswith(("sampling.", "without_identity_guidance"))]:
        raise ValueError(f"grids has {drawing[0]}, but all settings are drawn alike: expected a search for each value")
    return {name: settings(grids[name]) for name in chosen}


def settings(grid: Grid) -> list[tuple[str, ...]]:
    """Every combination of the values, as words of a command.

    >>> settings({"dreambooth.lr": [1e-5, 1e-4], "dreambooth.num_steps": [40]})
    [('dreambooth.lr=1e-05', 'dreambooth.num_steps=40'), ('dreambooth.lr=0.0001', 'dreambooth.num_steps=40')]
    >>> settings({"k1.basis": ["free"], "k1.stratified": [True, False]})
    [('k1.basis=free', 'k1.stratified=true'), ('k1.basis=free', 'k1.stratified=false')]
    """
    of_field = [[f"{name}={_word(value)}" for value in values] for name, values in grid.items()]
    return list(product(*of_field))


def _word(value: float | int | bool | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"


def named(words: Sequence[str], settings: Mapping[str, object]) -> str:
    """A folder's name for a setting: its words, and a digest of all settings, so that no other one finds its files."""
    content = json.dumps(settings, sort_keys=True, default=str)
    return "-".join([*words, hashlib.sha256(content.encode()).hexdigest()[:8]])


@dataclass(frozen=True)
class Trial:
    """The people, prompts and judges before whom every setting comes."""

    people: Unseen
    prompts: list[str]
    panel: Panel
    options: ProtocolOptions
    sampling: SamplingOptions
    seed: int = 0

    @cached_property
    def answers(self) -> Answers:
        """Embedded once for all settings."""
        return Answers(self.panel, self.people)

    def of(self, method: Method, folder: Path) -> dict[str, Any]:
        """Scores and costs of one method as it is set; files and pictures in `folder` are kept."""
        people, options = self.people, self.options
        made, cost = personalize_everybody(method, people.photos, folder, at_once=options.subjects_per_batch)
        pictures = Pictures(people, self.prompts, folder, num_pictures=options.num_pictures, seed=self.seed)
        sampling = options.sampling_of(method.name, self.sampling)
        scores = scored(pictures.drawn(method.name, made, sampling=sampling), self.panel, self.answers)
        resampling = {"num_samples": options.num_resamples, "seed": self.seed}
        return {name: to_json(bootstrap_ci(scores[name], **resampling)) for name in CHOSEN_BY} | cost

    def compare(
        self, tried: Iterable[tuple[Sequence[str], Method, Path]], *, unpersonalized: Mapping[str, Any], within: float
    ) -> dict[str, Any]:
        """Every setting of a method, and which is chosen; see `choose`.

        Args:
            tried: words of each setting, the method so set, and its folder.
        """
        found = []
        for words, method, folder in tried:
            found.append({"words": words} | self.of(method, folder))
            print(line(method.name, found[-1]))
        chosen = choose(found, unpersonalized=unpersonalized, within=within)
        return {"chosen": chosen, "settings": found, "unpersonalized": unpersonalized, "people": self.people.names}


def searched(folder: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    """What searches in a folder tried: method -> its settings; those that have not been searched for are left out.

    Raises:
        ValueError: a file of a method's name is no search's.
    """
    found = {}
    for name in METHODS:
        if (path := Path(folder) / f"{name}.json").is_file():
            try:
                found[name] = json.loads(path.read_text())["settings"]
                _ = [[setting[score]["mean"] for score in CHOSEN_BY] for setting in found[name]]
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{type(error).__name__} {error}"
                raise ValueError(f"{path} is no search's result ({problem}): expected its settings") from None
    return found


def line(name: str, setting: Mapping[str, Any]) -> str:
    """A setting and what came of it, to be read while the search goes on."""
    scores = ", ".join(f"{score} {setting[score]['mean']:.3f}" for score in CHOSEN_BY)
    return f"{name} {' '.join(setting['words'])}: {scores}, {setting['seconds']:.1f} s"


def choose(found: Sequence[Mapping[str, Any]], *, unpersonalized: Mapping[str, Any], within: float) -> dict[str, Any]:
    """The setting of best face_rec that keeps the prompt, and that of best face_rec alone.

    Args:
        found: `words` of each setting beside its scores.
        unpersonalized: scores of the base as it is.
        within: how far clip_t may fall below the base's.

    Returns:
        `keeps_prompt` (None where no setting does) and `face_rec_alone`, as words.

    >>> def setting(name, face_rec, clip_t):
    ...     return {"words": [name], "face_rec": {"mean": face_rec}, "clip_t": {"mean": clip_t}}
    >>> choose([setting("a", 0.4, 0.7), setting("b", 0.6, 0.5)], unpersonalized=setting("", 0.1, 0.71), within=0.02)
    {'keeps_prompt': ['a'], 'face_rec_alone': ['b']}
    """

    def face_rec(setting: Mapping[str, Any]) -> float:
        return setting["face_rec"]["mean"]

    least = unpersonalized["clip_t"]["mean"] - within
    keeping = max((one for one in found if one["clip_t"]["mean"] >= least), key=face_rec, default=None)
    return {"keeps_prompt": keeping and keeping["words"], "face_rec_alone": max(found, key=face_rec)["words"]}
