"""What the quality gate of a hypernetwork compares people with: python -m experiments.gate configs/faceworld/gate.yaml

Personalizes validation people as a user would be and writes gate.json beside the hypernetwork. split=test writes
nothing and says how well the gate tells the best from the worst fifth of test people, by a recognizer and other photos.
"""

import torch
from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import MeasureGate, load
from experiments.people import open_people
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.evaluation.gate import Gate, GateObservations, observe, recognizer_likeness, separation_auc
from hdb.evaluation.people import ProtocolOptions, select_unseen_people
from hdb.hypernet.trained import check_networks_exist, compute_hypernet_digest, load_hypernet, resolve_hypernet_path
from hdb.methods.context import TrainingContext
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth
from hdb.metrics.embedders import load_recognizer
from hdb.training.device import select_device


def main(argv: list[str]) -> None:
    config = load(MeasureGate, argv)
    path, device, num = resolve_hypernet_path(config.hypernet), select_device(config.accelerator), config.num_identities
    check_networks_exist(hypernet=path, encoder=config.encoder)
    protocol = ProtocolOptions(num_identities=num, num_references=4, num_gallery=num)
    people = select_unseen_people(open_people(config.faces), protocol, hypernet=path, split=config.split)
    base = load_base(config.base, device=device, memory=config.memory, precision=config.precision)
    hypernet, prompts = load_hypernet(path, encoder=config.encoder, **base.compatibility).to(device), config.prompts
    machine = {"accelerator": config.accelerator, "precision": config.precision, "enable_progress_bar": False}
    how = {"prompt": config.instance_prompt, "trainer": machine, "sampling": config.sampling, "seed": config.seed}
    context = TrainingContext(PersonalizedDiffusion(base, hypernet.layout), **how)
    method, judge, seen, truth = HyperDreamBooth(hypernet, Finetuner(context, config.finetuning)), None, [], []
    if config.split == "test":
        judge = load_recognizer(config.recognizer).to(device)
    for start in tqdm(range(0, num, config.subjects_per_batch), desc="people"):
        some = people.photos[start : start + config.subjects_per_batch]
        references, made = people.references[start : start + len(some)], method.personalize(some)
        asked = [(config.seed + place, prompt) for place, prompt in enumerate(prompts)]  # as personalize draws them
        drawn = [made.pictures([of] * len(some), seeds=[k] * len(some), sampling=config.sampling) for k, of in asked]
        pictures = torch.stack(drawn, dim=1)
        seen.append(observe(hypernet, some.images, pictures))
        if judge:
            truth.append(recognizer_likeness(judge, pictures, references[:, 1:]))
    everybody = GateObservations(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
    if judge:
        auc = separation_auc(everybody.likeness.mean(1), torch.cat(truth))
        print(f"best from worst fifth of {num} test people: AUC {auc:.3f}")
    else:
        saved = Gate(prompts, everybody, compute_hypernet_digest(path)).save(path)
        print(f"{saved}: {num} people, {len(prompts)} prompts")


if __name__ == "__main__":
    run(main)
