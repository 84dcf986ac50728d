"""The folder of a run of a config: what of the config separates runs."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from experiments.config import dotted
from experiments.outputs import named_paths
from experiments.tracking import check_mode
from hdb.runs import folder as folders
from hdb.training.ranks import on_rank_zero

# Settings that change how a run works and not its result. The first list is of last names (`num_workers` of `faces`),
# the others of beginnings.
WAYS = "accelerator best_metric checkpoint_every max_minutes memory num_workers output overwrite render_workers".split()
WAYS += ["devices", "num_nodes", "strategy", "upload", "val_every"]
# A digest of the base is recorded instead of where it lies.
ELSEWHERE = ("wandb.", "base.path", "base.revision", "base.variant", "base.config", "base.check")
# Of pretraining: what its validations look at; the encoder's digest is recorded.
LOOKED_AT = ("sampling.", "judges.", "preview_prompts", "num_preview", "num_val_draws", "hypernet.encoder")
# Of an evaluation: what is drawn together, each picture as if alone, and what is plotted beside its own points.
AT_ONCE = ("sampling.batch_size", "subjects_per_batch", "num_resamples", "searches")


def claim(
    folder: Path,
    config: object,
    *,
    result: str,
    inputs: Mapping[str, str],
    reads: tuple[Path, ...] = (),
    free: tuple[str, ...] = (),
) -> AbstractContextManager[bool]:
    """The folder for a run of this config, as `run_folder` has it: true if an unfinished run is resumed.

    Of several processes the first claims it for all.

    Args:
        inputs: what the run depends on beside its config: digests of networks, say.
        reads: files that it reads beside those that the config names.
        free: further settings, or beginnings of their names, that change nothing of the result.
    """
    settings = {
        key: value
        for key, value in dotted(config).items()
        if key.rpartition(".")[2] not in WAYS and not key.startswith((*ELSEWHERE, *free))
    }
    named = [*named_paths(config), *(("what is read", path) for path in reads)]
    return on_rank_zero(folders.run_folder(folder, settings | inputs, result=result, reads=named))


def check_folder(folder: Path, config: object) -> None:
    """Raises ValueError if a run of this config cannot write or log there: before networks are read."""
    check_mode(config)
    folders.check_folder(folder, list(named_paths(config)))
