"""Embedders: frozen networks that turn images, or text, into unit vectors.

Each takes images in [0, 1] of any size and does its own preprocessing, the same as its library's. An embedder has
`embed_images(images (n, 3, h, w)) -> (n, d)`, L2-normalized; CLIP also `embed_texts(list of n) -> (n, d)`.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import timm
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN, InceptionResnetV1
from facenet_pytorch.models.inception_resnet_v1 import get_torch_home
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hdb.metrics.networks import BATCH, Framing, TimmNetwork, refuse_empty, require

FACENET_WEIGHTS = "20180402-114759-vggface2.pt"  # facenet-pytorch's release v2.2.9


class TimmEmbedder(TimmNetwork):
    """The normalized output of a timm network: faceworld's recognizer and DINO, and the published DINO.

    >>> embedder = TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32).eval()
    >>> embedder.embed_images(torch.rand(2, 3, 64, 48)).norm(dim=1).round(decimals=3)
    tensor([1., 1.])
    """

    @classmethod
    def dino(cls, source: str | Path = "vit_small_patch16_224.dino") -> "TimmEmbedder":
        """DINO ViT-S/16, the class token: a folder as `save` writes it, or a name that timm downloads.

        Source: Ruiz et al., "DreamBooth", section 4.1, https://arxiv.org/abs/2208.12242
        """
        if is_local(source):
            return cls.from_folder(source)
        name = str(source)
        try:
            embedder = cls(name, {"num_classes": 0}, pretrained=True, **timm_framing(name))
        except (OSError, RuntimeError) as error:
            raise ValueError(missing(f"timm's {name}", "config.json and model.safetensors", error)) from None
        return embedder.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors with gradients."""
        return F.normalize(self.outputs(images), dim=1)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return in_batches(self, self.forward, images)


class ClipEmbedder(nn.Module):
    """Both towers of a CLIP of transformers: faceworld's own and the published ViT-B/32.

    Source: Radford et al., https://arxiv.org/abs/2103.00020
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, framing: Framing):
        super().__init__()
        self.model, self.tokenizer, self.framing = model, tokenizer, framing

    @classmethod
    def from_pretrained(cls, source: str | Path = "openai/clip-vit-base-patch32") -> "ClipEmbedder":
        """A folder in the layout of the hub, or a hub id; safetensors only, float32, frozen.

        Raises:
            ValueError: a file is missing or damaged.
        """
        if is_local(source):
            require(source, "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json")
        try:
            model = CLIPModel.from_pretrained(source, use_safetensors=True).float()
            tokenizer = CLIPTokenizer.from_pretrained(source)
            processor = CLIPImageProcessor.from_pretrained(source)
        except (OSError, SafetensorError, RuntimeError) as error:
            files = "config.json, model.safetensors, preprocessor_config.json and the tokenizer's files"
            raise ValueError(missing(f"CLIP {source}", files, error)) from None
        resolution = processor.crop_size["height"]
        framing = Framing(
            resolution=resolution,
            mean=processor.image_mean,
            std=processor.image_std,
            crop_pct=resolution / processor.size["shortest_edge"],
        )
        return cls(model.eval().requires_grad_(False), tokenizer, framing)

    @classmethod
    def from_parts(cls, config: CLIPConfig, tokenizer: CLIPTokenizer, *, seed: int = 0) -> "ClipEmbedder":
        """Random weights, to be trained; the resolution is the config's."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = CLIPModel(config)
        framing = Framing(resolution=config.vision_config.image_size, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD)
        return cls(model, tokenizer, framing)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes model, tokenizer and preprocessing as transformers' own classes read them."""
        config = self.framing.config
        CLIPImageProcessor(
            size={"shortest_edge": self.framing.size},
            crop_size={"height": config["resolution"], "width": config["resolution"]},
            image_mean=config["mean"],
            image_std=config["std"],
        ).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = self.model.state_dict()
        weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
        self.model.save_pretrained(folder, state_dict=weights)

    def images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors of images, with gradients."""
        # Not get_image_features: it returns a tensor in transformers 4 and a structure in 5.
        pooled = self.model.vision_model(pixel_values=self.framing(images)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors of texts, with gradients; what exceeds the tower's length is cut off, with a warning."""
        limit = self.model.config.text_config.max_position_embeddings
        for text, ids in zip(texts, self.tokenizer(list(texts), verbose=False)["input_ids"], strict=True):
            if len(ids) > limit:
                warnings.warn(f"prompt {text!r} has {len(ids)} tokens; only the first {limit} are read", stacklevel=2)
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=1)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return in_batches(self, self.images, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        with torch.no_grad():
            return torch.cat([self.texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])


class FaceNet(nn.Module):
    """Inception-ResNet of VGGFace2 behind MTCNN, the paper's Face-Rec; the zero vector where no face is found.

    Source: HyperDreamBooth, section 5.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(self, network: InceptionResnetV1 | None = None):
        super().__init__()
        self.network = (network or InceptionResnetV1()).eval().requires_grad_(False)
        self.detector = MTCNN(image_size=160, margin=0)

    @classmethod
    def from_pretrained(cls, source: str | Path = "vggface2") -> "FaceNet":
        """A folder with model.safetensors or facenet-pytorch's .pt file; "vggface2" is its cache, filled by a download.

        Raises:
            ValueError: no such file and no network, or another network's weights.
        """
        folder = Path(get_torch_home()) / "checkpoints" if source == "vggface2" else Path(source)
        paths = [path for name in ("model.safetensors", FACENET_WEIGHTS) if (path := folder / name).is_file()]
        if not paths and source == "vggface2":
            try:
                return cls(InceptionResnetV1(pretrained="vggface2"))
            except (OSError, URLError) as error:
                raise ValueError(missing("FaceNet", FACENET_WEIGHTS, error, folder)) from None
        if not paths:
            raise ValueError(f"FaceNet's weights are missing in {folder}; put {FACENET_WEIGHTS} there")
        # weights_only: tensors are read, pickled code is refused
        safe = paths[0].suffix == ".safetensors"
        network = InceptionResnetV1()
        refuse_empty(paths[0])
        try:
            weights = load_file(paths[0]) if safe else torch.load(paths[0], weights_only=True, map_location="cpu")
            network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("logits.")})
        except Exception as error:  # what reads a damaged pickle or zip raises anything: EOFError, KeyError, ...
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{paths[0]} holds no InceptionResnetV1: {said}") from None
        return cls(network)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        device = next(self.network.parameters()).device
        vectors = torch.zeros(len(images), 512, device=device)
        for start in range(0, len(images), BATCH):
            faces = self.largest_faces(images[start : start + BATCH])
            found = [index for index, face in enumerate(faces) if face is not None]
            if found:
                with torch.no_grad():
                    seen = self.network(torch.stack([faces[index] for index in found]).to(device))
                vectors[[start + index for index in found]] = seen
        return vectors.to(images.device)

    def largest_faces(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "3 160 160"] | None]:
        """The largest face of each picture as the network wants it, on the CPU; None where there is none."""
        self.detector.device = next(self.detector.parameters()).device  # it keeps its own, which `to` does not reach
        # In rounded whole numbers: what MTCNN sees in a saved picture.
        pixels = (images.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures = [Image.fromarray(picture) for picture in pixels]
        boxes, _ = self.detector.detect(pictures)  # largest first
        return self.detector.extract(pictures, boxes, None)


def in_batches(
    network: nn.Module, embed: Callable[[Tensor], Tensor], images: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n d"]:
    """`embed` without gradients, on the network's device, some images at a time; the result is where the images are."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return torch.cat([embed(part.float().to(device)) for part in images.split(BATCH)]).to(images.device)


def timm_framing(name: str) -> dict[str, Any]:
    """The framing of timm's own evaluation transform for a model.

    Raises:
        ValueError: timm does not know the name.
    """
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is neither a folder nor a model that timm {timm.__version__} knows")
    known = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    framing = {key: known[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    return {"resolution": known["input_size"][-1], **framing}


def is_local(source: str | Path) -> bool:
    """Whether a name means a folder: it exists, or is written like one."""
    return isinstance(source, Path) or Path(source).exists() or str(source).startswith((".", "/", "~"))


def missing(what: str, files: str, error: Exception, folder: str | Path = "a folder and name that") -> str:
    """The sentence for weights that are neither here nor can be fetched."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{what} is not on this machine and cannot be fetched ({first}); put {files} into {folder}"
