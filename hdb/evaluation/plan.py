"""What a run will take before it starts: its work in operations, the memory of a GPU, the files it leaves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from hdb.diffusion.base import DTYPES
from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.cost import matmul_ceiling
from hdb.evaluation.operations import Pass, Pieces
from hdb.evaluation.people import ProtocolOptions
from hdb.limits import choice_field, number_field
from hdb.methods.context import MethodOptions
from hdb.methods.table import OURS, SCALE, methods_named
from hdb.training.callbacks import PreviewOptions
from hdb.training.device import select_device
from hdb.training.dreambooth import DreamBoothOptions
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.hypernet_run import ScheduleOptions
from hdb.training.preoptimize import PreoptimizationOptions
from hdb.training.pretraining_options import PretrainingOptions
from hdb.training.textual_inversion import TextualInversionOptions

# Dense products in bfloat16 and in float32, TFLOP/s. Source: NVIDIA's data sheets of H100 SXM, A100 SXM and RTX 4090.
DEVICES = {"h100": (989.0, 67.0), "a100": (312.0, 19.5), "4090": (165.2, 82.6)}


@dataclass
class RateOptions:
    """How fast operations are done: `tflops` a second, or the share `utilization` of what the device's sheet says.

    `device` this measures matrix products here.
    """

    device: str = choice_field("h100", (*DEVICES, "this"))
    utilization: float = number_field(0.4, gt=0, le=1)
    tflops: float | None = number_field(None, gt=0)


def rate_of(options: RateOptions, *, half: bool) -> float:
    """Operations a second.

    Args:
        half: of arithmetic in half precision.
    """
    if options.tflops is not None:
        return 1e12 * options.tflops
    if options.device == "this":
        return matmul_ceiling(select_device("auto"), torch.bfloat16 if half else torch.float32)
    return 1e12 * options.utilization * DEVICES[options.device][0 if half else 1]


@dataclass(frozen=True)
class Work:
    """`num` times the same operations."""

    name: str
    num: int
    operations: int  # of one


@dataclass
class Plan:
    """Of one stage: its work, and bytes by what they are of, on the GPU and on disk."""

    work: list[Work]
    gpu: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)

    @property
    def operations(self) -> int:
        return sum(work.num * work.operations for work in self.work)

    def lines(self, *, rate: float) -> list[str]:
        """The plan as text.

        Args:
            rate: operations a second.
        """
        rows = [(f"{work.num:,.0f} {work.name}", work.operations, work.num * work.operations) for work in self.work]
        rows.append(("all of it", None, self.operations))
        said = [f"{'':44}{'TFLOP each':>14}{'TFLOP':>14}{'hours':>10}"]
        for name, one, total in rows:
            each = "" if one is None else f"{one / 1e12:,.4g}"
            said.append(f"{name:44}{each:>14}{total / 1e12:>14,.4g}{total / rate / 3600:>10,.3g}")
        for where, parts in (("GPU", self.gpu), ("disk", self.disk)):
            if parts:
                listed = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in parts.items())
                said.append(f"{where}: {sum(parts.values()) / 1e9:.3g} GB ({listed})")
        return said


class Planner:
    """Plans the stages of one base and one hypernetwork.

    Args:
        pieces: their operations.
        dtype: of the base's weights.
        half: whether arithmetic is in half precision, and so what is kept for backward.
    """

    def __init__(self, pieces: Pieces, *, dtype: str = "float32", half: bool = True) -> None:
        self.pieces, self.half, net = pieces, half, pieces.hypernet
        size = {part: 4 * sum(p.numel() for p in of.parameters()) for part, of in net.named_children()}
        self.base_bytes = sum(p.numel() for p in pieces.diffusion.parameters()) * DTYPES[dtype].itemsize
        self.encoder_bytes = size["encoder"]
        self.trained_bytes = 4 * sum(p.numel() for p in net.parameters() if p.requires_grad)
        self.theta_bytes = 4 * net.layout.size

    def preoptimize(self, options: PreoptimizationOptions, *, people: int, at_once: int, views: int) -> Plan:
        """Thetas of so many people, `at_once` of them fitted together, each to so many views."""
        at_once = min(at_once, people)
        times, rest = divmod(people, at_once)
        step = self.pieces.fitting(at_once * options.views_per_step)
        work = [
            Work("pictures encoded", people * views, self.pieces.encoding.operations),
            Work(f"steps of {at_once} people", times * options.num_steps, step.operations),
        ]
        if rest:
            last = self.pieces.fitting(rest * options.views_per_step).operations
            work.append(Work(f"steps of the last {rest}", options.num_steps, last))
        gpu = {"base": self.base_bytes, "thetas": 4 * at_once * self.theta_bytes, "kept for backward": self._kept(step)}
        return Plan(work, gpu, {"thetas": people * self.theta_bytes})

    def pretrain(
        self,
        options: PretrainingOptions,
        schedule: ScheduleOptions,
        preview: PreviewOptions,
        *,
        batch_size: int,
        num_val: int,
        cached: bool = False,
        pictures: int = 0,
    ) -> Plan:
        """All steps, and a validation every so many.

        Args:
            pictures: whose caches are kept beside the shards.
        """
        pieces, batches = self.pieces, schedule.accumulate_grad_batches
        step = pieces.pretraining(batch_size, options, cached=cached)
        times = -(-schedule.max_steps // schedule.val_every)
        looks = 2 * options.num_val_draws * pieces.denoising.operations
        seen = num_val * (pieces.predicting.operations + pieces.encoding.operations + looks)
        shown = preview.num_preview_identities * len(preview.preview_prompts) * self._picture(preview.sampling)
        batch = f" of {batches} x {batch_size}" if batches > 1 else f" of {batch_size}"
        work = [
            Work(f"steps{batch}", schedule.max_steps, batches * step.operations),
            Work(f"validations on {num_val} people, {preview.num_preview_identities} drawn", times, seen + shown),
        ]
        copies = 4 + (schedule.ema_decay is not None)  # weights, gradients, two moments of Adam, and their average
        resident = self.base_bytes + self.encoder_bytes
        gpu = {"frozen": resident, "trained": copies * self.trained_bytes, "kept for backward": self._kept(step)}
        kept, written = 2 + 2 * (schedule.best_metric is not None), schedule.max_steps // schedule.checkpoint_every + 1
        of_checkpoints = kept * (copies - 1) * self.trained_bytes
        disk = {f"{kept} checkpoints of {written:,} written": of_checkpoints, "network": self.trained_bytes // 2}
        return Plan(work, gpu, disk | ({"caches": pictures * self._cache_bytes()} if cached else {}))

    def personalize(self, options: FinetuningOptions, sampling: SamplingOptions, *, pictures: int) -> Plan:
        """One person: from photo to file, and some pictures."""
        step = self.pieces.fitting(options.batch_size)
        work = [
            Work("prediction", 1, self.pieces.predicting.operations),
            Work(f"steps of {options.batch_size} draws", options.num_steps, step.operations),
            Work(f"pictures of {sampling.num_inference_steps} steps", pictures, self._picture(sampling)),
        ]
        resident = self.base_bytes + self.encoder_bytes + self.trained_bytes
        gpu = {"base, encoder, hypernetwork": resident, "kept for backward": self._kept(step)}
        return Plan(work, gpu, {"file": options.rank * self.theta_bytes})

    def evaluate(
        self,
        options: MethodOptions,
        protocol: ProtocolOptions,
        sampling: SamplingOptions,
        *,
        methods: Sequence[str] | None,
    ) -> Plan:
        """Methods on people, and their pictures: without the judges, and without the steps of ours' ablations."""
        drawn = [name for name in methods_named(methods) if name != SCALE[1]]  # which is drawn without the base
        people, pictures = protocol.num_identities, protocol.num_prompts * protocol.num_pictures
        own = {name: getattr(options, name) for name in drawn if hasattr(options, name)}
        fits = [
            Work(f"people by {name}", people, self._fit(of)) for name, of in (own | {OURS: options.finetuning}).items()
        ]
        scales = {name: protocol.sampling_for(name, sampling).identity_guidance_scale for name in drawn}
        ways = Counter((scales | {SCALE[0]: None})[name] for name in drawn)  # nobody is guided by the prompt alone
        drawings = [
            Work(
                f"pictures, identity guidance {scale:g}" if scale is not None else "pictures",
                num * people * pictures,
                self._picture(replace(sampling, identity_guidance_scale=scale)),
            )
            for scale, num in ways.items()
        ]
        return Plan([*fits, *drawings])

    def _fit(self, options: FinetuningOptions | DreamBoothOptions | TextualInversionOptions) -> int:
        """Operations of one person's fit. Where all weights move, backward is twice forward."""
        if not isinstance(options, DreamBoothOptions):
            return options.num_steps * options.batch_size * self._alone.operations
        step = 3 * self.pieces.denoising.operations * options.batch_size * (1 + bool(options.prior_preservation))
        return options.num_steps * step

    @cached_property
    def _alone(self) -> Pass:
        return self.pieces.fitting(1)

    def _picture(self, sampling: SamplingOptions) -> int:
        return self.pieces.drawing(sampling).operations

    def _kept(self, step: Pass) -> int:
        return step.kept // (2 if self.half else 1)

    def _cache_bytes(self) -> int:
        """Of one picture: latents, embedding and tokens in half precision."""
        diffusion, encoder = self.pieces.diffusion, self.pieces.hypernet.encoder
        channels, side, _ = diffusion.latent_shape
        tokens = encoder(self.pieces.photos).tokens
        return 2 * (channels * side * side + encoder.embedding_size + tokens.numel())
