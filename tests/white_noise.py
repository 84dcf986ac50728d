"""An evaluation of people and pictures that are white noise: all of it but the diffusion, at any size.

    PYTHONPATH=.:tests /usr/bin/time -v python tests/white_noise.py 100 30 10 8 512

Arguments: people, prompts, pictures, methods, px. Prints the most memory that the process held.
"""

import resource
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.evaluate import Outcome, evaluate
from hdb.evaluation.options import ProtocolOptions
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.report import write_report
from hdb.evaluation.scores import Scorer
from hdb.methods.protocol import Photos
from hdb.methods.table import METHODS, OURS, SCALE
from hdb.metrics.judges import Judges


class Noise:
    """A method, and what it makes of n people: noise of `side` px."""

    def __init__(self, name: str, *, side: int, num_people: int = 0) -> None:
        self.name, self.side, self.num_people = name, side, num_people

    def personalize(self, photos: Photos) -> "Noise":
        return Noise(self.name, side=self.side, num_people=len(photos))

    def __len__(self) -> int:
        return self.num_people

    def __getitem__(self, rows: list[int]) -> "Noise":
        return Noise(self.name, side=self.side, num_people=len(rows))

    def bound(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pictures(self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: SamplingOptions) -> Tensor:
        return torch.stack([noise(seed, self.side) for seed in seeds])


def noise(seed: int, side: int) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def evaluation(folder: Path, judges: Judges, *, size: Sequence[int], num_methods: int, side: int) -> Outcome:
    """Of (people, prompts, pictures), and as many others to look for somebody among; writes its report."""
    num_people, num_prompts, num_pictures = size
    photos = torch.stack([noise(10**6 + number, side) for number in range(2 * num_people)])
    names = [str(number) for number in range(num_people)]
    people = UnseenPeople(names, photos[:num_people, None], photos[num_people:])
    prompts = [f"a [V] face number {number}" for number in range(num_prompts)]
    wanted = [*SCALE, OURS, *(name for name in METHODS if name not in (*SCALE, OURS))][:num_methods]
    outcome = evaluate(
        [Noise(name, side=side) for name in wanted],
        people,
        prompts,
        Scorer(judges, prompts),
        folder=folder,
        protocol=ProtocolOptions(num_pictures=num_pictures, subjects_per_batch=num_people),
        sampling=SamplingOptions(batch_size=10),
    )
    made_by = {"base": "noise", "base_digest": "0", "hypernetwork": "none"}
    write_report(folder, outcome, facts={"protocol": made_by, "versions": {"torch": torch.__version__}}, curves={})
    return outcome


def main() -> None:
    from tiny import save_tiny_judges, tiny_judges

    *size, num_methods, side = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_judges(Path(name) / "judges")
        judges = tiny_judges(folder.parent)
        evaluation(Path(name) / "eval", judges, size=size, num_methods=num_methods, side=side)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{size} of {num_methods} methods, {side} px: {peak / 1e9:.2f} GB at most")


if __name__ == "__main__":
    main()
