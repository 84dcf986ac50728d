"""A subject for other programs: python -m experiments.export subject=me.safetensors output=lora.safetensors

format=merged output=FOLDER writes a whole pipeline with the person inside, and needs the base: base.path=...
"""

from dataclasses import replace
from pathlib import Path

from experiments.cli import run
from experiments.config import Export, load
from experiments.outputs import place_of_file, writing
from hdb.diffusion.base import read_base
from hdb.diffusion.personalized import merge_into
from hdb.diffusion.sheet import preview_of, save_image, thumbnail
from hdb.faces.picture import open_picture
from hdb.files import write_json
from hdb.lidb.export import FORMATS, export_lora
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import a1111_card
from hdb.runs.locks import own_place


def main(argv: list[str]) -> None:
    config = load(Export, argv)
    output = own_place(config.output) if config.format == "merged" else place_of_file(config.output)
    if config.format == "merged" and output.exists():
        raise ValueError(f"output {output} is there already, expected the name of a new folder")
    beside = preview_of(config.subject)
    shown = config.preview or (beside if beside.is_file() else None)
    picture = open_picture(shown) if shown else None
    preview, card = preview_of(output) if picture else None, output.with_suffix(".json")
    with writing(output, *filter(None, [preview, card]), config=config, overwrite=config.overwrite):
        subject = Subject.load(config.subject)
        if config.scale is not None:
            subject = replace(subject, metadata=subject.metadata | {"scale": str(config.scale)})
        if config.format not in FORMATS:
            return merge(config, subject, output)
        about = {"title": config.title, "thumbnail": thumbnail(picture) if picture else ""}
        export_lora(subject, output, config.format, **about)
        write_json(card, a1111_card(subject))
        if picture:
            save_image(picture, preview)
    told = f"shown as {preview.name}" if preview else "without a picture: preview=PICTURE gives it one"
    print(f"{output}: {output.stat().st_size} bytes, a LoRA of rank {subject.layout.rank}, {told}")
    print(f"{config.format}: {FORMATS[config.format]}")


def merge(config: Export, subject: Subject, output: Path) -> None:
    """Reads the base, and writes it with the subject in it."""
    diffusion = read_base(config.base)
    diffusion.accept(subject.metadata["base_digest"], of=config.subject, base=subject.metadata["base"])
    merge_into(diffusion, subject)
    diffusion.save(output, about=subject.metadata)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size} bytes, a pipeline folder of {diffusion.name} with the subject merged into it")


if __name__ == "__main__":
    run(main)
