"""A subject for other programs: python -m experiments.export subject=me.safetensors output=lora.safetensors

format=merged output=FOLDER writes a whole pipeline with the person inside, format=checkpoint output=FILE the same as
one file in the original layout; both need the base: base.path=...
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Export, load


def main(argv: list[str]) -> None:
    export(load(Export, argv))


def export(config: Export) -> None:
    """Writes a subject as a LoRA, a merged pipeline or a merged checkpoint, and its preview and A1111's JSON beside it.

    Raises:
        ValueError: as `resolve_export_output`; or the subject is damaged or for another base.
    """
    from dataclasses import replace

    output = resolve_export_output(config)
    is_folder = config.format == "merged"

    from experiments.outputs import claim_files
    from hdb.diffusion.sheet import preview_path, save_image, thumbnail_data_url
    from hdb.faces.picture import open_picture
    from hdb.files import write_json
    from hdb.lidb.export import LORA_FORMATS, export_lora
    from hdb.lidb.file import Subject
    from hdb.lidb.modelspec import a1111_metadata

    is_lora = config.format in LORA_FORMATS
    picture_path = config.preview
    if picture_path is None and preview_path(config.subject).is_file():
        picture_path = preview_path(config.subject)
    picture = open_picture(picture_path) if picture_path is not None and not is_folder else None
    preview = preview_path(output) if picture is not None else None
    # where A1111 looks for the words to write
    a1111_path = output.with_suffix(".json") if config.format == "kohya" else None
    files = [path for path in (output, preview, a1111_path) if path is not None]
    with claim_files(*files, config=config, overwrite=config.overwrite):
        subject = Subject.load(config.subject)
        if config.scale is not None:
            subject = replace(subject, metadata={**subject.metadata, "scale": str(config.scale)})
        title = config.title or output.stem
        thumbnail = thumbnail_data_url(picture) if picture is not None else ""
        if is_lora:
            export_lora(subject, output, config.format, title=title, thumbnail=thumbnail)
            print(f"{output}: {output.stat().st_size} bytes, a LoRA of rank {subject.layout.rank}")
        else:
            from hdb.diffusion.base import load_base
            from hdb.diffusion.merged import write_merged

            summary = write_merged(
                load_base(config.base),
                subject,
                output,
                config.format,
                name=config.subject,
                title=title,
                thumbnail=thumbnail,
            )
            print(summary)
        if a1111_path is not None:
            write_json(a1111_path, a1111_metadata(subject))
        if preview is not None:
            save_image(picture, preview)
    if not is_folder:
        print(f"shown as {preview}" if preview else "shown without a picture: preview=PICTURE gives it one")
    if is_lora:
        print(f"{config.format}: {LORA_FORMATS[config.format]}")


def resolve_export_output(config: Export) -> Path:
    """Where the export goes. Checks what can be checked without torch.

    Raises:
        ValueError: the output is called wrongly or is there already, or what is read is not there.
    """
    from experiments.inputs import check_networks, check_people
    from experiments.outputs import resolve_safetensors_output
    from hdb.runs.outputs import resolve_output

    is_folder = config.format == "merged"
    output = resolve_output(config.output) if is_folder else resolve_safetensors_output(config.output)
    if is_folder and output.exists():
        raise ValueError(f"output {output} is there already, expected the name of a new folder")
    if is_folder and output.suffix == ".safetensors":
        raise ValueError(f"output {output} is called like a file, expected the name of a new folder")
    check_people([config.subject])
    if config.format in ("merged", "checkpoint"):
        check_networks(base=config.base)
    return output


if __name__ == "__main__":
    run(main)
