"""Stable Diffusion XL: published sizes on the meta device, and a tiny one against diffusers' own pipeline."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tokenizers import AddedToken
from torch.testing import assert_close

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.sampling import draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.weights import named_weights, weights_checksum
from hdb.faces.picture import FaceCrop
from hdb.files import read_safetensors_header
from hdb.lidb.export import export_lora
from hdb.lidb.modelspec import a1111_metadata
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.methods.context import TrainingContext
from hdb.methods.dreambooth import DreamBooth
from hdb.methods.protocol import Photos
from hdb.methods.textual_inversion import TextualInversion
from hdb.pipeline import HyperDreamBoothPipeline
from hdb.training.dreambooth import DreamBoothOptions
from hdb.training.options import FinetuningOptions
from hdb.training.textual_inversion import TextualInversionOptions

PROMPTS = ["a cat", "in snow"]
QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}


def predict(pipeline: StableDiffusionXLPipeline, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The noise prediction of diffusers' pipeline, as its __call__ makes it."""
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    time_ids = torch.tensor([[64, 64, 0, 0, 64, 64]] * 2).float()
    added = {"text_embeds": pooled, "time_ids": time_ids}
    with torch.no_grad():
        return pipeline.unet(latents, timesteps, embeds, added_cond_kwargs=added).sample


def test_published_base_has_the_sizes_of_its_paper_and_806_slots(published):
    sizes = {part: sum(weight.numel() for weight in model.parameters()) for part, model in published.networks.items()}
    assert sizes == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }
    assert published.resolution == 1024 and published.latent_shape == (4, 128, 128)
    layout = build_layout(published, LiDBOptions())
    counts = dict.fromkeys(layout.components, 0)
    for slot in layout.slots:
        counts[slot.name.partition(".")[0]] += 1
    assert list(counts.items()) == [("unet", 630), ("text_encoder", 48), ("text_encoder_2", 128)]
    assert (len(layout.slots), layout.size, 4 * layout.size) == (806, 120_900, 483_600)
    assert layout.lora_size(1) == 2_601_728


def test_prompts_and_noise_prediction_are_those_of_diffusers(diffusion, pipeline):
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    condition = diffusion.encode_prompts(PROMPTS)
    assert_close(condition.embeds, embeds)
    assert_close(condition.pooled, pooled)
    latents = torch.randn(2, *diffusion.latent_shape)
    timesteps = torch.tensor([3, 900])
    assert_close(diffusion.predict_noise(latents, timesteps, condition), predict(pipeline, latents, timesteps))


def test_pictures_are_those_of_diffusers(diffusion, pipeline):
    sampling = SamplingOptions(num_inference_steps=4, guidance_scale=5.0)
    picture = draw(diffusion, PROMPTS[:1], seeds=[3], sampling=sampling)
    noise = torch.randn(1, *diffusion.latent_shape, generator=torch.Generator().manual_seed(3))
    expected = pipeline(PROMPTS[0], num_inference_steps=4, guidance_scale=5.0, latents=noise, output_type="pt").images
    assert_close(picture, expected, atol=1e-4, rtol=0)


def test_empty_prompts_are_zeros_unless_the_pipeline_says_otherwise(diffusion):
    condition = diffusion.encode_prompts(["", "a cat"])
    assert not condition.embeds[0].any() and not condition.pooled[0].any() and condition.embeds[1].any()
    diffusion.pipeline_settings["force_zeros_for_empty_prompt"] = False
    condition = diffusion.encode_prompts(["", "a cat"])
    assert condition.embeds[0].any() and condition.pooled[0].any()


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_exported_lora_in_diffusers_equals_bound_residuals(diffusion, pipeline, subject, format, tmp_path):
    latents = torch.randn(2, *diffusion.latent_shape)
    timesteps = torch.tensor([3, 900])
    personalized = PersonalizedDiffusion(diffusion, subject.layout)
    with torch.no_grad(), personalized.bound(subject, scale=subject.scale):
        expected = diffusion.predict_noise(latents, timesteps, diffusion.encode_prompts(PROMPTS))
    base = predict(pipeline, latents, timesteps)
    assert (expected - base).abs().max() > 1e-2
    pipeline.load_lora_weights(export_lora(subject, tmp_path / "lora.safetensors", format))
    assert_close(predict(pipeline, latents, timesteps), expected, atol=1e-5, rtol=1e-4)


def test_metadata_of_exported_files_names_the_family(subject, tmp_path):
    fields = read_safetensors_header(export_lora(subject, tmp_path / "lora.safetensors"))[1]
    assert fields["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert fields["modelspec.implementation"] == "sgm"
    assert (fields["ss_base_model_version"], fields["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert a1111_metadata(subject)["sd version"] == "SDXL"


def test_strength_of_text_encoders_is_that_of_both(subject):
    rescaled = subject.layout.unpack(subject.rescale([1.0], text_encoder_scales=[0.5]).theta)
    for name, (_, up) in subject.layout.unpack(subject.theta).items():
        assert torch.equal(rescaled[name][1], up if name.startswith("unet.") else 0.5 * up)


def test_a_saved_base_is_read_again_with_its_digest_and_by_diffusers(diffusion, tmp_path):
    saved = diffusion.save(tmp_path / "saved", metadata={})
    assert StableDiffusion.from_pretrained(saved).digest == diffusion.digest
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"] is True
    assert index["scheduler"][1] == "EulerDiscreteScheduler"
    read = StableDiffusionXLPipeline.from_pretrained(saved, add_watermarker=False)
    assert torch.equal(read.text_encoder_2.text_projection.weight, diffusion.text_encoder_2.text_projection.weight)


def test_autoencoder_stays_in_single_precision_in_a_base_of_float16(tiny_sdxl, capsys):
    diffusion = StableDiffusion.from_pretrained(tiny_sdxl, dtype=torch.float16)
    assert diffusion.vae.dtype == torch.float32 and diffusion.unet.dtype == torch.float16
    assert "vae of base overflows in float16 and stays in float32" in capsys.readouterr().out
    assert StableDiffusion.from_pretrained(tiny_sdxl, dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert diffusion.encode_images(torch.rand(1, 3, 64, 64)).dtype == torch.float32


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"addition_embed_type": None}, "addition_embed_type of the UNet of .* is None: expected 'text_time'"),
        ("unet", {"cross_attention_dim": 16}, "reads text embeddings 16 wide, the text encoders make 32"),
        ("unet", {"projection_class_embeddings_input_dim": 36}, "reads 36 numbers .* are 40; refiners are not supp"),
        ("text_encoder_2", {"architectures": ["CLIPTextModel"]}, "expected CLIPTextModelWithProjection"),
        ("scheduler", {"prediction_type": "sample"}, "is 'sample': expected 'epsilon' or 'v_prediction'"),
    ],
)
def test_unsupported_configurations_are_refused_by_name(tiny_sdxl, tmp_path, part, changes, message):
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "spoiled"))
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)


def test_a_learned_word_is_read_by_both_text_encoders_as_an_added_token_would_be(diffusion):
    words = torch.randn(1, diffusion.word_size)
    with torch.no_grad(), diffusion.word.bound(words):
        condition = diffusion.encode_prompts(["a [V] cat"])
    changed = deepcopy(diffusion)
    for (tokenizer, text_encoder), vector in zip(changed.text_encoders, words.split(16, dim=1), strict=True):
        tokenizer.add_tokens(AddedToken("[V]", normalized=False))
        text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            text_encoder.get_input_embeddings().weight[-1] = vector[0]
        # Pools at the token with the largest id by default, which is the added one here.
        text_encoder.get_submodule(
            "text_model" if hasattr(text_encoder, "text_model") else ""
        ).eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        expected = changed.encode_prompts(["a [V] cat"])
    assert_close(condition.embeds, expected.embeds, atol=1e-5, rtol=1e-5)
    assert_close(condition.pooled, expected.pooled, atol=1e-5, rtol=1e-5)


def test_one_photo_becomes_a_subject_and_pictures(diffusion):
    pipe = HyperDreamBoothPipeline(diffusion, lidb=LiDBOptions(a=4, b=3))
    finetuning = FinetuningOptions(num_steps=2, rank=2)
    photo = torch.rand(3, 64, 64)
    subject = pipe.personalize(photo, finetuning=finetuning, crop=False, progress_bar=False)
    assert set(subject.layout.components) == {"unet", "text_encoder", "text_encoder_2"}
    initial = subject.layout.unpack(Residuals.initial(build_layout(diffusion, pipe.lidb)).relax(2).theta)
    trained = subject.layout.unpack(subject.theta)
    untrained = [name for name in trained if torch.equal(trained[name][1], initial[name][1])]
    # The last layer of the first text encoder, whose penultimate hidden states are read.
    last_layer = "text_encoder.text_model.encoder.layers.1.self_attn"
    assert untrained == [f"{last_layer}.{name}_proj" for name in ("q", "k", "v", "out")]
    sampling = SamplingOptions(num_inference_steps=2, identity_guidance_scale=2.0)
    person, base = (
        pipe(who, "a [V] face", sampling=sampling, output_type="pt", progress_bar=False).images
        for who in (subject, None)
    )
    assert (person - base).abs().max() > 1e-4


def test_training_reads_the_size_of_the_photo_and_sampling_that_of_the_picture(diffusion):
    seen = []

    def record(module, args, kwargs):
        seen.append(kwargs["added_cond_kwargs"]["time_ids"].int().tolist())

    diffusion.unet.register_forward_pre_hook(record, with_kwargs=True)
    pipe = HyperDreamBoothPipeline(diffusion, lidb=LiDBOptions(a=4, b=3))
    finetuning = FinetuningOptions(num_steps=1, rank=2, batch_size=2, prior_preservation=1.0, num_class_pictures=1)
    pipe.settings.sampling.num_inference_steps = 1
    photos = [FaceCrop(torch.rand(3, 64, 64), 300), torch.rand(3, 40, 50)]  # the second is enlarged
    subjects = pipe.personalize(photos, finetuning=finetuning, progress_bar=False)
    target = [64, 64, 0, 0, 64, 64]
    class_pictures, own, prior = seen
    assert all(ids == target for ids in [*class_pictures, *prior])
    assert own == 2 * [[300, 300, 0, 0, 64, 64], [40, 40, 0, 0, 64, 64]]
    seen.clear()
    pipe(subjects[0], "a [V] face", progress_bar=False, output_type="pt")
    assert all(ids == target for batch in seen for ids in batch)


def test_baselines_train_both_text_encoders_and_restore_the_base(diffusion):
    personalized = PersonalizedDiffusion(diffusion, build_layout(diffusion, LiDBOptions(a=4, b=3)))
    context = TrainingContext(personalized, trainer={**QUIET, "accelerator": "cpu"}, sampling=SamplingOptions(1))
    photos = Photos(["someone"], torch.rand(1, 3, 64, 64), sides=torch.tensor([[300]]))
    before = weights_checksum(named_weights(diffusion))
    words = TextualInversion(context, TextualInversionOptions(num_steps=2)).personalize(photos).words
    start = torch.cat([encoder.get_input_embeddings().weight[0] for _, encoder in diffusion.text_encoders])
    assert words.shape == (1, diffusion.word_size) == (1, len(start))
    options = DreamBoothOptions(num_steps=1, prior_preservation=0.0, lr=1e-3)
    weights = DreamBooth(context, options).personalize(photos).weights(0)
    originals = named_weights(diffusion)
    for component in ("unet", "text_encoder", "text_encoder_2"):
        names = [name for name in weights if name.startswith(f"{component}.")]
        assert names and any(not torch.equal(weights[name], originals[name]) for name in names)
    assert weights_checksum(named_weights(diffusion)) == before
