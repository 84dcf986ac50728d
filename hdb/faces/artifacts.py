"""Data kept as W&B artifacts, and whether W&B knows who is asking."""

import os
import sys

import wandb
from wandb.sdk.lib.wbauth import read_netrc_auth


def client_settings() -> wandb.Settings:
    """W&B's settings as its client reads them: its files, then the environment but for the mode."""
    settings = wandb.Settings()
    settings.update_from_system_settings()
    settings.update_from_env_vars({name: value for name, value in os.environ.items() if name != wandb.env.MODE})
    return settings


def mode_of_files() -> str | None:
    """What `wandb offline` or `wandb disabled` wrote; online is the default, so nobody's choice."""
    try:
        mode = client_settings().mode
    except (OSError, ValueError):  # pydantic's are ValueErrors
        return None
    return None if mode == "online" else mode


def has_login() -> bool:
    """Whether W&B knows who is asking, by all the ways its client has, without asking anybody."""
    try:
        settings = client_settings()
        return bool(settings.api_key or settings.identity_token_file or read_netrc_auth(host=settings.base_url))
    except (wandb.Error, OSError, ValueError) as error:  # pydantic's are ValueErrors
        print(f"W&B cannot use the login it has: {' '.join(str(error).split())}", file=sys.stderr)
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
