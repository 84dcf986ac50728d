"""What several tests share: tiny weights in a folder, and the experiments called as a user calls them."""

import copy
import gc
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

CONFIGS = Path(__file__).parents[1] / "configs" / "faceworld"
gc.disable()  # until everything is imported, see below
# A file is one process's, and the last ones to begin must be short for all processes to end together.
LONGEST_FILES = ["demo", "ranks", "end_to_end", "sweeps", "docs", "soak", "benchmark", "refusals", "ablate", "methods"]
LONGEST_FILES += ["wheel", "prepare", "signals", "precision", "pipeline_api", "search", "people", "base", "pretrain"]


def pytest_collection_modifyitems(config, items):
    """The longest files come first. Tests that need a GPU are there where one is."""
    import torch  # not above: the process that deals the tests out imports no network

    gc.freeze()  # a search for garbage among all that is imported takes half a second
    gc.enable()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    places = {f"test_{name}": place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """Folder of a tiny Stable Diffusion: 64 px, 8x8 latents."""
    from tiny import save_tiny_base

    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory) -> Path:
    """Folder of a tiny Stable Diffusion XL: 64 px, 8x8 latents."""
    from tiny import save_tiny_sdxl

    return save_tiny_sdxl(tmp_path_factory.mktemp("tiny-sdxl") / "base")


@pytest.fixture(scope="session")
def loaded_tiny_base(tiny_base):
    """That base as it is read, to be copied."""
    from hdb.diffusion.stable_diffusion import StableDiffusion

    return StableDiffusion.from_pretrained(tiny_base)


@pytest.fixture
def tiny_diffusion(loaded_tiny_base):
    """A fresh copy for each test, which may put LiDB layers into it; made in a third of the time that reading takes."""
    return copy.deepcopy(loaded_tiny_base)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, tiny_base) -> Path:
    """A folder with base/, encoder/, hypernet/ and judges/ of random weights, and data/ for rendered pictures."""
    from tiny import save_tiny_encoder, save_tiny_hypernet, save_tiny_judges

    folder = tmp_path_factory.mktemp("weights")
    (folder / "base").symlink_to(tiny_base)
    save_tiny_encoder(folder / "encoder")
    save_tiny_hypernet(folder / "hypernet", base=tiny_base, encoder=folder / "encoder")
    save_tiny_judges(folder / "judges")
    return folder


@pytest.fixture
def tiny_words(tiny_weights) -> dict[str, list[str]]:
    """Tiny settings of each experiment."""
    base = [f"base.path={tiny_weights}/base", "accelerator=cpu"]
    common = [*base, "sampling.num_inference_steps=2"]
    lidb = ["lidb.a=4", "lidb.b=3"]
    people = [
        "resolution=32",
        "num_identities=3",
        "num_val_identities=2",
        "views_per_identity=4",
        "render_workers=0",
    ]
    faces = [f"faces.{word}" for word in (*people, f"root={tiny_weights}/data")]
    judges = [f"judges.{judge}={tiny_weights}/judges/{judge}" for judge in ("recognizer", "dino", "clip")]
    encoder, few = f"encoder={tiny_weights}/encoder", "finetuning.num_steps=2"
    baselines = [f"methods.{name}.num_steps=2" for name in ("lora_dreambooth", "textual_inversion")]
    for name in ("dreambooth", "dreambooth_agg1", "dreambooth_agg2"):
        baselines += [f"methods.{name}.num_steps=2", f"methods.{name}.num_class_pictures=2"]
    protocol = ["prompts=prompts.txt", "num_identities=3", "num_references=2", "num_prompts=2", "num_pictures=2"]
    protocol += ["subjects_per_batch=2"]
    unseen = [*judges, encoder, f"methods.{few}", *baselines, *(f"protocol.{word}" for word in protocol)]
    unseen += ["faces.resolution=32", "faces.render_workers=0", f"faces.root={tiny_weights}/data"]
    few_methods = "methods.names=[unpersonalized,only_hyper,no_hyper,hyperdreambooth,oracle]"  # those of theta
    return {
        "preoptimize": [*base, *lidb, *faces, "identities_per_shard=2", "num_steps=2", "checkpoint_every=1"],
        "pretrain": [
            *base,
            "preview.sampling.num_inference_steps=2",
            *lidb,
            *faces,
            "faces.batch_size=2",
            *judges,
            f"hypernet.{encoder}",
            "hypernet.width=8",
            "hypernet.num_heads=2",
        ]
        + ["hypernet.iterations=2", "schedule.max_steps=4", "schedule.val_every=4", "schedule.checkpoint_every=1"]
        + ["num_val_draws=1", "preview.num_identities=2"],
        "personalize": [*common, encoder, few],
        "evaluate": [*common, *unseen, few_methods, f"judges.classifier={tiny_weights}/judges/classifier"],
        "search": [*common, *unseen],
        "gate": [
            *common,
            encoder,
            few,
            "faces.resolution=64",
            "faces.render_workers=0",
            f"faces.root={tiny_weights}/data",
        ],
        "generate": common,
    }


@pytest.fixture
def call(tiny_words, tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs an experiment in an empty folder with tiny settings, and returns its exit code."""
    from experiments.cli import execute

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    # Drawing person 2200 draws everyone before them first, to tell twins: seconds that no test is about.
    splits = {"train": range(20), "val": range(20, 30), "test": range(30, 40)}
    monkeypatch.setattr("hdb.faceworld.people.SPLITS", splits)
    handler = signal.getsignal(signal.SIGINT)
    (tmp_path / "prompts.txt").write_text("a photo of a [V] face\na [V] face in the snow, oil painting\n")

    def run(experiment: ModuleType, *more: str) -> int:
        name = experiment.__name__.rpartition(".")[2]
        yaml = [str(CONFIGS / f"{name}.yaml")] if name in tiny_words else []
        try:
            return execute(experiment.main, [*yaml, *tiny_words.get(name, []), *more])
        finally:
            signal.signal(signal.SIGINT, handler)  # Trainer ignores further Ctrl-C after one

    return run
