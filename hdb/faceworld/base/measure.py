"""Measures faceworld's weights on people that no training saw, and writes the report beside them."""

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
from hdb.faces.options import PeopleOptions
from hdb.faceworld.base import quality
from hdb.faceworld.base.options import MeasureOptions
from hdb.faceworld.base.parts import NETWORKS
from hdb.faceworld.base.report import CURVES_FILE, markdown, training_records
from hdb.faceworld.base.views import Views
from hdb.faceworld.captions import caption
from hdb.faceworld.dataset import LABEL_NAMES, FaceWorldDataset
from hdb.faceworld.people import FaceworldFaces, render_people
from hdb.faceworld.splits import SPLITS
from hdb.faceworld.view import HELD_OUT_PAIRS, sample_nuisances
from hdb.files import write_json, write_text
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.trained import load_hypernet
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.judges import load_classifier
from hdb.prompts import CLASS_PROMPT, remove_identifier
from hdb.training.curves import curves_sheet
from hdb.training.device import select_device
from hdb.training.options import PretrainingOptions
from hdb.training.pretrain import HyperNetPretraining

ROWS, COLUMNS = 10, 20  # of the sheet of generated pictures
NUM_FACES = 100  # faces that are generated to measure novelty
Measures = dict[str, float]


@dataclass(frozen=True)
class HypernetTraining:
    """How a hypernetwork was trained, and the folder of its training."""

    folder: Path
    faces: PeopleOptions
    batch_size: int
    options: PretrainingOptions
    seed: int


def measure(options: MeasureOptions, training: HypernetTraining) -> str:
    """Writes report.json, REPORT.md, curves.png and samples.png beside the weights; returns the text of REPORT.md."""
    weights = Path(options.weights)
    device = select_device(options.accelerator)
    base = StableDiffusion.from_pretrained(weights / "base").to(device)  # before people are rendered, as it may fail
    test = load_people(options, "test")
    train = load_people(options, "train")
    indices = sample_views(options, test)
    prompts = [caption(test.view(*index)) for index in indices]
    generated = quality.generate(base, prompts, seed=options.seed)
    measured = measure_judges(weights, test, device)
    measured |= measure_base(options, base, generated, prompts, test, train, device)
    renders = np.stack([test.images[person, view] for person, view in indices])
    measured |= measure_sharpness(base, torch.from_numpy(renders).float() / 255, prompts, generated)
    if is_trained_on(weights / "hypernet", base):
        measured |= measure_hypernet(options, base, training)
    rows = [list(row) for row in generated[: ROWS * COLUMNS].split(COLUMNS)]
    save_image(picture_grid(rows, tile=options.resolution), weights / "samples.png")
    trainings = {name: (Path(options.output, name), network) for name, network in NETWORKS.items()}
    trainings["hypernetwork"] = (training.folder, "hypernet")
    trained, curves = training_records(weights, trainings)
    if curves:
        write_text(weights / CURVES_FILE, json.dumps(curves) + "\n")
        save_image(curves_sheet(curves), weights / "curves.png")
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    report = {"resolution": options.resolution, "device": machine, "measured": measured, "trained": trained}
    write_json(weights / "report.json", report)
    page = markdown(report, weights)
    write_text(weights / "REPORT.md", page)
    return page


def load_people(options: MeasureOptions, split: str) -> FaceWorldDataset:
    """The first people of a split, with as many views as the base was trained on."""
    dataset = FaceWorldDataset(
        options.root,
        indices=SPLITS[split][: options.num_measured],
        views_per_identity=options.views_per_identity,
        resolution=options.resolution,
    )
    dataset.prepare(num_workers=options.num_workers)
    return dataset


def measure_judges(weights: Path, test: FaceWorldDataset, device: torch.device) -> dict[str, Measures]:
    """Recognizer, face encoder, DINO, classifier and CLIP on all views of test people."""
    views = Views.load(test, seed=1)
    indices = torch.arange(len(views))
    images = views.pictures(indices)
    per_person = images.unflatten(0, (views.num_identities, -1))
    recognizer = TimmEmbedder.from_folder(weights / "recognizer").to(device)
    dino = TimmEmbedder.from_folder(weights / "dino").to(device)
    recognizer_embeds = quality.embed_views(recognizer, per_person)
    dino_embeds = quality.embed_views(dino, per_person)
    shapes = np.stack([test.world.identity(index).shape_vector for index in test.indices])
    encoder = FaceEncoder.from_folder(weights / "encoder").eval().to(device)
    with torch.no_grad():
        features = torch.cat([encoder(part.to(device)).embedding.cpu() for part in images.split(64)])
    encoder_embeds = F.normalize(features, dim=1).unflatten(0, (views.num_identities, -1))
    labels = [
        {name: names[label] for name, names, label in zip(LABEL_NAMES._fields, LABEL_NAMES, row, strict=True)}
        for row in views.labels_of(indices).tolist()
    ]
    classifier = load_classifier(str(weights / "classifier"), device=device)
    clip = ClipEmbedder.from_pretrained(weights / "clip").to(device)
    captions = views.sample_captions(indices, torch.Generator().manual_seed(0))
    image_embeds = clip.embed_images(images)
    text_embeds = clip.embed_texts([remove_identifier(caption) for caption in captions]).cpu()
    correlation = quality.distance_correlation(recognizer_embeds.mean(1), shapes)
    return {
        "recognizer": quality.verification(recognizer_embeds) | {"spearman": correlation},
        "recognizer, plain views": quality.verification(recognizer_embeds[:, 0::3]),
        "face encoder, plain views": quality.verification(encoder_embeds[:, 0::3]),
        "dino": quality.verification(dino_embeds),
        "dino, plain views": quality.verification(dino_embeds[:, 0::3]),
        "classifier": quality.attribute_accuracy(classifier, images, labels),
        "clip": {
            "own caption": float((image_embeds * text_embeds).sum(1).mean()),
            "other": float((image_embeds * text_embeds.roll(7, 0)).sum(1).mean()),
        },
    }


def sample_views(options: MeasureOptions, test: FaceWorldDataset) -> list[tuple[int, int]]:
    """Random views of test people, as pairs of person and view. Their captions are prompts of the training grammar."""
    views = test.views_per_identity
    indices = np.random.default_rng(options.seed).permutation(len(test) * views)[: options.num_generated]
    return [divmod(int(index), views) for index in indices]


def measure_sharpness(
    base: StableDiffusion,
    renders: Float[Tensor, "n 3 h w"],
    prompts: list[str],
    generated: Float[Tensor, "n 3 h w"],
    *,
    num_pictures: int = 96,
) -> dict[str, Measures]:
    """Where details are lost: in the autoencoder, in the denoiser, or in sampling.

    Args:
        renders: true pictures for the prompts.
        generated: the base's own.
        num_pictures: of which the denoiser is measured.
    """
    first = renders[:num_pictures]
    with torch.no_grad():
        decoded = torch.cat([base.decode_latents(base.encode_images(part)).cpu() for part in first.split(32)])
    measured = {"sharpness, autoencoder": quality.sharpness(decoded, first)}
    for timestep in (50, 200, 400):
        predictions = quality.clean_predictions(base, first, prompts[:num_pictures], timestep=timestep)
        measured[f"sharpness, denoiser at timestep {timestep}"] = quality.sharpness(predictions, first)
    return measured | {"sharpness, base's own pictures": quality.sharpness(generated, renders)}


def held_out_renders(test: FaceWorldDataset, *, num_people: int = 24) -> Float[Tensor, "n 3 h w"]:
    """The true pictures of `HELD_OUT_PAIRS`, a view of each person for each pair, in their order."""
    pictures = [
        test.world.render(
            [
                (test.world.identity(index), test.world.view(index, 0).replace(style=style, context=context))
                for index in test.indices[:num_people]
            ]
        )
        for style, context in HELD_OUT_PAIRS
    ]
    return torch.cat(pictures)


def measure_base(
    options: MeasureOptions,
    base: StableDiffusion,
    generated: Float[Tensor, "n 3 h w"],
    prompts: list[str],
    test: FaceWorldDataset,
    train: FaceWorldDataset,
    device: torch.device,
) -> dict[str, Measures]:
    """Reconstruction, how pictures follow prompts in and out of training, and whether generated faces are new.

    Args:
        generated: a picture of the base for each of the prompts.
    """
    weights = Path(options.weights)
    classifier = load_classifier(str(weights / "classifier"), device=device)
    recognizer = TimmEmbedder.from_folder(weights / "recognizer").to(device)
    view = sample_nuisances(np.random.default_rng(0))
    held_out_prompts = [caption(view.replace(style=style, context=context)) for style, context in HELD_OUT_PAIRS]
    held_out_prompts *= max(1, options.num_generated // len(HELD_OUT_PAIRS))
    held_out_labels = quality.prompt_labels(held_out_prompts)
    held_out_pictures = quality.generate(base, held_out_prompts, seed=7000)
    held_out = quality.attribute_accuracy(classifier, held_out_pictures, held_out_labels)
    renders = held_out_renders(test)
    render_labels = [
        {"style": style, "context": context}
        for style, context in HELD_OUT_PAIRS
        for _ in range(len(renders) // len(HELD_OUT_PAIRS))
    ]
    labels = quality.prompt_labels(prompts)
    photos = [index for index, label in enumerate(labels) if label["style"] == "photo"]
    faces = quality.generate(base, [CLASS_PROMPT] * NUM_FACES, seed=9000)

    def embed_first_views(dataset: FaceWorldDataset) -> Tensor:
        return recognizer.embed_images(torch.from_numpy(dataset.images[:, 0]).float() / 255)

    test_images = torch.from_numpy(test.images[: max(1, 256 // test.views_per_identity)]).flatten(0, 1).float() / 255
    return {
        "autoencoder": quality.reconstruction(base, test_images),
        "base, prompts in training": quality.attribute_accuracy(classifier, generated, labels),
        "base, held-out pairs": {"style": held_out["style"], "context": held_out["context"]},
        "renders, held-out pairs": quality.attribute_accuracy(classifier, renders, render_labels),
        "base, photos": {"face found": float(quality.detect_faces(MTCNN(device=device), generated[photos]).mean())},
        "base, own faces": quality.novelty(
            recognizer.embed_images(faces), embed_first_views(test)[:NUM_FACES], embed_first_views(train)
        ),
    }


def is_trained_on(hypernet: Path, base: StableDiffusion) -> bool:
    """Whether there is a hypernetwork that was trained on this base."""
    config = hypernet / "config.json"
    if not config.is_file():
        return False
    base_digest = json.loads(config.read_text())["base_digest"]
    if base_digest != base.digest:
        print(f"{hypernet} was trained on base {base_digest}, not on {base.digest}: it is not measured")
    return base_digest == base.digest


def measure_hypernet(options: MeasureOptions, base: StableDiffusion, training: HypernetTraining) -> dict[str, Measures]:
    """The validation of a hypernetwork's training, on test people: the denoising loss with their own and another theta.

    Args:
        options: people, pictures and weights.
        training: targets, timesteps and draws.
    """
    weights = Path(options.weights)
    hypernet = load_hypernet(
        weights / "hypernet", encoder=str(weights / "encoder"), base_name=base.name, base_digest=base.digest
    )
    faces = replace(
        training.faces, root=options.root, resolution=options.resolution, render_workers=options.num_workers
    )
    dataset = render_people(faces, indices=list(SPLITS["test"][: options.num_measured]))
    people = FaceworldFaces(dataset, target_views=faces.target, seed=faces.seed)
    personalized = PersonalizedDiffusion(base, hypernet.layout)
    losses = PretrainingOptions(
        beta=0.0, timesteps=training.options.timesteps, num_val_draws=training.options.num_val_draws
    )
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    loader = FaceLoader(people, batch_size=training.batch_size, shuffle=False, seed=training.seed)
    stage = HyperNetPretraining(personalized, hypernet, options=losses, seed=training.seed)
    (scores,) = trainer.validate(stage, loader, verbose=False)
    personalized.detach()
    return {
        "hypernetwork, test identities": {
            "own_minus_other": scores["val/own_minus_other"],
            "ci95": scores["val/own_minus_other_ci95"],
            "own_better": scores["val/own_better"],
        }
    }
