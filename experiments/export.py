"""A subject for other programs: python -m experiments.export subject=me.safetensors output=lora.safetensors

format=merged output=FOLDER writes a whole pipeline with the person inside, format=checkpoint output=FILE the same as
one file in the original layout; both need the base: base.path=...
"""

from dataclasses import replace

from experiments.cli import run
from experiments.config import Export, load
from experiments.outputs import place_of_file, writing
from hdb.diffusion.base import load_base
from hdb.diffusion.merged import write_merged
from hdb.diffusion.sheet import preview_path, save_image, thumbnail_data_url
from hdb.faces.picture import open_picture
from hdb.files import write_json
from hdb.lidb.export import FORMATS, export_lora
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import a1111_metadata
from hdb.runs.locks import own_place


def main(argv: list[str]) -> None:
    config = load(Export, argv)
    is_lora, is_folder = config.format in FORMATS, config.format == "merged"
    output = own_place(config.output) if is_folder else place_of_file(config.output)
    if is_folder and (output.exists() or output.suffix == ".safetensors"):
        problem = "is there already" if output.exists() else "is called like a file"
        raise ValueError(f"output {output} {problem}, expected the name of a new folder")
    beside = preview_path(config.subject)
    shown = None if is_folder else config.preview or (beside if beside.is_file() else None)
    picture = open_picture(shown) if shown else None
    preview, card = preview_path(output), None
    if config.format == "kohya":
        card = output.with_suffix(".json")  # where A1111 looks for the words to write
    files = [output, *([preview] if picture else []), *([card] if card else [])]
    with writing(*files, config=config, overwrite=config.overwrite):
        subject = Subject.load(config.subject)
        if config.scale is not None:
            subject = replace(subject, metadata=subject.metadata | {"scale": str(config.scale)})
        about = {"title": config.title or output.stem, "thumbnail": thumbnail_data_url(picture) if picture else ""}
        if is_lora:
            export_lora(subject, output, config.format, **about)
            print(f"{output}: {output.stat().st_size} bytes, a LoRA of rank {subject.layout.rank}")
        else:
            print(write_merged(load_base(config.base), subject, output, config.format, name=config.subject, **about))
        if card:
            write_json(card, a1111_metadata(subject))
        if picture:
            save_image(picture, preview)
    if not is_folder:
        print(f"shown as {preview}" if picture else "shown without a picture: preview=PICTURE gives it one")
    if is_lora:
        print(f"{config.format}: {FORMATS[config.format]}")


if __name__ == "__main__":
    run(main)
