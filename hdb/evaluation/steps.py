"""What a training step costs, ours and those of other methods: milliseconds, kernels, the time in them, memory."""

import os
import resource
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from hdb.diffusion.graphs import Graphs
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.weights import exchange_weights
from hdb.evaluation.cost import StartedOperations
from hdb.evaluation.workloads import Workloads
from hdb.lidb.names import find_target_layers
from hdb.training.device import synchronized_time
from hdb.training.dreambooth import DreamBoothFinetuning
from hdb.training.options import DreamBoothOptions, FinetuningOptions, TextualInversionOptions
from hdb.training.personalize import SubjectFinetuning
from hdb.training.prior import Prior
from hdb.training.textual_inversion import TextualInversionFitting

NUM_WARM = 3  # steps that are not measured: the first captures a graph
DREAMBOOTH = "DreamBooth, float32, 1 draw and a class picture"
TEXTUAL_INVERSION = "Textual Inversion, 1 draw"
FOUR_DRAWS = "ours, 4 draws"
PEFT = "PEFT's LoRA of rank 4 in a plain loop, 4 draws"
IN_A_GRAPH = ", in a CUDA graph"


@dataclass(frozen=True)
class StepCost:
    """The cost of a step.

    Args:
        milliseconds: Median of the steps after the first.
        kernels: Kernels that a step starts on a GPU. On a CPU the operations that would start at least one.
        busy_milliseconds: In kernels; None on a CPU.
        peak_bytes: Most memory that was held meanwhile. On a CPU that of the process so far.
        num_people: That are fitted together.
    """

    milliseconds: float
    kernels: int
    busy_milliseconds: float | None
    peak_bytes: int
    num_people: int = 1


class StepMeter:
    """Measures steps one by one: their times, and in the last of them the kernels that it starts."""

    def __init__(self, device: torch.device, num_steps: int) -> None:
        self.device = device
        self.num_steps = num_steps
        self.seconds: list[float] = []
        self.kernels = 0
        self.busy: float | None = None
        self._watch: Any = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        if len(self.seconds) == self.num_steps - 1:
            is_cuda = self.device.type == "cuda"
            activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
            self._watch = profile(activities=activities) if is_cuda else StartedOperations()
            self._watch.__enter__()
        self._started = synchronized_time(self.device)

    def stop(self) -> None:
        self.seconds.append(synchronized_time(self.device) - self._started)
        if self._watch is None:
            return
        self._watch.__exit__(None, None, None)
        if isinstance(self._watch, StartedOperations):
            self.kernels = self._watch.counts.total()
        else:
            kernels = [
                event
                for event in self._watch.events()
                # The name of an optimizer's step is shown among the kernels, with all of their time.
                if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.name
            ]
            self.kernels = len(kernels)
            self.busy = sum(event.device_time for event in kernels) / 1e3
        self._watch = None

    def cost(self, *, num_people: int) -> StepCost:
        measured = self.seconds[:-1]  # without the step that was watched
        steady = measured[min(NUM_WARM, len(measured) - 1) :]
        peak = (
            torch.cuda.max_memory_allocated(self.device)
            if self.device.type == "cuda"
            else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        )
        return StepCost(1e3 * statistics.median(steady), self.kernels, self.busy, peak, num_people)


class _MeterCallback(L.Callback):
    def __init__(self, meter: StepMeter) -> None:
        self.meter = meter

    def on_train_batch_start(self, *args: Any) -> None:
        self.meter.start()

    def on_train_batch_end(self, *args: Any) -> None:
        self.meter.stop()


class StepTable:
    """Measures the rows of the table. A row that fails says why and leaves the others alone.

    Args:
        num_steps: Of each row.
    """

    def __init__(self, work: Workloads, *, num_steps: int) -> None:
        self.work = work
        self.num_steps = max(num_steps, 2)
        self.personalized = work.personalized
        self.latents = torch.randn(1, *work.diffusion.latent_shape)
        # A profiler that is started again after CUDA graphs were captured may crash or hang without these, as torch's
        # own compiler knows, which sets them where it captures graphs.
        os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
        os.environ.setdefault("TEARDOWN_CUPTI", "0")

    def rows(self) -> Iterator[tuple[str, StepCost | str]]:
        """Each row when it is measured: its name, and the cost or what kept it from being measured."""
        for name, measure in self._measures():
            self.work.diffusion.graphs = Graphs(self.work.options.cuda_graph if IN_A_GRAPH in name else "false")
            if self.work.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                yield name, measure()
            except (RuntimeError, ImportError, ValueError) as error:
                yield name, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"

    def _measures(self) -> Iterator[tuple[str, Callable[[], StepCost]]]:
        graphs = ("", IN_A_GRAPH) if self.work.device.type == "cuda" else ("",)
        for graph in graphs:
            yield f"{FOUR_DRAWS}{graph}", lambda: self.ours(batch_size=4)
            yield f"ours, 1 draw{graph}", lambda: self.ours(batch_size=1)
        for num_people in (8, 16):
            yield (
                f"ours, {num_people} people at once, 1 draw{graphs[-1]}",
                (lambda num=num_people: self.ours(batch_size=1, num_people=num)),
            )
        for graph in graphs:
            yield f"{TEXTUAL_INVERSION}{graph}", self.textual_inversion
        if self.work.device.type == "cuda":
            yield f"ours, 1 draw, not in channels_last{IN_A_GRAPH}", self.contiguous
        yield DREAMBOOTH, self.dreambooth
        yield PEFT, lambda: self.peft(batch_size=4)
        yield PEFT.replace("4 draws", "1 draw"), lambda: self.peft(batch_size=1)
        yield "ours, 4 draws, memory=low", self.low_memory

    def ours(self, *, batch_size: int, num_people: int = 1) -> StepCost:
        """Finetuning of people together, UNet and text encoders."""
        stage = SubjectFinetuning(
            self.personalized,
            reference=self.latents.repeat(num_people, 1, 1, 1),
            start=self.work.start,
            prompt=self.work.options.instance_prompt,
            options=FinetuningOptions(num_steps=self.num_steps, batch_size=batch_size),
        )
        return self.fit(stage, num_people=num_people)

    def textual_inversion(self) -> StepCost:
        options = TextualInversionOptions(num_steps=self.num_steps)
        return self.fit(TextualInversionFitting(self.personalized, reference=self.latents, options=options))

    def contiguous(self) -> StepCost:
        """Ours in the order of memory that a base has where it is loaded without a GPU."""
        networks = (self.work.diffusion.unet, self.work.diffusion.vae)
        for network in networks:
            network.to(memory_format=torch.contiguous_format)
        try:
            return self.ours(batch_size=1)
        finally:
            for network in networks:
                network.to(memory_format=torch.channels_last)

    def dreambooth(self) -> StepCost:
        """All weights in single precision. The base has its own weights again afterwards."""
        diffusion = self.work.diffusion
        dtype = diffusion.dtype
        diffusion.float()
        try:
            prior = Prior(self.latents.repeat(8, 1, 1, 1))
            options = DreamBoothOptions(num_steps=self.num_steps)
            with exchange_weights(diffusion):
                return self.fit(
                    DreamBoothFinetuning(self.personalized, reference=self.latents, options=options, prior=prior)
                )
        finally:
            diffusion.to(dtype)

    def low_memory(self) -> StepCost:
        """Ours with activations that are computed again in backward. The base stays that way."""
        self.work.diffusion.use_less_memory()
        return self.ours(batch_size=4)

    def fit(self, stage: L.LightningModule, *, num_people: int = 1) -> StepCost:
        meter = StepMeter(self.work.device, self.num_steps)
        self.work.fit(stage, callbacks=[_MeterCallback(meter)])
        return meter.cost(num_people=num_people)

    def peft(self, *, batch_size: int) -> StepCost:
        """A LoRA of the same layers as one would train it without this repository."""
        from peft import LoraConfig, get_peft_model  # of the tests, and slow to import

        work = self.work
        diffusion = work.diffusion
        self.personalized.detach()
        targets = set(find_target_layers(diffusion.components).values())
        models = []
        for network in diffusion.components.values():
            names = [name for name, layer in network.named_modules() if layer in targets]
            models.append(get_peft_model(network, LoraConfig(r=4, lora_alpha=4, target_modules=names)))
        try:
            trained = [weight for weight in chain(*(model.parameters() for model in models)) if weight.requires_grad]
            for weight in trained:
                weight.data = weight.data.float()
            return self._loop(trained, batch_size=batch_size)
        finally:
            for model in models:
                model.unload()
                model.requires_grad_(False)
            self.personalized = PersonalizedDiffusion(diffusion, self.personalized.layout)

    def _loop(self, trained: list[nn.Parameter], *, batch_size: int) -> StepCost:
        work = self.work
        diffusion = work.diffusion
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        latents = self.latents.to(work.device).expand(batch_size, -1, -1, -1)
        tokens = diffusion.tokenize_prompts([work.options.instance_prompt])
        meter = StepMeter(work.device, self.num_steps)
        for _ in range(self.num_steps):
            meter.start()
            noise = torch.randn_like(latents)
            timesteps = torch.randint(diffusion.num_train_timesteps, (batch_size,), device=work.device)
            with diffusion.autocast():
                condition = diffusion.encode_tokens(tokens).tile(batch_size)
                noisy_latents = diffusion.add_noise(latents, noise, timesteps)
                noise_pred = diffusion.predict_noise(noisy_latents, timesteps, condition)
            loss: Tensor = nn.functional.mse_loss(noise_pred.float(), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            meter.stop()
        return meter.cost(num_people=1)


def step_ratios(costs: dict[str, StepCost]) -> dict[str, float]:
    """Whole personalizations over one of ours, by the steps that each method takes; and our step over PEFT's."""
    ours = costs.get(f"{FOUR_DRAWS}{IN_A_GRAPH}", costs.get(FOUR_DRAWS))
    if ours is None:
        return {}
    num_ours = FinetuningOptions().num_steps
    inversion = costs.get(f"{TEXTUAL_INVERSION}{IN_A_GRAPH}", costs.get(TEXTUAL_INVERSION))
    others = {
        "DreamBooth": (costs.get(DREAMBOOTH), DreamBoothOptions().num_steps),
        "Textual Inversion": (inversion, TextualInversionOptions().num_steps),
    }
    ratios = {}
    for name, (cost, num_steps) in others.items():
        if cost is not None:
            ratio = num_steps * cost.milliseconds / (num_ours * ours.milliseconds)
            ratios[f"{num_steps:,} steps of {name} / {num_ours} of ours"] = ratio
    if PEFT in costs:
        ratios["a step of ours / of PEFT's LoRA"] = ours.milliseconds / costs[PEFT].milliseconds
    return ratios


def step_row(name: str, cost: StepCost | str) -> str:
    """One line of the table."""
    if isinstance(cost, str):
        return f"{name:56}  {cost}"
    busy = "" if cost.busy_milliseconds is None else f"{cost.busy_milliseconds:.1f}"
    each = f"{cost.milliseconds / cost.num_people:.1f}"
    return f"{name:56}{cost.milliseconds:10.1f}{each:>10}{cost.kernels:10,}{busy:>10}{cost.peak_bytes / 1e9:10.2f}"


STEP_HEADER = f"\n{'a step of':56}{'ms':>10}{'a person':>10}{'kernels':>10}{'busy ms':>10}{'peak GB':>10}"
