"""The trainings of faceworld's base, on a few noise pictures with true captions."""

import copy
import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from recordings import OnDeviceAlone, Recorder
from tiny import tiny_parts
from transformers import CLIPTokenizer

from hdb.diffusion.graphs import Graphs
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faceworld.base import models, quality
from hdb.faceworld.base.augmentation import color_jitter, random_crops, swap_backgrounds
from hdb.faceworld.base.autoencoder import AutoencoderTraining
from hdb.faceworld.base.classifier import HEADS, ClassifierTraining
from hdb.faceworld.base.denoiser import DenoiserTraining, DenoisingLoss
from hdb.faceworld.base.identity import IdentityTraining, batch_margin_softmax
from hdb.faceworld.base.options import PARTS, BaseTrainingOptions
from hdb.faceworld.base.parts import build_training
from hdb.faceworld.base.selfsupervised import Prototypes, SelfSupervisedTraining
from hdb.faceworld.base.text import TextTraining
from hdb.faceworld.base.views import Views
from hdb.faceworld.captions import VOCABULARY, caption
from hdb.faceworld.identity import sample_identity
from hdb.faceworld.view import sample_view
from hdb.metrics.embedders import ClipEmbedder, TimmEmbedder
from hdb.metrics.networks import AttributeClassifier
from hdb.prompts import remove_identifier

SIZE = 64
SETTINGS = {"batch_size": 6, "lr": 1e-3, "seed": 3}


@pytest.fixture(scope="module")
def views() -> Views:
    rng = np.random.default_rng(0)
    people = [sample_identity(0, index) for index in range(5)]
    coarse = torch.randint(0, 255, (5, 4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Views(
        images=coarse.repeat_interleave(SIZE // 8, 3).repeat_interleave(SIZE // 8, 4),
        labels=torch.stack([torch.arange(20).reshape(5, 4) % len(names) for names in HEADS.values()], dim=-1),
        traits=torch.randn(5, 12, generator=torch.Generator().manual_seed(1)),
        captions=[
            [[caption(sample_view(0, person, j), identity=person, rng=rng) for _ in range(3)] for j in range(4)]
            for person in people
        ],
    )


def small_classifier(views: Views, num_steps: int) -> ClassifierTraining:
    network = AttributeClassifier("resnet10t", {"stem_width": 4, "channels": (4, 4, 8, 8)}, heads=HEADS, resolution=32)
    return ClassifierTraining(views, network, num_steps=num_steps, **SETTINGS)


def denoiser(views: Views, folder, num_steps: int) -> DenoiserTraining:
    parts = tiny_parts(folder)
    return DenoiserTraining(
        views,
        unet=parts["unet"],
        autoencoder=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"],
        num_steps=num_steps,
        **SETTINGS,
    )


def trainer(steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_every_word_of_the_captions_is_one_token():
    tokenizer = models.tokenizer()
    for word in VOCABULARY:
        if word != "[V]":
            assert len(tokenizer.tokenize(word)) == 1, word


def test_tokenizers_are_the_same_in_every_process():
    tokenizer = models.tokenizer()
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert hashlib.sha256(repr(names).encode()).hexdigest()[:16] == "d1449d86f75852af"


@given(st.text(alphabet=[chr(code) for code in range(33, 127)], min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_words_outside_the_captions_have_a_spelling(word):
    tokenizer = models.tokenizer()
    assert tokenizer.unk_token not in tokenizer.tokenize(word)


def test_saved_tokenizer_reads_captions_as_the_trained_one(views, tmp_path):
    tokenizer = models.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    said = [variant for person in views.captions for view in person for variant in view]
    assert again(said)["input_ids"] == tokenizer(said)["input_ids"]
    assert max(map(len, tokenizer(said)["input_ids"])) <= models.TEXT_LENGTH


def test_an_epoch_shows_every_picture_once_and_depends_on_the_step_alone(views):
    batches = [views.batch_indices(step, 5, seed=1) for step in range(4)]
    assert sorted(torch.cat(batches).tolist()) == list(range(20))
    assert torch.equal(views.batch_indices(2, 5, seed=1), batches[2])
    assert not torch.equal(views.batch_indices(2, 5, seed=2), batches[2])
    assert not torch.equal(
        torch.cat([views.batch_indices(step, 5, seed=1) for step in range(4, 8)]), torch.cat(batches)
    )


def test_identifier_has_no_meaning():
    assert remove_identifier("a [V] face smiling, oil painting") == "a face smiling, oil painting"


def test_whole_crops_and_no_jitter_change_nothing(views):
    images = views.pictures(torch.arange(4))
    whole = random_crops(images, scale=(1.0, 1.0), size=SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole, images, atol=1e-4, rtol=0)
    torch.testing.assert_close(color_jitter(images, strength=0.0, generator=torch.Generator()), images)


def test_swapped_backgrounds_keep_the_middle_and_take_the_rim_from_another_picture():
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, SIZE, SIZE)
    moved = swap_backgrounds(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved[..., SIZE // 2, SIZE // 2], images[..., 0, 0], atol=1e-3, rtol=0)
    rim = moved[:, 0, 0, 0]
    torch.testing.assert_close(rim.sort().values, images[:, 0, 0, 0], atol=1e-3, rtol=0)
    assert not torch.allclose(rim, images[:, 0, 0, 0], atol=0.1)


def test_prototypes_answer_with_cosines():
    layer = Prototypes(8, 3, bias=False)
    outputs = layer(torch.nn.functional.normalize(layer.weight.detach(), dim=1))
    torch.testing.assert_close(outputs.diagonal(), torch.ones(3))


def test_a_training_resumed_at_any_step_ends_where_an_uninterrupted_one_ends(views, tmp_path):
    whole = small_classifier(views, 4)
    start = copy.deepcopy(whole.state_dict())
    trainer(4).fit(whole)
    first = small_classifier(views, 4)
    first.load_state_dict(start)
    stopped = trainer(2)
    stopped.fit(first)
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    second = small_classifier(views, 4)
    trainer(4).fit(second, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name)
    assert not torch.equal(whole.state_dict()["network.network.fc.weight"], start["network.network.fc.weight"])


def test_denoiser_trains_the_unet_alone_and_ships_its_average(views, tmp_path):
    part = denoiser(views, tmp_path / "parts", 3)
    frozen = copy.deepcopy({**part.base.vae.state_dict(), **part.base.text_encoder.state_dict()})
    before = copy.deepcopy(part.unet.state_dict())
    trainer(3).fit(part)
    for name, value in {**part.base.vae.state_dict(), **part.base.text_encoder.state_dict()}.items():
        assert torch.equal(value, frozen[name]), name
    assert sum(not torch.equal(value, before[name]) for name, value in part.unet.state_dict().items()) > 50
    assert all(name.startswith("unet.") for name in part.state_dict())

    average = [value.clone() for value in part.average.shadow_params]
    part.save(tmp_path / "pipeline")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    for value, expected in zip(pipeline.unet.parameters(), average, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=2e-3)
    assert StableDiffusion.from_pretrained(tmp_path / "pipeline").resolution == SIZE


def test_a_recorded_step_trains_the_denoiser_as_the_eager_one(views, tmp_path, capsys):
    trained = []
    for recorder in (None, Recorder()):
        part = denoiser(views, tmp_path / "parts", 4)
        part.base.graphs.capture = recorder or part.base.graphs.capture
        trainer(4).fit(part)
        trained.append(part.unet.state_dict())
    assert [recording.num_replays for recording in recorder.made] == [4]  # one of them was the comparison
    assert "training of the denoiser captured in" in capsys.readouterr().out
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name


def test_gradients_that_a_trainer_scales_are_not_left_to_a_graph(views, tmp_path):
    part = denoiser(views, tmp_path / "parts", 1)
    part.base.graphs = Graphs("true")
    part.base.graphs.capture = Recorder()
    part.on_fit_start()
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(ValueError, match="float16 scales its loss"):
        part.loss(part.batch_indices(0), torch.Generator())


def test_a_step_of_the_denoiser_reads_nothing_but_the_device(views, tmp_path):
    part = denoiser(views, tmp_path / "parts", 4)
    part.on_fit_start()
    indices = part.batch_indices(0)
    inputs = {name: tensor.to("meta") for name, tensor in part.draw(indices, torch.Generator()).items()}
    part.base.to("meta")
    with OnDeviceAlone():
        loss = DenoisingLoss(part.base)(inputs)
        gradients = torch.autograd.grad(loss, list(part.unet.parameters()))
    assert len(gradients) > 50 and loss.device.type == "meta"


def test_average_of_the_unet_survives_a_restart_from_a_checkpoint_written_during_training(views, tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = denoiser(views, tmp_path / "parts", 4)
    trainer(4, saver).fit(whole)
    second = denoiser(views, tmp_path / "parts", 4)
    trainer(4).fit(second, ckpt_path=str(tmp_path / "step=2.ckpt"), weights_only=True)
    for value, expected in zip(second.average.shadow_params, whole.average.shadow_params, strict=True):
        torch.testing.assert_close(value, expected)


def test_identity_training_learns_to_tell_its_people_apart(views):
    judge = TimmEmbedder("resnet10t", {"num_classes": 16}, resolution=32, seed=0)
    part = IdentityTraining(
        views,
        judge,
        embed=judge.outputs,
        write=judge.save,
        embedding_size=16,
        views_per_person=4,
        num_steps=15,
        **{**SETTINGS, "batch_size": 20, "lr": 3e-3},
    )
    everyone, generator = torch.arange(20), torch.Generator().manual_seed(0)
    before = part.loss(everyone, generator)["margin_softmax"].item()
    trainer(15).fit(part)
    assert part.loss(everyone, generator)["margin_softmax"].item() < 0.7 * before


def test_teacher_follows_the_student_without_gradients(views):
    network = TimmEmbedder(
        "vit_tiny_patch16_224",
        {"img_size": SIZE, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_classes": 0, "dynamic_img_size": True},
        resolution=SIZE,
    )
    part = SelfSupervisedTraining(views, network, num_steps=3, **SETTINGS)
    before = [value.clone() for value in part.teacher.parameters()]
    trainer(3).fit(part)
    assert all(value.grad is None for value in part.teacher.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, part.teacher.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_text_training_saves_a_clip_that_both_judge_and_base_can_read(views, tmp_path):
    part = TextTraining(views, resolution=SIZE, num_steps=1, **SETTINGS)
    part.save(tmp_path)
    clip = ClipEmbedder.from_pretrained(tmp_path)
    said = views.captions[0][0]
    torch.testing.assert_close(clip.embed_texts(said), part.clip.embed_texts(said), atol=5e-3, rtol=0)


def test_pictures_of_one_caption_are_all_positives_of_it(views):
    same = dataclasses.replace(views, captions=[[["a face", "a [V] face", "a face"]] * 4] * 5)
    part = TextTraining(same, resolution=SIZE, num_steps=1, **SETTINGS)
    assert part.loss(torch.arange(20), torch.Generator().manual_seed(0))["accuracy"] == 1
    part = TextTraining(views, resolution=SIZE, num_steps=1, **SETTINGS)
    assert part.loss(torch.arange(20), torch.Generator().manual_seed(0))["accuracy"] < 1


def test_the_denoiser_reads_captions_as_the_text_encoder_was_trained(views, tmp_path, monkeypatch):
    options = BaseTrainingOptions(resolution=SIZE, weights=str(tmp_path), accelerator="cpu")
    for name in ("autoencoder", "text"):
        build_training(name, views, options, num_steps=1).save(tmp_path / PARTS[name])
    trained = models.tokenizer().get_vocab()
    monkeypatch.setattr(models, "tokenizer", None)
    assert build_training("denoiser", views, options, num_steps=1).base.tokenizer.get_vocab() == trained


def test_perfect_vectors_verify_perfectly_and_random_ones_do_not():
    perfect = torch.eye(6)[:, None].expand(-1, 3, -1)
    assert quality.verification(perfect) == pytest.approx(
        {"auc": 1.0, "tar_at_1_far": 1.0, "rank_1": 1.0, "same": 1.0, "different": 0.0}
    )
    noise = torch.nn.functional.normalize(torch.randn(40, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = quality.verification(noise)
    assert 0.45 < found["auc"] < 0.55 and found["rank_1"] < 0.2 and found["tar_at_1_far"] < 0.1


def test_distance_correlation_is_one_for_the_true_shapes():
    angles = torch.tensor([0.0, 0.1, 0.23, 0.45, 0.71, 1.0, 1.4])  # no two pairs equally far apart
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert quality.distance_correlation(vectors, angles[:, None].numpy()) > 0.999


def test_copies_of_training_faces_are_not_new():
    people = torch.nn.functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    training, unseen = people[:20], people[20:]
    assert quality.novelty(training[:10], unseen, training)["distance_ratio"] == pytest.approx(0, abs=1e-5)
    same = quality.novelty(unseen[:1].expand(5, -1), unseen, training)
    assert same["spread_ratio"] == pytest.approx(0, abs=1e-5)


@pytest.fixture(scope="module")
def smooth(views) -> Views:
    """The same people and captions with pictures that are not the same in every cell."""
    noise = torch.rand(20, 3, 13, 13, generator=torch.Generator().manual_seed(5))
    pictures = torch.nn.functional.interpolate(noise, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return dataclasses.replace(views, images=(pictures * 255).byte().unflatten(0, (5, 4)))


@torch.no_grad()
def test_closed_form_latents_tell_much_more_than_the_mean_color_of_each_cell(smooth):
    part = AutoencoderTraining(smooth, resolution=SIZE, num_steps=3, **SETTINGS)
    images = smooth.pictures(torch.arange(len(smooth))) * 2 - 1
    latents = part.autoencoder.encode(images).latent_dist.mean.permute(0, 2, 3, 1).flatten(0, 2)
    cells = torch.nn.functional.pixel_unshuffle(images, models.DOWNSAMPLING).permute(0, 2, 3, 1).flatten(0, 2)
    known = torch.cat([latents, torch.ones_like(latents[:, :1])], 1)
    left = cells - known @ torch.linalg.lstsq(known, cells).solution
    mean_color = cells - cells.unflatten(1, (3, -1)).mean(2, keepdim=True).expand(-1, -1, cells.shape[1] // 3).flatten(
        1
    )
    assert 10 * torch.log10(mean_color.square().mean() / left.square().mean()) > 3  # dB


@torch.no_grad()
def test_latents_are_principal_components_of_patches(smooth):
    part = AutoencoderTraining(smooth, resolution=SIZE, num_steps=3, **SETTINGS)
    latents = part.autoencoder.encode(smooth.pictures(torch.arange(20)) * 2 - 1).latent_dist.mean
    correlation = torch.corrcoef(latents.transpose(0, 1).flatten(1))
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.1
    loudness = latents.std((0, 2, 3))
    assert (loudness[:-1] >= 0.98 * loudness[1:]).all()


def test_training_the_decoder_leaves_every_latent_where_it_was(smooth):
    part = AutoencoderTraining(smooth, resolution=SIZE, num_steps=3, **SETTINGS)
    before = copy.deepcopy(part.autoencoder.state_dict())
    trainer(3).fit(part)
    after = part.autoencoder.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"post_quant_conv", "decoder"}


def test_margin_softmax_is_lowest_where_people_are_apart_and_their_pictures_together():
    people = torch.arange(4).repeat_interleave(2)
    apart = torch.eye(4).repeat_interleave(2, 0)
    mixed = torch.eye(4).repeat(2, 1)
    options = {"margin": 0.1, "temperature": 0.1}
    assert batch_margin_softmax(apart, people, **options) < 0.01 < 5 < batch_margin_softmax(mixed, people, **options)
    # all the same: every other picture has the same share, one of seven, but for the margin
    same = torch.ones(8, 1)
    expected = (6 + torch.exp(torch.tensor(-1.0))).log() + 1
    torch.testing.assert_close(batch_margin_softmax(same, people, **options), expected)


def test_a_batch_of_people_holds_several_views_of_each(views):
    indices = views.people_indices(3, 2, num_views=3, seed=0)
    identities = views.identities_of(indices).reshape(2, 3)
    assert (identities == identities[:, :1]).all() and identities[0, 0] != identities[1, 0]
    assert len(set(indices.tolist())) == 6
    assert torch.equal(indices, views.people_indices(3, 2, num_views=3, seed=0))
