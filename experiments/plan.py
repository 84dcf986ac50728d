"""What runs will take before they start: python -m experiments.plan configs/sd15/{paper,evaluate}.yaml [key=value ...]

Operations are counted on the meta device: no weight is read and nothing is computed. A YAML is of the command that its
name begins with, any other of pretraining. Other commands have the hypernetwork of the first pretraining, or the
default one. `device=a100` and so on are of the plan, all other words of the runs, each for those that have such a
setting. With memory=low of a run the UNet's blocks are recomputed in backward.
"""

from dataclasses import fields
from pathlib import Path

from experiments.cli import run
from experiments.config import Evaluate, Personalize, PlanRuns, Preoptimize, Pretrain, is_setting, load

SCHEMAS = {"preoptimize": Preoptimize, "pretrain": Pretrain, "personalize": Personalize, "evaluate": Evaluate}


def main(argv: list[str]) -> None:
    plan_names = {entry.name for entry in fields(PlanRuns)}
    yamls = [word for word in argv if word.endswith(".yaml")]
    words = [word for word in argv if word not in yamls]
    plan_words = [word for word in words if "=" not in word or word.partition("=")[0] in plan_names]
    run_words = [word for word in words if word not in plan_words]
    config = load(PlanRuns, plan_words)
    if not yamls:
        raise ValueError("no config was named: expected some of configs/sd15/*.yaml, say")
    schemas = {yaml: schema_of(yaml) for yaml in yamls}
    for word in run_words:
        if not any(is_setting(schema, word) for schema in schemas.values()):
            raise ValueError(
                f"{word!r} is no setting of {', '.join(yamls)}, nor of the plan: {', '.join(sorted(plan_names))}"
            )
    run_words.append("reference=photo")  # required, and not used by a plan
    runs = {
        yaml: load(schema, [yaml, *(word for word in run_words if is_setting(schema, word))])
        for yaml, schema in schemas.items()
    }
    print_plans(config, runs)


def schema_of(yaml: str) -> type:
    """The schema of a YAML, by the beginning of its name."""
    return next((schema for name, schema in SCHEMAS.items() if Path(yaml).name.startswith(name)), Pretrain)


def print_plans(config: PlanRuns, runs: dict[str, Preoptimize | Pretrain | Personalize | Evaluate]) -> None:
    """Prints operations, hours and memory of each run: YAML -> its settings."""
    from hdb.evaluation.operations import OperationCounter
    from hdb.evaluation.plan import Planner, rate_of

    first_pretrain = next((settings for settings in runs.values() if isinstance(settings, Pretrain)), Pretrain())
    for yaml, settings in runs.items():
        pretrain = settings if isinstance(settings, Pretrain) else first_pretrain
        counter = OperationCounter(settings.base.path, pretrain.lidb, pretrain.hypernet, memory=settings.memory)
        planner = Planner(counter, dtype=settings.base.dtype, half=settings.precision != "32-true")
        step = "pretraining" if isinstance(settings, Pretrain) else "finetuning"
        rate, assumption = rate_of(config, half=planner.half, step=step)
        print(f"\n{yaml}, at {rate / 1e12:.4g} TFLOP/s ({assumption})")
        if isinstance(settings, Personalize):
            plan = planner.personalize(settings.finetuning, settings.sampling, pictures=len(settings.prompts))
        elif isinstance(settings, Evaluate):
            plan = planner.evaluate(
                settings.protocol, settings.methods, settings.sampling, methods=settings.methods.names
            )
        else:
            num_people = settings.faces.num_identities
            if num_people is None:
                raise ValueError("faces.num_identities is null, which is all there are: say how many that is")
            if isinstance(settings, Preoptimize):
                plan = planner.preoptimize(
                    settings,
                    people=num_people,
                    at_once=settings.identities_per_shard,
                    views=settings.faces.views_per_identity,
                )
            else:
                plan = planner.pretrain(
                    settings,
                    settings.schedule,
                    settings.preview,
                    batch_size=settings.faces.batch_size,
                    num_val=settings.faces.num_val_identities,
                    cached=settings.cached,
                    pictures=num_people,
                )
        print("\n".join(plan.lines(rate=rate)))


if __name__ == "__main__":
    run(main)
