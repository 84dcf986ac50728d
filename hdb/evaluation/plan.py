"""What a run will take before it starts: operations, memory of a GPU, files."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from hdb.diffusion.base import DTYPES
from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.cost import matmul_ceiling
from hdb.evaluation.operations import CountedCost, OperationCounter
from hdb.evaluation.options import DEVICES, ProtocolOptions, RateOptions
from hdb.methods.options import MethodOptions
from hdb.methods.table import OURS, SCALE, methods_named
from hdb.training.device import select_device
from hdb.training.options import (
    DreamBoothOptions,
    FinetuningOptions,
    PreoptimizationOptions,
    PretrainingOptions,
    PreviewOptions,
    ScheduleOptions,
    TextualInversionOptions,
)


def rate_of(options: RateOptions, *, half: bool, step: str = "finetuning") -> tuple[float, str]:
    """Operations a second, and what that assumes.

    Args:
        half: in half precision.
        step: of a benchmark, whose rate is taken where its results are given: finetuning or pretraining.

    Raises:
        ValueError: the results cannot be read, or have no such step.
    """
    if options.results is not None:
        return _measured_rate(Path(options.results), step)
    if options.tflops is not None:
        return 1e12 * options.tflops, "as given"
    precision = "half precision" if half else "single precision"
    if options.device == "this":
        rate = matmul_ceiling(select_device("auto"), torch.bfloat16 if half else torch.float32)
        return rate, f"assumed: as fast as a plain matrix product in {precision} on this machine"
    half_rate, single_rate = DEVICES[options.device]
    peak = half_rate if half else single_rate
    share = f"{options.utilization:.0%} of the {peak:g} TFLOP/s in {precision}"
    return 1e12 * options.utilization * peak, f"assumed: {share} of the data sheet of {options.device}"


def _measured_rate(path: Path, step: str) -> tuple[float, str]:
    """The rate of a step in the results of a benchmark, and where it was measured."""
    try:
        results = json.loads(path.read_text())
        rates = {name: float(cost["rate"]) for name, cost in results["costs"].items()}
        machine = f"{results['base']} on {results['device']}, {results['precision']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"results={path} is not readable ({error}): expected results.json of a benchmark") from None
    name = next((name for name in rates if step in name), None)
    if name is None:
        raise ValueError(f"{path} has no step of {step}, only {', '.join(rates)}: expected results of a benchmark")
    return rates[name], f"measured: {name}, {machine}"


@dataclass(frozen=True)
class Work:
    """The same operations `num` times.

    Args:
        operations: of one time.
    """

    name: str
    num: int
    operations: int


@dataclass
class Plan:
    """The work of one stage.

    Args:
        gpu: bytes of memory, by what they hold.
        disk: bytes of files, by what they hold.
    """

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
        lines = [f"{'':44}{'TFLOP each':>14}{'TFLOP':>14}{'hours':>10}"]
        for work in self.work:
            total = work.num * work.operations
            lines.append(_plan_line(f"{work.num:,.0f} {work.name}", f"{work.operations / 1e12:,.4g}", total, rate=rate))
        lines.append(_plan_line("all of it", "", self.operations, rate=rate))
        for place, parts in (("GPU", self.gpu), ("disk", self.disk)):
            if parts:
                sizes = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in parts.items())
                lines.append(f"{place}: {sum(parts.values()) / 1e9:.3g} GB ({sizes})")
        return lines


def _plan_line(name: str, each: str, total: int, *, rate: float) -> str:
    return f"{name:44}{each:>14}{total / 1e12:>14,.4g}{total / rate / 3600:>10,.3g}"


class Planner:
    """Plans the stages of one base and one hypernetwork.

    Args:
        counter: of their operations.
        dtype: of the base's weights.
        half: arithmetic is in half precision, as is what is kept for backward.
    """

    def __init__(self, counter: OperationCounter, *, dtype: str = "float32", half: bool = True) -> None:
        self.counter = counter
        self.half = half
        hypernet = counter.hypernet
        self.base_bytes = sum(p.numel() for p in counter.diffusion.parameters()) * DTYPES[dtype].itemsize
        self.encoder_bytes = 4 * sum(p.numel() for p in hypernet.encoder.parameters())
        self.trained_bytes = 4 * sum(p.numel() for p in hypernet.parameters() if p.requires_grad)
        self.theta_bytes = 4 * hypernet.layout.size

    def preoptimize(self, options: PreoptimizationOptions, *, people: int, at_once: int, views: int) -> Plan:
        """Pre-optimization of thetas.

        Args:
            people: how many thetas.
            at_once: how many of them are fitted together.
            views: pictures of each person.
        """
        at_once = min(at_once, people)
        num_groups, num_left = divmod(people, at_once)
        step = self.counter.fitting(at_once * options.views_per_step)
        work = [
            Work("pictures encoded", people * views, self.counter.image_encoding.operations),
            Work(f"steps of {at_once} people", num_groups * options.num_steps, step.operations),
        ]
        if num_left:
            last_step = self.counter.fitting(num_left * options.views_per_step)
            work.append(Work(f"steps of the last {num_left}", options.num_steps, last_step.operations))
        gpu = {
            "base": self.base_bytes,
            "thetas": 4 * at_once * self.theta_bytes,
            "kept for backward": self._kept_bytes(step),
        }
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
        """Pretraining of the hypernetwork, with its validations.

        Args:
            num_val: people of a validation.
            cached: latents and face features of pictures are read from beside the shards.
            pictures: how many of these caches there are.
        """
        counter, num_batches = self.counter, schedule.accumulate_grad_batches
        step = counter.pretraining(batch_size, options, cached=cached)
        num_validations = -(-schedule.max_steps // schedule.val_every)
        losses = 2 * options.num_val_draws * counter.denoising.operations
        validation = num_val * (counter.prediction.operations + counter.image_encoding.operations + losses)
        num_drawn = preview.num_identities * len(preview.prompts)
        validation += num_drawn * self._picture_operations(preview.sampling)
        batch = f" of {num_batches} x {batch_size}" if num_batches > 1 else f" of {batch_size}"
        work = [
            Work(f"steps{batch}", schedule.max_steps, num_batches * step.operations),
            Work(f"validations on {num_val} people, {preview.num_identities} drawn", num_validations, validation),
        ]
        copies = 4 + (schedule.ema_decay is not None)  # weights, gradients, two moments of Adam, moving average
        gpu = {
            "frozen": self.base_bytes + self.encoder_bytes,
            "trained": copies * self.trained_bytes,
            "kept for backward": self._kept_bytes(step),
        }
        num_kept = 2 + 2 * (schedule.best_metric is not None)
        num_written = schedule.max_steps // schedule.checkpoint_every + 1
        disk = {
            f"{num_kept} checkpoints of {num_written:,} written": num_kept * (copies - 1) * self.trained_bytes,
            "network": self.trained_bytes // 2,
        }
        if cached:
            disk["caches"] = pictures * self._cache_bytes()
        return Plan(work, gpu, disk)

    def personalize(self, options: FinetuningOptions, sampling: SamplingOptions, *, pictures: int) -> Plan:
        """Personalization of one person, from photo to file, and some pictures."""
        step = self.counter.fitting(options.batch_size)
        work = [
            Work("prediction", 1, self.counter.prediction.operations),
            Work(f"steps of {options.batch_size} draws", options.num_steps, step.operations),
            Work(f"pictures of {sampling.num_inference_steps} steps", pictures, self._picture_operations(sampling)),
        ]
        gpu = {
            "base, encoder, hypernetwork": self.base_bytes + self.encoder_bytes + self.trained_bytes,
            "kept for backward": self._kept_bytes(step),
        }
        return Plan(work, gpu, {"file": options.rank * self.theta_bytes})

    def evaluate(
        self,
        protocol: ProtocolOptions,
        options: MethodOptions,
        sampling: SamplingOptions,
        *,
        methods: Sequence[str] | None,
    ) -> Plan:
        """Fits and pictures of methods, without the judges and the steps of HyperDreamBooth's ablations."""
        names = [name for name in methods_named(methods) if name != SCALE[1]]  # the oracle is drawn without the base
        people, num_pictures = protocol.num_identities, protocol.num_prompts * protocol.num_pictures
        method_options = {name: getattr(options, name) for name in names if hasattr(options, name)}
        method_options[OURS] = options.finetuning
        work = [
            Work(f"people by {name}", people, self._fit_operations(settings))
            for name, settings in method_options.items()
        ]
        scales: Counter[float | None] = Counter()  # identity guidance scale -> number of methods
        for name in names:
            scale = protocol.sampling_for(name, sampling).identity_guidance_scale
            scales[None if name == SCALE[0] else scale] += 1  # the unpersonalized base has no identity to guide
        for scale, num_methods in scales.items():
            name = "pictures" if scale is None else f"pictures, identity guidance {scale:g}"
            operations = self._picture_operations(replace(sampling, identity_guidance_scale=scale))
            work.append(Work(name, num_methods * people * num_pictures, operations))
        return Plan(work)

    def _fit_operations(self, options: FinetuningOptions | DreamBoothOptions | TextualInversionOptions) -> int:
        """Operations of one person's fit. Where all weights are trained, backward costs twice as much as forward."""
        if not isinstance(options, DreamBoothOptions):
            return options.num_steps * options.batch_size * self._single_fit.operations
        num_draws = options.batch_size * (1 + bool(options.prior_preservation))
        return options.num_steps * 3 * self.counter.denoising.operations * num_draws

    @cached_property
    def _single_fit(self) -> CountedCost:
        return self.counter.fitting(1)

    def _picture_operations(self, sampling: SamplingOptions) -> int:
        return self.counter.drawing(sampling).operations

    def _kept_bytes(self, step: CountedCost) -> int:
        return step.kept_bytes // (2 if self.half else 1)

    def _cache_bytes(self) -> int:
        """Of one picture: latents, embedding and tokens in half precision."""
        diffusion, encoder = self.counter.diffusion, self.counter.hypernet.encoder
        channels, side, _ = diffusion.latent_shape
        tokens = encoder(self.counter.photos).tokens
        return 2 * (channels * side * side + encoder.embedding_size + tokens.numel())
