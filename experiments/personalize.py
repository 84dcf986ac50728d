"""One photo, or several of one person, to one subject's file: predict, relax the rank, finetune, save, show.

python -m experiments.personalize configs/faceworld/personalize.yaml reference=face.png output=me.safetensors
"""

import time
from pathlib import Path

from experiments.cli import run
from experiments.config import Personalize, load
from experiments.outputs import place_of_file, writing
from experiments.person import method_of, read_references
from experiments.tracking import check_mode, log_subject, wandb_run
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import prompt_warnings
from hdb.diffusion.sheet import picture_grid, preview_path, save_image, to_pil
from hdb.evaluation.gate import judge_person
from hdb.hypernet.trained import load_hypernet, resolve_hypernet_path
from hdb.lidb.file import parse_dtype
from hdb.methods.protocol import Photos
from hdb.training.device import select_device


def main(argv: list[str]) -> None:
    config = load(Personalize, argv)
    output, dtype = place_of_file(config.output), parse_dtype(config.dtype)
    check_mode(config)
    path, device, preview = (
        resolve_hypernet_path(config.hypernet),
        select_device(config.accelerator),
        preview_path(output),
    )
    picture, prompts = output.with_suffix(".png"), config.prompts
    with writing(output, picture, preview, config=config, overwrite=config.overwrite, reads=[path]):
        config.refuse_missing(path)
        base = load_base(config.base, device=device, memory=config.memory, precision=config.precision)
        views = read_references(config, resolution=base.resolution)
        hypernet = load_hypernet(path, encoder=config.encoder, **base.compatibility).to(device)
        config.finetuning.check(hypernet.layout)
        personalized, started = PersonalizedDiffusion(base, hypernet.layout), time.perf_counter()
        source = Path(config.reference).name if config.source is None else config.source
        with wandb_run(config, stage="personalize", output="outputs/personalize", keep=False) as logger:
            method = method_of(config, hypernet, personalized, logger=logger, dtype=dtype)
            for remark in prompt_warnings(base, [config.instance_prompt, *prompts]):
                print(remark)
            person = method.personalize(Photos([source], views[:, 0], views[:, 1:]))
            seconds = time.perf_counter() - started
            person.save([output], about=[{"source": source, "consent": config.consent}])
            num, size = person.residuals.layout.size, output.stat().st_size
            print(f"{output}: {size} bytes, {num} numbers, personalized in {seconds:.1f} s")
            seeds, saved = range(config.seed, config.seed + len(prompts)), method.load([output])  # rounding and all
            pictures = saved.pictures(prompts, seeds=seeds, sampling=config.sampling)
            verdict = judge_person(path, hypernet, views[0, 0], prompts=prompts, pictures=pictures)
            save_image(sheet := picture_grid([[views[0, 0], *pictures]], columns=["reference", *prompts]), picture)
            save_image(to_pil(pictures[0]), preview)
            log_subject(logger, output, sheet=sheet, seconds=seconds, share=config.wandb.share_subject)
    print(verdict.words)
    if config.strict and not verdict.fits:
        raise SystemExit(3)


if __name__ == "__main__":
    run(main)
