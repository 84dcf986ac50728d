"""FaceEncoder: a network of timm that turns one photo into face features."""

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
    """What the encoder saw: one vector for the whole face, and the patch tokens it was pooled from."""

    embedding: Float[Tensor, "n e"]
    tokens: Float[Tensor, "n t d"]


class FaceEncoder(nn.Module):
    """Images in [0, 1] to FaceFeatures; resizes and normalizes inside.

        images (n, 3, h, w) -> embedding (n, e), tokens (n, t, d)

    Args:
        architecture: the name of a timm model; or keyword arguments of the timm model named under "model", by default
            of VisionTransformer. With `num_classes` the embedding is the head's output, as an identity-trained encoder
            has one; without, the pooled features. The tokens of a convolutional network are the cells of its last map.
        resolution, mean, std: what the network was trained with; a name brings its own.
        pretrained: download timm's weights of that name.
        seed: of the random initialization where nothing is loaded.

    >>> tiny = dict(img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=5)
    >>> features = FaceEncoder(tiny, resolution=16)(torch.rand(2, 3, 40, 40))
    >>> features.embedding.shape, features.tokens.shape
    (torch.Size([2, 5]), torch.Size([2, 5, 12]))

    Paper: a ViT-H. Here: whatever timm has, as small networks need not be transformers.

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
        # timm initializes from the global generator, which belongs to others; torch.manual_seed would reach GPUs too
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if isinstance(architecture, str):
                check_timm_model(architecture)
                self.network = timm.create_model(architecture, pretrained=pretrained, num_classes=0)
            elif "model" in architecture:
                options = {"num_classes": 0, **architecture}
                self.network = timm.create_model(options.pop("model"), **options)
            else:
                self.network = VisionTransformer(**{"num_classes": 0, **architecture})
        known = self.network.pretrained_cfg if isinstance(architecture, str) else {}
        size = architecture.get("img_size", 224) if isinstance(architecture, Mapping) else known["input_size"][-1]
        self.config = {
            "timm": architecture if isinstance(architecture, str) else dict(architecture),
            "resolution": resolution or size,
            "mean": list(mean or known.get("mean", (0.5,) * 3)),
            "std": list(std or known.get("std", (0.5,) * 3)),
        }
        self.resolution: int = self.config["resolution"]
        self.register_buffer("mean", torch.tensor(self.config["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.config["std"])[:, None, None], persistent=False)
        self.token_size: int = self.network.num_features
        self.embedding_size: int = self.network.num_classes or self.network.num_features

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FaceEncoder":
        """An encoder of the shape that `config` says, with random weights."""
        return cls(config["timm"], resolution=config["resolution"], mean=config["mean"], std=config["std"])

    @classmethod
    def from_folder(cls, path: str | Path) -> "FaceEncoder":
        """Reads config.json and model.safetensors (the names of timm's network) from a folder.

        Raises:
            ValueError: a file is missing or unreadable, or weights and config do not belong together.
        """
        config, state, _ = read_network(path, kind="a face encoder")
        try:
            encoder = cls.from_config(config)
            encoder.network.load_state_dict(state)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no readable face encoder: {error}") from None
        except RuntimeError as error:
            raise ValueError(f"weights and config in {path} do not fit: {' '.join(str(error).split())}") from None
        return encoder

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes config.json and model.safetensors as `from_folder` reads them."""
        state = {name: tensor.detach().to("cpu", dtype) for name, tensor in self.network.state_dict().items()}
        write_network(folder, config=self.config, state=state)

    @property
    def digest(self) -> str:
        """sha256 of config and weights: a hypernetwork understands the features of one encoder only."""
        sha = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            sha.update(name.encode())
            sha.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> FaceFeatures:
        if images.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        features = self.network.forward_features((images - self.mean) / self.std)
        tokens = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        return FaceFeatures(embedding=self.network.forward_head(features), tokens=tokens)


def check_timm_model(name: str) -> None:
    """Raises ValueError if timm has no model of this name."""
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is neither a folder with config.json nor a model timm knows")
