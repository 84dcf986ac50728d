"""Weights & Biases: who is logged in, in which mode is logged, and that no failure of it changes a result."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb

from experiments import faceworld, personalize
from hdb.faces import artifacts
from hdb.runs import logger as log


@pytest.mark.parametrize(
    ("netrc", "url", "expected"),
    [
        ("machine api.wandb.ai\n  login user\n  password {key}\n", None, True),
        ("machine localhost:8080\n  login user\n  password {key}\n", "http://localhost:8080", True),
        ("machine wandb.lab\n  login user\n  password {key}\n", "https://wandb.lab", True),
        ("machine other.org\n  login user\n  password {key}\n", None, False),
        ("machine api.wandb.ai\n  login", None, False),
        ("", None, False),
    ],
)
def test_a_login_is_found_where_wandb_finds_it(netrc, url, expected, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".netrc").write_text(netrc.format(key="0" * 40))
    if url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
    assert artifacts.has_login() == expected


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        (None, None, "offline"),
        ("dryrun", None, "offline"),
        (None, "dryrun", "offline"),
        (None, "disabled", "disabled"),
        (None, "sometimes", "offline"),
        ("disabled", "online", "disabled"),
    ],
)
def test_modes_are_those_of_wandb(mode, environment, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "has_login", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert log.resolve_mode(mode) == expected


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """No login, no settings, nothing printed yet."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_PROJECT", "WANDB_INIT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    log._printed_warnings.clear()


def start_logger(folder: Path, *, keep_id: bool = False) -> log.SafeWandbLogger:
    return log.start_logger(
        folder,
        mode=log.resolve_mode(None),
        project=os.environ.get("WANDB_PROJECT") or "hdb",
        name=None,
        stage="s",
        config={},
        keep_id=keep_id,
    )


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_RUN_ID", "a:b"), ("WANDB_RESUME", "maybe"), ("WANDB_PROJECT", "a/b")]
)
def test_a_variable_that_wandb_refuses_costs_one_line(environment, name, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    logger = start_logger(tmp_path)
    logger.log_metrics({"a": 1.0})
    logger.log_image("b", [])
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("W&B cannot log") and errors[0].endswith("going on without")


class BrokenRun:
    """A run of W&B that cannot do anything."""

    id = "abc"

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fails(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EACCES, f"no {name}")

        return fails


@pytest.mark.parametrize(("failing", "consequence"), [(("online",), "offline"), (("online", "offline"), "without")])
def test_logging_never_decides_whether_there_is_a_file(failing, consequence, call, tiny_weights, monkeypatch, capsys):
    attempts = []

    def init(**arguments: object) -> BrokenRun:
        attempts.append(arguments)
        if arguments["mode"] in failing:
            raise wandb.errors.CommError("no answer")
        return BrokenRun()

    log._printed_warnings.clear()
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(log, "has_login", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    assert call(faceworld, "portrait=face.png", "resolution=64", "identity=0") == 0
    name = "n" * 140
    words = [f"hypernet={tiny_weights}/hypernet", "reference=face.png", f"output={name}.safetensors"]
    assert call(personalize, *words) == 0
    assert Path(f"{name}.safetensors").is_file() and Path(f"{name}.png").is_file()
    assert [arguments["mode"] for arguments in attempts] == ["online", "offline"]
    assert {arguments["project"] for arguments in attempts} == {"mine"}
    assert attempts[0]["settings"].init_timeout <= 15
    line = f"W&B cannot log online (CommError: no answer): going on {consequence}"
    assert line in capsys.readouterr().err.splitlines()


def test_a_resumed_run_is_one_run_at_wandb(environment, tmp_path, monkeypatch):
    ids = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: ids.append(arguments["id"]) or BrokenRun())
    for keep_id in (True, True, False):
        start_logger(tmp_path, keep_id=keep_id)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    start_logger(tmp_path, keep_id=True)
    assert ids == [None, "abc", None, "mine"]
