"""The rate that each method deserves, on validation people: python -m experiments.search configs/faceworld/search.yaml

Under `output`: <method>.json, scores and seconds of every setting and which of them is chosen; and a folder for each
setting, from which an interrupted search resumes. Its choice is for a person to write into the YAML of an evaluation.
"""

from dataclasses import replace
from pathlib import Path

from experiments.cli import run
from experiments.config import Search, dotted, load
from experiments.outputs import named_paths
from experiments.people import open_people, oracle_of
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.evaluation.people import select_unseen_people
from hdb.evaluation.scores import Scorer
from hdb.evaluation.search import Trial, plan_settings, setting_folder_name
from hdb.files import write_json
from hdb.hypernet.trained import load_hypernet, modification_time, resolve_hypernet_path
from hdb.lidb.file import parse_dtype
from hdb.methods.context import MethodContext, TrainingContext
from hdb.methods.table import SCALE, make_methods
from hdb.metrics.judges import Judges
from hdb.prompts import read_prompts, remove_identifier
from hdb.runs.folder import added_to
from hdb.runs.locks import own_place
from hdb.training.device import select_device


def main(argv: list[str]) -> None:
    config = load(Search, argv)
    planned, prompts = plan_settings(config.grids, config.methods), read_prompts(config.prompts, num=config.num_prompts)
    of_words = {words: load(Search, [*argv, *words]) for plan in planned.values() for words in plan}  # before any runs
    path, folder, device = (
        resolve_hypernet_path(config.hypernet),
        own_place(config.output),
        select_device(config.accelerator),
    )
    with added_to(folder, [*named_paths(config), ("hypernet", path)]):
        config.refuse_missing(path)
        source = open_people(config.faces)
        people = select_unseen_people(source, config, hypernet=path, split="val")
        oracle = oracle_of(source)
        base = load_base(config.base, device=device, memory=config.memory, precision=config.precision)
        hypernet = load_hypernet(path, encoder=config.encoder, **base.compatibility).to(device)
        machine = {"accelerator": config.accelerator, "precision": config.precision}
        how = {"prompt": config.instance_prompt, "trainer": machine, "dtype": parse_dtype(config.dtype)}
        context = TrainingContext(
            PersonalizedDiffusion(base, hypernet.layout), sampling=config.sampling, seed=config.seed, **how
        )
        judges = Judges.from_options(config.judges, device=device)
        scorer = Scorer(judges, [remove_identifier(prompt) for prompt in prompts])
        trial = Trial(people, prompts, scorer, config, config.sampling, seed=config.seed)
        depends = {"base": base.digest, "hypernetwork": modification_time(path)}

        def place(name: str, setting: Search, words: tuple[str, ...] = ()) -> Path:
            settings = dotted(replace(setting, methods=None, grids={}, output="")) | depends
            return folder / name / setting_folder_name(words, settings)

        (nobody,) = make_methods(SCALE[:1], MethodContext(context, hypernet))
        base_alone = trial.run(nobody, place(nobody.name, config))
        for name, plan in planned.items():
            made = (
                make_methods([name], MethodContext(context, hypernet, of_words[words], oracle))[0] for words in plan
            )
            tried = zip(plan, made, (place(name, of_words[words], words) for words in plan), strict=True)
            outcome = trial.compare(tried, unpersonalized=base_alone, within=config.clip_t_within)
            write_json(folder / f"{name}.json", outcome | depends)


if __name__ == "__main__":
    run(main)
