"""The methods that an evaluation compares: how each turns photos of unseen people into personal weights."""

from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from experiments.config import Evaluate, Personalize
from experiments.networks import predict
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.training.denoising import Timesteps
from hdb.training.personalize import SubjectFinetuning

# In the order of the table. The first knows nothing of the person, the last is the world's own answer.
METHODS = ("unpersonalized", "mean_theta", "only_hyper", "no_hyper", "hyperdreambooth", "oracle")
PERSONAL = ("only_hyper", "no_hyper", "hyperdreambooth")


def personal_weights(
    method: str,
    config: Evaluate,
    diffusion: StableDiffusion,
    lidb: LiDB,
    hypernet: HyperNet,
    photos: Float[Tensor, "n 3 h w"],
) -> tuple[Float[Tensor, "n q"], Layout]:
    """Theta of n people from one photo each, all together, and the layout it is in.

    only_hyper: the prediction. no_hyper: finetuning from zero. hyperdreambooth: finetuning from the prediction.
    """
    if method == "only_hyper":
        return predict(hypernet, photos), lidb.layout
    ours = config.finetuning.lr
    starts = {
        "no_hyper": lambda: (lidb.layout.initial(), ours if config.no_hyper_lr is None else config.no_hyper_lr),
        "hyperdreambooth": lambda: (predict(hypernet, photos), ours),
    }
    if method not in starts:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(PERSONAL)}")
    start, lr = starts[method]()
    finetuning = subject_finetuning(config, diffusion, lidb, photos, start, lr=lr)
    trainer = Trainer(
        accelerator=config.accelerator,
        precision=config.precision,
        devices=1,
        logger=False,
        max_steps=config.finetuning.num_steps,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(finetuning)
    return finetuning.theta, finetuning.layout


def subject_finetuning(
    config: Evaluate | Personalize,
    diffusion: StableDiffusion,
    lidb: LiDB,
    photos: Float[Tensor, "n 3 h w"],
    start: Float[Tensor, "_ p"],
    *,
    lr: float | None,
) -> SubjectFinetuning:
    """The finetuning that a config describes, of n people from their photos.

    Args:
        lr: None takes the default of the basis.
    """
    tuning = config.finetuning
    return SubjectFinetuning(
        diffusion,
        lidb,
        reference=diffusion.encode_images(photos).float(),
        start=start,
        rank=tuning.rank,
        free=is_free(tuning.basis, lidb.layout),
        prompt=config.instance_prompt,
        num_steps=tuning.num_steps,
        lr=lr,
        batch_size=tuning.batch_size,
        timesteps=Timesteps.named(tuning.timesteps),
        stratified=tuning.stratified,
        seed=config.seed,
    )


def methods_named(names: list[str] | None) -> tuple[str, ...]:
    """These methods in the order of the table; None is all of them.

    Raises:
        ValueError: an unknown one, or hyperdreambooth is not among them.
    """
    if names is None:
        return METHODS
    if (unknown := sorted(set(names) - set(METHODS))) or "hyperdreambooth" not in names:
        problem = f"unknown method {unknown[0]!r}" if unknown else f"methods is {', '.join(names)}"
        raise ValueError(f"{problem}, expected hyperdreambooth and some of {', '.join(METHODS)} to compare it with")
    return tuple(method for method in METHODS if method in names)


def is_free(basis: str, layout: Layout) -> bool:
    """Whether finetuning leaves the LiDB bases.

    Args:
        layout: of the prediction.

    Raises:
        ValueError: an unknown basis, or lidb where the prediction has left the bases.
    """
    if basis not in ("lidb", "free"):
        raise ValueError(f"finetuning.basis is {basis!r}, expected lidb or free")
    if basis == "lidb" and layout.free:
        raise ValueError(
            "finetuning.basis is lidb, but the hypernetwork learned bases of its own and predicts a free LoRA; "
            "expected finetuning.basis=free, and finetuning.lr=null no_hyper_lr=null or rates for it, about a tenth"
        )
    return basis == "free"
