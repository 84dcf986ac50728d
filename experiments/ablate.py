"""What each choice is worth: python -m experiments.ablate configs/faceworld/ablations.yaml

A variant is a hypernetwork and an evaluation with some settings changed, on the same seeds and people. Under `output`:
a folder per variant with pretrain/ and eval/, and preoptimize/ if it has pre-optimized targets; ablations.md and
ablations.json, a row per variant. Variants with the same words for targets or for the hypernetwork share them. An
interrupted call is resumed, and finished runs are kept.
"""

import json
from pathlib import Path

from experiments.cli import run
from experiments.config import Ablate, load


def main(argv: list[str]) -> None:
    config = load(Ablate, argv)
    if not config.variants:
        raise ValueError("variants is empty, expected at least one name with its changes")
    ablate(config)


def ablate(config: Ablate) -> None:
    from experiments import evaluate, preoptimize, pretrain
    from experiments.config.variants import claim_variant, plan_variant, variant_folders
    from experiments.outputs import find_inputs
    from hdb.evaluation.ablation import ablation_table, variant_record
    from hdb.files import read_text, write_json, write_text
    from hdb.runs.folder import shared_folder
    from hdb.runs.outputs import resolve_output

    plans = {name: plan_variant(name, config) for name in config.variants}  # all are checked before the first begins
    output = resolve_output(config.output)
    folders = variant_folders(plans, output)
    targets: dict[tuple[str, ...], Path] = {}  # by the words of their command, as hypernets
    hypernets: dict[tuple[str, ...], Path] = {}
    records = {}
    with shared_folder(output, find_inputs(config)):
        for name, words in plans.items():
            folder = folders[name]
            claim_variant(folder, words)
            pretrain_words = list(words.pretrain)
            if words.preoptimize:
                thetas = targets.setdefault(tuple(words.preoptimize), folder / "preoptimize")
                pretrain_words.append(f"thetas={thetas}")
                if not (thetas / "metrics.json").is_file():
                    print(f"{name}: targets")
                    preoptimize.main([*words.preoptimize, f"output={thetas}"])
            hypernet = hypernets.setdefault(tuple(pretrain_words), folder / "pretrain")
            if not (hypernet / "metrics.json").is_file():
                print(f"{name}: hypernetwork")
                pretrain.main([*pretrain_words, f"output={hypernet}"])
            if not (folder / "eval" / "results.json").is_file():
                print(f"{name}: evaluation")
                checkpoint = hypernet / "last.ckpt"
                evaluate.main([*words.evaluate, f"hypernet={checkpoint}", f"output={folder / 'eval'}"])
            metrics = json.loads(read_text(hypernet / "metrics.json"))
            results = json.loads(read_text(folder / "eval" / "results.json"))
            records[name] = variant_record(metrics, results)
            table = ablation_table(records)
            write_json(output / "ablations.json", {"variants": records})
            write_text(output / "ablations.md", table.markdown() + "\n")
        print(table.text())


if __name__ == "__main__":
    run(main)
