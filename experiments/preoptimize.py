"""The best theta of many training identities: python -m experiments.preoptimize configs/faceworld/preoptimize.yaml

Under `output`: thetas-*.safetensors, metrics.json, splits.json; with encoder=... predictable.json: how much of these
thetas one photo predicts. A finished folder that lacks this number gets it without being fitted again.
"""

from experiments.cli import run
from experiments.config import Preoptimize, load
from experiments.inputs import check_networks
from hdb.faces.photo_files import refuse_missing_source


def main(argv: list[str]) -> None:
    config = load(Preoptimize, argv)
    check_networks(base=config.base)
    refuse_missing_source(config.faces.source, config.faces.root)
    preoptimize(config)


def preoptimize(config: Preoptimize) -> None:
    from dataclasses import asdict, replace

    from experiments.people import open_people
    from experiments.runs import check_run_folder, claim_run_folder
    from experiments.tracking import wandb_run
    from hdb.diffusion.base import load_base
    from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
    from hdb.faces.splits import SPLITS_FILE
    from hdb.hypernet.trained import check_networks_exist, load_face_encoder
    from hdb.runs.outputs import resolve_output
    from hdb.training.predictability import MIN_PEOPLE
    from hdb.training.ranks import (
        is_rank_zero,
        single_process_trainer_args,
        start_processes,
        write_json_on_rank_zero,
    )
    from hdb.training.targets import ShardedPreoptimization, measure_predictability

    output = resolve_output(config.output)
    check_run_folder(output, config)
    check_networks_exist(encoder=config.encoder)
    people = open_people(config.faces)
    num_people = len(people.splits.train or ())
    if config.encoder and 0 < num_people < MIN_PEOPLE:
        raise ValueError(f"encoder asks how predictable {num_people} people are, expected at least {MIN_PEOPLE}")

    device = start_processes(config.processes, accelerator=config.accelerator)
    diffusion = load_base(
        config.base,
        device=device,
        memory=config.memory,
        cuda_graph=config.cuda_graph,
        precision=config.precision,
        identifier=config.identifier,
    )
    personalized = PersonalizedDiffusion(diffusion, build_layout(diffusion, config.lidb))
    train_faces = people.faces("train")
    fitting = ShardedPreoptimization(
        personalized,
        train_faces,
        options=config,
        views_per_identity=config.faces.views_per_identity,
        num_workers=config.faces.num_workers,
        checkpoint_every=config.checkpoint_every,
        trainer={
            "accelerator": config.accelerator,
            "precision": config.precision,
            **single_process_trainer_args(device),
        },
        seed=config.seed,
    )
    # The thetas do not depend on the encoder: a finished folder that lacks its number is resumed.
    config_of_thetas = replace(config, encoder=None)
    result = "predictable.json" if config.encoder else "metrics.json"
    with claim_run_folder(output, config_of_thetas, result=result, depends_on={"base_digest": diffusion.digest}):
        write_json_on_rank_zero(output / SPLITS_FILE, asdict(replace(people.splits, train=train_faces.names)))
        with wandb_run(config, stage="preoptimize", output=output) as logger:
            fitting.fit(output, identities_per_shard=config.identities_per_shard, log=logger.log_metrics)
            if config.encoder and is_rank_zero():
                score = measure_predictability(
                    output,
                    train_faces,
                    personalized.layout,
                    load_face_encoder(config.encoder),
                    name=config.encoder,
                    device=device,
                )
                logger.log_metrics({"preoptimize/r2": score.r2, "preoptimize/r2_residuals": score.r2_residuals})


if __name__ == "__main__":
    run(main)
