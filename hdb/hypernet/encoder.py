"""FaceEncoder: a timm network that turns one photo into face features."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hdb.hypernet.folder import read_network, write_network


class FaceFeatures(NamedTuple):
    """The encoder's output: one embedding of the whole face, and the patch tokens it was pooled from."""

    embedding: Float[Tensor, "n e"]
    tokens: Float[Tensor, "n t d"]


class FaceEncoder(nn.Module):
    """Images in [0, 1] to FaceFeatures. Resizes and normalizes inside.

        images (n, 3, h, w) -> embedding (n, e), tokens (n, t, d)

    Args:
        architecture: The name of a timm model. Or keyword arguments of the timm model named under "model", by default
            of VisionTransformer. With `num_classes` the embedding is the head's output, as in encoders trained to
            recognize people; without, it is the pooled features. The tokens of a convolutional network are the cells
            of its last feature map.
        resolution: Side in pixels that the network was trained with. Default: that of the named model.
        mean: Of the network's normalization, by channel. Default: that of the named model.
        std: Likewise.
        pretrained: Download timm's weights of the named model.
        seed: Of the random initialization.

    >>> tiny = dict(img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=5)
    >>> features = FaceEncoder(tiny, resolution=16)(torch.rand(2, 3, 40, 40))
    >>> features.embedding.shape, features.tokens.shape
    (torch.Size([2, 5]), torch.Size([2, 5, 12]))

    Paper: a ViT-H. Here: any timm model, since small encoders are often convolutional.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        architecture: str | Mapping[str, Any],
        *,
        resolution: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pretrained: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # timm initializes from the global generator, which is forked here. torch.manual_seed would seed GPUs as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if isinstance(architecture, str):
                check_timm_model(architecture)
                self.network = timm.create_model(architecture, pretrained=pretrained, num_classes=0)
            elif "model" in architecture:
                model_kwargs = {"num_classes": 0, **architecture}
                self.network = timm.create_model(model_kwargs.pop("model"), **model_kwargs)
            else:
                self.network = VisionTransformer(**{"num_classes": 0, **architecture})
        if isinstance(architecture, str):
            published = self.network.pretrained_cfg
            default_resolution = published["input_size"][-1]
        else:
            published = {}
            default_resolution = architecture.get("img_size", 224)
        self.config = {
            "timm": architecture if isinstance(architecture, str) else dict(architecture),
            "resolution": resolution or default_resolution,
            "mean": list(mean or published.get("mean", (0.5,) * 3)),
            "std": list(std or published.get("std", (0.5,) * 3)),
        }
        self.resolution: int = self.config["resolution"]
        self.register_buffer("mean", torch.tensor(self.config["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.config["std"])[:, None, None], persistent=False)
        self.token_size: int = self.network.num_features
        self.embedding_size: int = self.network.num_classes or self.network.num_features

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FaceEncoder":
        """Builds an encoder with random weights from another one's `config`."""
        return cls(config["timm"], resolution=config["resolution"], mean=config["mean"], std=config["std"])

    @classmethod
    def from_folder(cls, path: str | Path) -> "FaceEncoder":
        """Reads config.json and model.safetensors, whose tensors have the names of timm's network.

        Raises:
            ValueError: A file is missing or unreadable, or weights and config do not belong together.
        """
        config, state_dict, _ = read_network(path, kind="a face encoder")
        try:
            encoder = cls.from_config(config)
            encoder.network.load_state_dict(state_dict)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no readable face encoder: {error}") from None
        except RuntimeError as error:
            raise ValueError(f"weights and config in {path} do not fit: {' '.join(str(error).split())}") from None
        return encoder

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes config.json and model.safetensors as `from_folder` reads them."""
        state_dict = {name: tensor.detach().to("cpu", dtype) for name, tensor in self.network.state_dict().items()}
        write_network(folder, config=self.config, state_dict=state_dict)

    @property
    def digest(self) -> str:
        """SHA-256 of config and weights. A hypernetwork stores the digest of the encoder it was trained with."""
        sha = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> FaceFeatures:
        features = self.network.forward_features(self._preprocess(images))
        tokens = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        return FaceFeatures(embedding=self.network.forward_head(features), tokens=tokens)

    def feature_maps(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """What the network makes of images on the way, (n, c, h, w) after each of its stages or blocks.

        Raises:
            ValueError: timm does not give these of this network.
        """
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"timm gives no feature maps of {type(self.network).__name__}, the face encoder")
        return self.network.forward_intermediates(self._preprocess(images), intermediates_only=True)

    def _preprocess(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 r r"]:
        size = (self.resolution, self.resolution)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return (images - self.mean) / self.std


def check_timm_model(name: str) -> None:
    """Raises ValueError if timm has no model of this name."""
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is neither a folder with config.json nor a model timm knows")
