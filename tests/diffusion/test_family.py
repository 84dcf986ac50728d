"""Unsupported bases are refused by name, by inspection as well as by loading."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import WEIGHTS

from hdb.diffusion.families.sd1 import StableDiffusion1
from hdb.diffusion.families.table import family_of_configs
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.options import LiDBOptions

UNSUPPORTED = [
    (
        "scheduler",
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        "is a FlowMatchEulerDiscreteScheduler, whose noise",
    ),
    ("scheduler", {"_class_name": "EDMEulerScheduler"}, "is a EDMEulerScheduler, whose noise levels are not DDPM's"),
    ("scheduler", {"prediction_type": "sample"}, "prediction_type of .* is 'sample': expected 'epsilon' or"),
    ("unet", {"time_cond_proj_dim": 256}, r"guidance scale as an input \(time_cond_proj_dim = 256\)"),
    ("unet", {"addition_embed_type": "text_time"}, "as Stable Diffusion XL is .addition_embed_type = 'text_time'"),
    ("unet", {"num_class_embeds": 1000}, "class-conditional .num_class_embeds = 1000"),
    ("unet", {"in_channels": 9}, "takes 9 channels and the autoencoder makes 4: .*inpainting"),
    ("unet", {"cross_attention_dim": 32}, "reads text embeddings 32 wide, the text encoder makes 16"),
    ("unet", {"_class_name": "UNet3DConditionModel"}, "unet of .* is of the class UNet3DConditionModel"),
    ("vae", {"_class_name": "AutoencoderTiny"}, "vae of .* is of the class AutoencoderTiny: expected AutoencoderKL"),
    ("text_encoder", {"architectures": ["XLMRobertaModel"]}, "is of the class XLMRobertaModel: expected CLIPTextModel"),
]


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    """A copy of the tiny base that a test may damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "spoiled"))


@pytest.mark.parametrize(("part", "changes", "message"), UNSUPPORTED)
def test_unsupported_configurations_are_refused_by_name_before_weights_are_read(folder, part, changes, message):
    from hdb.diffusion.facts import describe_base

    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    for read in (
        lambda: StableDiffusion.from_pretrained(folder),
        lambda: describe_base(str(folder), LiDBOptions(4, 3)),
    ):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize("damage", ["pickled", "truncated", "no scheduler"])
def test_inspect_refuses_the_folders_that_loading_refuses(folder, damage):
    from hdb.diffusion.facts import describe_base

    weights = folder / "unet" / WEIGHTS["unet"]
    if damage == "pickled":
        weights.rename(weights.with_suffix(".bin"))
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    else:
        shutil.rmtree(folder / "scheduler")
    messages = []
    for read in (
        lambda: StableDiffusion.from_pretrained(folder),
        lambda: describe_base(str(folder), LiDBOptions(4, 3)),
    ):
        with pytest.raises(ValueError, match="holds the pickled|is cut off|lacks scheduler") as error:
            read()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_published_configurations_of_1_5_and_2_1_are_supported():
    family = family_of_configs(Path("configs/sd15"))
    assert isinstance(family, StableDiffusion1)
    configs = family.read_configs(Path("configs/sd15"))
    family.check_configs(configs, name="1.5")
    # Where 2.1 differs: https://huggingface.co/stabilityai/stable-diffusion-2-1
    differences = {
        "unet": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        "text_encoder": {"hidden_size": 1024, "architectures": ["CLIPTextModel"]},
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    }
    family.check_configs({part: configs[part] | differences.get(part, {}) for part in configs}, name="2.1")
    with pytest.raises(ValueError, match="of half reads text embeddings 1024 wide, the text encoder makes 768"):
        family.check_configs(configs | {"unet": configs["unet"] | differences["unet"]}, name="half")


def test_weights_of_a_variant_are_read_from_one_file_or_shards(folder, tiny_diffusion):
    for part, name in WEIGHTS.items():
        (folder / part / name).rename(folder / part / f"{Path(name).stem}.fp16.safetensors")
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest
    assert StableDiffusion.from_pretrained(folder, variant="fp16").digest == tiny_diffusion.digest
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    tiny_diffusion.unet.save_pretrained(folder / "unet", max_shard_size="60KB", variant="fp16")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest


def test_one_of_several_variants_must_be_named_and_a_missing_one_is_refused(folder, tiny_diffusion):
    weights = folder / "unet" / WEIGHTS["unet"]
    changed = load_file(weights)
    changed["conv_in.bias"] += 1
    save_file(changed, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", {"format": "pt"})
    assert StableDiffusion.from_pretrained(folder).digest == tiny_diffusion.digest  # of the file without a variant
    weights.rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ValueError, match="unet holds the variants fp16, non_ema: expected one, or its name as base.v"):
        StableDiffusion.from_pretrained(folder)
    with pytest.raises(ValueError, match="vae holds no weights: expected diffusion_pytorch_model.fp16.safetensors"):
        StableDiffusion.from_pretrained(folder, variant="fp16")
