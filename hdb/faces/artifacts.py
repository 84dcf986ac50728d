"""Downloads datasets kept as W&B artifacts, and tells whether W&B has a login."""

import os
import sys

import wandb
from wandb.sdk.lib.wbauth import read_netrc_auth


def client_settings() -> wandb.Settings:
    """W&B's settings as its client reads them, from its files and the environment, but without WANDB_MODE."""
    settings = wandb.Settings()
    settings.update_from_system_settings()
    settings.update_from_env_vars({name: value for name, value in os.environ.items() if name != wandb.env.MODE})
    return settings


def mode_in_files() -> str | None:
    """The mode that `wandb offline` or `wandb disabled` wrote; None if neither was called."""
    try:
        mode = client_settings().mode
    except (OSError, ValueError):  # pydantic's are ValueErrors
        return None
    return None if mode == "online" else mode  # online is the default


def has_login() -> bool:
    """Whether W&B's client would find a login, in any of its ways, without a prompt."""
    try:
        settings = client_settings()
        return bool(settings.api_key or settings.identity_token_file or read_netrc_auth(host=settings.base_url))
    except (wandb.Error, OSError, ValueError) as error:  # pydantic's are ValueErrors
        print(f"W&B cannot use the login it has: {' '.join(str(error).split())}", file=sys.stderr)
        return False


def download(name: str) -> str:
    """Downloads an artifact of folders, flat pictures or shards; returns its folder on disk.

    Raises:
        ValueError: no login, or no such artifact.
    """
    if not has_login():
        raise ValueError(f"artifact {name} needs WANDB_API_KEY or a `wandb login`")
    try:
        return str(wandb.Api().artifact(name).download())
    except (wandb.Error, ValueError) as error:
        problem = f"artifact {name} cannot be downloaded ({error})"
        raise ValueError(f"{problem}; expected faces.root=entity/project/name:alias") from None
