"""The pieces of the way from one photo to pictures as calls that can be measured."""

from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.config import Base, Benchmark
from experiments.cost import StepClock, timed
from experiments.networks import DTYPES, fitted, predict, stable_diffusion
from experiments.random_base import CONFIGS, is_random_base, random_stable_diffusion
from hdb.diffusion.sampling import generate, save_image, to_image
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.crop import FaceCropper
from hdb.faces.picture import open_picture, square
from hdb.faces.sources import FaceBatch
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining


def base(config: Benchmark, device: torch.device) -> StableDiffusion:
    """The base that the config names, on the device; of random weights where there are only configs."""
    folder = CONFIGS.get(config.base, Path(config.base))
    if not is_random_base(folder):
        return stable_diffusion(Base(path=config.base, dtype=config.dtype), memory=config.memory).to(device)
    diffusion = random_stable_diffusion(folder, device=device, dtype=DTYPES[config.dtype])
    return fitted(diffusion, memory=config.memory)


class Workloads:
    """One base and one hypernetwork of random weights, resident; each method does one piece of work.

    A method returns the seconds of its steps, or of itself as its only step.
    """

    def __init__(self, config: Benchmark, *, device: torch.device) -> None:
        self.config, self.device, self.diffusion = config, device, base(config, device)
        models = {"unet": self.diffusion.unet, "text_encoder": self.diffusion.text_encoder}
        net, layout = config.hypernet, Layout.of(**models, **asdict(config.lidb))
        encoder = FaceEncoder.from_folder(net.encoder) if Path(net.encoder).is_dir() else FaceEncoder(net.encoder)
        decoder = WeightDecoder(layout, encoder, width=net.width, num_layers=net.num_layers, num_heads=net.num_heads)
        options = {"iterations": net.iterations, "linear_path": net.linear_path, "freeze_encoder": net.freeze_encoder}
        options["learn_bases"] = net.learn_bases
        # In train mode, which changes nothing without dropout: in eval mode torch runs a layer of the decoder as one
        # fused operation, and its arithmetic would not be counted.
        self.hypernet = HyperNet(encoder, decoder, layout, **options).to(device)
        self.lidb = LiDB(**models, layout=self.hypernet.layout)
        self.cropper, self.folder = FaceCropper(), Path(config.output)
        self.photo = torch.rand(1, 3, self.diffusion.resolution, self.diffusion.resolution)
        save_image(to_image(self.photo[0]), self.folder / "photo.png")

    def prediction(self) -> list[float]:
        """The hypernetwork on one photo."""
        return [timed(lambda: predict(self.hypernet, self.photo), self.device)]

    def finetuning(self) -> list[float]:
        """The steps on one photo, from setting up the trainer to the final theta."""
        latents = torch.randn(1, *self.diffusion.latent_shape)
        return [timed(lambda: self.finetune(latents, self.lidb.layout.initial()), self.device)]

    def photo_to_file(self) -> list[float]:
        """Reading, face detection, encoding, prediction, finetuning and saving, everything being loaded."""

        def personalize() -> None:
            image = open_picture(self.folder / "photo.png")
            self.cropper.detect(image)
            photo = square(image, resolution=self.diffusion.resolution)[None]
            stage = self.finetune(self.diffusion.encode_images(photo).float(), predict(self.hypernet, photo))
            Subject(stage.theta, stage.layout, {"base": self.diffusion.name}).save(self.folder / "subject.safetensors")

        return [timed(personalize, self.device)]

    def pictures(self) -> list[float]:
        """Pictures of one person, with classifier-free guidance."""
        num, options = self.config.num_pictures, self.config.sampling
        prompts, theta = [self.config.instance_prompt] * num, self.lidb.layout.initial()
        guidance = {"num_inference_steps": options.num_inference_steps, "guidance_scale": options.guidance_scale}
        return [
            timed(
                lambda: generate(self.diffusion, self.lidb, theta, prompts, seeds=range(num), **guidance), self.device
            )
        ]

    def pretraining(self) -> list[float]:
        """Steps on batches of different people by the diffusion loss."""
        num, prompt = self.config.batch_size, self.config.instance_prompt
        photos = self.photo.expand(num, -1, -1, -1)
        batch = FaceBatch(photos, photos, [prompt] * num, torch.arange(num))
        stage = HyperNetPretraining(self.diffusion, self.lidb, self.hypernet)
        seconds = self.fit(stage, DataLoader([batch] * self.config.num_steps, batch_size=None))
        self.hypernet.to(self.device)  # a trainer leaves what it trained on the CPU
        return seconds

    def fitting(self, *, num_people: int, num_draws: int = 1) -> float:
        """Seconds of all steps of pre-optimizing so many people together, on so many draws for each per step."""
        latents = torch.randn(num_people, 1, *self.diffusion.latent_shape)
        stage = Preoptimization(
            self.diffusion,
            self.lidb,
            latents=latents,
            prompts=self.config.instance_prompt,
            num_steps=self.config.num_steps,
            views_per_step=num_draws,
        )
        return sum(self.fit(stage))

    def finetune(self, latents: Tensor, start: Tensor) -> SubjectFinetuning:
        tuning = self.config.finetuning
        options = {"rank": tuning.rank, "num_steps": tuning.num_steps, "lr": tuning.lr, "batch_size": tuning.batch_size}
        stage = SubjectFinetuning(
            self.diffusion, self.lidb, reference=latents, start=start, prompt=self.config.instance_prompt, **options
        )
        self.fit(stage)
        return stage

    def fit(self, stage: L.LightningModule, batches: DataLoader | None = None) -> list[float]:
        """Seconds of each step."""
        clock = StepClock(self.device)
        trainer = L.Trainer(
            accelerator=self.config.accelerator,
            precision=self.config.precision,
            devices=1,
            max_steps=len(batches or stage.train_dataloader()),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[clock],
        )
        trainer.fit(stage, batches)
        return clock.seconds
