"""The pieces of the way from one photo to pictures, as calls whose time can be measured."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hdb.diffusion.base import DTYPES, load_base, prepare_for_device
from hdb.diffusion.families.table import PUBLISHED_CONFIGS
from hdb.diffusion.graphs import Graphs
from hdb.diffusion.options import BaseOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.random_base import build_random_stable_diffusion, is_random_base
from hdb.diffusion.sheet import save_image, to_pil
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.evaluation.cost import StepClock
from hdb.evaluation.options import WorkloadOptions
from hdb.faces.crop import FaceCropper
from hdb.faces.picture import center_square, open_picture
from hdb.faces.sources import FaceBatch
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import build_hypernet
from hdb.hypernet.trained import predict
from hdb.lidb.file import Subject
from hdb.lidb.residuals import Residuals
from hdb.training.device import measure_seconds
from hdb.training.options import (
    PreoptimizationOptions,
    PretrainingOptions,
)
from hdb.training.personalize import SubjectFinetuning
from hdb.training.preoptimize import Preoptimization
from hdb.training.pretrain import HyperNetPretraining


def load_or_build_base(options: WorkloadOptions, device: torch.device) -> StableDiffusion:
    """The base on the device, of random weights if there are only configs."""
    if options.dtype not in DTYPES:
        raise ValueError(f"dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = PUBLISHED_CONFIGS.get(options.base, Path(options.base))
    if not is_random_base(folder):
        base_options = BaseOptions(path=options.base, dtype=options.dtype)
        return load_base(
            base_options,
            device=device,
            memory=options.memory,
            precision=options.precision,
            cuda_graph=options.cuda_graph,
        )
    diffusion = build_random_stable_diffusion(folder, device=device, dtype=DTYPES[options.dtype])
    return prepare_for_device(
        diffusion, memory=options.memory, precision=options.precision, cuda_graph=options.cuda_graph
    )


class Workloads:
    """A base and a hypernetwork of random weights. Each method does one piece of work and returns its seconds.

    A piece of several steps returns the seconds of each.

    Args:
        folder: for the photo and the person's file.
    """

    def __init__(self, options: WorkloadOptions, *, folder: Path, device: torch.device) -> None:
        self.options = options
        self.folder = folder
        self.device = device
        self.diffusion = load_or_build_base(options, device)
        name = options.hypernet.encoder
        encoder = FaceEncoder.from_folder(name) if Path(name).is_dir() else FaceEncoder(name)
        # In train mode, which changes nothing without dropout: in eval mode torch runs a layer of the decoder as one
        # fused operation, and its arithmetic would not be counted.
        self.hypernet = build_hypernet(options.hypernet, encoder, build_layout(self.diffusion, options.lidb)).to(device)
        self.personalized = PersonalizedDiffusion(self.diffusion, self.hypernet.layout)
        self.cropper = FaceCropper()
        self.start = Residuals.initial(self.hypernet.layout)
        self.photo = torch.rand(1, 3, self.diffusion.resolution, self.diffusion.resolution)
        save_image(to_pil(self.photo[0]), folder / "photo.png")

    def prediction(self) -> list[float]:
        """The hypernetwork on one photo."""
        return [measure_seconds(lambda: predict(self.hypernet, self.photo), self.device)]

    def finetuning(self) -> list[float]:
        """Finetuning on one photo, from the setup of the Trainer to the final theta."""
        latents = torch.randn(1, *self.diffusion.latent_shape)
        return [measure_seconds(lambda: self.finetune(latents, self.start), self.device)]

    def photo_to_file(self) -> list[float]:
        """Reading, face detection, encoding, prediction, finetuning and saving; all networks are loaded before."""

        def personalize() -> None:
            image = open_picture(self.folder / "photo.png")
            self.cropper.detect(image)
            photo = center_square(image, resolution=self.diffusion.resolution)[None]
            prediction = Residuals(predict(self.hypernet, photo), self.hypernet.layout)
            person = self.finetune(self.diffusion.encode_images(photo).float(), prediction).fitted
            subject = Subject(person.theta, person.layout, {"base": self.diffusion.name})
            subject.save(self.folder / "subject.safetensors")

        return [measure_seconds(personalize, self.device)]

    def pictures(self) -> list[float]:
        """Pictures of one person, with classifier-free guidance."""
        num, sampling = self.options.num_pictures, self.options.sampling
        prompts = [self.options.instance_prompt] * num

        def draw() -> Tensor:
            return self.personalized.pictures(self.start, prompts, seeds=range(num), sampling=sampling)

        return [measure_seconds(draw, self.device)]

    def pretraining(self) -> list[float]:
        """Steps on batches of different people by the diffusion loss."""
        num, prompt = self.options.batch_size, self.options.instance_prompt
        photos = self.photo.expand(num, -1, -1, -1)
        batch = FaceBatch(photos, photos, [prompt] * num, torch.arange(num))
        stage = HyperNetPretraining(self.personalized, self.hypernet, options=PretrainingOptions(beta=0.0))
        seconds = self.fit(stage, DataLoader([batch] * self.options.num_steps, batch_size=None))
        self.hypernet.to(self.device)  # a Trainer moves what it trained to the CPU
        return seconds

    def fitting(self, *, num_people: int, num_draws: int = 1) -> float:
        """Seconds of all steps of pre-optimizing people together.

        Args:
            num_draws: of noise and timestep, for each person in a step.
        """
        latents = torch.randn(num_people, 1, *self.diffusion.latent_shape)
        options = PreoptimizationOptions(num_steps=self.options.num_steps, views_per_step=num_draws)
        stage = Preoptimization(
            self.personalized, latents=latents, prompts=self.options.instance_prompt, options=options
        )
        return sum(self.fit(stage))

    def finetune(self, latents: Tensor, start: Residuals) -> SubjectFinetuning:
        """Finetunes one person."""
        stage = SubjectFinetuning(
            self.personalized,
            reference=latents,
            start=start,
            prompt=self.options.instance_prompt,
            options=self.options.finetuning,
        )
        self.fit(stage)
        return stage

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Work without CUDA graphs within a `with` block: operations in a graph are not seen by a counter."""
        graphs = self.diffusion.graphs
        self.diffusion.graphs = Graphs("false")
        try:
            yield
        finally:
            self.diffusion.graphs = graphs

    def fit(
        self, stage: L.LightningModule, batches: DataLoader | None = None, *, callbacks: Sequence[L.Callback] = ()
    ) -> list[float]:
        """Trains a stage and returns the seconds of each step."""
        clock = StepClock(self.device)
        trainer = L.Trainer(
            accelerator=self.options.accelerator,
            precision=self.options.precision,
            devices=1,
            max_steps=len(batches or stage.train_dataloader()),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[clock, *callbacks],
        )
        trainer.fit(stage, batches)
        return clock.seconds
