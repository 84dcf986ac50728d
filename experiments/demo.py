"""The page for people without a shell: hdb demo, or python -m experiments.demo configs/faceworld/demo.yaml

Gradio serves it on this machine alone, unless `host` says otherwise; Ctrl-C ends it, and nothing stays on disk.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from experiments.cli import run
from experiments.config import Demo, load
from experiments.imports import import_quickly
from experiments.inputs import check_networks

if TYPE_CHECKING:
    from hdb.demo.portraits import Portraits


def main(argv: list[str]) -> None:
    config = load(Demo, argv)
    if find_spec("gradio") is None:
        raise ValueError("the page needs gradio, which is not installed: expected pip install 'hdb[app]'")
    check_networks(base=config.base, hypernet=config.hypernet if config.method != "no_hyper" else None)
    import_quickly()
    serve(config)


def serve(config: Demo) -> None:
    """Serves the page until a signal ends the process."""
    import warnings

    from hdb.demo.visits import Visits
    from hdb.demo.worker import Worker

    with Visits.opened(keep_seconds=config.keep_seconds) as visits:
        from hdb.demo.page import CSS, Page  # Gradio reads the name of the visits' folder when it is imported

        portraits = load_portraits(config)
        worker = Worker()
        warnings.simplefilter("ignore")  # those of visitors' photos: visitors see them, the log does not
        blocks = Page(portraits, visits, worker, prompts=config.prompts).build()
        blocks.launch(
            server_name=config.host,
            server_port=config.port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            css=CSS,
        )
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            worker.close()
            portraits.close()
            blocks.close(verbose=False)


def load_portraits(config: Demo) -> Portraits:
    """The base and the hypernetwork, read once for all visitors."""
    from functools import partial

    from hdb.demo.portraits import Portraits
    from hdb.faceworld.oracle import Oracle
    from hdb.faceworld.people import draw_test_face
    from hdb.faceworld.world import FaceWorld
    from hdb.hypernet.trained import check_networks_exist, resolve_hypernet_path
    from hdb.pipeline import HyperDreamBoothPipeline
    from hdb.training.device import select_device

    hypernet_path = encoder = None
    if config.method != "no_hyper":
        hypernet_path, encoder = resolve_hypernet_path(config.hypernet), config.encoder
    check_networks_exist(
        hypernet=hypernet_path, encoder=encoder, base=config.base.path if config.hypernet is None else None
    )
    pipeline = HyperDreamBoothPipeline.from_pretrained(
        config.base,
        hypernet=hypernet_path,
        encoder=encoder,
        device=select_device(config.accelerator),
        memory=config.memory,
        cuda_graph=config.cuda_graph,
        precision=config.precision,
        instance_prompt=config.instance_prompt,
    )
    world = FaceWorld(resolution=pipeline.diffusion.resolution)
    return Portraits(
        pipeline,
        hypernet_path=hypernet_path,
        finetuning=config.finetuning,
        sampling=config.sampling,
        min_face=config.min_face,
        seed=config.seed,
        example_face=partial(draw_test_face, world),
        oracle=Oracle(world),
    )


if __name__ == "__main__":
    run(main)
