"""Trains the hypernetwork: python -m experiments.pretrain configs/faceworld/pretrain.yaml [key=value ...]

Under `output`: last.ckpt and the one before, hypernet/, metrics.json, curve.json (the loss), preview.png, splits.json.
"""

import time
from dataclasses import asdict

from experiments.cli import run
from experiments.config import Pretrain, load
from experiments.runs import LOOKED_AT, check_folder, claim
from experiments.sweeps import log_winner
from experiments.tracking import wandb_run
from hdb.diffusion.base import read_base
from hdb.diffusion.personalized import PersonalizedDiffusion, layout_of
from hdb.faces.datamodule import FaceData, first_references
from hdb.faces.people import SPLITS_FILE, People
from hdb.hypernet.options import new_hypernet, standardize
from hdb.hypernet.trained import face_encoder
from hdb.metrics.judges import Judges
from hdb.runs.locks import own_place
from hdb.training.callbacks import PreviewPeople
from hdb.training.hypernet_run import fit_hypernet
from hdb.training.preoptimize import load_thetas
from hdb.training.pretrain import HyperNetPretraining
from hdb.training.ranks import start, world_size, write_once


def main(argv: list[str]) -> None:
    config, started = load(Pretrain, argv), time.perf_counter()
    folder, faces, net = own_place(config.output), config.faces, config.hypernet
    config.refuse_missing()
    check_folder(folder, config)
    people, device = People(faces), start(config, accelerator=config.accelerator)  # before gigabytes are read
    base = read_base(config.base, device=device, memory=config.memory, precision=config.precision)
    targets = load_thetas(config.thetas, layout_of(base, config.lidb)) if config.beta else None
    encoder, judges = face_encoder(net.encoder), Judges.read(config.judges, device=device)
    train, val = people.training(), people.faces("val")
    hypernet = new_hypernet(net, encoder, layout_of(base, config.lidb), base_digest=base.digest)
    personalized = PersonalizedDiffusion(base, hypernet.layout)
    standardize(hypernet, (sample.reference for sample in train), device=device)
    how = {"prompts": config.preview_prompts, "path": folder / "preview.png", "sampling": config.sampling}
    how["references"] = first_references(val, config.num_preview_identities)
    stage = HyperNetPretraining(personalized, hypernet, targets=targets, options=config, seed=config.seed)
    data = FaceData(train, val, batch_size=faces.batch_size, num_workers=faces.num_workers, seed=config.seed)
    facts = {"base_digest": base.digest, "encoder_digest": hypernet.encoder_digest, "processes": world_size()}
    machine = {"accelerator": config.accelerator, "precision": config.precision} | config.processes
    with claim(folder, config, result="metrics.json", inputs=facts, free=LOOKED_AT) as resume:
        write_once(folder / SPLITS_FILE, asdict(people.splits))
        with wandb_run(config, stage="pretrain", output=folder) as logger:
            machine |= {"callbacks": [PreviewPeople(personalized, judges, seed=config.seed, **how)], "logger": logger}
            scores = fit_hypernet(stage, data, folder, schedule=config, trainer=machine, resume=resume)
            log_winner(logger, folder, scores)
        scores["seconds"] = time.perf_counter() - started
        write_once(folder / "metrics.json", scores | {"base": base.name, **facts, "skipped": train.skipped.counts})
    print(f"{folder / 'last.ckpt'}: {scores['step']} steps, {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}")


if __name__ == "__main__":
    run(main)
