"""HyperNet: predicts a person's theta from one photo of their face."""

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
from hdb.hypernet.options import HyperNetOptions
from hdb.lidb.layout import Layout
from hdb.prompts import IDENTIFIER

FORMAT_VERSION = 2
FORMAT_VERSION_WITH_BASES = 3  # a higher one, so that programs which know no learned bases refuse the file
AVERAGED = "averaged"  # key of the averaged weights in a checkpoint; they replace those of the last step


class HyperNet(nn.Module):
    """Encodes the reference once, then refines theta `iterations` times.

        theta₀ = initial + mean + linear_path(embedding)                                      (n, p)
        thetaₖ = thetaₖ₋₁ + decoder(face features, thetaₖ₋₁ - initial)         k = 1 .. iterations

    `initial` is the layout's fixed initial theta, with non-zero down and zero up: from all-zero factors there would be
    no gradient. `mean` learns what faces have in common, so `mean_theta` is a prediction without a face, a baseline.

    Paper: theta₀ = 0, and the decoder alone. Here: `linear_path` adds a direct linear map from the embedding, zero at
    first. On faceworld it learns within thousands of samples, where the decoder alone needs far more.

    With `learn_bases` the aux bases are parameters, initialized with the frozen ones. They are folded into the
    prediction, whose layout is then the free one with q numbers.

    Args:
        layout: Of the decoder's output. Kept as `decoder_layout`; with frozen bases it is also the predictions'
            `layout`.
        iterations: k. 0 leaves the decoder out. Open in the paper; 4 is the public code's value.
        linear_path: Add the linear map.
        freeze_encoder: The encoder has no gradients and stays in eval mode.
        learn_bases: Paper: frozen random bases. According to the public code, learned ones need no pre-optimized
            targets.
        base_digest: Digest of the base it is trained on. Its predictions fit no other base.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    initial_theta: Float[Tensor, "1 p"]
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
        if len(decoder.theta_indices) != layout.size:
            raise ValueError(f"decoder writes {len(decoder.theta_indices)} numbers, the layout has {layout.size}")
        _check_iterations(iterations)
        self.iterations = iterations
        self.freeze_encoder = freeze_encoder
        self.base_digest = base_digest
        self.identifier = IDENTIFIER  # what the base's text encoder reads for [V] in training
        self.decoder_layout = layout
        self.layout = layout.as_lora if learn_bases else layout
        self.bases = LearnedBases(layout) if learn_bases else None
        self.encoder = encoder.requires_grad_(not freeze_encoder)
        self.decoder = decoder
        self.mean = nn.Parameter(torch.zeros(layout.size))
        self.linear_path = None
        if linear_path:
            # skip_init, because nn.Linear would draw weights from the global generator.
            self.linear_path = skip_init(nn.Linear, encoder.embedding_size, layout.size, bias=False)
            nn.init.zeros_(self.linear_path.weight)
        self.register_buffer("initial_theta", layout.initial_theta(), persistent=False)
        self.register_buffer("embedding_mean", torch.zeros(encoder.embedding_size))
        self.register_buffer("embedding_std", torch.ones(encoder.embedding_size))
        self.train(self.training)

    def train(self, mode: bool = True) -> "HyperNet":
        super().train(mode)
        self.encoder.train(mode and not self.freeze_encoder)
        return self

    def forward(self, reference: Float[Tensor, "n 3 h w"], *, iterations: int | None = None) -> Float[Tensor, "n q"]:
        """Predicts theta.

        Args:
            reference: One photo per person, in [0, 1].
            iterations: Overrides the network's own number.
        """
        return self.refine(self.forward_features(reference), iterations=iterations)

    def forward_features(self, reference: Float[Tensor, "n 3 h w"]) -> FaceFeatures:
        """Encodes the reference. The embedding is standardized."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            return self.standardize_features(self.encoder(reference))

    def standardize_features(self, features: FaceFeatures) -> FaceFeatures:
        """Standardizes the embedding of raw encoder features, as `refine` expects it."""
        return features._replace(embedding=(features.embedding - self.embedding_mean) / self.embedding_std)

    def refine(self, features: FaceFeatures, *, iterations: int | None = None) -> Float[Tensor, "n q"]:
        """Predicts theta from standardized face features."""
        if iterations is None:
            iterations = self.iterations
        _check_iterations(iterations)
        # Not `expand`: FlopCounterMode fails on a view of a parameter that was taken without gradients.
        change = self.mean.repeat(len(features.embedding), 1)
        if self.linear_path is not None:
            # Divided by √e, so that a step of Adam moves theta about as far through this path as through `mean`, and
            # one learning rate suits both.
            change = change + self.linear_path(features.embedding / math.sqrt(features.embedding.shape[1]))
        face_tokens = self.decoder.face_tokens(features)
        for _ in range(iterations):
            change = change + self.decoder(face_tokens, change)
        return self._fold_bases(self.initial_theta + change.float())

    @property
    def mean_theta(self) -> Float[Tensor, "1 q"]:
        """The theta of faces in general: a prediction without a reference."""
        return self._fold_bases(self.initial_theta + self.mean)

    def _fold_bases(self, theta: Float[Tensor, "n p"]) -> Float[Tensor, "n q"]:
        return theta if self.bases is None else self.bases(theta)

    @torch.no_grad()
    def fit_standardization(self, embeddings: Float[Tensor, "n e"]) -> None:
        """Sets mean and standard deviation for standardizing embeddings from a sample of them, instead of 0 and 1.

        Without the mean of all faces in the embeddings, `mean` learns what faces have in common and the linear path
        what is individual, independently of each other.

        Raises:
            ValueError: There are fewer than two embeddings.
        """
        if len(embeddings) < 2:
            raise ValueError(f"standardizing needs at least 2 embeddings, not {len(embeddings)}")
        self.embedding_mean.copy_(embeddings.mean(0))
        self.embedding_std.copy_(embeddings.std(0).clamp_min(1e-6))

    @cached_property
    def _frozen_encoder_digest(self) -> str:
        return self.encoder.digest  # cached, since a ViT-H takes a while to hash at every checkpoint

    @property
    def encoder_digest(self) -> str:
        """Digest of the encoder's current weights."""
        return self._frozen_encoder_digest if self.freeze_encoder else self.encoder.digest

    @property
    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build the same network, as values that JSON can hold."""
        config = {
            "format_version": FORMAT_VERSION if self.bases is None else FORMAT_VERSION_WITH_BASES,
            "layout": self.decoder_layout.to_dict(),
            "layout_digest": self.decoder_layout.digest,
            "encoder": self.encoder.config,
            "encoder_digest": self.encoder_digest,
            "decoder": self.decoder.config,
            "iterations": self.iterations,
            "linear_path": self.linear_path is not None,
            "freeze_encoder": self.freeze_encoder,
            "base_digest": self.base_digest,
        }
        # Written only if they differ from the default: older configs lack these fields.
        if self.bases is not None:
            config["learn_bases"] = True
        if self.identifier != IDENTIFIER:
            config["identifier"] = self.identifier
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """Builds a network with untrained weights from another one's `config`.

        Args:
            encoder: Default: one with random weights.
        """
        layout = Layout.from_dict(config["layout"])
        layout.check_digest(config["layout_digest"], name="the hypernetwork")
        encoder = encoder or FaceEncoder.from_config(config["encoder"])
        hypernet = cls(
            encoder,
            WeightDecoder(layout, encoder, **config["decoder"]),
            layout,
            iterations=config["iterations"],
            linear_path=config["linear_path"],
            freeze_encoder=config["freeze_encoder"],
            learn_bases=config.get("learn_bases", False),
            base_digest=config["base_digest"],
        )
        hypernet.identifier = config.get("identifier", IDENTIFIER)
        return hypernet

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The state dict without a frozen encoder, which has its own file and would fill every checkpoint."""
        return {name: tensor for name, tensor in self.state_dict().items() if not self._is_frozen(name)}

    def load_trainable_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Loads what `trainable_state_dict` returned, or a whole state dict.

        Raises:
            ValueError: Names or shapes are not those of this network.
        """
        try:
            missing, unexpected = self.load_state_dict(dict(state_dict), strict=False)
        except RuntimeError as error:
            raise ValueError(f"weights of another hypernetwork: {' '.join(str(error).split())}") from None
        missing = [name for name in missing if not self._is_frozen(name)]
        if missing or unexpected:
            raise ValueError(f"weights of another hypernetwork: {missing[:3]} missing, {unexpected[:3]} unexpected")

    def _is_frozen(self, name: str) -> bool:
        return self.freeze_encoder and name.startswith("encoder.")

    def save(self, folder: str | Path, *, include_encoder: bool = True, dtype: torch.dtype = torch.float32) -> None:
        """Writes config.json and model.safetensors.

        Args:
            include_encoder: False leaves a frozen encoder out. `from_folder` then needs the same one.
            dtype: Of the weights in the file.
        """
        state_dict = self.state_dict() if include_encoder else self.trainable_state_dict()
        write_network(
            folder,
            config=self.config,
            state_dict={name: tensor.detach().to("cpu", dtype) for name, tensor in state_dict.items()},
            metadata={"layout_digest": self.decoder_layout.digest},
        )

    @classmethod
    def from_folder(cls, folder: str | Path, *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """Reads what `save` wrote.

        Args:
            encoder: The one it was trained with. Needed if the folder does not include it.

        Raises:
            ValueError: Files are missing or unreadable, or of another layout; the encoder is missing or another one.
        """
        config, state_dict, metadata = read_network(folder, kind="a hypernetwork")
        config_digest = config.get("layout_digest")
        weights_digest = metadata.get("layout_digest")
        if config_digest != weights_digest:
            raise ValueError(
                f"config.json in {folder} says layout {config_digest}, the weights beside it say {weights_digest}"
            )
        return cls._restore(config, state_dict, encoder, origin=folder)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, encoder: FaceEncoder | None = None) -> "HyperNet":
        """Reads the network from a Lightning checkpoint of HyperNetPretraining. No code in the file is executed.

        If the training averaged its weights, the average is loaded.

        Args:
            encoder: As in `from_folder`.

        Raises:
            ValueError: As `from_folder`, or it is a checkpoint of something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"no checkpoint at {path}")
        if not is_zipfile(path):  # torch would try its legacy format and raise errors of many kinds
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: not in torch's zip format, or truncated")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            config = checkpoint["hypernet"]
            module_state_dict = checkpoint["state_dict"] | checkpoint.get(AVERAGED, {})
        except (UnpicklingError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict) or not isinstance(checkpoint["state_dict"], dict):
            raise ValueError(f"{path} is no checkpoint of a hypernetwork: expected its config and its weights by name")
        state_dict = {name.removeprefix("hypernet."): tensor for name, tensor in module_state_dict.items()}
        return cls._restore(config, state_dict, encoder, origin=path)

    @classmethod
    def _restore(
        cls,
        config: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        encoder: FaceEncoder | None,
        *,
        origin: str | Path,
    ) -> "HyperNet":
        """Builds the network and loads its weights, after checking that version and encoder are the right ones."""
        version = config.get("format_version")
        if version not in (FORMAT_VERSION, FORMAT_VERSION_WITH_BASES):
            raise ValueError(
                f"{origin} has format version {version}, expected {FORMAT_VERSION} or {FORMAT_VERSION_WITH_BASES}"
            )
        includes_encoder = any(name.startswith("encoder.") for name in state_dict)
        if includes_encoder:
            encoder = None  # the given one is ignored, and not overwritten
        elif encoder is None:
            raise ValueError(f"{origin} holds no encoder: give the one it was trained with")
        elif encoder.digest != config.get("encoder_digest"):
            raise ValueError(
                f"{origin} was trained with the encoder {config.get('encoder_digest')}, not {encoder.digest}"
            )
        try:
            hypernet = cls.from_config(config, encoder=encoder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{origin} has a config that is not whole: {error}") from None
        hypernet.load_trainable_state_dict(state_dict)
        return hypernet


def _check_iterations(iterations: int) -> None:
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, not {iterations}")


def build_hypernet(
    options: HyperNetOptions, encoder: FaceEncoder, layout: Layout, *, base_digest: str = ""
) -> HyperNet:
    """Builds an untrained hypernetwork around an encoder.

    Args:
        layout: Of the decoder's output.
        base_digest: Digest of the base it will be trained on.
    """
    decoder = WeightDecoder(
        layout,
        encoder,
        width=options.width,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        seed=options.seed,
    )
    return HyperNet(
        encoder,
        decoder,
        layout,
        iterations=options.iterations,
        linear_path=options.linear_path,
        freeze_encoder=options.freeze_encoder,
        learn_bases=options.learn_bases,
        base_digest=base_digest,
    )
