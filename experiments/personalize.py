"""One photo to one subject's file: predict, relax the rank, finetune, save, show.

python -m experiments.personalize configs/faceworld/personalize.yaml reference=face.png output=me.safetensors
"""

import re
import time
from pathlib import Path

import wandb
from lightning import Trainer

from experiments.cli import run
from experiments.config import Personalize, load
from experiments.methods import subject_finetuning
from experiments.networks import device_of, hypernet_path, predict, stable_diffusion, trained_hypernet
from experiments.pictures import prompt_remarks
from experiments.tracking import wandb_run
from hdb.diffusion.sampling import generate, picture_grid, save_image
from hdb.faces.crop import FaceCropper
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject, dtype_named


def main(argv: list[str]) -> None:
    config = load(Personalize, argv)
    output, tuning, dtype = Path(config.output), config.finetuning, dtype_named(config.dtype)
    if output.suffix != ".safetensors" or output.is_dir():
        raise ValueError(f"output is {config.output!r}, expected a file name ending in .safetensors")
    cropper = FaceCropper(min_size=config.min_face)
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device_of(config.accelerator))
    read = cropper.crop if config.crop else cropper.check
    photo = read(config.reference, resolution=diffusion.resolution, face=config.face)[None]
    hypernet = trained_hypernet(hypernet_path(config.hypernet), encoder=config.encoder, diffusion=diffusion)
    hypernet.to(diffusion.device)
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=hypernet.layout)
    started = time.perf_counter()
    finetuning = subject_finetuning(config, diffusion, lidb, photo, predict(hypernet, photo), lr=tuning.lr)
    with wandb_run(config, stage="personalize", output="outputs/personalize") as logger:
        trainer = Trainer(
            accelerator=config.accelerator,
            precision=config.precision,
            devices=1,
            logger=logger,
            max_steps=tuning.num_steps,
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(finetuning)
        seconds = time.perf_counter() - started
        about = {"base": diffusion.name, "base_digest": diffusion.digest, "consent": config.consent}
        about["source"] = Path(config.reference).name if config.source is None else config.source
        subject = Subject(finetuning.theta.to(dtype), finetuning.layout, about)
        size = subject.save(output).stat().st_size
        print(f"{output}: {size} bytes, {subject.layout.size} numbers, personalized in {seconds:.1f} s")
        for remark in prompt_remarks(diffusion, config.prompts):
            print(remark)
        pictures = generate(
            diffusion,
            lidb,
            subject.theta.float(),  # what the file holds, rounding and all
            config.prompts,
            layout=subject.layout,
            seeds=[config.seed + number for number in range(len(config.prompts))],
            num_inference_steps=config.sampling.num_inference_steps,
            guidance_scale=config.sampling.guidance_scale,
        )
        sheet = picture_grid([[photo[0], *pictures]], columns=["reference", *config.prompts])
        save_image(sheet, output.with_suffix(".png"))
        logger.log_image("personalize/pictures", [sheet])
        logger.log_metrics({"personalize/seconds": seconds, "personalize/bytes": size})
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", output.stem)  # what W&B takes
        artifact = wandb.Artifact(name, type="subject", metadata=subject.metadata)
        artifact.add_file(str(output))
        logger.experiment.log_artifact(artifact)


if __name__ == "__main__":
    run(main)
