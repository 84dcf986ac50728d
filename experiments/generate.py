"""Pictures of a subject: python -m experiments.generate configs/faceworld/generate.yaml subject=me.safetensors"""

from pathlib import Path

from tqdm.auto import tqdm

from experiments.cli import run
from experiments.networks import device_of, stable_diffusion
from hdb.config import Generate, load
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject
from hdb.sampling import generate, picture_grid, save_image, to_image


def main(argv: list[str]) -> None:
    config = load(Generate, argv)
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device_of(config.accelerator))
    subject = Subject.load(config.subject, expected_base=diffusion.digest)
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=subject.layout)
    folder, rows = Path(config.output), []
    for number, prompt in enumerate(tqdm(config.prompts, desc="prompts")):
        seeds = [config.seed + picture for picture in range(config.num_pictures)]
        rows.append(
            generate(
                diffusion,
                lidb,
                subject.theta.float(),
                [prompt] * config.num_pictures,
                seeds=seeds,
                scale=subject.scale if config.scale is None else config.scale,
                num_inference_steps=config.sampling.num_inference_steps,
                guidance_scale=config.sampling.guidance_scale,
            )
        )
        for seed, picture in zip(seeds, rows[-1], strict=True):
            save_image(to_image(picture), folder / f"{number:02d}-{seed}.png")
        print(f"{folder}/{number:02d}-*.png  {prompt}")
    save_image(picture_grid([list(row) for row in rows]), folder / "grid.png")


if __name__ == "__main__":
    run(main)
