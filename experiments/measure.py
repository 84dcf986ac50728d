"""What faceworld's weights reach on people no training saw: python -m experiments.measure configs/faceworld/base.yaml

Writes report.json, REPORT.md, curves.png and samples.png beside the weights; `make base` ends with it. The page shows
subjects.png, an evaluation's grid, where it lies there, and ends with notes.md: what a person has to say of them.
"""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from experiments.base import NETWORKS
from experiments.cli import run
from experiments.config import Pretrain, TrainBase, load
from experiments.curves import curves_sheet
from experiments.networks import trained_hypernet
from experiments.people import faceworld_pictures
from experiments.report import CURVES_FILE, markdown, records
from hdb.diffusion.sampling import picture_grid, save_image
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.datamodule import FaceLoader
from hdb.faces.sources import FaceworldFaces
from hdb.faceworld.captions import caption
from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset
from hdb.faceworld.view import HELD_OUT_PAIRS, sample_nuisances
from hdb.faceworld.world import SPLITS
from hdb.files import write_json, write_text
from hdb.hypernet.encoder import FaceEncoder
from hdb.lidb.adapter import LiDB
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.networks import AttributeClassifier
from hdb.prompts import CLASS_PROMPT, without_identifier
from hdb.training.denoising import Timesteps
from hdb.training.pretrain import HyperNetPretraining
from hdb.worldbase import quality
from hdb.worldbase.views import Views

ROWS, COLUMNS = 10, 20  # of the sheet of the base's own pictures
OWN_FACES = 100  # pictures of nobody, compared with as many people
Numbers = dict[str, float]


def main(argv: list[str]) -> None:
    config = load(TrainBase, argv)
    weights = Path(config.weights)
    trainings = {name: (Path(config.output, name), network) for name, network in NETWORKS.items()}
    trainings["hypernetwork"] = Path(load(Pretrain, [config.pretrain]).output), "hypernet"
    test, train = people(config, "test"), people(config, "train")
    base = StableDiffusion.from_pretrained(weights / "base")
    drawn, prompts = own_pictures(config, base, test)
    measured = judges(weights, test) | pictures(config, base, drawn, prompts, test, train)
    if trained_on(weights / "hypernet", base):
        measured |= hypernetwork(config, base)
    rows = [list(row) for row in drawn[: ROWS * COLUMNS].split(COLUMNS)]
    save_image(picture_grid(rows, tile=config.resolution), weights / "samples.png")
    trained, curves = records(weights, trainings)
    if curves:
        write_text(weights / CURVES_FILE, json.dumps(curves) + "\n")
        save_image(curves_sheet(curves), weights / "curves.png")
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    )
    report = {"resolution": config.resolution, "device": device, "measured": measured, "trained": trained}
    write_json(weights / "report.json", report)
    write_text(weights / "REPORT.md", page := markdown(report, weights))
    print(page)


def people(config: TrainBase, split: str) -> FaceWorldDataset:
    """The first people of a split with as many views as the base was trained on."""
    dataset = FaceWorldDataset(
        config.root,
        indices=SPLITS[split][: config.num_measured],
        views_per_identity=config.views_per_identity,
        resolution=config.resolution,
    )
    dataset.prepare(num_workers=config.num_workers)
    return dataset


def judges(weights: Path, test: FaceWorldDataset) -> dict[str, Numbers]:
    """Recognizer, face encoder, DINO, classifier and CLIP on every view of unseen people."""
    unseen = Views.load(test, seed=1)
    flat = torch.arange(len(unseen))
    images = unseen.pictures(flat)
    per_person = images.unflatten(0, (unseen.identities, -1))
    recognizer, dino = (TimmEmbedder.from_folder(weights / name) for name in ("recognizer", "dino"))
    vectors, alike = quality.embed(recognizer, per_person), quality.embed(dino, per_person)
    shapes = np.stack([test.world.identity(index).shape_vector for index in test.indices])
    encoder = FaceEncoder.from_folder(weights / "encoder").eval()
    with torch.no_grad():
        features = torch.cat([encoder(part).embedding for part in images.split(64)])
    features = F.normalize(features, dim=1).unflatten(0, (unseen.identities, -1))
    labels = [
        {name: known[value] for name, known, value in zip(LABEL_NAMES._fields, LABEL_NAMES, row, strict=True)}
        for row in unseen.labels_of(flat).tolist()
    ]
    clip = ClipEmbedder.from_pretrained(weights / "clip")
    said = [without_identifier(text) for text in unseen.captions_of(flat, torch.Generator().manual_seed(0))]
    seen, read = clip.embed_images(images), clip.embed_texts(said)
    return {
        "recognizer": quality.verification(vectors) | {"spearman": quality.agreement(vectors.mean(1), shapes)},
        "recognizer, plain views": quality.verification(vectors[:, 0::3]),
        "face encoder, plain views": quality.verification(features[:, 0::3]),
        "dino": quality.verification(alike),
        "dino, plain views": quality.verification(alike[:, 0::3]),
        "classifier": quality.attributes(AttributeClassifier.from_folder(weights / "classifier"), images, labels),
        "clip": {
            "own caption": float((seen * read).sum(1).mean()),
            "other": float((seen * read.roll(7, 0)).sum(1).mean()),
        },
    }


def own_pictures(
    config: TrainBase, base: StableDiffusion, test: FaceWorldDataset
) -> tuple[Float[Tensor, "n 3 h w"], list[str]]:
    """What the base draws, unpersonalized, for prompts of the training grammar."""
    views = test.views_per_identity
    picked = np.random.default_rng(config.seed).permutation(len(test) * views)[: config.num_generated]
    prompts = [caption(test.view(*divmod(int(number), views))) for number in picked]
    return quality.generate(base, prompts, seed=config.seed), prompts


def pictures(
    config: TrainBase,
    base: StableDiffusion,
    drawn: Float[Tensor, "n 3 h w"],
    prompts: list[str],
    test: FaceWorldDataset,
    train: FaceWorldDataset,
) -> dict[str, Numbers]:
    """The autoencoder, obedience to prompts in and out of training, and whether the base's faces are its own."""
    weights = Path(config.weights)
    classifier = AttributeClassifier.from_folder(weights / "classifier")
    recognizer = TimmEmbedder.from_folder(weights / "recognizer")
    held_out = [
        caption(sample_nuisances(np.random.default_rng(0)).replace(style=style, context=context))
        for style, context in HELD_OUT_PAIRS
    ] * max(1, config.num_generated // len(HELD_OUT_PAIRS))
    new = quality.attributes(classifier, quality.generate(base, held_out, seed=7000), quality.asked(held_out))
    photos = [number for number, asked in enumerate(quality.asked(prompts)) if asked["style"] == "photo"]
    nobody = quality.generate(base, [CLASS_PROMPT] * OWN_FACES, seed=9000)

    def first_views(dataset: FaceWorldDataset) -> Tensor:
        return recognizer.embed_images(torch.from_numpy(dataset.images[:, 0]).float() / 255)

    some = torch.from_numpy(test.images[: max(1, 256 // test.views_per_identity)]).flatten(0, 1).float() / 255
    return {
        "autoencoder": quality.reconstruction(base, some),
        "base, prompts in training": quality.attributes(classifier, drawn, quality.asked(prompts)),
        "base, held-out pairs": {"style": new["style"], "context": new["context"]},
        "base, photos": {"face found": float(quality.faces_found(MTCNN(), drawn[photos]).mean())},
        "base, own faces": quality.novelty(
            recognizer.embed_images(nobody), first_views(test)[:OWN_FACES], first_views(train)
        ),
    }


def trained_on(hypernet: Path, base: StableDiffusion) -> bool:
    """Whether a hypernetwork lies there and is of this base; `make base` may have made another since."""
    file = hypernet / "config.json"
    if not file.is_file():
        return False
    of = json.loads(file.read_text())["base_digest"]
    if of != base.digest:
        print(f"{hypernet} was trained on base {of}, not on {base.digest}: it is not measured")
    return of == base.digest


def hypernetwork(config: TrainBase, base: StableDiffusion) -> dict[str, Numbers]:
    """The validation of its own training on test identities: denoising under one's own theta less another's.

    Targets, timesteps and draws are those of the YAML `config.pretrain`; people, pictures and weights are `config`'s.
    """
    weights, settings = Path(config.weights), load(Pretrain, [config.pretrain])
    hypernet = trained_hypernet(weights / "hypernet", encoder=str(weights / "encoder"), diffusion=base)
    faces = replace(settings.faces, root=config.root, resolution=config.resolution, render_workers=config.num_workers)
    dataset = faceworld_pictures(faces, indices=list(SPLITS["test"][: config.num_measured]))
    people = FaceworldFaces(dataset, target_views=faces.target, seed=faces.seed)
    lidb = LiDB(unet=base.unet, text_encoder=base.text_encoder, layout=hypernet.layout)
    stage = HyperNetPretraining(
        base,
        lidb,
        hypernet,
        timesteps=Timesteps.named(settings.timesteps),
        num_val_draws=settings.num_val_draws,
        seed=settings.seed,
    )
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    batches = FaceLoader(people, batch_size=faces.batch_size, shuffle=False, seed=settings.seed)
    (scores,) = trainer.validate(stage, batches, verbose=False)
    lidb.detach()
    return {
        "hypernetwork, test identities": {
            "own_minus_other": scores["val/own_minus_other"],
            "ci95": scores["val/own_minus_other_ci95"],
            "own_better": scores["val/own_better"],
        }
    }


if __name__ == "__main__":
    run(main)
