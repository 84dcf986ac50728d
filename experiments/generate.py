"""Pictures of one subject or several, in one batch.

python -m experiments.generate configs/faceworld/generate.yaml "subject=[me.safetensors,you.safetensors]" scale=0.8
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Generate, load


def main(argv: list[str]) -> None:
    config = load(Generate, argv)
    names = [Path(path).stem for path in config.subject]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"subject is {config.subject}, expected one file or several of different names")
    if config.weights and not config.mix:
        raise ValueError(f"weights is {config.weights}, but mix is false: expected no weights, or mix=true")
    generate(config, ["+".join(names)] if config.mix else names)


def generate(config: Generate, names: list[str]) -> None:
    """Draws the pictures of a config.

    Args:
        names: of the people, as files are called.
    """
    from experiments.imports import import_quickly
    from experiments.inputs import check_networks, check_people
    from experiments.outputs import claim_files

    check_people(config.subject)
    check_networks(base=config.base)

    import_quickly()
    from hdb.diffusion.sampling import prompt_warnings
    from hdb.diffusion.sheet import picture_grid, save_image, to_pil
    from hdb.methods.kinds import check_readable
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.runs.outputs import resolve_output
    from hdb.training.device import select_device

    check_readable(config.subject)
    output = resolve_output(config.output)
    prompts = range(len(config.prompts))
    people = range(len(names))
    numbers = range(config.num_pictures)
    files = {
        (prompt, person, number): output / f"{prompt:02d}-{names[person]}-{config.seed + number}.png"
        for prompt in prompts
        for person in people
        for number in numbers
    }
    grid = output / "grid.png"
    mix_weights = None
    if config.mix:
        mix_weights = config.weights or [1 / len(config.subject)] * len(config.subject)
    with claim_files(grid, *files.values(), config=config, overwrite=config.overwrite):
        pipeline = HyperDreamBoothPipeline.from_pretrained(
            config.base, device=select_device(config.accelerator), memory=config.memory, cuda_graph=config.cuda_graph
        )
        personalization = pipeline.people(
            config.subject,
            scale=config.scale,
            text_encoder_scale=config.text_encoder_scale,
            mix_weights=mix_weights,
        )
        for warning in prompt_warnings(pipeline.diffusion, config.prompts):
            print(warning)
        pictures = {}
        for key, picture in pipeline.draw_each(
            personalization,
            config.prompts,
            num_images=config.num_pictures,
            seed=config.seed,
            sampling=config.sampling,
        ):
            pictures[key] = picture
            save_image(to_pil(picture), files[key])
        rows = [[pictures[prompt, person, number] for number in numbers] for prompt in prompts for person in people]
        save_image(picture_grid(rows), grid)
    for number, prompt in enumerate(config.prompts):
        print(f"{output}/{number:02d}-*.png  {prompt}")


if __name__ == "__main__":
    run(main)
