"""Networks of timm with their preprocessing: what faceworld's judges are, and how they lie in a folder."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from hdb.files import write_files

BATCH = 64  # pictures in one pass, so that a whole evaluation may be handed over at once
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Framing(nn.Module):
    """Images in [0, 1] of any size as a network wants them: shorter side resized, center cropped, normalized.

        (n, 3, h, w) -> (n, 3, resolution, resolution)

    Args:
        crop_pct: share of the resized shorter side that the crop keeps; timm's name.
        interpolation: "bilinear" or "bicubic", with antialiasing.
    """

    def __init__(
        self,
        *,
        resolution: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
    ):
        super().__init__()
        self.config = {
            "resolution": resolution,
            "mean": list(mean),
            "std": list(std),
            "crop_pct": crop_pct,
            "interpolation": interpolation,
        }
        self.size, self.resolution = math.floor(resolution / crop_pct), resolution
        self.interpolation = transforms.InterpolationMode(interpolation)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 r r"]:
        images = transforms.resize(images, [self.size], interpolation=self.interpolation, antialias=True)
        images = transforms.center_crop(images, [self.resolution, self.resolution])
        return transforms.normalize(images, self.config["mean"], self.config["std"])


class TimmNetwork(nn.Module):
    """A network of timm with its framing, kept as a folder: config.json and model.safetensors.

    config.json: {"model": timm's name, "kwargs": {...}, "resolution", "mean", "std", "crop_pct", "interpolation"}.

    Args:
        model: timm's name.
        kwargs: further arguments of `timm.create_model`.
        pretrained: download timm's weights of that name.
        framing: keyword arguments of `Framing`.
        seed: of the random initialization.
    """

    def __init__(
        self,
        model: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        pretrained: bool = False,
        seed: int = 0,
        **framing: Any,
    ):
        super().__init__()
        if not timm.is_model(model):
            raise ValueError(f"timm {timm.__version__} knows no model {model!r}")
        # timm initializes from the global generator, which belongs to others; torch.manual_seed would reach GPUs too
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = timm.create_model(model, pretrained=pretrained, **(kwargs or {}))
        self.framing = Framing(**framing)
        self.config: dict[str, Any] = {"model": model, "kwargs": dict(kwargs or {}), **self.framing.config}

    @classmethod
    def from_folder(cls, folder: str | Path) -> "TimmNetwork":
        """Loads what `save` wrote, in float32, frozen.

        Raises:
            ValueError: a file is missing or damaged, or weights and config do not belong together.
        """
        config_path, weights_path = require(folder, "config.json", "model.safetensors")
        try:
            config = json.loads(config_path.read_text())
        except ValueError as error:
            raise ValueError(f"{config_path} holds no readable {cls.__name__}: {error}") from None
        try:
            network = cls(**config)
            network.network.load_state_dict({name: value.float() for name, value in load_file(weights_path).items()})
        except SafetensorError as error:
            raise ValueError(f"{weights_path} holds no readable {cls.__name__}: {error}") from None
        except TypeError as error:
            raise ValueError(f"{folder} holds no readable {cls.__name__}: {error}") from None
        except RuntimeError as error:
            raise ValueError(f"weights and config in {folder} do not fit: {' '.join(str(error).split())}") from None
        return network.eval().requires_grad_(False)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes the folder. Floating-point weights are stored as `dtype`."""
        weights = {
            name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        config = json.dumps(self.config, indent=2) + "\n"
        contents = {"config.json": config.encode(), "model.safetensors": save(weights, {"format": "pt"})}
        write_files({Path(folder, name): content for name, content in contents.items()})

    def outputs(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """What the network says, with gradients: for training it."""
        return self.network(self.framing(images))


class AttributeClassifier(TimmNetwork):
    """One network, several questions: style, context, accessory, expression.

    Args:
        heads: question -> names of its answers, in the order of the labels; all together are the network's outputs.

    >>> heads = {"style": ["photo", "oil"], "accessory": ["none", "hat", "cap"]}
    >>> classifier = AttributeClassifier("resnet10t", heads=heads, resolution=32).eval()
    >>> {question: logits.shape[1] for question, logits in classifier(torch.rand(1, 3, 32, 32)).items()}
    {'style': 2, 'accessory': 3}
    """

    def __init__(
        self, model: str, kwargs: Mapping[str, Any] | None = None, *, heads: Mapping[str, Sequence[str]], **options: Any
    ):
        super().__init__(model, {**(kwargs or {}), "num_classes": sum(map(len, heads.values()))}, **options)
        self.heads = {question: list(answers) for question, answers in heads.items()}
        self.config["heads"] = self.heads

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n k"]]:
        """Question -> logits, with gradients."""
        parts = self.outputs(images).split([len(answers) for answers in self.heads.values()], dim=1)
        return dict(zip(self.heads, parts, strict=True))

    def answers(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, list[str]]:
        """Question -> the likeliest answer for every image, on the network's device, some images at a time."""
        device, chosen = next(self.parameters()).device, {question: [] for question in self.heads}
        with torch.no_grad():
            for part in images.split(BATCH):
                for question, logits in self(part.to(device)).items():
                    chosen[question] += logits.argmax(1).tolist()
        return {question: [self.heads[question][index] for index in indices] for question, indices in chosen.items()}


def require(folder: str | Path, *names: str) -> list[Path]:
    """The files of a folder, or one sentence which are missing."""
    paths = [Path(folder) / name for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{', '.join(absent)} missing in {folder}; expected there: {', '.join(names)}")
    for path in paths:
        refuse_empty(path)
    return paths


def refuse_empty(path: Path) -> None:
    """Raises ValueError for a file of zero bytes: what an interrupted download or a full disk leaves."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); delete it and fetch or copy it again")
