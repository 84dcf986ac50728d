import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hdb.hypernet.bases import LearnedBases
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.encoder import FaceEncoder
from hdb.hypernet.folder import read_network
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import modification_time
from hdb.lidb.layout import Layout, Slot

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 6}
SLOTS = (Slot("unet.to_q", 8, 9, a=4, b=3), Slot("unet.to_k", 8, 7, a=8, b=2), Slot("unet.to_v", 8, 7, a=4, b=3))
LAYOUT = Layout(SLOTS)


def hypernet(*, layout: Layout = LAYOUT, seed: int = 0, **options) -> HyperNet:
    encoder = FaceEncoder(VIT, resolution=16, seed=seed)
    decoder = WeightDecoder(layout, encoder, width=16, num_heads=2, seed=seed)
    return HyperNet(encoder, decoder, layout, **{"linear_path": True, "iterations": 2, **options})


def photos(num: int = 3) -> torch.Tensor:
    return torch.rand(num, 3, 20, 20, generator=torch.Generator().manual_seed(5))


def trained(net: HyperNet, *, num_steps: int = 3) -> HyperNet:
    """The network after a few steps towards an arbitrary theta, so that no parameter has its initial value."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    target = torch.randn(3, net.layout.size, generator=torch.Generator().manual_seed(6))
    for _ in range(num_steps):
        optimizer.zero_grad()
        (net(photos()) - target).square().sum().backward()
        optimizer.step()
    return net


def test_untrained_prediction_is_near_the_initial_theta():
    change = hypernet()(photos()) - LAYOUT.initial_theta()
    assert 0 < change.abs().max() < 0.1
    assert torch.equal(hypernet(iterations=0)(photos()), LAYOUT.initial_theta().expand(3, -1))


def test_every_parameter_but_the_encoders_gets_a_gradient_and_moves():
    net = hypernet()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    trained(net, num_steps=2)
    unchanged = {name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])}
    assert unchanged == {name for name in before if name.startswith("encoder.")}


def test_learned_bases_initially_give_the_residuals_of_the_frozen_ones():
    frozen = trained(hypernet())
    learned = hypernet(learn_bases=True)
    learned.load_trainable_state_dict({**learned.trainable_state_dict(), **frozen.trainable_state_dict()})
    assert learned.layout == LAYOUT.as_lora and learned.decoder_layout == LAYOUT
    for theta, expected in ((learned(photos()), frozen(photos())), (learned.mean_theta, frozen.mean_theta)):
        assert_close(theta, LAYOUT.as_lora.pack(LAYOUT.fold(expected)), rtol=1e-5, atol=1e-6)


def test_learned_bases_are_trained_and_give_residuals_outside_of_the_frozen_ones():
    initial_bases = hypernet(learn_bases=True).bases
    net = trained(hypernet(learn_bases=True))
    for before, after in zip(initial_bases.parameters(), net.bases.parameters(), strict=True):
        assert (after - before).abs().max() > 1e-3
    down_aux = SLOTS[0].aux_bases(seed=0)[0]
    down = net.layout.unpack(net(photos()))[SLOTS[0].name][0]
    outside = down - down @ down_aux.mT @ down_aux
    assert outside.norm() > 1e-2 * down.norm()


def test_one_step_changes_learned_bases_equally_whatever_their_width():
    changes = {}
    for width in (8, 512):
        slot = Slot("unet.to_q", width, width, a=4, b=3)
        bases = LearnedBases(Layout((slot,)))
        optimizer = torch.optim.Adam(bases.parameters(), lr=1e-3)
        bases(bases.layout.initial_theta() + 0.1).square().sum().backward()
        before = bases.aux_bases()[slot.name][0].detach().clone()
        optimizer.step()
        changes[width] = (bases.aux_bases()[slot.name][0] - before).norm().item()
    assert changes[512] == pytest.approx(changes[8], rel=0.05)


def test_a_free_layout_has_no_bases_to_learn():
    with pytest.raises(ValueError, match=f"free layout of {LAYOUT.as_lora.size} numbers has no bases to learn"):
        hypernet(layout=LAYOUT.as_lora, learn_bases=True)


def test_a_network_with_learned_bases_round_trips_and_others_keep_their_format(tmp_path):
    net = trained(hypernet(learn_bases=True)).eval()
    net.save(tmp_path / "learned")
    loaded = HyperNet.from_folder(tmp_path / "learned").eval()
    assert torch.equal(loaded(photos()), net(photos()))
    assert loaded.layout == LAYOUT.as_lora
    hypernet().save(tmp_path / "frozen")
    config, state, _ = read_network(tmp_path / "frozen", kind="a hypernetwork")
    assert config["format_version"] == 2 and "learn_bases" not in config
    assert not [name for name in state if name.startswith("bases.")]
    # The higher version makes older programs refuse the file.
    assert read_network(tmp_path / "learned", kind="a hypernetwork")[0]["format_version"] == 3


def test_encoder_trains_when_it_is_not_frozen_and_is_in_eval_mode_when_it_is():
    net = trained(hypernet(freeze_encoder=False))
    assert not torch.equal(net.encoder.network.cls_token, hypernet().encoder.network.cls_token)
    assert net.train().encoder.training and not hypernet().train().encoder.training


def test_the_reference_is_encoded_once_for_all_iterations():
    net = hypernet()
    calls = []
    net.encoder.register_forward_hook(lambda *_: calls.append(1))
    net(photos(), iterations=5)
    assert len(calls) == 1


def test_iterations_refine_the_previous_theta():
    net = trained(hypernet(linear_path=False))
    features = net.forward_features(photos())
    change = net.mean.expand(3, -1)
    for k in range(4):
        assert_close(net.refine(features, iterations=k), LAYOUT.initial_theta() + change)
        change = change + net.decoder(net.decoder.face_tokens(features), change)
    # Steps differ, since the decoder sees the result of the previous one.
    first, second, third = (net.refine(features, iterations=k) for k in (0, 1, 2))
    assert not torch.allclose(second - first, third - second, rtol=1e-3)


def test_computing_only_the_weight_tokens_of_the_last_layer_changes_nothing(monkeypatch):
    net = trained(hypernet(linear_path=False))
    theta = net(photos())
    monkeypatch.setattr("hdb.hypernet.decoder._last_tokens", lambda layer, tokens, *, start: layer(tokens)[:, start:])
    assert_close(net(photos()), theta)


def test_own_number_of_iterations_is_the_default():
    net = trained(hypernet(iterations=3))
    assert torch.equal(net(photos()), net(photos(), iterations=3))


def test_batch_of_references_equals_loop_over_references():
    net = trained(hypernet()).eval()
    one_by_one = torch.cat([net(photo[None]) for photo in photos()])
    assert_close(net(photos()), one_by_one, rtol=1e-4, atol=1e-5)


def test_direct_path_alone_fits_a_linear_map_of_the_embedding():
    net = hypernet(iterations=0)
    with torch.no_grad():
        embedding = net.forward_features(photos()).embedding
        map_ = torch.randn(embedding.shape[1], LAYOUT.size, generator=torch.Generator().manual_seed(0))
        net.linear_path.weight.copy_(map_.T * embedding.shape[1] ** 0.5)
        assert_close(net(photos()) - net.mean_theta, embedding @ map_, rtol=1e-3, atol=1e-4)


def test_standardized_embeddings_have_mean_zero_and_the_mean_prediction_is_mean_theta():
    net = trained(hypernet(iterations=0))
    net.fit_standardization(net.encoder(photos()).embedding)
    embedding = net.forward_features(photos()).embedding
    assert_close(embedding.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    assert_close(embedding.std(0), torch.ones(6), rtol=1e-4, atol=1e-4)
    assert_close(net(photos()).mean(0, keepdim=True), net.mean_theta, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 embeddings, not 1"):
        net.fit_standardization(embedding[:1])


def test_building_leaves_the_global_generator_alone_and_depends_on_the_seed():
    state = torch.get_rng_state()
    first, again, other = hypernet(seed=1), hypernet(seed=1), hypernet(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(photos()), again(photos()))
    assert not torch.equal(first(photos()), other(photos()))


def test_higher_ranks_and_slots_of_different_size_fill_theta_in_layout_order():
    layout = Layout(SLOTS, rank=2)
    net = trained(hypernet(layout=layout))
    with torch.no_grad():
        net.decoder.weights_out[1].zero_()  # silences the second slot, and only that
        net.mean.zero_()
        net.linear_path.weight.zero_()
    change = layout.unpack(net(photos()) - layout.initial_theta())
    assert [bool(down.abs().sum() + up.abs().sum() > 0) for down, up in change.values()] == [True, False, True]


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_a_saved_network_predicts_the_same(tmp_path, freeze_encoder):
    net = trained(hypernet(freeze_encoder=freeze_encoder)).eval()
    net.fit_standardization(net.encoder(photos()).embedding)
    net.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = HyperNet.from_folder(tmp_path).eval()
    assert torch.equal(loaded(photos()), net(photos()))
    assert loaded.layout.digest == net.layout.digest and loaded.iterations == net.iterations


def test_a_network_saved_without_its_encoder_takes_back_only_the_same_one(tmp_path):
    net = trained(hypernet()).eval()
    net.save(tmp_path, include_encoder=False)
    loaded = HyperNet.from_folder(tmp_path, encoder=FaceEncoder(VIT, resolution=16, seed=0)).eval()
    assert torch.equal(loaded(photos()), net(photos()))
    with pytest.raises(ValueError, match="holds no encoder"):
        HyperNet.from_folder(tmp_path)
    with pytest.raises(ValueError, match="was trained with the encoder"):
        HyperNet.from_folder(tmp_path, encoder=FaceEncoder(VIT, resolution=16, seed=1))


def test_half_precision_file_is_half_the_size_and_nearly_the_same(tmp_path):
    net = trained(hypernet()).eval()
    net.save(tmp_path / "full")
    net.save(tmp_path / "half", dtype=torch.float16)
    full_size, half_size = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half_size < 0.6 * full_size
    assert_close(HyperNet.from_folder(tmp_path / "half").eval()(photos()), net(photos()), rtol=1e-2, atol=1e-2)


def test_files_of_something_else_are_refused_in_one_sentence(tmp_path):
    net = hypernet()
    with pytest.raises(ValueError, match="is missing"):
        HyperNet.from_folder(tmp_path / "nothing")

    net.save(tmp_path / "truncated")
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(ValueError, match="no readable hypernetwork"):
        HyperNet.from_folder(tmp_path / "truncated")

    net.save(tmp_path / "mixed")
    hypernet(layout=Layout(SLOTS, seed=1)).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "mixed" / "model.safetensors")
    with pytest.raises(ValueError, match="says layout .* weights beside it say"):
        HyperNet.from_folder(tmp_path / "mixed")

    net.save(tmp_path / "future")
    config = json.loads((tmp_path / "future" / "config.json").read_text())
    (tmp_path / "future" / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99, expected 2 or 3"):
        HyperNet.from_folder(tmp_path / "future")


def test_the_digest_of_the_base_is_stored(tmp_path):
    hypernet(base_digest="0123456789abcdef").save(tmp_path)
    assert HyperNet.from_folder(tmp_path).base_digest == "0123456789abcdef"


def test_another_identifier_is_stored_and_the_papers_is_left_out_of_the_config(tmp_path):
    net = hypernet()
    assert net.identifier == "[V]" and "identifier" not in net.config
    net.identifier = "sks"
    net.save(tmp_path)
    assert HyperNet.from_folder(tmp_path).identifier == "sks"


def test_a_full_disk_leaves_the_old_network_and_no_temporary_files(tmp_path, monkeypatch):
    net, other = hypernet(seed=0).eval(), hypernet(seed=1)
    net.save(tmp_path)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="could not save .* bytes to .*: No space left on device"):
        other.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(HyperNet.from_folder(tmp_path).eval()(photos()), net(photos()))


def test_weights_of_another_network_are_refused():
    net = hypernet()
    with pytest.raises(ValueError, match="another hypernetwork: .*missing"):
        net.load_trainable_state_dict({"mean": torch.zeros(LAYOUT.size)})
    with pytest.raises(ValueError, match="another hypernetwork"):
        net.load_trainable_state_dict({**net.trainable_state_dict(), "mean": torch.zeros(1)})


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="0 or more, not -1"):
        hypernet(iterations=-1)
    encoder = FaceEncoder(VIT, resolution=16)
    with pytest.raises(ValueError, match="20 with 3 heads"):
        WeightDecoder(LAYOUT, encoder, width=20, num_heads=3)
    with pytest.raises(ValueError, match=f"writes {LAYOUT.size} numbers, the layout has {2 * LAYOUT.size}"):
        HyperNet(encoder, WeightDecoder(LAYOUT, encoder, width=16, num_heads=2), Layout(SLOTS, rank=2))


def test_encoder_folder_gives_back_the_same_features(tmp_path):
    encoder = FaceEncoder(VIT, resolution=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), seed=3).eval()
    encoder.save(tmp_path, dtype=torch.float32)
    loaded = FaceEncoder.from_folder(tmp_path).eval()
    for output, expected in zip(loaded(photos()), encoder(photos()), strict=True):
        assert torch.equal(output, expected)
    assert loaded.digest == encoder.digest


def test_encoder_normalizes_with_its_own_mean_and_std():
    encoder = FaceEncoder(VIT, resolution=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    images = torch.rand(1, 3, 16, 16)
    mean, std = torch.tensor(encoder.config["mean"]), torch.tensor(encoder.config["std"])
    expected = encoder.network((images - mean[:, None, None]) / std[:, None, None])
    assert_close(encoder(images).embedding, expected)


def test_encoder_folders_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="config.json is missing"):
        FaceEncoder.from_folder(tmp_path)
    encoder = FaceEncoder(VIT, resolution=16)
    encoder.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**encoder.config, "timm": {**VIT, "embed_dim": 24}}))
    with pytest.raises(ValueError, match="do not fit"):
        FaceEncoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no readable face encoder"):
        FaceEncoder.from_folder(tmp_path)
    with pytest.raises(ValueError, match="neither a folder with config.json nor a model timm knows"):
        FaceEncoder("vit_of_nobody")


def test_named_encoders_bring_their_resolution_and_normalization():
    encoder = FaceEncoder("test_vit")
    published = encoder.network.pretrained_cfg
    assert encoder.resolution == published["input_size"][-1]
    assert encoder.config["mean"] == list(published["mean"]) and encoder.config["std"] == list(published["std"])
    assert FaceEncoder.from_config(encoder.config).config == encoder.config


def test_modification_time_is_that_of_the_networks_own_files(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(5, 5))
    (tmp_path / "gate.json").touch()
    assert modification_time(tmp_path) == "5"
    os.utime(tmp_path / "model.safetensors", ns=(7, 7))
    assert modification_time(tmp_path) == modification_time(tmp_path / "model.safetensors") == "7"
