"""Latents and face features beside shards: training on them is training on the pictures."""

import io
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from safetensors.torch import load
from torch.utils.data import DataLoader

from hdb.diffusion.base import load_base
from hdb.diffusion.options import BaseOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.faces.caches import CacheKeys, cache_path
from hdb.faces.shard_writer import About, write_shard
from hdb.faces.shards import ShardFaces
from hdb.faces.sources import FaceBatch
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import load_face_encoder
from hdb.lidb.layout import LiDBOptions
from hdb.training.caches import write_caches
from hdb.training.options import CacheOptions, PretrainingOptions
from hdb.training.pretrain import HyperNetPretraining


def picture(number: int) -> bytes:
    """64 px of stripes, as a file."""
    noise = torch.rand(3, 8, 1, generator=torch.Generator().manual_seed(number)).repeat_interleave(8, 1)
    pixels = (noise.expand(-1, -1, 64) * 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path) -> Path:
    """Four people of two pictures, as `prepare` writes them."""
    path, about, files = tmp_path / "train-00000.tar", About(people={}, skipped=[], notes=[], crops=[]), {}
    for person in range(4):
        key = f"train-00000-{person:05d}"
        files[f"{key}.json"] = json.dumps({"identity": str(person)}).encode()
        for number in range(2):
            files[f"{key}.{number}.jpg"] = picture(2 * person + number)
    write_shard(path, about, files)
    return path


@pytest.fixture
def options(tiny_weights) -> CacheOptions:
    return CacheOptions(base=f"{tiny_weights}/base", encoder=f"{tiny_weights}/encoder", batch_size=3, accelerator="cpu")


@pytest.fixture
def base(options):
    return load_base(BaseOptions(path=options.base))


@pytest.fixture
def encoder(options):
    return load_face_encoder(options.encoder).eval()


@pytest.fixture
def faces(shard, base, encoder):
    def read(*, cached: bool, resolution: int = 64) -> ShardFaces:
        source = ShardFaces([str(shard)], resolution=resolution, shuffle_size=0, num_samples=4)
        if cached:
            source.use_caches(CacheKeys(base.autoencoder_digest, encoder.digest, resolution))
        return source

    return read


def batches(source: ShardFaces) -> DataLoader:
    return DataLoader(source, batch_size=2, collate_fn=FaceBatch.from_samples)


def test_a_sample_has_what_the_networks_make_of_its_pictures(shard, options, base, encoder, faces):
    write_caches([shard], options, resolution=64)
    plain, kept = (next(iter(batches(faces(cached=cached)))) for cached in (False, True))
    assert torch.equal(plain.target, kept.target) and plain.cached is None
    with torch.no_grad():
        reference, target = encoder(plain.reference), encoder(plain.target)
    close = {"atol": 2e-3, "rtol": 2e-3}  # half precision
    torch.testing.assert_close(kept.cached.latents, base.encode_images(plain.target), **close)
    torch.testing.assert_close(kept.cached.embedding, reference.embedding, **close)
    torch.testing.assert_close(kept.cached.tokens, reference.tokens, **close)
    torch.testing.assert_close(kept.cached.target_embedding, target.embedding, **close)
    assert not torch.equal(reference.embedding, target.embedding)


def test_losses_are_the_same_and_neither_autoencoder_nor_encoder_runs(
    shard, options, base, encoder, faces, trainer, monkeypatch
):
    write_caches([shard], options, resolution=64)

    class Losses(Callback):
        def __init__(self):
            self.losses = []

        def on_train_batch_end(self, trainer, *_):
            self.losses.append(trainer.callback_metrics["train/diffusion_loss"].item())

    def losses(*, cached):
        layout = build_layout(base, LiDBOptions(a=6, b=4))
        net = HyperNet(encoder, WeightDecoder(layout, encoder, width=8, num_heads=2), layout, linear_path=True)
        personalized, log = PersonalizedDiffusion(base, layout), Losses()
        stage = HyperNetPretraining(personalized, net, options=PretrainingOptions(beta=0.0, linear_lr=1e-2))
        trainer(max_steps=4, callbacks=[log]).fit(stage, batches(faces(cached=cached)))
        personalized.detach()
        return log.losses

    plain = losses(cached=False)
    monkeypatch.setattr(base, "encode_images", None)
    monkeypatch.setattr(encoder, "forward", None)
    assert losses(cached=True) == pytest.approx(plain, rel=1e-3)
    assert len(set(plain)) == 4


def test_a_second_call_keeps_what_is_whole_and_makes_the_rest_anew(shard, options, base, encoder, faces):
    write_caches([shard], options, resolution=64)
    latents, features = (
        cache_path(shard, kind, digest)
        for kind, digest in (("latents", base.autoencoder_digest), ("features", encoder.digest))
    )
    made, content, tensors = latents.stat().st_mtime_ns, features.read_bytes(), load(features.read_bytes())
    features.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="features-.*safetensors is no readable cache"):
        faces(cached=True)
    write_caches([shard], options, resolution=64)
    assert latents.stat().st_mtime_ns == made
    torch.testing.assert_close(load(features.read_bytes()), tensors, rtol=0, atol=0)


def test_caches_that_are_not_there_or_of_other_pictures_are_refused(shard, options, faces):
    with pytest.raises(ValueError, match="has no train-00000.latents-.* beside it: run prepare with cache.base="):
        faces(cached=True)
    write_caches([shard], options, resolution=64)
    with pytest.raises(ValueError, match="is of pictures of 64 px, but faces.resolution is 32"):
        faces(cached=True, resolution=32)
