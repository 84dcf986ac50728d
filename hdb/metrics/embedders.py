"""Embedders: frozen networks that turn images, or texts, into unit vectors.

Each takes images in [0, 1] of any size and preprocesses them itself, as its library does. An embedder has
`embed_images(images (n, 3, h, w)) -> (n, d)`; CLIP also has `embed_texts(n texts) -> (n, d)`.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
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

from hdb.metrics.networks import BATCH, Preprocessing, TimmNetwork, refuse_empty, require_files
from hdb.metrics.similarity import ImageEmbedder
from hdb.metrics.table import JudgeOptions
from hdb.progress import hidden_loading_bars

FACENET_WEIGHTS = "20180402-114759-vggface2.pt"  # facenet-pytorch's release v2.2.9


class TimmEmbedder(TimmNetwork):
    """The normalized output of a timm network: faceworld's recognizer and DINO, and the published DINO.

    >>> embedder = TimmEmbedder("resnet10t", {"num_classes": 8}, resolution=32).eval()
    >>> embedder.embed_images(torch.rand(2, 3, 64, 48)).norm(dim=1).round(decimals=3)
    tensor([1., 1.])
    """

    @classmethod
    def dino(cls, source: str | Path = "vit_small_patch16_224.dino") -> "TimmEmbedder":
        """DINO ViT-S/16, its class token, from a folder as `save` writes it or by a name that timm downloads.

        Source: Ruiz et al., "DreamBooth", section 4.1, https://arxiv.org/abs/2208.12242
        """
        if is_local(source):
            return cls.from_folder(source)
        name = str(source)
        try:
            embedder = cls(name, {"num_classes": 0}, pretrained=True, **timm_preprocessing(name))
        except (OSError, RuntimeError) as error:
            raise ValueError(missing_weights(f"timm's {name}", "config.json and model.safetensors", error)) from None
        return embedder.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors, with gradients."""
        return F.normalize(self.outputs(images), dim=1)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors, without gradients."""
        return embed_in_batches(self, self.forward, images)


class ClipEmbedder(nn.Module):
    """The image tower and the text tower of a CLIP of transformers: the published ViT-B/32, or faceworld's own.

    Source: Radford et al., https://arxiv.org/abs/2103.00020
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocess: Preprocessing):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.preprocess = preprocess

    @classmethod
    def from_pretrained(cls, source: str | Path = "openai/clip-vit-base-patch32") -> "ClipEmbedder":
        """Loads a folder in the hub's layout, or a hub id: safetensors only, in float32, frozen.

        Raises:
            ValueError: a file is missing or damaged.
        """
        if is_local(source):
            names = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json")
            require_files(source, *names)
        try:
            with hidden_loading_bars() if is_local(source) else nullcontext():
                model = CLIPModel.from_pretrained(source, use_safetensors=True).float()
            tokenizer = CLIPTokenizer.from_pretrained(source)
            processor = CLIPImageProcessor.from_pretrained(source)
        except (OSError, SafetensorError, RuntimeError) as error:
            files = "config.json, model.safetensors, preprocessor_config.json and the tokenizer's files"
            raise ValueError(missing_weights(f"CLIP {source}", files, error)) from None
        resolution = processor.crop_size["height"]
        preprocess = Preprocessing(
            resolution=resolution,
            mean=processor.image_mean,
            std=processor.image_std,
            crop_pct=resolution / processor.size["shortest_edge"],
        )
        return cls(model.eval().requires_grad_(False), tokenizer, preprocess)

    @classmethod
    def from_parts(cls, config: CLIPConfig, tokenizer: CLIPTokenizer, *, seed: int = 0) -> "ClipEmbedder":
        """A CLIP of random weights, to be trained."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = CLIPModel(config)
        resolution = config.vision_config.image_size
        preprocess = Preprocessing(resolution=resolution, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD)
        return cls(model, tokenizer, preprocess)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Writes model, tokenizer and preprocessing as transformers' own classes read them."""
        config = self.preprocess.config
        processor = CLIPImageProcessor(
            size={"shortest_edge": self.preprocess.size},
            crop_size={"height": config["resolution"], "width": config["resolution"]},
            image_mean=config["mean"],
            image_std=config["std"],
        )
        processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = self.model.state_dict()
        weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
        self.model.save_pretrained(folder, state_dict=weights)

    def image_features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors of images, with gradients."""
        # Not get_image_features: it returns a tensor in transformers 4 and a structure in 5.
        pooled = self.model.vision_model(pixel_values=self.preprocess(images)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors of texts, with gradients; a text that is too long is cut, with a warning."""
        limit = self.model.config.text_config.max_position_embeddings
        for text, ids in zip(texts, self.tokenizer(list(texts), verbose=False)["input_ids"], strict=True):
            if len(ids) > limit:
                warnings.warn(f"prompt {text!r} has {len(ids)} tokens; only the first {limit} are read", stacklevel=2)
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=1)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Unit vectors of images, without gradients."""
        return embed_in_batches(self, self.image_features, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors of texts, without gradients."""
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        with torch.no_grad():
            return torch.cat([self.text_features(batch) for batch in batches])


class FaceNet(nn.Module):
    """The paper's Face-Rec: Inception-ResNet of VGGFace2 on faces that MTCNN finds.

    A picture without a face has the zero vector.

    Source: HyperDreamBooth, section 5.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(self, network: InceptionResnetV1 | None = None):
        super().__init__()
        self.network = (network or InceptionResnetV1()).eval().requires_grad_(False)
        self.detector = MTCNN(image_size=160, margin=0)

    @classmethod
    def from_pretrained(cls, source: str | Path = "vggface2") -> "FaceNet":
        """Loads model.safetensors or facenet-pytorch's .pt file.

        Args:
            source: the folder of the file; "vggface2" is facenet-pytorch's cache, filled by a download.

        Raises:
            ValueError: there is no such file and no network, or it holds other weights.
        """
        is_published = source == "vggface2"
        folder = Path(get_torch_home()) / "checkpoints" if is_published else Path(source)
        candidates = [folder / "model.safetensors", folder / FACENET_WEIGHTS]
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:
            return cls(_read_facenet(path))
        if not is_published:
            raise ValueError(f"FaceNet's weights are missing in {folder}; put {FACENET_WEIGHTS} there")
        try:
            return cls(InceptionResnetV1(pretrained="vggface2"))
        except (OSError, URLError) as error:
            raise ValueError(missing_weights("FaceNet", FACENET_WEIGHTS, error, folder)) from None

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Vectors of the largest face in each image, without gradients."""
        device = next(self.network.parameters()).device
        vectors = torch.zeros(len(images), 512, device=device)
        for start in range(0, len(images), BATCH):
            faces = self.largest_faces(images[start : start + BATCH])
            rows = [row for row, face in enumerate(faces) if face is not None]
            if rows:
                crops = torch.stack([faces[row] for row in rows])
                with torch.no_grad():
                    vectors[[start + row for row in rows]] = self.network(crops.to(device))
        return vectors.to(images.device)

    def largest_faces(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "3 160 160"] | None]:
        """The largest face of each image as the network takes it, on the CPU; None where there is none."""
        # MTCNN keeps a device of its own, which `to` does not change.
        self.detector.device = next(self.detector.parameters()).device
        # Rounded to 8 bit, so that a picture in memory and the same picture on disk have the same face.
        pixels = (images.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures = [Image.fromarray(picture) for picture in pixels]
        boxes, _ = self.detector.detect(pictures)  # largest first
        return self.detector.extract(pictures, boxes, None)


def _read_facenet(path: Path) -> InceptionResnetV1:
    refuse_empty(path)
    network = InceptionResnetV1()
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, weights_only=True, map_location="cpu")  # reads tensors, refuses pickled code
        network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("logits.")})
    except Exception as error:  # a damaged pickle or zip raises anything: EOFError, KeyError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no InceptionResnetV1: {reason}") from None
    return network


def load_recognizer(source: str) -> TimmEmbedder | FaceNet:
    """The network behind face_rec: FaceNet, or faceworld's own, whose folder has a config.json."""
    refuse_missing_recognizer(source)
    if (Path(source) / "config.json").is_file():
        return TimmEmbedder.from_folder(source)
    return FaceNet.from_pretrained(source)


def refuse_missing_recognizer(source: str) -> None:
    """Raises ValueError for a folder that is not there."""
    if "/" in source and not Path(source).is_dir():
        raise ValueError(f"no face recognizer in {source}: expected a folder, or vggface2")


def refuse_missing_folder(source: str) -> None:
    """Raises ValueError for a folder that lacks a network; a name that can be downloaded passes."""
    if is_local(source):
        require_files(source, "config.json", "model.safetensors")


class EmbedderEntry(NamedTuple):
    """How a judge is loaded from a name or a folder, and how a missing folder is refused before that."""

    load: Callable[[str], ImageEmbedder]
    refuse_missing: Callable[[str], None]


# By the fields of `JudgeOptions`.
EMBEDDERS: dict[str, EmbedderEntry] = {
    "recognizer": EmbedderEntry(load_recognizer, refuse_missing_recognizer),
    "dino": EmbedderEntry(TimmEmbedder.dino, refuse_missing_folder),
    "clip": EmbedderEntry(ClipEmbedder.from_pretrained, refuse_missing_folder),
}


def check_judges_exist(options: JudgeOptions) -> None:
    """Raises ValueError if a judge is a folder and does not exist. Called before anything large is read."""
    for name, embedder in EMBEDDERS.items():
        embedder.refuse_missing(getattr(options, name))


def embed_in_batches(
    network: nn.Module, embed: Callable[[Tensor], Tensor], images: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n d"]:
    """Calls `embed` without gradients on the network's device; the vectors come back to the images' device."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return torch.cat([embed(batch.float().to(device)) for batch in images.split(BATCH)]).to(images.device)


def timm_preprocessing(name: str) -> dict[str, Any]:
    """Arguments of `Preprocessing` that equal timm's evaluation transform of a model.

    Raises:
        ValueError: timm does not know the name.
    """
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is neither a folder nor a model that timm {timm.__version__} knows")
    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return {
        "resolution": config["input_size"][-1],
        "mean": config["mean"],
        "std": config["std"],
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }


def is_local(source: str | Path) -> bool:
    """Whether a source means a folder: it exists, or is written like one."""
    return isinstance(source, Path) or Path(source).exists() or str(source).startswith((".", "/", "~"))


def missing_weights(network: str, files: str, error: Exception, folder: str | Path = "a folder and name that") -> str:
    """The message for weights that are neither on this machine nor can be downloaded."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return f"{network} is not on this machine and cannot be fetched ({reason}); put {files} into {folder}"
