"""Tiny networks and photos in a folder, and arguments with which every command runs on them within seconds."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny import save_tiny_base, save_tiny_encoder, save_tiny_hypernet, save_tiny_judges

YAML = str(Path(__file__).parents[1] / "configs" / "faceworld" / "pretrain.yaml")


def write_inputs(folder: Path) -> Path:
    """Writes base, encoder, hypernet, judges, eight photos and two prompts."""
    save_tiny_base(folder / "base")
    save_tiny_encoder(folder / "encoder")
    save_tiny_hypernet(folder / "hypernet", base=folder / "base", encoder=folder / "encoder")
    save_tiny_judges(folder / "judges")
    (folder / "photos").mkdir()
    for person in range(8):
        noise = np.random.default_rng(person).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"{person}.png")
    (folder / "prompts.txt").write_text("a photo of a [V] face\na [V] face in the snow\n")
    return folder


def command_arguments(folder: Path) -> dict[str, list[str]]:
    """{command: its arguments without the output}."""
    base = [f"base.path={folder}/base", "accelerator=cpu"]
    faces = ["source=flat", "crop=false", "target=same", f"root={folder}/photos", "resolution=32"]
    faces += ["num_identities=4", "num_val_identities=4", "num_test_identities=0"]
    trained = [*base, "lidb.a=4", "lidb.b=3", *(f"faces.{word}" for word in faces)]
    judges = [f"judges.{judge}={folder}/judges/{judge}" for judge in ("recognizer", "dino", "clip")]
    hypernet = [
        f"hypernet.encoder={folder}/encoder",
        "hypernet.width=8",
        "hypernet.num_heads=2",
        "hypernet.iterations=2",
    ]
    schedule = ["num_val_draws=1", "preview.num_identities=2", "preview.sampling.num_inference_steps=2", "gamma=0"]
    pretrained = [*base, f"hypernet={folder}/hypernet", f"encoder={folder}/encoder"]
    pretrained += ["sampling.num_inference_steps=2"]
    evaluation = ["faces.source=flat", "faces.crop=false", f"faces.root={folder}/photos", "faces.resolution=64"]
    evaluation += ["faces.num_val_identities=0", "faces.num_test_identities=4"]
    protocol = ["num_identities=4", "num_gallery=4", "num_prompts=2", "num_pictures=1", "num_references=1"]
    protocol += ["subjects_per_batch=2", "num_resamples=100", f"prompts={folder}/prompts.txt"]
    evaluation += [f"protocol.{word}" for word in protocol]
    evaluation += ["methods.names=[unpersonalized,no_hyper,hyperdreambooth]", "methods.finetuning.num_steps=2"]
    return {
        "preoptimize": [*trained, "identities_per_shard=1", "num_steps=2", "faces.views_per_identity=2"],
        "pretrain": [YAML, *trained, *judges, *hypernet, *schedule, "schedule.val_every=1"],
        "personalize": [*pretrained, "finetuning.num_steps=2", f"reference={folder}/photos/0.png", "crop=false"],
        "evaluate": [*pretrained, *evaluation, *judges],
        "prepare": ["source=flat", f"root={folder}/photos", "resolution=32", "num_workers=0", "identities_per_shard=1"],
        "base": ["parts=[encoder]", "encoder.steps=6", "num_workers=0", "num_identities=2", "views_per_identity=2"],
    }
