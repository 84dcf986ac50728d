"""Every method on the same unseen people: python -m experiments.evaluate configs/faceworld/evaluate.yaml

Under `output`: subjects/ (the files), images/, manifest.jsonl, results.json, report.html, tradeoff.png, grid.png. An
interrupted run resumes: files and pictures that exist are kept, and the scores come from the pictures on disk.
"""

from experiments.cli import run
from experiments.config import Evaluate, load
from experiments.people import expected_attributes, open_people, oracle_of
from experiments.records import log_evaluation
from experiments.runs import AT_ONCE, check_folder, claim
from experiments.tracking import wandb_run
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.evaluation.evaluate import evaluate
from hdb.evaluation.people import select_unseen_people
from hdb.evaluation.report import versions, write_report
from hdb.evaluation.scores import Scorer
from hdb.evaluation.search import read_searches
from hdb.evaluation.subjects import subjects_folder
from hdb.hypernet.trained import check_networks_exist, load_hypernet, modification_time, resolve_hypernet_path
from hdb.lidb.file import parse_dtype
from hdb.methods.context import MethodContext, TrainingContext
from hdb.methods.table import make_methods, methods_named
from hdb.metrics.judges import Judges, load_classifier
from hdb.prompts import read_prompts, remove_identifier
from hdb.runs.locks import own_place
from hdb.training.ranks import single_process_trainer_args, start_processes


def main(argv: list[str]) -> None:
    config = load(Evaluate, argv)
    chosen, dtype = methods_named(config.methods), parse_dtype(config.dtype)
    prompts = read_prompts(config.prompts, num=config.num_prompts)
    expected = expected_attributes(prompts, source=config.faces.source, classifier=config.judges.classifier)
    path, folder = resolve_hypernet_path(config.hypernet), own_place(config.output)
    curves = read_searches(config.searches)
    check_folder(folder, config)
    check_networks_exist(hypernet=path, encoder=config.encoder)
    config.judges.refuse_missing()
    source = open_people(config.faces)
    people = select_unseen_people(source, config, hypernet=path)
    device = start_processes(config, accelerator=config.accelerator)
    base = load_base(config.base, device=device, memory=config.memory, precision=config.precision)
    hypernet = load_hypernet(path, encoder=config.encoder, **base.compatibility).to(device)
    machine = {"accelerator": config.accelerator, "precision": config.precision} | single_process_trainer_args(device)
    options = {"prompt": config.instance_prompt, "trainer": machine, "seed": config.seed, "dtype": dtype}
    context = TrainingContext(PersonalizedDiffusion(base, hypernet.layout), sampling=config.sampling, **options)
    methods = make_methods(chosen, MethodContext(context, hypernet, config, oracle_of(source), subjects_folder(folder)))
    judges = Judges.from_options(config.judges, device=device)
    judge = load_classifier(config.judges.classifier, device=device)
    scorer = Scorer(judges, [remove_identifier(prompt) for prompt in prompts], expected, judge)
    inputs = {"base_digest": base.digest, "hypernet_path": str(path), "hypernet_written": modification_time(path)}
    with claim(folder, config, result="results.json", inputs=inputs, reads=(path,), free=AT_ONCE):
        with wandb_run(config, stage="evaluate", output=folder) as logger:
            outcome = evaluate(
                methods,
                people,
                prompts,
                scorer,
                folder=folder,
                protocol=config,
                sampling=config.sampling,
                seed=config.seed,
            )
            protocol = {"base": base.name, "base_digest": base.digest, "hypernetwork": str(path)}
            facts = {"protocol": protocol | {"settings": config.settings()}, "versions": versions(device)}
            log_evaluation(logger, write_report(folder, outcome, facts=facts, curves=curves), outcome)
    print("\n\n".join(table.text() for table in outcome.tables))


if __name__ == "__main__":
    run(main)
