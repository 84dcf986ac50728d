"""Data kept as W&B artifacts, and whether W&B knows who is asking."""

import netrc
import os
from urllib.parse import urlparse

import wandb


def has_login() -> bool:
    """Whether W&B knows who is asking, without asking anybody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def download(name: str) -> str:
    """The folder on disk of an artifact of folders, flat pictures or shards.

    Raises:
        ValueError: no login, or no such artifact.
    """
    if not has_login():
        raise ValueError(f"artifact {name} needs WANDB_API_KEY or a `wandb login`")
    try:
        return str(wandb.Api().artifact(name).download())
    except (wandb.Error, ValueError) as error:
        given = f"artifact {name} cannot be downloaded ({error})"
        raise ValueError(f"{given}; expected faces.root=entity/project/name:alias") from None
