"""What runs will take before they start: python -m experiments.plan configs/sd15/{paper,evaluate}.yaml [key=value ...]

Operations are counted on the meta device: no weight is read and nothing is computed. A file is of the stage that its
name begins with, any other of pretraining; other stages have the hypernetwork of the first pretraining, or the default.
`device=a100` and so on are of the plan, all other words of the runs, each for those that have such a field.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.cli import run
from experiments.config import Evaluate, Personalize, PlanRuns, Preoptimize, Pretrain, knows, load
from hdb.evaluation.operations import Pieces
from hdb.evaluation.plan import Plan, Planner, rate_of

STAGES = {"preoptimize": Preoptimize, "pretrain": Pretrain, "personalize": Personalize, "evaluate": Evaluate}


def main(argv: list[str]) -> None:
    own, yamls = {entry.name for entry in fields(PlanRuns)}, [word for word in argv if word.endswith(".yaml")]
    words = {word: word.partition("=")[0] for word in argv if word not in yamls}
    config = load(PlanRuns, [word for word, key in words.items() if key in own or key == word])
    if not yamls:
        raise ValueError("no config was named: expected some of configs/sd15/*.yaml, say")
    named = {path: [name for name in STAGES if Path(path).name.startswith(name)] for path in yamls}
    schemas = {path: STAGES[(names or ["pretrain"])[0]] for path, names in named.items()}
    of_runs = [word for word, key in words.items() if key not in own]
    if odd := [word for word in of_runs if not any(knows(schema, word) for schema in schemas.values())]:
        raise ValueError(f"{odd[0]!r} is no field of {', '.join(yamls)}, nor of the plan: {', '.join(sorted(own))}")
    of_runs.append("reference=photo")  # which a plan does not look at
    runs = {path: load(of, [path, *(word for word in of_runs if knows(of, word))]) for path, of in schemas.items()}
    trained = next((of for of in runs.values() if isinstance(of, Pretrain)), Pretrain())
    for path, of in runs.items():
        net = of if isinstance(of, Pretrain) else trained
        pieces = Pieces(of.base.path, net.lidb, net.hypernet)
        planner = Planner(pieces, dtype=of.base.dtype, half=of.precision != "32-true")
        rate = rate_of(config, half=planner.half)
        print(f"\n{path}, at {rate / 1e12:.4g} TFLOP/s ({config.device})")
        print("\n".join(plan(planner, of).lines(rate=rate)))


def plan(planner: Planner, of: Any) -> Plan:
    """Of a run, by its config."""
    if isinstance(of, Personalize):
        return planner.personalize(of.finetuning, of.sampling, pictures=len(of.prompts))
    if isinstance(of, Evaluate):
        return planner.evaluate(of, of, of.sampling, methods=of.methods)
    if (people := of.faces.num_identities) is None:
        raise ValueError("faces.num_identities is null, which is all there are: say how many that is")
    if isinstance(of, Preoptimize):
        return planner.preoptimize(
            of, people=people, at_once=of.identities_per_shard, views=of.faces.views_per_identity
        )
    sizes = {"batch_size": of.faces.batch_size, "num_val": of.faces.num_val_identities, "pictures": people}
    return planner.pretrain(of, of, of, cached=of.cached, **sizes)


if __name__ == "__main__":
    run(main)
