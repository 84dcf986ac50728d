"""The folder of a run: the settings that separate one run from another."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from experiments.config import dotted
from experiments.outputs import find_inputs
from experiments.tracking import check_wandb_mode
from hdb.runs import folder as folders
from hdb.training.ranks import on_rank_zero

# Settings that do not separate runs: an unfinished run is resumed although they differ.
# They change how a run works and not its result. Compared with the last part of a name: `num_workers` of `faces`, too.
NOT_IN_RESULT = (
    "accelerator",
    "best_metric",
    "checkpoint_every",
    "cuda_graph",
    "devices",
    "max_minutes",
    "memory",
    "num_nodes",
    "num_workers",
    "output",
    "overwrite",
    "render_workers",
    "strategy",
    "upload",
    "val_every",
)
# Where the log goes and where the base lies. A digest of the base separates runs instead. Compared, as all below, with
# the beginning of a name.
LOCATIONS = ("wandb.", "base.path", "base.revision", "base.variant", "base.config", "base.check")
# Pretraining: only its validations use them. A digest of the encoder separates runs instead of its location.
VALIDATION_ONLY = ("preview.", "judges.", "num_val_draws", "hypernet.encoder")
# Evaluation: sizes of batches, in which each picture is drawn as if alone, and what is plotted beside the results.
BATCHING_AND_PLOTS = ("sampling.batch_size", "protocol.subjects_per_batch", "protocol.num_resamples", "searches")


def claim_run_folder(
    folder: Path,
    config: object,
    *,
    result: str,
    depends_on: Mapping[str, str],
    inputs: Iterable[Path] = (),
    not_in_key: tuple[str, ...] = (),
) -> AbstractContextManager[bool]:
    """The folder for a run of this config, as `run_folder`: gives True if an unfinished run is resumed.

    Of several processes rank zero claims it for all.

    Args:
        result: name of the file that a run writes last.
        depends_on: what the result depends on beside the config, for example digests of networks.
        inputs: files that are read beside those that the config names.
        not_in_key: further settings that do not separate runs, or beginnings of their names.
    """
    settings = {
        name: value
        for name, value in dotted(config).items()
        if name.rpartition(".")[2] not in NOT_IN_RESULT and not name.startswith((*LOCATIONS, *not_in_key))
    }
    return on_rank_zero(
        folders.run_folder(folder, {**settings, **depends_on}, result=result, inputs=find_inputs(config, *inputs))
    )


def check_run_folder(folder: Path, config: object) -> None:
    """Raises ValueError if a run of this config cannot write or log there. Called before networks are read."""
    check_wandb_mode(config)
    folders.check_folder(folder, find_inputs(config))
