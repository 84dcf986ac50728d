"""Trains the hypernetwork: python -m experiments.pretrain configs/faceworld/pretrain.yaml [key=value ...]

Under `output`: last.ckpt, from which a run goes on, and the one before; hypernet/, the network alone, to be passed on;
metrics.json, curve.json (the loss), preview.png, splits.json.
"""

import time
from dataclasses import asdict

from experiments.cli import run
from experiments.config import Pretrain, load
from experiments.runs import LOOKED_AT, check_folder, claim
from experiments.tracking import wandb_run
from hdb.diffusion.base import read_base
from hdb.diffusion.personalized import PersonalizedDiffusion, layout_of
from hdb.faces.datamodule import FaceData, first_references
from hdb.faces.people import SPLITS_FILE, People
from hdb.files import write_json
from hdb.hypernet.options import new_hypernet, standardize
from hdb.hypernet.trained import face_encoder
from hdb.metrics.judges import Judges
from hdb.runs.locks import own_place
from hdb.training.callbacks import PreviewPeople
from hdb.training.device import device_of
from hdb.training.hypernet_run import fit_hypernet
from hdb.training.preoptimize import load_thetas
from hdb.training.pretrain import HyperNetPretraining


def main(argv: list[str]) -> None:
    config, started = load(Pretrain, argv), time.perf_counter()
    folder, faces, net = own_place(config.output), config.faces, config.hypernet
    config.refuse_missing()
    check_folder(folder, config)
    people, device = People(faces), device_of(config.accelerator)  # before gigabytes are read, as nobody may be there
    layout = layout_of(base := read_base(config.base, memory=config.memory, identifier=config.identifier), config.lidb)
    targets = load_thetas(config.thetas, layout) if config.beta else None
    encoder, judges = face_encoder(net.encoder), Judges.read(config.judges)
    train, val = people.training(), people.faces("val")
    shown = first_references(val, config.num_preview_identities)
    hypernet = new_hypernet(net, encoder, layout, base_digest=base.digest)
    personalized = PersonalizedDiffusion(base, hypernet.layout)
    standardize(hypernet, (sample.reference for sample in train), device=device)
    how = {"prompts": config.preview_prompts, "path": folder / "preview.png", "sampling": config.sampling}
    stage = HyperNetPretraining(personalized, hypernet, targets=targets, options=config, seed=config.seed)
    data = FaceData(train, val, batch_size=faces.batch_size, num_workers=faces.num_workers, seed=config.seed)
    digests = {"base_digest": base.digest, "encoder_digest": encoder.digest}
    with claim(folder, config, result="metrics.json", inputs=digests, free=LOOKED_AT) as resume:
        write_json(folder / SPLITS_FILE, asdict(people.splits))
        with wandb_run(config, stage="pretrain", output=folder) as logger:
            machine = {"accelerator": config.accelerator, "precision": config.precision, "logger": logger}
            machine["callbacks"] = [PreviewPeople(personalized, judges, shown, seed=config.seed, **how)]
            scores = fit_hypernet(stage, data, folder, schedule=config, trainer=machine, resume=resume)
        scores["seconds"] = time.perf_counter() - started
        write_json(folder / "metrics.json", scores | {"base": base.name, **digests, "skipped": train.skipped.counts})
    print(f"{folder / 'last.ckpt'}: {scores['step']} steps, {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}")


if __name__ == "__main__":
    run(main)
