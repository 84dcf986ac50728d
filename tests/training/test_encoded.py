"""Training pictures that are encoded once: a batch holds what the networks would make of its pictures."""

import pytest
import torch
from torch.testing import assert_close

from hdb.faces.datamodule import FaceData
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.people import FaceworldFaces
from hdb.training.encoded import EncodedViews
from hdb.training.options import PretrainingOptions
from hdb.training.pretrain import HyperNetPretraining


@pytest.fixture
def faces(tiny_weights) -> FaceworldFaces:
    dataset = FaceWorldDataset(tiny_weights / "data", indices=range(3), views_per_identity=4, resolution=32)
    dataset.prepare(num_workers=0, progress=False)
    return FaceworldFaces(dataset, seed=5)


def test_training_on_encoded_views_is_training_on_the_pictures(faces, personalized, hypernet, trainer):
    def trained(read_batch_of):
        net = hypernet()
        data = FaceData(faces, batch_size=2, num_samples=6, seed=7, read_batch=read_batch_of(net))
        options = PretrainingOptions(beta=0.0, gamma=1.0, identity_until=1.0, warmup_steps=1)
        stage = HyperNetPretraining(personalized, net, options=options)
        fit = trainer(max_steps=4, limit_val_batches=0)
        fit.fit(stage, data)
        return list(net.trainable_state_dict().values()), fit.callback_metrics

    encoded = []

    def read_batch_of(net):
        views = EncodedViews(faces, diffusion=personalized.diffusion, encoder=net.encoder, seed=5, batch_size=5)
        encoded.append(views)
        return views.read_batch

    from_pictures, log = trained(lambda net: None)
    from_views, log_of_views = trained(read_batch_of)
    assert_close(from_views, from_pictures, rtol=1e-3, atol=1e-5)
    assert {name: float(value) for name, value in log_of_views.items()} == pytest.approx(
        {name: float(value) for name, value in log.items()}, rel=1e-3
    )
    batch = encoded[0].read_batch([(0, 1), (3, 2)])
    samples = [faces[0, 1], faces[3, 2]]
    assert batch.prompts == [sample.prompt for sample in samples]
    assert batch.identities.tolist() == [sample.identity for sample in samples]
    assert batch.photos.tolist() == [sample.photo for sample in samples]
    latents = personalized.diffusion.encode_images(torch.stack([sample.target for sample in samples]))
    assert_close(batch.cached.latents, latents, rtol=1e-4, atol=1e-5)
