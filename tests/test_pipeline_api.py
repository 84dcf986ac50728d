"""HyperDreamBoothPipeline: photo in, person out, on the base that is shipped."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hdb import HyperDreamBoothPipeline, Subject
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sheet import to_pil
from hdb.faces.picture import FaceError
from hdb.faceworld.world import FaceWorld
from hdb.pipeline import SHIPPED_BASE, SHIPPED_ENCODER, PipelineSettings

ONE_PICTURE = {"num_inference_steps": 2, "progress_bar": False}


@pytest.fixture(scope="module")
def pipe() -> HyperDreamBoothPipeline:
    pipe = HyperDreamBoothPipeline.from_pretrained(device="cpu")
    pipe.settings = replace(pipe.settings, finetuning=replace(pipe.settings.finetuning, num_steps=2))
    return pipe


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Plain views of two people who do not exist, as files."""
    world, folder = FaceWorld(resolution=64), tmp_path_factory.mktemp("photos")
    files = []
    for name, person in (("anna", 0), ("ben", 1)):
        for view in (0, 3):
            path = folder / f"{name}{view}.png"
            to_pil(world.render([(world.identity(person), world.view(person, view))])[0]).save(path)
            files.append(str(path))
    return files


@pytest.fixture(scope="module")
def anna(pipe, photos) -> Subject:
    return pipe.personalize(photos[0], progress_bar=False)


def distance(one: Subject, other: Subject) -> float:
    """Of two thetas. AdamW divides rounding errors of tiny gradients by themselves, so equal runs differ slightly."""
    return float((one.theta - other.theta).norm())


def test_one_photo_becomes_a_file_and_the_file_draws_what_the_subject_draws(pipe, anna, tmp_path):
    file = anna.save(tmp_path / "anna.safetensors")
    images = pipe(anna, "a [V] face in the snow", num_images=2, seed=3, **ONE_PICTURE).images
    again = pipe(str(file), "a [V] face in the snow", num_images=2, seed=3, **ONE_PICTURE).images
    assert [image.size for image in images] == [(64, 64)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    assert [image.tobytes() for image in images] == [image.tobytes() for image in again]
    assert anna.metadata["source"] == "anna0.png" and anna.metadata["base_digest"] == pipe.diffusion.digest


def test_the_file_says_of_which_photos_it_is(pipe, photos, anna):
    digests = [
        pipe.personalize(*given, finetune=False, progress_bar=False).metadata["reference_digest"]
        for given in ((photos[0],), (Image.open(photos[0]),), (photos[1],), (photos[0], photos[1]))
    ]
    assert anna.metadata["reference_digest"] == digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_the_person_is_in_the_picture_and_the_bare_base_is_as_it_was(pipe, anna):
    without = pipe(None, "a face", output_type="pt", **ONE_PICTURE).images
    weak = pipe(anna, "a face", output_type="pt", scale=0.0, **ONE_PICTURE).images
    strong = pipe(anna, "a face", output_type="pt", **ONE_PICTURE).images
    assert torch.allclose(without, weak, atol=1e-5)
    assert (strong - weak).abs().max() > 0.02
    assert torch.equal(without, pipe(None, "a face", output_type="pt", **ONE_PICTURE).images)


def test_the_prediction_alone_is_the_hypernetworks(pipe, photos):
    subject = pipe.personalize(photos[0], finetune=False, progress_bar=False)
    assert subject.layout == pipe.hypernet.layout
    photo = torch.tensor(list(Image.open(photos[0]).tobytes()), dtype=torch.float32).view(64, 64, 3) / 255
    with torch.no_grad():
        expected = pipe.hypernet(photo.permute(2, 0, 1)[None])
    assert torch.allclose(subject.theta, expected, atol=1e-6)


def test_a_list_of_people_is_personalized_as_each_would_be_alone(pipe, photos, anna):
    both = pipe.personalize([photos[0], photos[2]], progress_bar=False)
    assert [subject.metadata["source"] for subject in both] == ["anna0.png", "ben0.png"]
    assert distance(both[0], anna) < 0.1 * distance(both[1], anna)


def test_several_photos_of_one_person_are_one_subject(pipe, photos, anna):
    subject = pipe.personalize(photos[0], photos[1], progress_bar=False)
    assert isinstance(subject, Subject) and not torch.equal(subject.theta, anna.theta)
    mixed = pipe.personalize([photos[2], [photos[0], photos[1]]], progress_bar=False)
    assert distance(mixed[1], subject) < 0.1 * distance(mixed[0], subject)


def test_pictures_are_ordered_by_prompt_then_subject_then_number(pipe, photos, anna):
    ben = pipe.personalize(photos[2], finetune=False, progress_bar=False)
    prompts = ["a [V] face", "a [V] face on a beach"]
    images = pipe([anna, ben], prompts, num_images=2, seed=5, output_type="pt", **ONE_PICTURE).images
    assert images.shape == (8, 3, 64, 64)
    alone = pipe(ben, prompts[1], num_images=2, seed=5, output_type="pt", **ONE_PICTURE).images
    assert torch.allclose(images[6:], alone, atol=1e-4)


def test_subjects_mix_into_one_person(pipe, photos, anna):
    ben = pipe.personalize(photos[2], finetune=False, progress_bar=False)
    mixed = pipe([anna, ben], "a [V] face", mix_weights=[1.0, 0.0], output_type="pt", **ONE_PICTURE).images
    alone = pipe(anna, "a [V] face", output_type="pt", **ONE_PICTURE).images
    assert len(mixed) == 1 and torch.allclose(mixed, alone, atol=1e-4)


def test_photos_may_be_files_images_or_tensors(pipe, photos):
    image = Image.open(photos[0])
    tensor = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(64, 64, 3).permute(2, 0, 1) / 255
    thetas = [pipe.personalize(photo, finetune=False, progress_bar=False).theta for photo in (photos[0], image, tensor)]
    assert torch.allclose(thetas[0], thetas[1]) and torch.allclose(thetas[0], thetas[2])


def test_a_base_without_a_hypernetwork_is_finetuned_alone(photos):
    pipe = HyperDreamBoothPipeline.from_pretrained(SHIPPED_BASE, device="cpu")
    pipe.settings = replace(pipe.settings, finetuning=replace(pipe.settings.finetuning, num_steps=2))
    assert pipe.hypernet is None
    subject = pipe.personalize(photos[0], progress_bar=False)
    assert pipe(subject, "a [V] face", **ONE_PICTURE).images[0].size == (64, 64)
    with pytest.raises(ValueError, match="there is no hypernetwork"):
        pipe.personalize(photos[0], finetune=False)


def test_the_export_is_a_lora_file(anna, tmp_path):
    from safetensors.torch import load_file

    path = anna.export(tmp_path / "anna-lora.safetensors")
    assert len(load_file(path)) == 3 * len(anna.layout.slots)


def test_shipped_settings_are_those_of_the_yaml():
    from omegaconf import OmegaConf

    from hdb import FinetuningOptions

    settings = PipelineSettings.beside(SHIPPED_BASE)
    yaml = OmegaConf.load("configs/faceworld/personalize.yaml")
    assert settings.finetuning == FinetuningOptions(**yaml.finetuning)
    assert settings.sampling == SamplingOptions(**yaml.sampling)


def test_a_progress_bar_counts_the_steps_and_can_be_switched_off(pipe, photos, capsys):
    pipe.personalize(photos[0], progress_bar=False)
    quiet = capsys.readouterr()
    pipe.personalize(photos[0])
    assert "finetuning" not in quiet.err and "finetuning" in capsys.readouterr().err


def test_a_callback_sees_each_step_and_an_exception_of_its_ends_the_work(pipe, photos, anna):
    prompts, steps = ["a [V] face", "a [V] face in the snow"], []
    pipe.personalize(photos[0], progress_bar=False, callback_on_step_end=steps.append)
    assert steps == [1, 2]
    steps.clear()
    before = pipe(anna, prompts, num_images=5, callback_on_step_end=steps.append, **ONE_PICTURE).images
    assert steps == [1, 2, 3, 4]  # ten pictures are two batches

    def stop(step: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe.personalize(photos[2], progress_bar=False, callback_on_step_end=stop)
    with pytest.raises(InterruptedError):
        pipe(anna, prompts, callback_on_step_end=stop, **ONE_PICTURE)
    after = pipe(anna, prompts, num_images=5, **ONE_PICTURE).images
    assert [image.tobytes() for image in after] == [image.tobytes() for image in before]
    assert distance(pipe.personalize(photos[0], progress_bar=False), anna) < 0.01 * anna.theta.norm()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe, anna: pipe.personalize(), "no photo was given"),
        (lambda pipe, anna: pipe.personalize([]), "no photo was given"),
        (lambda pipe, anna: pipe.personalize(torch.zeros(64, 64)), r"expected a float tensor of \(3, h, w\)"),
        (lambda pipe, anna: pipe(anna, []), "0 prompts"),
        (lambda pipe, anna: pipe(anna, "a face", num_images=0), "num_images=0"),
        (lambda pipe, anna: pipe([], "a face"), "no subject was given"),
        (lambda pipe, anna: pipe(anna, "a face", output_type="np"), "output_type is 'np'"),
        (lambda pipe, anna: pipe([anna, anna], "a face", mix_weights=[1.0]), "1 weights for 2 people"),
        (lambda pipe, anna: pipe("nowhere.safetensors", "a face"), "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(pipe, anna, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipe, anna)


def test_a_photo_without_a_face_is_refused(pipe, tmp_path):
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "gray.png")
    with pytest.raises(FaceError, match="no face found"):
        pipe.personalize(tmp_path / "gray.png")


def test_the_encoder_of_a_hypernetwork_is_asked_for_by_name():
    with pytest.raises(ValueError, match="encoder"):
        HyperDreamBoothPipeline.from_pretrained(SHIPPED_BASE, hypernet="hdb/faceworld/weights/hypernet", device="cpu")
    pipe = HyperDreamBoothPipeline.from_pretrained(
        SHIPPED_BASE, hypernet="hdb/faceworld/weights/hypernet", encoder=SHIPPED_ENCODER, device="cpu"
    )
    assert pipe.hypernet is not None
