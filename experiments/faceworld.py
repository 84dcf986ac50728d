"""The embedded world as pictures on disk: python -m experiments.faceworld [resolution=64 num_identities=500]"""

from pathlib import Path

from experiments.cli import run
from experiments.config import RenderFaceworld, load


def main(argv: list[str]) -> None:
    config = load(RenderFaceworld, argv)
    if config.portrait is not None:
        save_portrait(config, Path(config.portrait))
    else:
        render_splits(config)


def save_portrait(config: RenderFaceworld, path: Path) -> None:
    """Writes the picture of one person."""
    from experiments.outputs import claim_files
    from hdb.diffusion.sheet import save_image, to_pil
    from hdb.faceworld.world import FaceWorld

    if path.suffix != ".png":
        raise ValueError(f"portrait is {str(path)!r}, expected a file name ending in .png")
    with claim_files(path, config=config, overwrite=config.overwrite):
        world = FaceWorld(seed=config.seed, resolution=config.resolution)
        identity = world.identity(config.identity)
        view = world.view(config.identity, 0)  # views 0, 3, 6, ... are plain
        save_image(to_pil(world.render([(identity, view)])[0]), path)
    print(f"{config.portrait}: identity {config.identity}, who does not exist")


def render_splits(config: RenderFaceworld) -> None:
    """Renders the people of each split, as far as they are not on disk."""
    from hdb.faceworld.dataset import FaceWorldDataset
    from hdb.faceworld.splits import SPLITS
    from hdb.runs.outputs import check_room

    unknown = [split for split in config.splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}, expected {', '.join(SPLITS)}")
    check_room(config.root, is_folder=True)
    for split in config.splits:
        dataset = FaceWorldDataset(
            config.root,
            indices=SPLITS[split][: config.num_identities],
            views_per_identity=config.views_per_identity,
            seed=config.seed,
            resolution=config.resolution,
        )
        dataset.prepare(num_workers=config.num_workers, progress=True)


if __name__ == "__main__":
    run(main)
