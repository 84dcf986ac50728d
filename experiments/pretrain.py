"""Trains the hypernetwork: python -m experiments.pretrain configs/faceworld/pretrain.yaml [key=value ...]

Under `output`: last.ckpt and the one before, best.ckpt where asked, hypernet/, metrics.json, curve.json, preview.png.
"""

import time
from pathlib import Path

from experiments.cli import run
from experiments.config import Pretrain, load
from experiments.inputs import check_networks
from hdb.faces.photo_files import refuse_missing_source


def main(argv: list[str]) -> None:
    started = time.perf_counter()
    config = load(Pretrain, argv)
    check_networks(base=config.base)
    refuse_missing_source(config.faces.source, config.faces.root)
    pretrain(config, started=started)


def pretrain(config: Pretrain, *, started: float) -> None:
    """Trains the hypernetwork of a config.

    Args:
        started: when the command began, by `time.perf_counter`.
    """
    from dataclasses import asdict

    from experiments.people import open_people
    from experiments.runs import VALIDATION_ONLY, claim_run_folder
    from experiments.tracking import log_best_of_sweep, log_network, wandb_run
    from hdb.diffusion.base import load_base
    from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
    from hdb.faces.datamodule import FaceData
    from hdb.faces.splits import SPLITS_FILE
    from hdb.hypernet.hypernet import build_hypernet
    from hdb.hypernet.trained import initialize_hypernet, load_face_encoder
    from hdb.metrics.judges import Judges
    from hdb.runs.outputs import resolve_output
    from hdb.training.callbacks import PreviewPeople
    from hdb.training.encoded import EncodedViews
    from hdb.training.hypernet_run import fit_hypernet
    from hdb.training.preoptimize import load_thetas
    from hdb.training.pretrain import HyperNetPretraining
    from hdb.training.ranks import start_processes, world_size, write_json_on_rank_zero

    output = resolve_output(config.output)
    check_inputs(config, output)
    people = open_people(config.faces)
    splits = people.splits  # raises what is wrong with them before gigabytes are read

    device = start_processes(config.processes, accelerator=config.accelerator)
    diffusion = load_base(
        config.base,
        device=device,
        memory=config.memory,
        cuda_graph=config.cuda_graph,
        precision=config.precision,
        identifier=config.identifier,
    )
    layout = build_layout(diffusion, config.lidb)
    targets = load_thetas(config.thetas, layout) if config.beta else None
    encoder = load_face_encoder(config.hypernet.encoder)
    judges = Judges.from_options(config.judges, device=device)

    cache_digests = (diffusion.autoencoder_digest, encoder.digest) if config.cached else None
    train_faces = people.training(cache_digests=cache_digests)
    val_faces = people.faces("val")
    read_batch = None
    if config.cached and config.faces.source == "faceworld":
        read_batch = EncodedViews(train_faces, diffusion=diffusion, encoder=encoder, seed=config.faces.seed).read_batch
    data = FaceData(
        train_faces,
        val_faces,
        batch_size=config.faces.batch_size,
        num_workers=config.faces.num_workers,
        seed=config.seed,
        read_batch=read_batch,
    )

    hypernet = build_hypernet(config.hypernet, encoder, layout, base_digest=diffusion.digest)
    personalized = PersonalizedDiffusion(diffusion, hypernet.layout)
    initialize_hypernet(
        hypernet,
        config.init_from,
        (sample.reference for sample in train_faces),
        device=device,
        check=diffusion.check,
    )
    stage = HyperNetPretraining(personalized, hypernet, targets=targets, options=config, seed=config.seed)
    preview = PreviewPeople(
        personalized,
        judges,
        val_faces,
        options=config.preview,
        path=output / "preview.png",
        seed=config.seed,
    )
    trainer_args = {
        "accelerator": config.accelerator,
        "precision": config.precision,
        "callbacks": [preview],
        **config.processes.trainer_args,
    }
    facts = {
        "base_digest": diffusion.digest,
        "encoder_digest": hypernet.encoder_digest,
        "processes": world_size(),
    }
    with claim_run_folder(
        output, config, result="metrics.json", depends_on=facts, not_in_key=VALIDATION_ONLY
    ) as is_resumed:
        write_json_on_rank_zero(output / SPLITS_FILE, asdict(splits))
        with wandb_run(config, stage="pretrain", output=output) as logger:
            scores = fit_hypernet(
                stage,
                data,
                output,
                schedule=config.schedule,
                trainer={**trainer_args, "logger": logger},
                resume=is_resumed,
            )
            if config.upload:
                log_network(logger, output / "hypernet", scores=scores)
            log_best_of_sweep(logger, output, scores)
        scores["seconds"] = time.perf_counter() - started
        metrics = {**scores, "base": diffusion.name, **facts, "skipped": train_faces.skipped.counts}
        write_json_on_rank_zero(output / "metrics.json", metrics)
    summary = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    print(f"{output / 'last.ckpt'}: {scores['step']} steps, {summary}")


def check_inputs(config: Pretrain, output: Path) -> None:
    """Raises ValueError if the run cannot begin: before gigabytes are read."""
    from experiments.runs import check_run_folder
    from hdb.hypernet.trained import check_networks_exist, resolve_checkpoint
    from hdb.metrics.embedders import check_judges_exist

    config.check_targets()
    initial_network = None if config.init_from is None else resolve_checkpoint(config.init_from)
    check_networks_exist(hypernet=initial_network, encoder=config.hypernet.encoder)
    check_judges_exist(config.judges)
    check_run_folder(output, config)


if __name__ == "__main__":
    run(main)
