"""Pictures of one subject or several, in one batch.

python -m experiments.generate configs/faceworld/generate.yaml "subject=[me.safetensors,you.safetensors]" scale=0.8
"""

from pathlib import Path

from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import Generate, load
from experiments.networks import device_of, stable_diffusion
from experiments.pictures import prompt_remarks
from hdb.diffusion.sampling import generate, picture_grid, save_image, to_image
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout


def main(argv: list[str]) -> None:
    config = load(Generate, argv)
    names, at_once = [Path(path).stem for path in config.subject], config.sampling.batch_size
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subject is {config.subject}, expected one file or several of different names")
    if not config.prompts or min(config.num_pictures, at_once) < 1:
        raise ValueError(
            f"{len(config.prompts)} prompts, num_pictures = {config.num_pictures} and sampling.batch_size = {at_once} "
            "were given, expected at least 1 each"
        )
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device_of(config.accelerator))
    subjects = [Subject.load(path, expected_base=diffusion.digest) for path in config.subject]
    for remark in prompt_remarks(diffusion, config.prompts):
        print(remark)
    layout, theta = Layout.join([(subject.layout, subject.theta.float()) for subject in subjects])
    scales = [subject.scale if config.scale is None else config.scale for subject in subjects]
    theta = layout.scaled(theta, scales)
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=layout)
    drawn = {}
    for spots in tqdm(batches(len(config.prompts), config.num_pictures, len(names), at_once=at_once), desc="batches"):
        people = sorted({person for _, _, person in spots})
        pictures = generate(
            diffusion,
            lidb,
            theta[people],
            [config.prompts[prompt] for prompt, _, _ in spots],
            seeds=[config.seed + number for _, number, _ in spots],
            num_inference_steps=config.sampling.num_inference_steps,
            guidance_scale=config.sampling.guidance_scale,
        )
        for (prompt, number, person), picture in zip(spots, pictures, strict=True):
            drawn[prompt, person, number] = picture
            path = Path(config.output) / f"{prompt:02d}-{names[person]}-{config.seed + number}.png"
            save_image(to_image(picture), path)
    rows = [
        [drawn[prompt, person, number] for number in range(config.num_pictures)]
        for prompt in range(len(config.prompts))
        for person in range(len(names))
    ]
    save_image(picture_grid(rows), Path(config.output) / "grid.png")
    for prompt, text in enumerate(config.prompts):
        print(f"{config.output}/{prompt:02d}-*.png  {text}")


def batches(num_prompts: int, num_pictures: int, num_people: int, *, at_once: int) -> list[list[tuple[int, int, int]]]:
    """Every (prompt, number, person), in batches of at most `at_once` that hold as many people as fit, tiled."""
    divided = []
    for first in range(0, num_people, at_once):
        people = range(first, min(first + at_once, num_people))
        spots = [(p, k, person) for p in range(num_prompts) for k in range(num_pictures) for person in people]
        size = at_once // len(people) * len(people)
        divided += [spots[start : start + size] for start in range(0, len(spots), size)]
    return divided


if __name__ == "__main__":
    run(main)
