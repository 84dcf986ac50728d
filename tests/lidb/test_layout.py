"""Layouts: their slots, order, bases and digest."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from threadpoolctl import ThreadpoolController, threadpool_info
from torch import nn

from hdb.lidb import names
from hdb.lidb import slot as slot_module
from hdb.lidb.export import to_lora_state_dict
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout, Slot
from hdb.lidb.modelspec import kohya_fields

SMALL = Layout((Slot("unet.to_q", 8, 6, a=4, b=2), Slot("unet.to_k", 8, 6, a=4, b=2)))


def test_stable_diffusion_15_has_the_numbers_of_the_paper(sd15):
    # 859,520,964 and 123,060,480 parameters are those of the published checkpoint.
    assert [sum(p.numel() for p in model.parameters()) for model in sd15.values()] == [859_520_964, 123_060_480]
    layout = Layout.from_models(sd15)
    assert len(layout.slots) == 192
    assert layout.size == 28_800
    assert layout.initial_theta().nbytes == 115_200
    assert layout.lora_size(rank=1) == layout.as_lora.size == 385_344
    kinds = [(slot.name.split(".")[0], "ff" in slot.name) for slot in layout.slots]  # component, is GEGLU
    assert [kinds.count(kind) for kind in (("unet", False), ("unet", True), ("text_encoder", False))] == [128, 16, 48]


def test_digest_of_stable_diffusion_15_is_golden(sd15):
    expected = "0921683c6cfce6ee713211e199936d72dbfb20806b03a9073d786c680486a649"
    assert Layout.from_models(sd15).digest == expected


def test_order_is_unet_down_mid_up_then_text_encoder_each_q_k_v_out(sd15):
    names = [slot.name for slot in Layout.from_models(sd15).slots]
    stages = [".".join(name.split(".")[:2]) for name in names]
    order = ["unet.down_blocks", "unet.mid_block", "unet.up_blocks", "text_encoder.text_model"]
    assert list(dict.fromkeys(stages)) == order
    block = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    assert [name.removeprefix(f"{block}.") for name in names[:9]] == [
        *(f"{attention}.{x}" for attention in ("attn1", "attn2") for x in ("to_q", "to_k", "to_v", "to_out.0")),
        "ff.net.0.proj",
    ]
    layers = [int(name.split(".")[4]) for name in names if name.startswith("text_encoder")]
    assert layers == sorted(layers)
    assert [name.split(".")[-1] for name in names[-4:]] == ["q_proj", "k_proj", "v_proj", "out_proj"]


def test_names_and_digest_do_not_depend_on_the_module_paths_of_transformers(models):
    flat = getattr(models["text_encoder"], "text_model", models["text_encoder"])
    nested = nn.ModuleDict({"text_model": flat})
    assert Layout.from_models({"text_encoder": flat}).digest == Layout.from_models({"text_encoder": nested}).digest
    assert (
        Layout.from_models({"text_encoder": flat}).slots[0].name
        == "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    )


def test_slot_names_are_the_keys_of_published_loras(models, layout):
    unet, text_encoder = models["unet"], models["text_encoder"]
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj"]
    inject_adapter_in_model(LoraConfig(r=1, target_modules=targets), unet)
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"]), text_encoder)
    published = set()
    for prefix, model in models.items():
        for key in convert_state_dict_to_diffusers(get_peft_model_state_dict(model)):
            name = key.partition(".lora")[0]
            # transformers 5 dropped this part of the path, which published files have.
            if prefix == "text_encoder" and not name.startswith("text_model."):
                name = f"text_model.{name}"
            published.add(f"{prefix}.{name}")
    assert published == {slot.name for slot in layout.slots}


def test_narrow_layers_cap_the_bases(models):
    layout = Layout.from_models(models)
    assert max(slot.a for slot in layout.slots) == 16
    assert all(slot.a == min(100, slot.in_features) and slot.b == min(50, slot.out_features) for slot in layout.slots)
    assert layout.size == sum(slot.a + slot.b for slot in layout.slots)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), rank=st.integers(1, 4))
def test_pack_inverts_unpack(n, rank):
    layout = replace(SMALL, rank=rank)
    theta = torch.randn(n, layout.size)
    factors = layout.unpack(theta)
    assert torch.equal(layout.pack(dict(reversed(factors.items()))), theta)
    down, up = factors["unet.to_k"]
    assert torch.equal(torch.cat([down.flatten(1), up.flatten(1)], dim=1), theta[:, layout.size // 2 :])


def test_gradients_flow_through_unpack():
    theta = torch.randn(2, SMALL.size, requires_grad=True)
    down, up = SMALL.unpack(theta)["unet.to_k"]
    (down.sum() + 2 * up.sum()).backward()
    assert torch.equal(theta.grad[0], torch.tensor([0.0] * 6 + [1.0] * 4 + [2.0] * 2))


def test_digest_is_golden():
    assert SMALL.digest == "d898894e7eca27ee12f8ad19b9dc27e6b5757c7e980fda21647e5fc28f982731"


@pytest.mark.parametrize(
    "other",
    [
        replace(SMALL, rank=2),
        replace(SMALL, seed=1),
        replace(SMALL, slots=SMALL.slots[:1]),
        replace(SMALL, slots=SMALL.slots[::-1]),
        *(
            replace(SMALL, slots=(replace(SMALL.slots[0], **change), SMALL.slots[1]))
            for change in ({"name": "unet.to_v"}, {"in_features": 9}, {"out_features": 7}, {"a": 3}, {"b": 1})
        ),
    ],
)
def test_digest_tells_layouts_apart(other):
    assert other.digest != SMALL.digest
    with pytest.raises(
        ValueError, match=f"thetas.safetensors belongs to layout {other.digest}, expected {SMALL.digest}"
    ):
        SMALL.check_digest(other.digest, name="thetas.safetensors")


def test_bases_are_golden():
    down_aux, up_aux = SMALL.slots[0].aux_bases(seed=0)
    assert down_aux[0, :4].tolist() == pytest.approx([-0.1891707, -0.3486300, 0.2026483, -0.1587362], abs=1e-6)
    assert up_aux[:4, 0].tolist() == pytest.approx([-0.5726920, 0.5300093, 0.2810164, 0.5536842], abs=1e-6)
    full_size = Slot("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 1280, 1280, a=100, b=50)
    down_aux, up_aux = full_size.aux_bases(seed=0)
    assert down_aux[99, -2:].tolist() == pytest.approx([0.0171693, -0.0278361], abs=1e-6)
    assert up_aux[:3, 0].tolist() == pytest.approx([0.0336488, -0.0052275, 0.0324762], abs=1e-6)


def test_initial_theta_is_golden():
    assert SMALL.initial_theta()[0, :4].tolist() == pytest.approx(
        [0.3293829, 0.3685192, -0.8108591, 0.3133816], abs=1e-6
    )


def test_bases_are_orthonormal():
    down_aux, up_aux = Slot("unet.to_q", 320, 640, a=100, b=50).aux_bases(seed=3)
    torch.testing.assert_close(down_aux @ down_aux.mT, torch.eye(100), atol=1e-6, rtol=0)
    torch.testing.assert_close(up_aux.mT @ up_aux, torch.eye(50), atol=1e-6, rtol=0)


def test_bases_differ_between_slots_and_seeds_and_ignore_the_global_generators():
    q, k = SMALL.slots
    assert not torch.equal(q.aux_bases(seed=0)[0], k.aux_bases(seed=0)[0])
    assert not torch.equal(q.aux_bases(seed=0)[0], q.aux_bases(seed=1)[0])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = q.aux_bases(seed=0)[0]
    assert torch.equal(q.aux_bases(seed=0)[0], first)
    assert torch.equal(torch.get_rng_state(), state)


def test_initial_theta_has_no_residual_and_gradients_reach_up():
    layout = replace(SMALL, rank=3)
    theta = layout.initial_theta().requires_grad_()
    residuals = [up @ down for down, up in layout.unpack(theta).values()]
    assert all(torch.equal(residual, torch.zeros(1, 2, 4)) for residual in residuals)
    sum((residual - 1).square().sum() for residual in residuals).backward()
    down, up = layout.unpack(theta.grad)["unet.to_q"]
    assert not down.any() and up.abs().min() > 0
    rows = layout.unpack(theta)["unet.to_q"][0][0]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_dictionary_round_trip_through_json_is_exact(layout):
    layout = replace(layout, rank=2, seed=7)
    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [["unet.to_q", 8, 6, 4]]}, "not a layout: .*expected rank, seed and slots"),
        ({"slots": None}, "not a layout"),
        ({"rank": None}, "not a layout"),
        ({"rank": 0}, "rank = 0, expected 1 or more"),
        ({"seed": -1}, "seed = -1, expected 0 or more"),
        ({"slots": []}, "at least one slot, given none"),
        ({"slots": [["unet.to_q", 8, 6, 4, 2]] * 2}, "2 slots with 1 names"),
        ({"slots": [["unet.to_q", 8, 6, 9, 2]]}, "unet.to_q: a = 9, expected 1 to 8"),
        ({"slots": [["unet.to_q", 8, 6, 4, 0]]}, "unet.to_q: b = 0, expected 1 to 6"),
    ],
)
def test_broken_dictionaries_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Layout.from_dict(SMALL.to_dict() | change)


def test_theta_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"theta has shape \(2, 11\), expected \(n, 12\) for 2 slots of rank 1"):
        SMALL.unpack(torch.zeros(2, 11))


def test_theta_that_is_not_finite_is_refused():
    theta = SMALL.initial_theta()
    theta[0, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match="2 values of 12 that are not finite, expected 0"):
        SMALL.check_theta(theta, finite=True)


def test_packing_without_a_slot_is_refused_by_its_name():
    factors = SMALL.unpack(SMALL.initial_theta())
    del factors["unet.to_k"]
    with pytest.raises(ValueError, match="1 slots given, expected 2; they differ in unet.to_k"):
        SMALL.pack(factors)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="no attention or GEGLU projection found"):
        Layout.from_models({"unet": nn.Sequential(nn.Linear(3, 3))})


def test_the_dictionary_of_a_layout_with_bases_has_no_field_free():
    # Digests of such layouts are older than the field.
    assert set(SMALL.to_dict()) == {"rank", "seed", "slots"}
    assert SMALL.as_lora.to_dict()["free"] is True
    assert Layout.from_dict(json.loads(json.dumps(SMALL.as_lora.to_dict()))) == SMALL.as_lora


def test_a_free_layout_differs_from_one_with_square_bases():
    wide = replace(SMALL, slots=tuple(slot.as_lora for slot in SMALL.slots))
    assert wide.slots == wide.as_lora.slots and wide.digest != wide.as_lora.digest


def test_a_free_layout_of_narrow_slots_is_refused_with_both_widths():
    with pytest.raises(ValueError, match="unet.to_q of a free layout has a = 4 and b = 2, expected 8 and 6"):
        replace(SMALL, free=True)


def test_bases_are_drawn_in_one_thread_with_the_same_values(monkeypatch):
    slot = Slot("unet.to_q", 320, 640, a=100, b=50)
    threads = []

    def qr(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        threads.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return original(matrix)

    original = np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", qr)
    limited = slot.aux_bases(seed=0)
    assert threads and set(threads) == {1}
    monkeypatch.setattr(slot_module, "_numpy_threads", lambda: ThreadpoolController().select(user_api="none"))
    for basis, expected in zip(slot.aux_bases(seed=0), limited, strict=True):
        assert torch.equal(basis, expected)


def test_another_family_of_bases_says_its_layers_and_their_names_in_its_configuration(tmp_path, monkeypatch):
    about = {"layers": r"attn\.(to_q|add_q_proj)$", "kohya_prefix": "lora_unet_"}
    version = {"components": {"transformer": about}, "architectures": {"epsilon": "joint"}, "base_version": "joint_v1"}
    (tmp_path / "configs/joint").mkdir(parents=True)
    (tmp_path / "configs/joint/layers.json").write_text(json.dumps([version]))
    monkeypatch.setattr(names, "ROOT", tmp_path)
    names.read_families.cache_clear()
    try:
        attention = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("to_q", "add_q_proj", "to_k")})
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": attention})])})
        layout = Layout.from_models({"transformer": model}, a=2, b=2)
        paths = ["transformer.blocks.0.attn.to_q", "transformer.blocks.0.attn.add_q_proj"]
        assert [slot.name for slot in layout.slots] == paths
        subject = Subject(layout.initial_theta(), layout)
        keys = {key.partition(".")[0] for key in to_lora_state_dict(subject)}
        assert keys == {"lora_unet_blocks_0_attn_to_q", "lora_unet_blocks_0_attn_add_q_proj"}
        assert kohya_fields(subject, name="me")["ss_base_model_version"] == "joint_v1"
        with pytest.raises(ValueError, match="has the components unet: expected some of transformer"):
            Layout.from_models({"unet": model})
    finally:
        names.read_families.cache_clear()
