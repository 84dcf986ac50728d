"""A subject for other tools: python -m experiments.export subject=me.safetensors format=kohya output=lora.safetensors

format=merged output=FOLDER writes a whole pipeline with the person inside, and needs the base: base.path=...
"""

from dataclasses import replace
from pathlib import Path

import torch

from experiments.cli import run
from experiments.config import Export, load
from experiments.outputs import place_of_file, writing
from hdb.diffusion.base import read_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.lidb.export import FORMATS, export_lora
from hdb.lidb.file import Subject
from hdb.runs.locks import own_place


def main(argv: list[str]) -> None:
    config = load(Export, argv)
    merged = config.format == "merged"
    if not merged and config.format not in FORMATS:
        raise ValueError(f"format is {config.format!r}, expected {', '.join(FORMATS)} or merged")
    output = own_place(config.output) if merged else place_of_file(config.output)
    if merged and output.exists():
        raise ValueError(f"output {output} is there already, expected the name of a new folder")
    with writing(output, config=config, overwrite=config.overwrite):
        export(config, output, merged=merged)


def export(config: Export, output: Path, *, merged: bool) -> None:
    """Reads the subject, and the base to merge it into, and writes what other tools read."""
    subject = Subject.load(config.subject)
    if config.scale is not None:
        subject = replace(subject, metadata=subject.metadata | {"scale": str(config.scale)})
    if not merged:
        export_lora(subject, output, config.format)
        print(f"{output}: {output.stat().st_size} bytes, a LoRA of rank {subject.layout.rank} for {config.format}")
        return
    diffusion = read_base(config.base)
    subject.check_base(diffusion.digest, of=config.subject)
    personalized = PersonalizedDiffusion(diffusion, subject.layout)
    personalized.lidb.merge(subject.to(torch.float32), scale=subject.scale)
    personalized.detach()
    diffusion.save(output, about=subject.metadata)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size} bytes, a pipeline folder of {diffusion.name} with the subject merged into it")


if __name__ == "__main__":
    run(main)
