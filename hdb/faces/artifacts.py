"""Downloads datasets kept as W&B artifacts, and tells whether W&B has a login."""

import os
import sys

import wandb
from wandb.sdk.lib.wbauth import read_netrc_auth

# Environment variables of W&B that say who is logged in, and where. An invalid value of another one is no matter here.
LOGIN_VARIABLES = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_CREDENTIALS_FILE", "WANDB_IDENTITY_TOKEN_FILE")


def client_settings() -> wandb.Settings:
    """W&B's settings of the login as its client reads them, from its files and the environment."""
    settings = wandb.Settings()
    settings.update_from_system_settings()
    settings.update_from_env_vars({name: os.environ[name] for name in LOGIN_VARIABLES if name in os.environ})
    return settings


def mode_in_files() -> str | None:
    """The mode that `wandb offline` or `wandb disabled` wrote; None if neither was called."""
    try:
        mode = client_settings().mode
    except (wandb.Error, OSError, ValueError):  # pydantic's are ValueErrors
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
