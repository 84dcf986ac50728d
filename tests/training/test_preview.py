"""People drawn and scored at each validation: the same whoever else is drawn, in one process or several."""

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from tiny import tiny_judges

from hdb.diffusion.options import SamplingOptions
from hdb.faces.sources import FaceSample, FaceSource
from hdb.lidb.residuals import Residuals
from hdb.metrics.judges import Scores
from hdb.training.callbacks import PreviewPeople
from hdb.training.options import PreviewOptions

PROMPTS = ["a photo of a [V] face", "a [V] face, oil painting"]


class Colors(FaceSource):
    """People told apart by their color alone."""

    def sample(self, index, rng):
        picture = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(index)).expand(-1, 64, 64)
        return FaceSample(picture, picture, "a [V] face", index)


class Stage(L.LightningModule):
    """A hypernetwork that looks at the mean color, and what it logs."""

    def __init__(self, layout) -> None:
        super().__init__()
        self.logged = {}
        self.directions = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0))
        self.hypernet = lambda photos: layout.initial_theta() + photos.mean((2, 3)) @ self.directions
        self.hypernet.layout = layout

    def log(self, name, value, **_):
        self.logged[name] = float(value)


class Logger(WandbLogger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.images, self.tables = {}, {}

    def log_image(self, key, images, **_):
        self.images[key] = images

    def log_table(self, key, columns, data):
        self.tables[key] = columns, data


@pytest.fixture
def preview(personalized, tiny_weights, tmp_path):
    judges = tiny_judges(tiny_weights)

    def build(*, num=3, batch_size=4) -> PreviewPeople:
        sampling = SamplingOptions(num_inference_steps=2, guidance_scale=2.0, batch_size=batch_size)
        options = PreviewOptions(sampling=sampling, num_identities=num, prompts=PROMPTS)
        people = Colors([str(index) for index in range(num)], seed=0)
        return PreviewPeople(personalized, judges, people, options=options, path=tmp_path / "preview.png", seed=5)

    return build


class Process(L.Trainer):
    """One of several."""

    global_rank, world_size, is_global_zero, logger = 0, 1, True, None  # which are properties of a Trainer

    def __init__(self, rank: int = 0, *, world_size: int = 1) -> None:
        self.global_rank, self.world_size = rank, world_size
        self.is_global_zero = rank == 0
        self.logger = Logger()


def test_a_persons_pictures_do_not_depend_on_who_is_drawn_with_them(preview, personalized):
    stage = Stage(personalized.layout)
    whole = preview()
    people = Residuals(stage.hypernet(whole.references), personalized.layout)
    together = whole.draw(people, torch.arange(3))
    for person in range(3):
        alone = preview(batch_size=1).draw(Residuals(people.theta[[person]], people.layout), torch.tensor([person]))
        torch.testing.assert_close(alone[:, 0], together[:, person], atol=1e-4, rtol=1e-4)
    assert (together[0, 0] - together[0, 1]).abs().max() > 0.01


def test_scores_are_means_over_people_and_prompts_and_the_table_has_a_row_each(preview, personalized):
    stage, callback, trainer = Stage(personalized.layout), preview(), Process()
    callback.on_validation_epoch_end(trainer, stage)
    people = Residuals(stage.hypernet(callback.references), personalized.layout)
    by_hand = Scores(callback.scores.judges)
    for drawn, text in zip(
        callback.draw(people, torch.arange(3)), ("a photo of a face", "a face, oil painting"), strict=True
    ):
        by_hand.update(drawn, callback.references, [text] * 3)
    expected = {f"val/{name}": pytest.approx(float(score), abs=1e-5) for name, score in by_hand.compute().items()}
    assert stage.logged == expected
    columns, rows = trainer.logger.tables["val/people"]
    assert columns == ["reference", *PROMPTS, "face_rec", "dino", "clip_i", "clip_t"]
    assert len(rows) == 3 and all(len(row) == len(columns) for row in rows)
    assert sum(row[3] for row in rows) / 3 == pytest.approx(stage.logged["val/face_rec"], abs=1e-5)
    with Image.open(callback.path) as grid:
        assert grid.size[0] == 3 * 128


def test_two_processes_draw_their_shares_of_the_same_pictures(preview, personalized):
    stage = Stage(personalized.layout)
    preview().on_validation_epoch_end(Process(), stage)
    whole, shares = dict(stage.logged), []
    for rank in range(2):
        stage.logged.clear()
        preview().on_validation_epoch_end(Process(rank, world_size=2), stage)
        shares.append(dict(stage.logged))
    for name, score in whole.items():  # people 0 and 2 in one process, 1 in the other
        assert (2 * shares[0][name] + shares[1][name]) / 3 == pytest.approx(score, abs=1e-5)


def test_fewer_people_than_processes_are_refused(preview):
    with pytest.raises(ValueError, match="3 people to preview for 4 processes: expected at least one each"):
        preview().setup(Process(world_size=4), L.LightningModule(), "fit")
