"""The folder of a run of a config: what of the config separates runs."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from experiments.config import dotted
from experiments.outputs import named_paths
from experiments.tracking import check_mode
from hdb.runs import folder as folders

# What changes how a run goes and not what comes out of it, by last names; of the base a digest is recorded. Then
# beginnings: of what pretraining looks at as it goes, and of what an evaluation draws together, each as if alone.
WAYS = "accelerator checkpoint_every max_minutes memory num_workers output overwrite render_workers val_every".split()
ELSEWHERE = ("wandb.", "base.path", "base.revision", "base.variant", "base.config", "base.check")
LOOKED_AT = (
    "sampling.",
    "judges.",
    "preview_prompts",
    "num_preview",
    "num_val_draws",
    "hypernet.encoder",
)  # in training
AT_ONCE = ("sampling.batch_size", "subjects_per_batch", "num_resamples")


def claim(
    folder: Path,
    config: object,
    *,
    result: str,
    inputs: Mapping[str, str],
    reads: tuple[Path, ...] = (),
    free: tuple[str, ...] = (),
) -> AbstractContextManager[bool]:
    """The folder for a run of this config, as `run_folder` has it: true if an unfinished run is gone on with.

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
    return folders.run_folder(folder, settings | inputs, result=result, reads=named)


def check_folder(folder: Path, config: object) -> None:
    """Raises ValueError if a run of this config cannot write or log there: before networks are read."""
    check_mode(config)
    folders.check_folder(folder, list(named_paths(config)))
