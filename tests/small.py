"""Every command at the size of a toy: tiny networks and photos in a folder, and the words that take seconds."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny import save_tiny_base, save_tiny_encoder, save_tiny_hypernet, save_tiny_judges

YAML = str(Path(__file__).parents[1] / "configs" / "faceworld" / "pretrain.yaml")


def fill(room: Path) -> Path:
    """Writes base, encoder, hypernet, judges, eight photos and two prompts."""
    save_tiny_base(room / "base")
    save_tiny_encoder(room / "encoder")
    save_tiny_hypernet(room / "hypernet", base=room / "base", encoder=room / "encoder")
    save_tiny_judges(room / "judges")
    (room / "photos").mkdir()
    for person in range(8):
        noise = np.random.default_rng(person).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(room / "photos" / f"{person}.png")
    (room / "prompts.txt").write_text("a photo of a [V] face\na [V] face in the snow\n")
    return room


def words(room: Path) -> dict[str, list[str]]:
    """The words of each command, but for its output."""
    base = [f"base.path={room}/base", "accelerator=cpu"]
    faces = ["source=flat", "crop=false", "target=same", f"root={room}/photos", "resolution=32"]
    faces += ["num_identities=4", "num_val_identities=4", "num_test_identities=0"]
    trained = [*base, "lidb.a=4", "lidb.b=3", *(f"faces.{word}" for word in faces)]
    judges = [f"judges.{judge}={room}/judges/{judge}" for judge in ("recognizer", "dino", "clip")]
    net = [f"hypernet.encoder={room}/encoder", "hypernet.width=8", "hypernet.num_heads=2", "hypernet.iterations=2"]
    small = ["num_val_draws=1", "num_preview_identities=2", "sampling.num_inference_steps=2", "gamma=0"]
    ready = [*base, f"hypernet={room}/hypernet", f"encoder={room}/encoder", "finetuning.num_steps=2"]
    ready += ["sampling.num_inference_steps=2"]
    unseen = ["faces.source=flat", "faces.crop=false", f"faces.root={room}/photos", "faces.resolution=64"]
    unseen += ["faces.num_val_identities=0", "faces.num_test_identities=4", f"prompts={room}/prompts.txt"]
    unseen += ["num_identities=4", "num_gallery=4", "num_prompts=2", "num_pictures=1", "num_references=1"]
    unseen += ["methods=[unpersonalized,no_hyper,hyperdreambooth]", "subjects_per_batch=2", "num_resamples=100"]
    return {
        "preoptimize": [*trained, "identities_per_shard=1", "num_steps=2", "faces.views_per_identity=2"],
        "pretrain": [YAML, *trained, *judges, *net, *small, "val_every=1"],
        "personalize": [*ready, f"reference={room}/photos/0.png", "crop=false"],
        "evaluate": [*ready, *unseen, *judges],
        "prepare": ["source=flat", f"root={room}/photos", "resolution=32", "num_workers=0", "identities_per_shard=1"],
        "base": ["parts=[encoder]", "encoder.steps=6", "num_workers=0", "num_identities=2", "views_per_identity=2"],
    }
