"""The page for people without a shell: hdb demo, or python -m experiments.demo configs/faceworld/demo.yaml

Gradio serves it on this machine alone, unless `host` says otherwise; Ctrl-C ends it, and nothing stays on disk.
"""

import time
from functools import partial
from importlib.util import find_spec

from experiments.cli import run
from experiments.config import Demo, load
from hdb.demo.portraits import Portraits
from hdb.demo.visits import Visits
from hdb.diffusion.base import load_base
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.faces.crop import FaceCropper
from hdb.faceworld.oracle import Oracle
from hdb.faceworld.people import draw_test_face
from hdb.faceworld.world import FaceWorld
from hdb.hypernet.trained import check_networks_exist, load_hypernet, resolve_hypernet_path
from hdb.methods.context import TrainingContext
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth
from hdb.training.device import select_device


def main(argv: list[str]) -> None:
    config = load(Demo, argv)
    if find_spec("gradio") is None:
        raise ValueError("the page needs gradio, which is not installed: expected pip install 'hdb[app]'")
    with Visits.opened() as visits:
        from hdb.demo.page import build  # after the place is made that Gradio reads the name of

        ours = portraits(config)
        blocks = build(ours, visits, prompts=config.prompts)
        where = {"server_name": config.host, "server_port": config.port, "share": False}
        blocks.launch(**where, prevent_thread_lock=True, quiet=True, show_error=True, footer_links=[])
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            blocks.close(verbose=False)
            ours.close()


def portraits(config: Demo) -> Portraits:
    """The base and the hypernetwork, read once for everybody."""
    path, device = resolve_hypernet_path(config.hypernet), select_device(config.accelerator)
    check_networks_exist(hypernet=path, encoder=config.encoder)
    base = load_base(config.base, device=device, memory=config.memory, precision=config.precision)
    hypernet = load_hypernet(path, encoder=config.encoder, **base.compatibility).to(device)
    machine = {"accelerator": config.accelerator, "precision": config.precision, "enable_progress_bar": False}
    how = {"prompt": config.instance_prompt, "sampling": config.sampling, "seed": config.seed}
    context = TrainingContext(PersonalizedDiffusion(base, hypernet.layout), trainer=machine, **how)
    method = HyperDreamBooth(hypernet, Finetuner(context, config.finetuning))
    world = FaceWorld(resolution=base.resolution)
    return Portraits(
        method,
        path=path,
        cropper=FaceCropper(min_size=config.min_face),
        sampling=config.sampling,
        example_face=partial(draw_test_face, world),
        oracle=Oracle(world),
    )


if __name__ == "__main__":
    run(main)
