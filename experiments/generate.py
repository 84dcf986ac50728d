"""Pictures of one subject or several, in one batch.

python -m experiments.generate configs/faceworld/generate.yaml "subject=[me.safetensors,you.safetensors]" scale=0.8
"""

from itertools import product
from pathlib import Path

from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import Generate, load
from experiments.outputs import writing
from hdb.diffusion.base import load_base
from hdb.diffusion.sampling import prompt_warnings, tiled_batches
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.methods.kinds import check_readable, read_people
from hdb.runs.locks import own_place
from hdb.training.device import select_device


def main(argv: list[str]) -> None:
    config = load(Generate, argv)
    names, at_once, prompts = [Path(path).stem for path in config.subject], config.sampling.batch_size, config.prompts
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subject is {config.subject}, expected one file or several of different names")
    if config.weights and not config.mix:
        raise ValueError(f"weights is {config.weights}, but mix is false: expected no weights, or mix=true")
    check_readable(config.subject)
    shares = config.weights or [1 / len(names)] * len(names)
    names = ["+".join(names)] if config.mix else names
    folder, numbers = own_place(config.output), range(config.num_pictures)
    everything = list(product(range(len(prompts)), range(len(names)), numbers))
    files = [folder / f"{prompt:02d}-{names[person]}-{config.seed + k}.png" for prompt, person, k in everything]
    grid, file_of, drawn = folder / "grid.png", dict(zip(everything, files, strict=True)), {}
    with writing(grid, *files, config=config, overwrite=config.overwrite):
        base = load_base(config.base, device=select_device(config.accelerator), memory=config.memory)
        strength = {
            "scale": config.scale,
            "text_encoder_scale": config.text_encoder_scale,
            "weights": shares if config.mix else None,
        }
        people = read_people(base, config.subject, **strength)
        for remark in prompt_warnings(base, prompts):
            print(remark)
        for spots in tqdm(
            tiled_batches(len(prompts), len(numbers), len(names), max_batch_size=at_once), desc="batches"
        ):
            shown, seeds = sorted({person for _, _, person in spots}), [config.seed + number for _, number, _ in spots]
            wanted, sampling = [prompts[prompt] for prompt, _, _ in spots], config.sampling
            pictures = people[shown].pictures(wanted, seeds=seeds, sampling=sampling)
            for (prompt, number, person), picture in zip(spots, pictures, strict=True):
                drawn[prompt, person, number] = picture
                save_image(to_pil(picture), file_of[prompt, person, number])
        rows = [[drawn[prompt, person, k] for k in numbers] for prompt, person, first in everything if not first]
        save_image(picture_grid(rows), grid)
    for prompt, text in enumerate(prompts):
        print(f"{folder}/{prompt:02d}-*.png  {text}")


if __name__ == "__main__":
    run(main)
