"""HyperNet: one photo of a face in, that person's theta out."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from hdb.hypernet.bases import LearnedBases
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder, FaceFeatures
from hdb.hypernet.folder import read_network, write_network
from hdb.lidb.layout import Layout
from hdb.prompts import IDENTIFIER

# By `learn_bases`. 2: names the base. 3: holds bases, which a reader that knows of none must not leave out.
FORMAT_VERSIONS = {False: 2, True: 3}
AVERAGED = "averaged"  # in a checkpoint: weights that are better than those of its last step


class HyperNet(nn.Module):
    """Encodes the reference once, then refines theta `iterations` times.

        theta₀ = initial + mean + linear_path(embedding)                                      (n, p)
        thetaₖ = thetaₖ₋₁ + decoder(face features, thetaₖ₋₁ - initial)         k = 1 .. iterations

    `initial` is the layout's fixed start (non-zero down, zero up), shared by everyone: from all-zero factors no
    gradient would ever leave. `mean` is what is learned of faces in general, so `mean_theta` is a prediction that has
    seen no face: a control.

    Paper: theta₀ = 0, and the decoder alone. Here also, with `linear_path`, a direct linear map from the embedding,
    zero at the start: on faceworld it learns within thousands of samples where the decoder alone needs far more.

    With `learn_bases` all this is within bases of the network's own, trained with it from the frozen ones on. Nobody
    else has them, so they are folded into what it predicts: `layout` then is the free one, of q numbers.

    Args:
        layout: of what the decoder writes: `decoder_layout`, and `layout` too where the bases are frozen.
        iterations: k; 0 leaves the decoder out. Open in the paper; 4 is the public code's value.
        linear_path: add the direct map.
        freeze_encoder: the encoder has no gradient and stays in eval mode.
        learn_bases: paper: frozen and random. Public code says that learned ones spare pre-optimized targets.
        base_digest: of the base it is trained on. Its layout fits many bases, its weights only this one.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    initial: Float[Tensor, "1 p"]
    embedding_mean: Float[Tensor, " e"]
    embedding_std: Float[Tensor, " e"]

    def __init__(
        self,
        encoder: FaceEncoder,
        decoder: WeightDecoder,
        layout: Layout,
        *,
        iterations: int = 4,
        linear_path: bool = False,
        freeze_encoder: bool = True,
        learn_bases: bool = False,
        base_digest: str = "",
    ) -> None:
        super().__init__()
        if len(decoder.places) != layout.size:
            raise ValueError(f"decoder writes {len(decoder.places)} numbers, the layout has {layout.size}")
        self.iterations, self.freeze_encoder, self.base_digest = _checked(iterations), freeze_encoder, base_digest
        self.identifier = IDENTIFIER  # what the base reads for [V] in the prompts it is trained with
        self.bases = LearnedBases(layout) if learn_bases else None
        self.decoder_layout, self.layout = layout, layout.as_lora if learn_bases else layout
        self.encoder = encoder.requires_grad_(not freeze_encoder)
        self.decoder = decoder
        self.mean = nn.Parameter(torch.zeros(layout.size))
        self.linear_path = None
        if linear_path:  # skip_init: nn.Linear would draw from the global generator what is zeroed at once
            self.linear_path = skip_init(nn.Linear, encoder.embedding_size, layout.size, bias=False)
            nn.init.zeros_(self.linear_path.weight)
        self.register_buffer("initial", layout.initial_theta(), persistent=False)
        self.register_buffer("embedding_mean", torch.zeros(encoder.embedding_size))
        self.register_buffer("embedding_std", torch.ones(encoder.embedding_size))
        self.train(self.training)

    def train(self, mode: bool = True) -> "HyperNet":
        super().train(mode)
        self.encoder.train(mode and not self.freeze_encoder)
        return self

    def forward(self, reference: Float[Tensor, "n 3 h w"], *, iterations: int | None = None) -> Float[Tensor, "n q"]:
        """Predicts theta; `iterations` overrides the network's own number."""
        return self.refine(self.forward_features(reference), iterations=iterations)

    def forward_features(self, reference: Float[Tensor, "n 3 h w"]) -> FaceFeatures:
        """Encodes the reference; the embedding comes standardized."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            return self.standardize_features(self.encoder(reference))

    def standardize_features(self, features: FaceFeatures) -> FaceFeatures:
        """What the encoder saw, with the embedding as `refine` takes it."""
        return features._replace(embedding=(features.embedding - self.embedding_mean) / self.embedding_std)

    def refine(self, features: FaceFeatures, *, iterations: int | None = None) -> Float[Tensor, "n q"]:
        """From face features to theta, of `layout`."""
        # Not `expand`: torch's counter of operations fails on a view of a parameter that was taken without gradients.
        change = self.mean.repeat(len(features.embedding), 1)
        if self.linear_path is not None:
            # Divided by √e, a step of Adam moves theta about as far through this path as through `mean`: one rate fits.
            change = change + self.linear_path(features.embedding / math.sqrt(features.embedding.shape[1]))
        face_tokens = self.decoder.face_tokens(features)
        for _ in range(self.iterations if iterations is None else _checked(iterations)):
            change = change + self.decoder(face_tokens, change)
        return self._in_layout(self.initial + change.float())

    @property
    def mean_theta(self) -> Float[Tensor, "1 q"]:
        """The theta of faces in general: a prediction without a reference."""
        return self._in_layout(self.initial + self.mean)

    def _in_layout(self, theta: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        return theta if self.bases is None else self.bases(theta)

    @torch.no_grad()
    def fit_standardization(self, embeddings: Float[Tensor, "n e"]) -> None:
        """Takes mean and scale of the encoder's embeddings from these, instead of 0 and 1.

        Without the common part of all faces, `mean` learns what is common and the direct path what is personal, and
        neither waits for the other.

        Raises:
            ValueError: fewer than two embeddings.
        """
        if len(embeddings) < 2:
            raise ValueError(f"standardizing needs at least 2 embeddings, not {len(embeddings)}")
        self.embedding_mean.copy_(embeddings.mean(0))
        self.embedding_std.copy_(embeddings.std(0).clamp_min(1e-6))

    @cached_property
    def _frozen_digest(self) -> str:
        return self.encoder.digest  # of a ViT-H that is gigabytes to read, at the start and at every checkpoint

    @property
    def encoder_digest(self) -> str:
        """Of the encoder as it is now."""
        return self._frozen_digest if self.freeze_encoder else self.encoder.digest

    @property
    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build the same network; only strings, numbers, lists and dicts."""
        learn_bases = self.bases is not None
        return {
            "format_version": FORMAT_VERSIONS[learn_bases],
            "layout": self.decoder_layout.to_dict(),
            "layout_digest": self.decoder_layout.digest,
            "encoder": self.encoder.config,
            "encoder_digest": self.encoder_digest,
            "decoder": self.decoder.config,
            "iterations": self.iterations,
            "linear_path": self.linear_path is not None,
            "freeze_encoder": self.freeze_encoder,
            "base_digest": self.base_digest,
        } | self._unusual

    @property
    def _unusual(self) -> dict[str, Any]:
        # Written only where it is so: configs of all other networks are older than these fields.
        unusual = {"learn_bases": True} if self.bases is not None else {}
        return unusual | ({"identifier": self.identifier} if self.identifier != IDENTIFIER else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """A network of the shape that `config` says, with fresh weights around `encoder`."""
        layout = Layout.from_dict(config["layout"])
        layout.check_digest(config["layout_digest"], name="the hypernetwork")
        encoder = encoder or FaceEncoder.from_config(config["encoder"])
        options = {key: config[key] for key in ("iterations", "linear_path", "freeze_encoder", "base_digest")}
        options["learn_bases"] = config.get("learn_bases", False)
        hypernet = cls(encoder, WeightDecoder(layout, encoder, **config["decoder"]), layout, **options)
        hypernet.identifier = config.get("identifier", IDENTIFIER)
        return hypernet

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The state without a frozen encoder, which has a file of its own: a ViT-H would fill every checkpoint."""
        state = self.state_dict()
        return {name: state[name] for name in state if not (self.freeze_encoder and name.startswith("encoder."))}

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `trainable_state_dict` gave, or a whole state; a frozen encoder that is not in it stays as it is.

        Raises:
            ValueError: other names or shapes than this network's.
        """
        missing, unexpected = [], []
        try:
            missing, unexpected = self.load_state_dict(dict(state), strict=False)
        except RuntimeError as error:
            raise ValueError(f"weights of another hypernetwork: {' '.join(str(error).split())}") from None
        missing = [name for name in missing if not (self.freeze_encoder and name.startswith("encoder."))]
        if missing or unexpected:
            raise ValueError(f"weights of another hypernetwork: {missing[:3]} missing, {unexpected[:3]} unexpected")

    def save(self, folder: str | Path, *, include_encoder: bool = True, dtype: torch.dtype = torch.float32) -> None:
        """Writes config.json and model.safetensors.

        Args:
            include_encoder: false leaves a frozen encoder out; whoever loads must bring the same one.
            dtype: of the weights in the file; float16 halves it.
        """
        state = self.state_dict() if include_encoder else self.trainable_state_dict()
        state = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
        write_network(folder, config=self.config, state=state, metadata={"layout_digest": self.decoder_layout.digest})

    @classmethod
    def from_folder(cls, folder: str | Path, *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """Reads what `save` wrote.

        Args:
            encoder: needed where the folder holds none; it must be the one the network was trained with.

        Raises:
            ValueError: missing or unreadable files, another layout, another encoder, or none.
        """
        config, state, metadata = read_network(folder, kind="a hypernetwork")
        digest, written = config.get("layout_digest"), metadata.get("layout_digest")
        if digest != written:
            raise ValueError(f"config.json in {folder} says layout {digest}, the weights beside it say {written}")
        return cls._restore(config, state, encoder, origin=folder)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """Reads the network out of a checkpoint of HyperNetPretraining; nothing in the file is executed.

        Where the training averaged its weights, the average is what is read.

        Raises:
            ValueError: as `from_folder`, and a checkpoint of something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"no checkpoint at {path}")
        if not is_zipfile(path):  # torch would take it for its format of old, and fail in a hundred ways
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: not in torch's zip format, or truncated")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            config, weights = checkpoint["hypernet"], checkpoint["state_dict"] | checkpoint.get(AVERAGED, {})
        except (UnpicklingError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict) or not isinstance(checkpoint["state_dict"], dict):
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: expected its config and its weights by name")
        prefix = "hypernet."
        state = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        return cls._restore(config, state, encoder, origin=path)

    @classmethod
    def _restore(
        cls, config: Mapping[str, Any], state: Mapping[str, Tensor], encoder: FaceEncoder | None, *, origin: str | Path
    ) -> "HyperNet":
        known = FORMAT_VERSIONS.values()
        if (version := config.get("format_version")) not in known:
            raise ValueError(f"{origin} has format version {version}, expected {' or '.join(map(str, known))}")
        if any(name.startswith("encoder.") for name in state):
            encoder = None  # the file's own counts; the given one is not written into
        else:
            if encoder is None:
                raise ValueError(f"{origin} holds no encoder: give the one it was trained with")
            if encoder.digest != (digest := config.get("encoder_digest")):
                raise ValueError(f"{origin} was trained with the encoder {digest}, not {encoder.digest}")
        try:
            hypernet = cls.from_config(config, encoder=encoder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{origin} has a config that is not whole: {error}") from None
        hypernet.load_trainable_state_dict(state)
        return hypernet


def _checked(iterations: int) -> int:
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, not {iterations}")
    return iterations
