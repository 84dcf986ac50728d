"""The folder of a run: gone on with after an interruption, set aside for another run, never overwritten."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml

from experiments.config import Variant, dotted
from hdb.files import write_json, write_text

# Fields that change how a run goes and not what comes out of it.
_NOT_OF_THE_RESULT = ("wandb.", "memory", "faces.render_workers")


def claim(folder: str | Path, config: object, *, result: str, inputs: Mapping[str, str]) -> bool:
    """Makes `folder` ready for a run of this config; true if an unfinished run of the same config is gone on with.

    A folder with a finished run (it holds `result`), or one of other settings, is renamed to folder.1, .2, ...

    Args:
        inputs: what the run depends on beside its config: digests of networks, say.
    """
    folder = Path(folder)
    record = folder / "config.yaml"
    settings = {key: value for key, value in dotted(config).items() if not key.startswith(_NOT_OF_THE_RESULT)}
    settings |= inputs
    if record.is_file():
        earlier = yaml.safe_load(record.read_text())
        for gone in set(earlier) - set(settings):  # a field of an earlier version, which did nothing
            del earlier[gone]
        if not (folder / result).exists() and earlier == settings:
            print(f"going on with the unfinished run in {folder}")
            return True
        number = next(
            number for number in range(1, 100_000) if not folder.with_name(f"{folder.name}.{number}").exists()
        )
        aside = folder.rename(folder.with_name(f"{folder.name}.{number}"))
        print(f"the earlier run in {folder} is now in {aside}")
    write_text(record, yaml.safe_dump(settings, sort_keys=False))
    return False


def claim_variant(place: Path, words: Variant) -> Path:
    """The folder of an ablation's variant.

    Raises:
        ValueError: it was begun with other changes.
    """
    record, now = place / "words.json", asdict(words)
    if record.is_file() and (begun := json.loads(record.read_text())) != now:
        raise ValueError(f"{place} was begun with {begun}, now it is {now}: expected another output or name")
    write_json(record, now)
    return place
