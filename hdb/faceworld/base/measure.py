"""What faceworld's weights reach on people no training saw, and the report of it beside them."""

import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sheet import picture_grid, save_image
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.datamodule import FaceLoader
from hdb.faces.people import PeopleOptions
from hdb.faceworld.base import quality
from hdb.faceworld.base.report import CURVES_FILE, markdown, records
from hdb.faceworld.base.trainings import NETWORKS, WorldBaseOptions
from hdb.faceworld.base.views import Views
from hdb.faceworld.captions import caption
from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset
from hdb.faceworld.people import FaceworldFaces, rendered_people
from hdb.faceworld.view import HELD_OUT_PAIRS, sample_nuisances
from hdb.faceworld.world import SPLITS
from hdb.files import write_json, write_text
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.trained import load_hypernet
from hdb.limits import number_field
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.judges import load_classifier
from hdb.prompts import CLASS_PROMPT, remove_identifier
from hdb.training.curves import curves_sheet
from hdb.training.device import select_device
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.pretraining_options import PretrainingOptions

ROWS, COLUMNS = 10, 20  # of the sheet of the base's own pictures
OWN_FACES = 100  # pictures of nobody, compared with as many people
Numbers = dict[str, float]


@dataclass
class MeasureOptions(WorldBaseOptions):
    """What is measured beside what was trained: on so many people, so many of the base's own pictures."""

    num_measured: int = number_field(200, ge=1)
    num_generated: int = number_field(600, ge=1)


@dataclass(frozen=True)
class HypernetTraining:
    """How a hypernetwork was trained, and where its training lies."""

    folder: Path
    faces: PeopleOptions
    batch_size: int
    options: PretrainingOptions
    seed: int


def measure(options: MeasureOptions, training: HypernetTraining) -> str:
    """Writes report.json, REPORT.md, curves.png and samples.png beside the weights; returns the page."""
    weights = Path(options.weights)
    trainings = {name: (Path(options.output, name), network) for name, network in NETWORKS.items()}
    trainings["hypernetwork"] = training.folder, "hypernet"
    device = select_device(options.accelerator)
    base = StableDiffusion.from_pretrained(weights / "base").to(device)  # before people are rendered for it
    test, train = people(options, "test"), people(options, "train")
    drawn, prompts = own_pictures(options, base, test)
    measured = judges(weights, test, device) | pictures(options, base, drawn, prompts, test, train, device)
    if trained_on(weights / "hypernet", base):
        measured |= hypernetwork(options, base, training)
    rows = [list(row) for row in drawn[: ROWS * COLUMNS].split(COLUMNS)]
    save_image(picture_grid(rows, tile=options.resolution), weights / "samples.png")
    trained, curves = records(weights, trainings)
    if curves:
        write_text(weights / CURVES_FILE, json.dumps(curves) + "\n")
        save_image(curves_sheet(curves), weights / "curves.png")
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cores
    report = {"resolution": options.resolution, "device": machine, "measured": measured, "trained": trained}
    write_json(weights / "report.json", report)
    write_text(weights / "REPORT.md", page := markdown(report, weights))
    return page


def people(options: MeasureOptions, split: str) -> FaceWorldDataset:
    """The first people of a split with as many views as the base was trained on."""
    dataset = FaceWorldDataset(
        options.root,
        indices=SPLITS[split][: options.num_measured],
        views_per_identity=options.views_per_identity,
        resolution=options.resolution,
    )
    dataset.prepare(num_workers=options.num_workers)
    return dataset


def judges(weights: Path, test: FaceWorldDataset, device: torch.device) -> dict[str, Numbers]:
    """Recognizer, face encoder, DINO, classifier and CLIP on every view of unseen people."""
    unseen = Views.load(test, seed=1)
    flat = torch.arange(len(unseen))
    images = unseen.pictures(flat)
    per_person = images.unflatten(0, (unseen.identities, -1))
    recognizer, dino = (TimmEmbedder.from_folder(weights / name).to(device) for name in ("recognizer", "dino"))
    vectors, alike = quality.embed(recognizer, per_person), quality.embed(dino, per_person)
    shapes = np.stack([test.world.identity(index).shape_vector for index in test.indices])
    encoder = FaceEncoder.from_folder(weights / "encoder").eval().to(device)
    with torch.no_grad():
        features = torch.cat([encoder(part.to(device)).embedding.cpu() for part in images.split(64)])
    features = F.normalize(features, dim=1).unflatten(0, (unseen.identities, -1))
    labels = [
        {name: known[value] for name, known, value in zip(LABEL_NAMES._fields, LABEL_NAMES, row, strict=True)}
        for row in unseen.labels_of(flat).tolist()
    ]
    clip = ClipEmbedder.from_pretrained(weights / "clip").to(device)
    said = [remove_identifier(text) for text in unseen.captions_of(flat, torch.Generator().manual_seed(0))]
    seen, read = clip.embed_images(images), clip.embed_texts(said).cpu()
    return {
        "recognizer": quality.verification(vectors) | {"spearman": quality.agreement(vectors.mean(1), shapes)},
        "recognizer, plain views": quality.verification(vectors[:, 0::3]),
        "face encoder, plain views": quality.verification(features[:, 0::3]),
        "dino": quality.verification(alike),
        "dino, plain views": quality.verification(alike[:, 0::3]),
        "classifier": quality.attributes(load_classifier(str(weights / "classifier"), device=device), images, labels),
        "clip": {
            "own caption": float((seen * read).sum(1).mean()),
            "other": float((seen * read.roll(7, 0)).sum(1).mean()),
        },
    }


def own_pictures(
    options: MeasureOptions, base: StableDiffusion, test: FaceWorldDataset
) -> tuple[Float[Tensor, "n 3 h w"], list[str]]:
    """What the base draws, unpersonalized, for prompts of the training grammar."""
    views = test.views_per_identity
    picked = np.random.default_rng(options.seed).permutation(len(test) * views)[: options.num_generated]
    prompts = [caption(test.view(*divmod(int(number), views))) for number in picked]
    return quality.generate(base, prompts, seed=options.seed), prompts


def pictures(
    options: MeasureOptions,
    base: StableDiffusion,
    drawn: Float[Tensor, "n 3 h w"],
    prompts: list[str],
    test: FaceWorldDataset,
    train: FaceWorldDataset,
    device: torch.device,
) -> dict[str, Numbers]:
    """The autoencoder, obedience to prompts in and out of training, and whether the base's faces are its own."""
    weights = Path(options.weights)
    judge = load_classifier(str(weights / "classifier"), device=device)
    recognizer = TimmEmbedder.from_folder(weights / "recognizer").to(device)
    held_out = [
        caption(sample_nuisances(np.random.default_rng(0)).replace(style=style, context=context))
        for style, context in HELD_OUT_PAIRS
    ] * max(1, options.num_generated // len(HELD_OUT_PAIRS))
    new = quality.attributes(judge, quality.generate(base, held_out, seed=7000), quality.asked(held_out))
    photos = [number for number, asked in enumerate(quality.asked(prompts)) if asked["style"] == "photo"]
    nobody = quality.generate(base, [CLASS_PROMPT] * OWN_FACES, seed=9000)

    def first_views(dataset: FaceWorldDataset) -> Tensor:
        return recognizer.embed_images(torch.from_numpy(dataset.images[:, 0]).float() / 255)

    some = torch.from_numpy(test.images[: max(1, 256 // test.views_per_identity)]).flatten(0, 1).float() / 255
    return {
        "autoencoder": quality.reconstruction(base, some),
        "base, prompts in training": quality.attributes(judge, drawn, quality.asked(prompts)),
        "base, held-out pairs": {"style": new["style"], "context": new["context"]},
        "base, photos": {"face found": float(quality.faces_found(MTCNN(device=device), drawn[photos]).mean())},
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


def hypernetwork(options: MeasureOptions, base: StableDiffusion, training: HypernetTraining) -> dict[str, Numbers]:
    """The validation of its own training on test identities: denoising under one's own theta less another's.

    Args:
        options: whose people, pictures and weights are measured.
        training: whose targets, timesteps and draws these are.
    """
    weights, seed = Path(options.weights), training.seed
    hypernet = load_hypernet(
        weights / "hypernet", encoder=str(weights / "encoder"), base_name=base.name, base_digest=base.digest
    )
    where = {"root": options.root, "resolution": options.resolution, "render_workers": options.num_workers}
    faces = replace(training.faces, **where)
    dataset = rendered_people(faces, indices=list(SPLITS["test"][: options.num_measured]))
    people = FaceworldFaces(dataset, target_views=faces.target, seed=faces.seed)
    personalized = PersonalizedDiffusion(base, hypernet.layout)
    known = training.options
    losses = PretrainingOptions(beta=0.0, timesteps=known.timesteps, num_val_draws=known.num_val_draws)
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    batches = FaceLoader(people, batch_size=training.batch_size, shuffle=False, seed=seed)
    stage = HyperNetPretraining(personalized, hypernet, options=losses, seed=seed)
    (scores,) = trainer.validate(stage, batches, verbose=False)
    personalized.detach()
    return {
        "hypernetwork, test identities": {
            "own_minus_other": scores["val/own_minus_other"],
            "ci95": scores["val/own_minus_other_ci95"],
            "own_better": scores["val/own_better"],
        }
    }
