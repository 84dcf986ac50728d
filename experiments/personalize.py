"""One photo, or several of one person, to one subject's file: predict, relax the rank, finetune, save, show.

python -m experiments.personalize configs/faceworld/personalize.yaml reference=face.png output=me.safetensors
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import Personalize, load

if TYPE_CHECKING:
    from PIL.Image import Image

    from hdb.faces.picture import FaceCrop

DOES_NOT_FIT = 3  # exit code, with strict=true
SHEET = "Pictures of a subject"  # in the metadata of the PNG, which tells it from any other picture


def main(argv: list[str]) -> None:
    personalize(load(Personalize, argv))


def personalize(config: Personalize) -> None:
    from dataclasses import replace

    from experiments.imports import import_quickly
    from experiments.inputs import check_networks, check_photos
    from experiments.outputs import claim_files, resolve_safetensors_output

    output = resolve_safetensors_output(config.output)
    check_photos((config.reference, *config.more_references))
    check_networks(base=config.base, hypernet=config.hypernet if config.method != "no_hyper" else None)

    import_quickly()
    from experiments.tracking import check_wandb_mode, log_subject, wandb_run
    from hdb.diffusion.sampling import prompt_warnings
    from hdb.diffusion.sheet import picture_grid, preview_path, save_image, to_pil
    from hdb.evaluation.gate import DrawnPictures, judge_subject
    from hdb.faces.names import printable
    from hdb.faces.picture import digest_photos
    from hdb.hypernet.trained import check_networks_exist, resolve_hypernet_path
    from hdb.lidb.file import Subject, parse_dtype
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.training.device import select_device
    from hdb.training.personalize import check_finetuning

    dtype = parse_dtype(config.dtype)
    check_wandb_mode(config)
    has_hypernet = config.method != "no_hyper"
    hypernet_path = resolve_hypernet_path(config.hypernet) if has_hypernet else None
    device = select_device(config.accelerator)
    photos = [open_photo(path) for path in (config.reference, *config.more_references)]
    digest = digest_photos(photos, face=config.face)
    sheet_path = choose_sheet_path(output, config)
    preview = preview_path(output)
    networks = [hypernet_path] if has_hypernet else []
    with claim_files(output, sheet_path, preview, config=config, overwrite=config.overwrite, inputs=networks):
        if not config.overwrite:
            refuse_other_person(output, digest)
        encoder = config.encoder if has_hypernet else None
        check_networks_exist(
            hypernet=hypernet_path, encoder=encoder, base=config.base.path if config.hypernet is None else None
        )
        pipeline = HyperDreamBoothPipeline.from_pretrained(
            config.base,
            hypernet=hypernet_path,
            encoder=encoder,
            device=device,
            memory=config.memory,
            cuda_graph=config.cuda_graph,
            precision=config.precision,
            instance_prompt=config.instance_prompt,
        )
        views = read_views(photos, config, resolution=pipeline.diffusion.resolution)
        check_finetuning(config.finetuning, pipeline.personalized.layout)
        started = time.perf_counter()
        with wandb_run(config, stage="personalize", output="outputs/personalize", keep_id=False) as logger:
            for warning in prompt_warnings(pipeline.diffusion, [config.instance_prompt, *config.prompts]):
                print(warning)
            pipeline.trainer_args = {"logger": logger, "log_every_n_steps": 1}
            subject = pipeline.personalize(
                *views,
                finetune=config.method != "only_hyper",
                finetuning=config.finetuning,
                seed=config.seed,
                dtype=dtype,
                source=Path(config.reference).name if config.source is None else config.source,
                consent=config.consent,
            )
            subject = replace(subject, metadata={**subject.metadata, "reference_digest": digest})
            subject.save(output)
            seconds = time.perf_counter() - started
            size = output.stat().st_size
            written = f"{printable(str(output))}: {size} bytes, {subject.layout.size} numbers"
            print(f"{written}, personalized in {seconds:.1f} s")

            # Drawn from the saved file, as everybody will draw it.
            pictures = pipeline.people(output).pictures(
                config.prompts,
                seeds=range(config.seed, config.seed + len(config.prompts)),
                sampling=config.sampling,
            )
            sheet = picture_grid([[views[0].pixels, *pictures]], columns=["reference", *config.prompts])
            save_image(sheet, sheet_path, description=SHEET)
            save_image(to_pil(pictures[0]), preview)
            log_subject(logger, output, sheet=sheet, seconds=seconds, share=config.wandb.share_subject)
            drawn = DrawnPictures(list(config.prompts), config.seed, config.sampling, pictures)
            verdict = judge_subject(pipeline, hypernet_path, Subject.load(output), views[0].pixels, drawn=drawn)
    print(verdict.words)
    if config.strict and not verdict.fits:
        raise SystemExit(DOES_NOT_FIT)


def open_photo(path: str) -> Image:
    """A photo that messages call by its path. Prints remarks; raises FaceError if it cannot be read."""
    from hdb.faces.picture import open_picture

    remarks: list[str] = []
    image = open_picture(path, remarks=remarks)
    image.filename = path
    for remark in remarks:
        print(remark)
    return image


def read_views(photos: Sequence[Image], config: Personalize, *, resolution: int) -> list[FaceCrop]:
    """The faces in the photos: cut out and aligned, or as they are framed. Prints remarks.

    Raises:
        FaceError: one of them shows no face that can be used.
    """
    from hdb.faces.crop import FaceCropper

    cropper = FaceCropper(min_size=config.min_face)
    remarks: list[str] = []
    views = [
        cropper.cut(photo, resolution=resolution, crop=config.crop, face=config.face, remarks=remarks)
        for photo in photos
    ]
    for remark in dict.fromkeys(remarks):
        print(remark)
    return views


def choose_sheet_path(output: Path, config: Personalize) -> Path:
    """Where the sheet of pictures goes: beside the file under its name, unless another picture is called so."""
    beside = output.with_suffix(".png")
    if not os.path.exists(beside):  # Path.exists raises for a name that is too long
        return beside
    photos = [Path(path) for path in (config.reference, *config.more_references)]
    is_photo = any(path.exists() and beside.samefile(path) for path in photos)
    if not is_photo and (config.overwrite or is_sheet(beside)):
        return beside
    return output.with_name(f"{output.stem}-pictures.png")


def is_sheet(path: Path) -> bool:
    """Whether a picture is a sheet that an earlier call wrote."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return image.info.get("Description") == SHEET
    except (OSError, SyntaxError, ValueError):
        return False


def refuse_other_person(output: Path, digest: str) -> None:
    """Raises ValueError if there is a subject's file of other photos."""
    from hdb.files import read_safetensors_header

    if not output.is_file():
        return
    previous = read_safetensors_header(output)[1].get("reference_digest")
    if previous != digest:
        kind = "an unknown" if previous is None else "another"
        raise ValueError(f"{output} is of {kind} photo: expected another output, or overwrite=true")


if __name__ == "__main__":
    run(main)
