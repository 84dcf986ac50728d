"""What of a person leaves the machine with W&B: numbers, unless more is asked for."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from experiments import faceworld, personalize


class Run:
    """A run of W&B that keeps whatever it is given, by the name of what was called."""

    id, name, config, summary = "1", "run", {}, {}

    def __init__(self) -> None:
        self.given: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.given.append((name, args, kwargs))


@pytest.mark.parametrize("share", [False, True])
def test_photo_name_and_weights_are_logged_only_where_they_are_to_be_shared(share, call, tiny_weights, monkeypatch):
    run, asked = Run(), {}
    monkeypatch.setattr(wandb, "init", lambda **words: asked.update(words) or run)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert call(faceworld, "portrait=annette.png", "resolution=64", "identity=0") == 0
    words = ["reference=annette.png", "output=zoe.safetensors", "consent=by-annette", "source=annettes-phone"]
    words += [f"hypernet={tiny_weights}/hypernet", f"wandb.share_subject={str(share).lower()}", "prompts=[a [V] face]"]
    assert call(personalize, *words) == 0
    assert Path("zoe.safetensors").is_file() and Path("zoe.png").is_file()  # here they are

    logged = [args[0] for name, args, _ in run.given if name == "log"]
    assert any("personalize/seconds" in row for row in logged)
    assert ("log_artifact" in {name for name, _, _ in run.given}) == share
    assert any(not isinstance(value, (int, float)) for row in logged for value in row.values()) == share
    said = str((asked["config"], run.given))
    assert ("annette" in said) == ("zoe" in said) == share
    settings = asked["settings"]  # else the words of the command and what it prints are kept, too
    assert (bool(settings.x_disable_meta), settings.console == "off", bool(settings.disable_git)) == (not share,) * 3
