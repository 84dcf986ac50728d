"""The best theta of many training identities: python -m experiments.preoptimize configs/faceworld/preoptimize.yaml

Under `output`: thetas-*.safetensors, metrics.json, splits.json; with encoder=... predictable.json: how much of these
thetas one photo predicts. A finished folder that lacks this number gets it without being fitted again.
"""

from dataclasses import asdict, replace

from experiments.cli import run
from experiments.config import Preoptimize, load
from experiments.people import open_people
from experiments.runs import check_folder, claim
from experiments.tracking import wandb_run
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.faces.splits import SPLITS_FILE
from hdb.hypernet.trained import check_networks_exist, load_face_encoder
from hdb.runs.locks import own_place
from hdb.training.predictability import MIN_PEOPLE
from hdb.training.ranks import is_rank_zero, single_process_trainer_args, start_processes, write_json_on_rank_zero
from hdb.training.targets import ShardedPreoptimization, measure_predictability


def main(argv: list[str]) -> None:
    config = load(Preoptimize, argv)
    folder = own_place(config.output)
    check_folder(folder, config)
    check_networks_exist(encoder=config.encoder)
    everybody = open_people(config.faces)
    num = len(everybody.splits.train or ())
    if config.encoder and num and num < MIN_PEOPLE:
        raise ValueError(f"encoder asks how predictable {num} people are, expected at least {MIN_PEOPLE}")
    device = start_processes(config, accelerator=config.accelerator)
    how = {"memory": config.memory, "precision": config.precision, "identifier": config.identifier}
    diffusion = load_base(config.base, device=device, **how)
    personalized = PersonalizedDiffusion(diffusion, build_layout(diffusion, config.lidb))
    people = everybody.faces("train")
    # The thetas do not depend on the encoder: a finished folder that lacks this number is resumed.
    asked, result = replace(config, encoder=None), "predictable.json" if config.encoder else "metrics.json"
    fitting = ShardedPreoptimization(
        personalized,
        people,
        options=config,
        views_per_identity=config.faces.views_per_identity,
        num_workers=config.faces.num_workers,
        checkpoint_every=config.checkpoint_every,
        trainer={"accelerator": config.accelerator, "precision": config.precision}
        | single_process_trainer_args(device),
        seed=config.seed,
    )
    with claim(folder, asked, result=result, inputs={"base_digest": diffusion.digest}):
        write_json_on_rank_zero(folder / SPLITS_FILE, asdict(replace(everybody.splits, train=people.names)))
        with wandb_run(config, stage="preoptimize", output=folder) as logger:
            fitting.fit(folder, identities_per_shard=config.identities_per_shard, log=logger.log_metrics)
            if is_rank_zero() and (name := config.encoder):
                known = measure_predictability(
                    folder, people, personalized.layout, load_face_encoder(name), name=name, device=device
                )
                logger.log_metrics({"preoptimize/r2": known.r2, "preoptimize/r2_residuals": known.r2_residuals})


if __name__ == "__main__":
    run(main)
