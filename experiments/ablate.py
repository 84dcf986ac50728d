"""What each choice is worth: python -m experiments.ablate configs/faceworld/ablations.yaml

A variant is a hypernetwork and an evaluation with some fields changed, on the same seeds and people. Under `output`: a
folder per variant with pretrain/ and eval/, and preoptimize/ if it has pre-optimized targets; ablations.md and
ablations.json, a row per variant. Variants that change nothing of the targets or of the hypernetwork share them. An
interrupted call is resumed; finished runs are kept.
"""

import json

from experiments import evaluate, preoptimize, pretrain
from experiments.cli import run
from experiments.config import Ablate, load
from experiments.config.variants import claim_variant, places_of, plan
from experiments.outputs import named_paths
from hdb.evaluation.ablation import ablation_table, variant_record
from hdb.files import write_json, write_text
from hdb.runs.folder import added_to
from hdb.runs.locks import own_place


def main(argv: list[str]) -> None:
    config = load(Ablate, argv)
    if not config.variants:
        raise ValueError("variants is empty, expected at least one name with its changes")
    plans = {name: plan(name, config) for name in config.variants}  # all are checked before the first begins
    folder, networks, targets, records = own_place(config.output), {}, {}, {}
    places = places_of(plans, folder)
    with added_to(folder, list(named_paths(config))):
        for name, words in plans.items():
            place, trained_with = claim_variant(places[name], words), list(words.pretrain)
            if words.preoptimize:
                thetas = targets.setdefault(tuple(words.preoptimize), place / "preoptimize")
                trained_with.append(f"thetas={thetas}")
                if not (thetas / "metrics.json").is_file():
                    print(f"{name}: targets")
                    preoptimize.main([*words.preoptimize, f"output={thetas}"])
            trained = networks.setdefault(tuple(trained_with), place / "pretrain")
            if not (trained / "metrics.json").is_file():
                print(f"{name}: hypernetwork")
                pretrain.main([*trained_with, f"output={trained}"])
            if not (place / "eval" / "results.json").is_file():
                print(f"{name}: evaluation")
                last = f"hypernet={trained / 'last.ckpt'}"
                evaluate.main([*words.evaluate, last, f"output={place / 'eval'}"])
            metrics = json.loads((trained / "metrics.json").read_text())
            results = json.loads((place / "eval" / "results.json").read_text())
            records[name] = variant_record(metrics, results)
            table = ablation_table(records)
            write_json(folder / "ablations.json", {"variants": records})
            write_text(folder / "ablations.md", table.markdown() + "\n")
        print(table.text())


if __name__ == "__main__":
    run(main)
