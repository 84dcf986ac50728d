"""Textual Inversion's step against plain code; what a learned word does and does not change."""

from copy import deepcopy

import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close
from transformers import AddedToken

from hdb.diffusion.weights import named_weights, weights_checksum
from hdb.diffusion.word import tokenize_with_placeholder, word_embedding
from hdb.faces.framing import face_weight
from hdb.training.options import TextualInversionOptions
from hdb.training.stage import private_generator
from hdb.training.textual_inversion import TextualInversionFitting

OLD = ["a face", "", "a photo of a face in the snow", "[ v ]"]
NEW = ["a [V] face", "[V]", "[V], [V]", "a  [V]face", "the [V]s", "a [V] face" + " in the snow" * 8]


def with_added_word(diffusion, vector: torch.Tensor) -> tuple:
    """As other tools do it: a token more in the tokenizer, a row more in the table."""
    tokenizer, text_encoder = deepcopy(diffusion.tokenizer), deepcopy(diffusion.text_encoder)
    tokenizer.add_tokens(AddedToken("[V]", normalized=False))
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight[-1] = vector
    return tokenizer, text_encoder


@pytest.mark.parametrize("mask", [None, "face"])
def test_one_step_is_that_of_plain_diffusers_code(tiny_diffusion, personalized, latents, trainer, mask):
    options = TextualInversionOptions(num_steps=1, lr=0.01, batch_size=2, mask=mask)
    stage = TextualInversionFitting(personalized, reference=latents[:1, 0], options=options, seed=3)
    start, running = stage.fitted, trainer(max_steps=1)
    running.fit(stage)

    tokenizer, text_encoder = with_added_word(tiny_diffusion, start[0])
    table = text_encoder.get_input_embeddings().weight.requires_grad_(True)
    scheduler = DDPMScheduler.from_config(tiny_diffusion.noise_schedule.config)
    generator = private_generator(3, 0, 0, 0)
    torch.randint(1, (2,), generator=generator)  # which of the photos
    noise = torch.randn(2, *tiny_diffusion.latent_shape, generator=generator)
    timesteps = ((torch.rand(2, generator=generator) + torch.arange(2)) / 2 * 1000).long()
    ids = tokenizer("a [V] face", padding="max_length", max_length=24, return_tensors="pt").input_ids
    noisy = scheduler.add_noise(latents[:1, 0].expand(2, -1, -1, -1), noise, timesteps)
    pred = tiny_diffusion.unet(noisy, timesteps, text_encoder(ids)[0].expand(2, -1, -1)).sample
    face = torch.from_numpy(face_weight(tiny_diffusion.latent_shape[-1]))
    weight = torch.ones_like(face) if mask is None else face / face.mean()
    loss = (weight * (pred - noise).square()).mean()
    gradient = torch.autograd.grad(loss, table)[0][-1]
    word = start[0].clone().requires_grad_(True)
    word.grad = gradient * min(1.0, 1 / gradient.norm().item())
    torch.optim.AdamW([word], lr=0.01, weight_decay=0.0).step()
    assert_close(running.callback_metrics["train/loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    assert_close(stage.fitted[0], word.detach(), rtol=0, atol=1e-5)
    assert (stage.fitted - start).abs().max() > 5e-3


def test_a_learned_word_is_read_as_a_token_that_was_added(tiny_diffusion):
    vector = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    tokenizer, text_encoder = with_added_word(tiny_diffusion, vector[0])
    ids = tokenizer(OLD + NEW, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    own_ids, places = tokenize_with_placeholder(OLD + NEW, tiny_diffusion.tokenizer, length=24)
    assert torch.equal(own_ids.masked_fill(places, len(tokenizer) - 1), ids)
    with tiny_diffusion.word.bound(vector):
        read = tiny_diffusion.encode_prompts(OLD + NEW).embeds
    assert_close(read, text_encoder(ids)[0], rtol=1e-5, atol=1e-5)


def test_nothing_changes_but_one_row_per_person(tiny_diffusion, personalized, latents, trainer):
    tokens, embeds = tiny_diffusion.tokenize(OLD + NEW), tiny_diffusion.encode_prompts(OLD + NEW).embeds
    before, size = weights_checksum(named_weights(tiny_diffusion)), len(tiny_diffusion.tokenizer)
    stage = TextualInversionFitting(
        personalized, reference=latents[:, 0], options=TextualInversionOptions(num_steps=3, lr=0.05)
    )
    trainer(max_steps=3).fit(stage)
    assert stage.fitted.shape == (3, 16) and set(stage.state_dict()) == {"rows"}
    assert weights_checksum(named_weights(tiny_diffusion)) == before and len(tiny_diffusion.tokenizer) == size
    assert torch.equal(tiny_diffusion.tokenize(OLD + NEW), tokens)
    assert torch.equal(tiny_diffusion.encode_prompts(OLD + NEW).embeds, embeds)
    with tiny_diffusion.word.bound(stage.fitted[:1]):
        bound = tiny_diffusion.encode_prompts(OLD + NEW).embeds
    assert torch.equal(bound[: len(OLD)], embeds[: len(OLD)])  # old prompts are read alike even then
    assert not any(torch.equal(new, old) for new, old in zip(bound[len(OLD) :], embeds[len(OLD) :], strict=True))


def test_people_in_one_batch_learn_what_each_learns_alone_and_denoise_their_photo_better(
    personalized, latents, trainer
):
    options = TextualInversionOptions(num_steps=12, lr=0.05, batch_size=2)

    def learn(rows: slice) -> TextualInversionFitting:
        stage = TextualInversionFitting(personalized, reference=latents[rows, 0], options=options)
        trainer(max_steps=12).fit(stage)
        return stage

    together, alone = learn(slice(3)), [learn(slice(row, row + 1)).fitted for row in range(3)]
    assert_close(together.fitted, torch.cat(alone), rtol=0, atol=1e-3)
    noise = torch.randn(3, *latents.shape[2:], generator=torch.Generator().manual_seed(9))
    draws = {"noise": noise, "timesteps": torch.tensor([300, 600, 900])}
    untrained = TextualInversionFitting(personalized, reference=latents[:, 0])
    after, before = (stage.losses(latents[:, 0], ["a [V] face"] * 3, **draws) for stage in (together, untrained))
    assert after.mean() < before.mean()


def test_prompts_and_words_that_do_not_fit_are_refused(tiny_diffusion, personalized, latents):
    with pytest.raises(ValueError, match=r"prompt 'a face' has no \[V\], the word whose embedding is learned"):
        TextualInversionFitting(personalized, reference=latents[:, 0], prompt="a face")
    with pytest.raises(ValueError, match="the word ' ' has no token, expected one that the base knows"):
        TextualInversionFitting(
            personalized, reference=latents[:, 0], options=TextualInversionOptions(initial_word=" ")
        )
    with tiny_diffusion.word.bound(torch.zeros(2, 16)), pytest.raises(ValueError, match="3 prompts for the words of 2"):
        tiny_diffusion.encode_prompts(["a [V] face"] * 3)


def test_a_word_of_several_tokens_begins_as_their_mean(tiny_diffusion):
    ids = tiny_diffusion.tokenizer("ab", add_special_tokens=False).input_ids
    assert len(ids) == 2
    table = tiny_diffusion.text_encoder.get_input_embeddings().weight
    embedding = word_embedding("ab", tiny_diffusion.text_encoders)
    assert_close(embedding, table[ids].mean(0))
