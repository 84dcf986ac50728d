"""Pictures of one subject or several, in one batch.

python -m experiments.generate configs/faceworld/generate.yaml "subject=[me.safetensors,you.safetensors]" scale=0.8
"""

from pathlib import Path

import torch
from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import Generate, load
from hdb.diffusion.base import read_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import prompt_remarks, tiled_batches
from hdb.diffusion.sheet import picture_grid, save_image, to_image
from hdb.lidb.file import Subject
from hdb.lidb.residuals import Residuals
from hdb.training.device import device_of


def main(argv: list[str]) -> None:
    config = load(Generate, argv)
    names, at_once, prompts = [Path(path).stem for path in config.subject], config.sampling.batch_size, config.prompts
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subject is {config.subject}, expected one file or several of different names")
    if not prompts or min(config.num_pictures, at_once) < 1:
        raise ValueError(
            f"{len(prompts)} prompts, num_pictures = {config.num_pictures} and sampling.batch_size = {at_once} "
            "were given, expected at least 1 each"
        )
    base = read_base(config.base, memory=config.memory).to(device_of(config.accelerator))
    subjects = [Subject.load(path, expected_base=base.digest) for path in config.subject]
    for remark in prompt_remarks(base, prompts):
        print(remark)
    scales = [subject.scale if config.scale is None else config.scale for subject in subjects]
    people = Residuals.join([subject.to(torch.float32) for subject in subjects]).scaled(scales)
    personalized, drawn = PersonalizedDiffusion(base, people.layout), {}
    for spots in tqdm(tiled_batches(len(prompts), config.num_pictures, len(names), at_once=at_once), desc="batches"):
        shown, seeds = sorted({person for _, _, person in spots}), [config.seed + number for _, number, _ in spots]
        wanted = [prompts[prompt] for prompt, _, _ in spots]
        pictures = personalized.pictures(people[shown], wanted, seeds=seeds, sampling=config.sampling)
        for (prompt, number, person), picture in zip(spots, pictures, strict=True):
            drawn[prompt, person, number] = picture
            name = f"{prompt:02d}-{names[person]}-{config.seed + number}.png"
            save_image(to_image(picture), Path(config.output, name))
    spots = [(prompt, person) for prompt in range(len(prompts)) for person in range(len(names))]
    rows = [[drawn[*spot, number] for number in range(config.num_pictures)] for spot in spots]
    save_image(picture_grid(rows), Path(config.output) / "grid.png")
    for prompt, text in enumerate(prompts):
        print(f"{config.output}/{prompt:02d}-*.png  {text}")


if __name__ == "__main__":
    run(main)
