"""The embedded world as pictures on disk: python -m experiments.faceworld [resolution=64 num_identities=500]"""

from pathlib import Path

from experiments.cli import run
from experiments.config import RenderFaceworld, load
from experiments.outputs import writing
from hdb.diffusion.sheet import save_image, to_pil
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS, FaceWorld
from hdb.runs.outputs import check_room


def main(argv: list[str]) -> None:
    config = load(RenderFaceworld, argv)
    if config.portrait is not None:
        if Path(config.portrait).suffix != ".png":
            raise ValueError(f"portrait is {config.portrait!r}, expected a file name ending in .png")
        with writing(Path(config.portrait), config=config, overwrite=config.overwrite):
            world = FaceWorld(seed=config.seed, resolution=config.resolution)
            pair = world.identity(config.identity), world.view(config.identity, 0)  # views 0, 3, 6, ... are plain
            save_image(to_pil(world.render([pair])[0]), config.portrait)
        print(f"{config.portrait}: identity {config.identity}, who does not exist")
        return
    if unknown := [split for split in config.splits if split not in SPLITS]:
        raise ValueError(f"unknown split {unknown[0]!r}, expected {', '.join(SPLITS)}")
    check_room(config.root, is_folder=True)
    for split in config.splits:
        FaceWorldDataset(
            config.root,
            indices=SPLITS[split][: config.num_identities],
            views_per_identity=config.views_per_identity,
            seed=config.seed,
            resolution=config.resolution,
        ).prepare(num_workers=config.num_workers, progress=True)


if __name__ == "__main__":
    run(main)
