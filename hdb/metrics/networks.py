"""Networks of timm with their preprocessing, saved as a folder: faceworld's judges are of this kind."""

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

BATCH = 64  # images in one pass, so that callers may pass any number
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Preprocessing(nn.Module):
    """Resizes the shorter side of images in [0, 1], crops the center and normalizes.

        (n, 3, h, w) -> (n, 3, resolution, resolution)

    Args:
        crop_pct: share of the resized shorter side that the crop keeps, as in timm.
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
        self.size = math.floor(resolution / crop_pct)  # of the shorter side before the crop
        self.resolution = resolution
        self.interpolation = transforms.InterpolationMode(interpolation)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 r r"]:
        images = transforms.resize(images, [self.size], interpolation=self.interpolation, antialias=True)
        images = transforms.center_crop(images, [self.resolution, self.resolution])
        return transforms.normalize(images, self.config["mean"], self.config["std"])


class TimmNetwork(nn.Module):
    """A network of timm with its preprocessing, saved as config.json and model.safetensors.

    config.json: {"model": timm's name, "kwargs": {...}, "resolution", "mean", "std", "crop_pct", "interpolation"}.

    Args:
        model: timm's name.
        kwargs: further arguments of `timm.create_model`.
        pretrained: downloads timm's weights of that name.
        seed: of the random initialization.
        preprocessing: arguments of `Preprocessing`.
    """

    def __init__(
        self,
        model: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        pretrained: bool = False,
        seed: int = 0,
        **preprocessing: Any,
    ):
        super().__init__()
        if not timm.is_model(model):
            raise ValueError(f"timm {timm.__version__} knows no model {model!r}")
        # timm draws from the global generator, whose state is kept; torch.manual_seed would also seed the GPUs.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = timm.create_model(model, pretrained=pretrained, **(kwargs or {}))
        self.preprocess = Preprocessing(**preprocessing)
        self.config: dict[str, Any] = {"model": model, "kwargs": dict(kwargs or {}), **self.preprocess.config}

    @classmethod
    def from_folder(cls, folder: str | Path) -> "TimmNetwork":
        """Loads what `save` wrote, in float32, frozen.

        Raises:
            ValueError: a file is missing or damaged, or weights and config do not belong together.
        """
        config_path, weights_path = require_files(folder, "config.json", "model.safetensors")
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
        """Writes the folder, floating-point weights in `dtype`."""
        weights = {
            name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        config = json.dumps(self.config, indent=2) + "\n"
        contents = {"config.json": config.encode(), "model.safetensors": save(weights, {"format": "pt"})}
        write_files({Path(folder, name): content for name, content in contents.items()})

    def outputs(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Outputs of the network, with gradients."""
        return self.network(self.preprocess(images))


class AttributeClassifier(TimmNetwork):
    """One network that classifies several attributes of a picture: style, context, accessory, expression.

    Args:
        heads: attribute -> its labels, in the order of the classes; all heads together are the network's outputs.

    >>> heads = {"style": ["photo", "oil"], "accessory": ["none", "hat", "cap"]}
    >>> classifier = AttributeClassifier("resnet10t", heads=heads, resolution=32).eval()
    >>> {attribute: logits.shape[1] for attribute, logits in classifier(torch.rand(1, 3, 32, 32)).items()}
    {'style': 2, 'accessory': 3}
    """

    def __init__(
        self, model: str, kwargs: Mapping[str, Any] | None = None, *, heads: Mapping[str, Sequence[str]], **options: Any
    ):
        num_classes = sum(len(labels) for labels in heads.values())
        super().__init__(model, {**(kwargs or {}), "num_classes": num_classes}, **options)
        self.heads = {attribute: list(labels) for attribute, labels in heads.items()}
        self.config["heads"] = self.heads

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n k"]]:
        """Attribute -> logits, with gradients."""
        sizes = [len(labels) for labels in self.heads.values()]
        return dict(zip(self.heads, self.outputs(images).split(sizes, dim=1), strict=True))

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, list[str]]:
        """Attribute -> the likeliest label of each image."""
        device = next(self.parameters()).device
        labels: dict[str, list[str]] = {attribute: [] for attribute in self.heads}
        for batch in images.split(BATCH):
            for attribute, logits in self(batch.to(device)).items():
                labels[attribute] += [self.heads[attribute][index] for index in logits.argmax(1).tolist()]
        return labels


def require_files(folder: str | Path, *names: str) -> list[Path]:
    """The paths of files in a folder.

    Raises:
        ValueError: some are missing, or empty.
    """
    paths = [Path(folder) / name for name in names]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{', '.join(absent)} missing in {folder}; expected there: {', '.join(names)}")
    for path in paths:
        refuse_empty(path)
    return paths


def refuse_empty(path: Path) -> None:
    """Raises ValueError for a file of zero bytes, as an interrupted download or a full disk leaves it."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes); delete it and fetch or copy it again")
