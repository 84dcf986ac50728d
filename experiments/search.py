"""The rate that each method deserves, on validation people: python -m experiments.search configs/faceworld/search.yaml

Under `output`: <method>.json, scores and seconds of every setting and which of them is chosen; and a folder for each
setting, from which an interrupted search resumes. Its choice is for a person to write into the YAML of an evaluation.
"""

from pathlib import Path

from experiments.cli import run
from experiments.config import Search, dotted, load


def main(argv: list[str]) -> None:
    search(load(Search, argv), argv)


def search(config: Search, argv: list[str]) -> None:
    """Searches as a config says.

    Args:
        argv: its words, to which those of each setting are added.
    """
    from dataclasses import replace

    from experiments.outputs import find_inputs
    from experiments.people import open_people, oracle_of
    from hdb.evaluation.people import select_unseen_people
    from hdb.evaluation.scores import Scorer
    from hdb.evaluation.search import Trial, plan_settings, setting_folder_name
    from hdb.files import write_json
    from hdb.hypernet.trained import check_networks_exist, modification_time, resolve_hypernet_path
    from hdb.lidb.file import parse_dtype
    from hdb.methods.context import MethodContext, TrainingContext
    from hdb.methods.table import SCALE, check_method_names, make_methods
    from hdb.metrics.embedders import check_judges_exist
    from hdb.metrics.judges import Judges
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.prompts import read_prompts, remove_identifier
    from hdb.runs.folder import shared_folder
    from hdb.runs.outputs import resolve_output
    from hdb.training.device import select_device

    # What can be wrong is checked before gigabytes are read.
    words_of_methods = plan_settings(config.grids, config.methods.names)
    settings_of = {words: load(Search, [*argv, *words]) for settings in words_of_methods.values() for words in settings}
    check_method_names(list(config.protocol.identity_guidance_scales))
    prompts = read_prompts(config.protocol.prompts, num=config.protocol.num_prompts)
    dtype = parse_dtype(config.dtype)
    hypernet_path = resolve_hypernet_path(config.hypernet)
    output = resolve_output(config.output)
    device = select_device(config.accelerator)
    with shared_folder(output, find_inputs(config, hypernet_path)):
        check_networks_exist(hypernet=hypernet_path, encoder=config.encoder)
        check_judges_exist(config.judges)
        source = open_people(config.faces)
        people = select_unseen_people(source, config.protocol, hypernet=hypernet_path, split="val")

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
            },
            sampling=config.sampling,
            seed=config.seed,
            dtype=dtype,
        )
        scorer = Scorer(
            Judges.from_options(config.judges, device=device),
            prompts=[remove_identifier(prompt) for prompt in prompts],
        )
        trial = Trial(people, prompts, scorer, config.protocol, config.sampling, seed=config.seed)
        depends_on = {"base": pipeline.diffusion.digest, "hypernetwork": modification_time(hypernet_path)}

        def setting_folder(method: str, setting: Search, words: tuple[str, ...] = ()) -> Path:
            methods = replace(setting.methods, names=None)
            relevant = replace(setting, methods=methods, grids={}, output="")
            return output / method / setting_folder_name(words, dotted(relevant) | depends_on)

        (unpersonalized,) = make_methods(SCALE[:1], MethodContext(training, hypernet=pipeline.hypernet))
        base_scores = trial.run(unpersonalized, setting_folder(unpersonalized.name, config))
        for name, settings in words_of_methods.items():
            outcome = trial.compare(
                (
                    (
                        words,
                        make_methods(
                            [name],
                            MethodContext(
                                training,
                                hypernet=pipeline.hypernet,
                                options=settings_of[words].methods,
                                oracle=oracle_of(source),
                            ),
                        )[0],
                        setting_folder(name, settings_of[words], words),
                    )
                    for words in settings
                ),
                unpersonalized=base_scores,
                within=config.clip_t_within,
            )
            write_json(output / f"{name}.json", outcome | depends_on)


if __name__ == "__main__":
    run(main)
