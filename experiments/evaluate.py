"""Every method on the same unseen people: python -m experiments.evaluate configs/faceworld/evaluate.yaml

Under `output`: subjects/ (the files), images/, manifest.jsonl, results.json, grid.png. An interrupted run goes on:
files and pictures that exist are kept, and the scores come from the pictures on disk.
"""

import json
import time
from pathlib import Path

import torch

from experiments.cli import run
from experiments.config import Evaluate, load
from experiments.methods import PERSONAL, is_free, methods_named, personal_weights
from experiments.networks import device_of, embedders, hypernet_path, stable_diffusion, trained_hypernet
from experiments.people import Unseen, unseen
from experiments.pictures import Pictures, comparison
from experiments.runs import claim
from experiments.scores import SCORES, paired, score_pictures, shares_table, summarize, table, what_is_asked
from experiments.tracking import wandb_run
from hdb.diffusion.sampling import save_image
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import write_json
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.adapter import LiDB
from hdb.lidb.file import Subject, dtype_named
from hdb.prompts import read_prompts


def main(argv: list[str]) -> None:
    config = load(Evaluate, argv)
    chosen = methods_named(config.methods)
    dtype = dtype_named(config.dtype)
    prompts = read_prompts(config.prompts, num=config.num_prompts)
    wanted = what_is_asked(config, prompts)
    path, folder = hypernet_path(config.hypernet), Path(config.output)
    people = unseen(config, hypernet=path)
    device = device_of(config.accelerator)
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device)
    hypernet = trained_hypernet(path, encoder=config.encoder, diffusion=diffusion).to(device)
    free = is_free(config.finetuning.basis, hypernet.layout)
    judges = embedders(config.judges, device=device)
    written = max(file.stat().st_mtime_ns for file in (path, *path.glob("*")))
    inputs = {"base_digest": diffusion.digest, "hypernet_path": str(path), "hypernet_written": str(written)}
    claim(folder, config, result="results.json", inputs=inputs)
    with wandb_run(config, stage="evaluate", output=folder) as logger:
        costs = write_subjects(config, diffusion, hypernet, people, folder, dtype=dtype)
        mean_theta = hypernet.mean_theta.detach().cpu()
        layout, mean_theta = hypernet.layout.relax(mean_theta, config.finetuning.rank, free=free)
        pictures = Pictures(config, people, prompts, folder)
        gallery = judges.recognizer.embed_images(people.gallery)
        lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=layout)
        per_method = {}
        for method in chosen if people.oracle else [name for name in chosen if name != "oracle"]:
            if method == "oracle":
                pictures.ask_oracle()
            elif method in PERSONAL:
                files = [Subject.load(path) for path in subject_paths(folder, method, people)]
                rows = [file.layout.relax(file.theta.float(), layout.rank, free=free)[1] for file in files]
                theta = torch.cat(rows)
                pictures.draw(method, diffusion, lidb, theta)
            else:
                everyone = mean_theta.expand(len(people.names), -1) if method == "mean_theta" else None
                pictures.draw(method, diffusion, lidb, everyone)
            per_method[method] = score_pictures(
                judges,
                pictures.read(method),
                people.references,
                pictures.plain_prompts,
                gallery=gallery,
                asked=wanted,
            )
        options = {"num_resamples": config.num_resamples, "seed": config.seed}
        methods = summarize(per_method, **options)
        for method, entry in methods.items():
            entry |= costs.get(method, {"seconds": 0.0, "bytes": 0})
        protocol = {
            "identities": people.names,
            "prompts": prompts,
            "images": config.num_pictures,
            "seed": config.seed,
            "references": config.num_references,
            "gallery": len(gallery),
            "subjects_per_batch": config.subjects_per_batch,
            "base": diffusion.name,
            "base_digest": diffusion.digest,
            "hypernetwork": str(path),
        }
        beside = [method for method in ("oracle", "unpersonalized") if method in per_method]
        grid = comparison(pictures, methods=["hyperdreambooth", *beside[:1]])
        save_image(grid, folder / "grid.png")
        logger.log_image("eval/grid", [grid])
        means = {f"eval/{m}/{name}": entry[name]["mean"] for m, entry in methods.items() for name in SCORES}
        means |= {
            f"eval/{m}/{score}/{part}": share["mean"]
            for m, entry in methods.items()
            for score in ("prompted", "rank_1")
            for part, share in entry.get(score, {}).items()
        }
        logger.log_metrics(means)
        results = {"protocol": protocol, "methods": methods, "paired": paired(per_method, **options)}
        write_json(folder / "results.json", results)
    print(f"{table(methods)}\n\n{shares_table(methods, gallery=len(gallery))}")


def subject_paths(folder: Path, method: str, people: Unseen) -> list[Path]:
    return [folder / "subjects" / method / f"{name}.safetensors" for name in people.names]


def write_subjects(
    config: Evaluate,
    diffusion: StableDiffusion,
    hypernet: HyperNet,
    people: Unseen,
    folder: Path,
    *,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Personalizes everybody with every method; returns seconds and bytes per subject. Files that exist stay."""
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=hypernet.layout)
    photos, num, costs = people.references[:, 0], len(people.names), {}
    about = {"base": diffusion.name, "base_digest": diffusion.digest}
    for method in (name for name in PERSONAL if name in methods_named(config.methods)):
        paths = subject_paths(folder, method, people)
        times = folder / "subjects" / method / "seconds.json"
        seconds = json.loads(times.read_text()) if times.is_file() else {}
        for start in range(0, num, config.subjects_per_batch):
            members = range(start, min(start + config.subjects_per_batch, num))
            if all(people.names[person] in seconds for person in members):
                continue
            started = time.perf_counter()
            print(f"{method}: people {members.start + 1} to {members.stop} of {num}")
            theta, layout = personal_weights(
                method, config, diffusion, lidb, hypernet, photos[members.start : members.stop]
            )
            each = (time.perf_counter() - started) / len(members)
            for row, person in enumerate(members):
                source = {"source": people.names[person]}
                Subject(theta[row : row + 1].to(dtype), layout, about | source).save(paths[person])
                seconds[people.names[person]] = each
            write_json(times, seconds)
        costs[method] = {
            "seconds": sum(seconds.values()) / num,
            "bytes": sum(path.stat().st_size for path in paths) / num,
        }
    lidb.detach()
    return costs


if __name__ == "__main__":
    run(main)
