"""What the quality gate of a hypernetwork compares people with: python -m experiments.gate configs/faceworld/gate.yaml

Personalizes validation people as a user would be and writes gate.json and gate.safetensors beside the hypernetwork.
split=test writes nothing and says how well the gate tells the best from the worst fifth of test people, by a recognizer
and other photos; with foreign=FOLDER also how well it tells the photos there from those of these people.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import MeasureGate, load
from experiments.inputs import check_networks
from hdb.faces.photo_files import refuse_missing_source

if TYPE_CHECKING:
    from torch import Tensor


def main(argv: list[str]) -> None:
    config = load(MeasureGate, argv)
    check_networks(base=config.base, hypernet=config.hypernet)
    if config.foreign is not None and not Path(config.foreign).is_dir():
        raise ValueError(f"foreign is {config.foreign}, expected a folder of photos")
    refuse_missing_source(config.faces.source, config.faces.root)
    measure_gate(config)


def measure_gate(config: MeasureGate) -> None:
    import torch
    from tqdm.auto import tqdm

    from experiments.people import open_people
    from hdb.evaluation.appearance import KnownAppearances, describe_appearance
    from hdb.evaluation.gate import Gate, GateObservations, compute_auc, observe, recognizer_likeness, separation_auc
    from hdb.evaluation.options import ProtocolOptions
    from hdb.evaluation.people import select_unseen_people
    from hdb.hypernet.trained import check_networks_exist, compute_hypernet_digest, resolve_hypernet_path
    from hdb.methods.context import TrainingContext
    from hdb.metrics.embedders import load_recognizer
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.training.device import select_device

    hypernet_path = resolve_hypernet_path(config.hypernet)
    device = select_device(config.accelerator)
    check_networks_exist(hypernet=hypernet_path, encoder=config.encoder)
    num_people = config.num_identities
    protocol = ProtocolOptions(num_identities=num_people, num_references=4, num_gallery=num_people)
    people = select_unseen_people(open_people(config.faces), protocol, hypernet=hypernet_path, split=config.split)
    pipeline = HyperDreamBoothPipeline.from_pretrained(
        config.base,
        hypernet=hypernet_path,
        encoder=config.encoder,
        device=device,
        memory=config.memory,
        cuda_graph=config.cuda_graph,
        precision=config.precision,
        instance_prompt=config.instance_prompt,
    )
    appearances = describe_appearance(pipeline.hypernet.encoder, people.references.flatten(0, 1))
    appearances = appearances.unflatten(0, people.references.shape[:2])
    if config.foreign is not None:
        known = Gate.load_for(hypernet_path)
        if known is None or known.appearances is None:
            raise ValueError(f"no gate.safetensors is beside {hypernet_path}: expected one, of split=val")
        photos = read_foreign_photos(config.foreign, resolution=pipeline.diffusion.resolution)
        distances = known.appearances.distances(describe_appearance(pipeline.hypernet.encoder, photos))
        own_distances = known.appearances.distances(appearances[:, 0])
        limit = known.appearances.limit
        print(
            f"{len(photos)} foreign photos from those of {num_people} test people: "
            f"AUC {compute_auc(distances, own_distances):.3f}; called foreign are {(distances > limit).sum()} of them "
            f"and {(own_distances > limit).sum()} of the people"
        )
    training = TrainingContext(
        pipeline.personalized,
        prompt=config.instance_prompt,
        trainer={
            "accelerator": config.accelerator,
            "precision": config.precision,
            "enable_progress_bar": False,
        },
        sampling=config.sampling,
        seed=config.seed,
    )
    method = pipeline.method(training, finetuning=config.finetuning)
    recognizer = load_recognizer(config.recognizer).to(device) if config.split == "test" else None
    observations = []
    true_likeness = []  # of each person's pictures to their other photos
    for start in tqdm(range(0, num_people, config.subjects_per_batch), desc="people"):
        photos = people.photos[start : start + config.subjects_per_batch]
        references = people.references[start : start + len(photos)]
        personalization = method.personalize(photos)
        # As `personalize` draws them: the seed grows from prompt to prompt.
        pictures = torch.stack(
            [
                personalization.pictures(
                    [prompt] * len(photos),
                    seeds=[config.seed + number] * len(photos),
                    sampling=config.sampling,
                )
                for number, prompt in enumerate(config.prompts)
            ],
            dim=1,
        )
        observations.append(observe(pipeline.hypernet, photos.images, pictures))
        if recognizer is not None:
            true_likeness.append(recognizer_likeness(recognizer, pictures, references[:, 1:]))
    everybody = GateObservations(*(torch.cat(values) for values in zip(*observations, strict=True)))
    if recognizer is not None:
        auc = separation_auc(everybody.likeness.mean(1), torch.cat(true_likeness))
        print(f"best from worst fifth of {num_people} test people: AUC {auc:.3f}")
    else:
        digest = compute_hypernet_digest(hypernet_path)
        gate = Gate(config.prompts, everybody, digest, KnownAppearances(appearances))
        print(f"{gate.save(hypernet_path)}: {num_people} people, {len(config.prompts)} prompts")


def read_foreign_photos(folder: str, *, resolution: int) -> Tensor:
    """The faces in a folder of photos, (n, 3, r, r); says which photos cannot be used.

    Raises:
        ValueError: there is none.
    """
    import torch

    from hdb.faces.crop import FaceCropper
    from hdb.faces.folders import list_pictures
    from hdb.faces.picture import FaceError

    cropper = FaceCropper(min_size=min(64, resolution // 4))
    faces = []
    for path in list_pictures(folder).pictures:
        try:
            faces.append(cropper.crop(path, resolution=resolution, remarks=[]))
        except FaceError as error:
            print(f"skipped: {error}")
    if not faces:
        raise ValueError(f"foreign is {folder}, expected a folder with a photo of a face")
    return torch.stack(faces)


if __name__ == "__main__":
    run(main)
