"""Trains the hypernetwork: python -m experiments.pretrain configs/faceworld/pretrain.yaml [key=value ...]

Under `output`: last.ckpt and the one before, best.ckpt where asked, hypernet/, metrics.json, curve.json, preview.png.
"""

import time
from dataclasses import asdict

from experiments.cli import run
from experiments.config import Pretrain, load
from experiments.people import open_people
from experiments.runs import LOOKED_AT, check_folder, claim
from experiments.sweeps import log_winner
from experiments.tracking import log_network, wandb_run
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.faces.datamodule import FaceData
from hdb.faces.splits import SPLITS_FILE
from hdb.hypernet.options import build_hypernet
from hdb.hypernet.trained import initialize_hypernet, load_face_encoder
from hdb.metrics.judges import Judges
from hdb.runs.locks import own_place
from hdb.training.callbacks import PreviewPeople
from hdb.training.hypernet_run import fit_hypernet
from hdb.training.preoptimize import load_thetas
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.ranks import start_processes, world_size, write_json_on_rank_zero


def main(argv: list[str]) -> None:
    config, started = load(Pretrain, argv), time.perf_counter()
    folder, faces, seed = own_place(config.output), config.faces, config.seed
    config.refuse_missing()
    check_folder(folder, config)
    people = open_people(faces)
    splits = people.splits  # are checked before gigabytes are read
    device = start_processes(config, accelerator=config.accelerator)
    how = {"memory": config.memory, "precision": config.precision, "identifier": config.identifier}
    layout = build_layout(base := load_base(config.base, device=device, **how), config.lidb)
    targets = load_thetas(config.thetas, layout) if config.beta else None
    encoder = load_face_encoder(config.hypernet.encoder)
    judges = Judges.from_options(config.judges, device=device)
    train = people.training(cache_digests=(base.autoencoder_digest, encoder.digest) if config.cached else None)
    hypernet = build_hypernet(config.hypernet, encoder, layout, base_digest=base.digest)
    personalized, val = PersonalizedDiffusion(base, hypernet.layout), people.faces("val")
    initialize_hypernet(
        hypernet, config.init_from, (sample.reference for sample in train), device=device, check=base.check
    )
    preview = PreviewPeople(personalized, judges, val, options=config, path=folder / "preview.png", seed=seed)
    stage = HyperNetPretraining(personalized, hypernet, targets=targets, options=config, seed=seed)
    data = FaceData(train, val, batch_size=faces.batch_size, num_workers=faces.num_workers, seed=seed)
    facts = {"base_digest": base.digest, "encoder_digest": hypernet.encoder_digest, "processes": world_size()}
    how = {
        "accelerator": config.accelerator,
        "precision": config.precision,
        "callbacks": [preview],
    } | config.trainer_args
    with claim(folder, config, result="metrics.json", inputs=facts, free=LOOKED_AT) as resume:
        write_json_on_rank_zero(folder / SPLITS_FILE, asdict(splits))
        with wandb_run(config, stage="pretrain", output=folder) as logger:
            scores = fit_hypernet(stage, data, folder, schedule=config, trainer=how | {"logger": logger}, resume=resume)
            log_network(logger, folder / "hypernet", scores=scores, upload=config.upload)
            log_winner(logger, folder, scores)
        scores["seconds"] = time.perf_counter() - started
        write_json_on_rank_zero(
            folder / "metrics.json", scores | {"base": base.name, **facts, "skipped": train.skipped.counts}
        )
    print(f"{folder / 'last.ckpt'}: {scores['step']} steps, {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}")


if __name__ == "__main__":
    run(main)
