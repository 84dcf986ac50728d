"""Every method on the same unseen people: python -m experiments.evaluate configs/faceworld/evaluate.yaml

Under `output`: subjects/ (the files), images/, manifest.jsonl, results.json, report.html, tradeoff.png, grid.png. An
interrupted run resumes: files and pictures that exist are kept, and the scores come from the pictures on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import Evaluate, load
from experiments.inputs import check_networks
from hdb.faces.photo_files import refuse_missing_source

if TYPE_CHECKING:
    from hdb.evaluation.evaluate import Outcome
    from hdb.runs.logger import SafeWandbLogger


def main(argv: list[str]) -> None:
    config = load(Evaluate, argv)
    check_networks(base=config.base, hypernet=config.hypernet)
    refuse_missing_source(config.faces.source, config.faces.root)
    evaluate_methods(config)


def evaluate_methods(config: Evaluate) -> None:
    from experiments.people import expected_attributes, open_people, oracle_of
    from experiments.runs import BATCHING_AND_PLOTS, check_run_folder, claim_run_folder
    from experiments.tracking import wandb_run
    from hdb.evaluation.evaluate import evaluate
    from hdb.evaluation.people import select_unseen_people
    from hdb.evaluation.report import versions, write_report
    from hdb.evaluation.scores import Scorer
    from hdb.evaluation.search import read_searches
    from hdb.evaluation.subjects import subjects_folder
    from hdb.hypernet.trained import check_networks_exist, modification_time, resolve_hypernet_path
    from hdb.lidb.file import parse_dtype
    from hdb.methods.context import MethodContext, TrainingContext
    from hdb.methods.table import check_method_names, make_methods, methods_named
    from hdb.metrics.embedders import check_judges_exist
    from hdb.metrics.judges import Judges, load_classifier
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.prompts import read_prompts, remove_identifier
    from hdb.runs.outputs import resolve_output
    from hdb.training.ranks import single_process_trainer_args, start_processes

    # What can be wrong is checked before gigabytes are read.
    method_names = methods_named(config.methods.names)
    check_method_names(list(config.protocol.identity_guidance_scales))
    dtype = parse_dtype(config.dtype)
    prompts = read_prompts(config.protocol.prompts, num=config.protocol.num_prompts)
    expected = expected_attributes(prompts, source=config.faces.source, classifier=config.judges.classifier)
    hypernet_path = resolve_hypernet_path(config.hypernet)
    output = resolve_output(config.output)
    curves = read_searches(config.searches)
    check_run_folder(output, config)
    check_networks_exist(hypernet=hypernet_path, encoder=config.encoder)
    check_judges_exist(config.judges)
    source = open_people(config.faces)
    people = select_unseen_people(source, config.protocol, hypernet=hypernet_path)

    device = start_processes(config.processes, accelerator=config.accelerator)
    pipeline = HyperDreamBoothPipeline.from_pretrained(
        config.base,
        hypernet=hypernet_path,
        encoder=config.encoder,
        device=device,
        memory=config.memory,
        cuda_graph=config.cuda_graph,
        precision=config.precision,
        instance_prompt=config.instance_prompt,
    )
    training = TrainingContext(
        pipeline.personalized,
        prompt=config.instance_prompt,
        trainer={
            "accelerator": config.accelerator,
            "precision": config.precision,
            "enable_progress_bar": False,
            **single_process_trainer_args(device),
        },
        sampling=config.sampling,
        seed=config.seed,
        dtype=dtype,
    )
    methods = make_methods(
        method_names,
        MethodContext(
            training,
            hypernet=pipeline.hypernet,
            options=config.methods,
            oracle=oracle_of(source),
            subjects=subjects_folder(output),
        ),
    )
    scorer = Scorer(
        Judges.from_options(config.judges, device=device),
        prompts=[remove_identifier(prompt) for prompt in prompts],
        expected=expected,
        classifier=load_classifier(config.judges.classifier, device=device),
    )

    base_digest = pipeline.diffusion.digest
    depends_on = {
        "base_digest": base_digest,
        "hypernet_path": str(hypernet_path),
        "hypernet_written": modification_time(hypernet_path),
    }
    facts = {
        "protocol": {
            "base": pipeline.diffusion.name,
            "base_digest": base_digest,
            "hypernetwork": str(hypernet_path),
            "settings": config.methods.settings(),
        },
        "versions": versions(device),
    }
    with claim_run_folder(
        output,
        config,
        result="results.json",
        depends_on=depends_on,
        inputs=[hypernet_path],
        not_in_key=BATCHING_AND_PLOTS,
    ):
        with wandb_run(config, stage="evaluate", output=output) as logger:
            outcome = evaluate(
                methods,
                people,
                prompts,
                scorer,
                folder=output,
                protocol=config.protocol,
                sampling=config.sampling,
                seed=config.seed,
            )
            files = write_report(output, outcome, facts=facts, curves=curves)
            log_evaluation(logger, files, outcome)
    print("\n\n".join(table.text() for table in outcome.tables))


def log_evaluation(logger: SafeWandbLogger, files: Sequence[Path], outcome: Outcome) -> None:
    """Logs means, the grid, tables, and the files as an artifact."""
    import wandb

    from hdb.evaluation.summary import logged_means
    from hdb.runs.logger import try_logging

    logger.log_metrics(logged_means(outcome.results["methods"]))
    logger.log_image("eval/grid", [outcome.grid])

    def log_tables() -> None:
        for table in outcome.tables:
            rows = [list(row) for row in table.rows]
            logger.experiment.log({f"eval/{table.title}": wandb.Table(columns=list(table.columns), data=rows)})

    try_logging(log_tables)
    metadata = {name: str(outcome.results["protocol"][name]) for name in ("base", "base_digest", "hypernetwork")}
    logger.log_artifact("evaluation", *files, type="evaluation", metadata=metadata)


if __name__ == "__main__":
    run(main)
