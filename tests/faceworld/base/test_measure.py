"""The measures of shipped weights and their report."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from facenet_pytorch import MTCNN

from experiments import measure as command
from experiments import pretrain
from experiments.config import Pretrain, TrainBase, load
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.base import measure, quality
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.hypernet import HyperNet
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.networks import AttributeClassifier

CONFIGS = Path("configs/faceworld").resolve()


def test_a_shipped_hypernetwork_is_measured_on_test_people_as_its_training_validates(
    call, tiny_weights, tiny_diffusion, monkeypatch
):
    assert call(pretrain, "faces.num_val_identities=5", "linear_lr=0.1", "num_val_draws=3") == 0
    expected = json.loads(Path("outputs/pretrain/metrics.json").read_text())
    weights = Path("weights")
    weights.mkdir()
    (weights / "encoder").symlink_to(tiny_weights / "encoder")
    encoder = FaceEncoder.from_folder(weights / "encoder")
    hypernet = HyperNet.from_checkpoint("outputs/pretrain/last.ckpt", encoder=encoder)
    hypernet.save(weights / "hypernet", include_encoder=False, dtype=torch.float32)

    # The test people are set to those that training validated on, so that the numbers must be equal.
    monkeypatch.setattr(measure, "SPLITS", {"test": range(20, 30)})
    config = TrainBase(
        root=f"{tiny_weights}/data",
        weights=str(weights),
        resolution=32,
        num_workers=0,
        num_measured=5,
        accelerator="cpu",
        pretrain="mine.yaml",
    )
    settings = {
        "faces": {"source": "faceworld", "target": "all", "views_per_identity": 4, "batch_size": 2},
        "timesteps": "high_noise",
        "num_val_draws": 3,
    }

    def measured(**changes: str) -> dict[str, float]:
        Path("mine.yaml").write_text(yaml.safe_dump(settings | changes))
        training = command.hypernet_training(load(Pretrain, [config.pretrain]))
        (row,) = measure.measure_hypernet(config, tiny_diffusion, training).values()
        return row

    row = measured()
    assert row["own_minus_other"] == pytest.approx(expected["val/own_minus_other"], rel=1e-4)
    assert row["ci95"] == pytest.approx(expected["val/own_minus_other_ci95"], rel=1e-4)
    assert row["own_better"] == pytest.approx(expected["val/own_better"])
    assert row["own_minus_other"] != 0
    assert measured(timesteps="uniform") != row
    assert measured() == row


def test_the_report_is_written_beside_the_weights_and_keeps_records_of_earlier_trainings(
    call, tiny_weights, monkeypatch
):
    weights = Path("weights")
    weights.mkdir()
    for name, place in {"base": "base", "encoder": "encoder", "hypernet": "hypernet"}.items():
        (weights / name).symlink_to(tiny_weights / place)
    for name in ("recognizer", "dino", "clip", "classifier"):
        (weights / name).symlink_to(tiny_weights / "judges" / name)
    data = {"identities": [0, 3], "pictures": 12, "styles": ["photo"], "pairs": 1}
    trained = {"dino": {"steps": 4, "seconds": 5, "seen": data}}
    (weights / "report.json").write_text(json.dumps({"trained": trained}))
    (weights / "curves.json").write_text(json.dumps({"dino": [[1, 2.0], [2, 1.0]]}))
    monkeypatch.setattr(measure, "NUM_FACES", 2)
    device = torch.device("cpu", 0)  # differs from the default torch.device("cpu")
    monkeypatch.setattr(measure, "select_device", lambda accelerator: device)
    move = torch.nn.Module.to
    moves = []

    def recorded_move(network, *args, **kwargs):
        moves.append((type(network), *args))
        return move(network, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", recorded_move)
    words = ["resolution=64", "num_identities=2", "num_measured=2", "views_per_identity=6", "num_generated=4"]
    words += [f"root={tiny_weights}/data", "weights=weights", "num_workers=0", "accelerator=cpu", "output=nowhere"]
    words.append(f"pretrain={CONFIGS}/pretrain.yaml")
    assert call(command, *words) == 0
    for network in (TimmEmbedder, ClipEmbedder, AttributeClassifier, FaceEncoder, MTCNN, StableDiffusion):
        assert (network, device) in moves
    report = json.loads((weights / "report.json").read_text())
    assert report["trained"] == trained
    parts = {"recognizer", "dino", "classifier", "clip", "autoencoder", "base, held-out pairs", "base, own faces"}
    parts |= {"renders, held-out pairs", "sharpness, autoencoder", "sharpness, base's own pictures"}
    assert parts <= set(report["measured"])
    assert report["measured"]["renders, held-out pairs"].keys() == {"style", "context"}
    page = (weights / "REPORT.md").read_text()
    assert "| dino | 4 | 5 | 0 to 3 | 12 | 1 | 1 |" in page
    assert "(samples.png)" in page and "(curves.png)" in page


def test_a_blurred_picture_is_less_sharp_and_noise_sharper_than_what_it_was_made_of():
    generator = torch.Generator().manual_seed(0)
    renders = 0.5 + 0.1 * torch.randn(8, 3, 64, 64, generator=generator)
    same = quality.sharpness(renders.flip(0), renders)
    assert same == pytest.approx({"medium": 1.0, "high": 1.0}, rel=1e-4)
    blurred = quality.sharpness(torch.nn.functional.avg_pool2d(renders, 3, 1, 1), renders)
    assert blurred["high"] < blurred["medium"] < 1
    noisy = quality.sharpness(renders + 0.1 * torch.randn(renders.shape, generator=generator), renders)
    assert noisy == pytest.approx({"medium": 2.0, "high": 2.0}, rel=0.1)


def test_what_the_denoiser_takes_a_picture_for_is_nearer_to_it_at_less_noise_in_any_batches(tiny_diffusion):
    images = torch.rand(3, 3, tiny_diffusion.resolution, tiny_diffusion.resolution)
    prompts = ["a face", "an old face", "a face at sunset"]
    decoded = tiny_diffusion.decode_latents(tiny_diffusion.encode_images(images))
    least, most = (quality.clean_predictions(tiny_diffusion, images, prompts, timestep=t) for t in (0, 900))
    assert (least - decoded).abs().mean() < 0.9 * (most - decoded).abs().mean()
    in_parts = quality.clean_predictions(tiny_diffusion, images, prompts, timestep=0, batch_size=2)
    torch.testing.assert_close(in_parts, least, rtol=0, atol=1e-4)
