"""Batches in an order that survives interruptions."""

import contextlib
import os

import lightning as L
import pytest
import torch
from gray import level, png, save_gray, write_shard
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

from hdb.faces.crop import FaceCropper
from hdb.faces.datamodule import FaceData, FaceLoader
from hdb.faces.photos import flat_folder, identity_folders
from hdb.faces.picture import FaceError
from hdb.faces.shards import ShardFaces
from hdb.faces.sources import FaceBatch, FaceSample, FaceSource, PhotoFaces


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> PhotoFaces:
    """Ten people with three one-colored pictures each."""
    root = tmp_path_factory.mktemp("people")
    for person in range(10):
        (root / f"{person}").mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (10 * person + number,) * 3).save(root / f"{person}" / f"{number}.png")
    return PhotoFaces(identity_folders(root), resolution=8)


class Recorder(L.LightningModule):
    """Records the gray levels of the pictures it is trained and validated on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: FaceBatch, index: int) -> torch.Tensor:
        self.trained.append([round(picture.mean().item() * 255) for picture in batch.reference])
        return self.weight * batch.target.mean()

    def validation_step(self, batch: FaceBatch, index: int) -> None:
        self.validated.append([round(picture.mean().item() * 255) for picture in batch.reference])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Killed(Exception):
    pass


class Kill(Callback):
    """Raises when a step has begun, like a process that is killed."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise Killed


def trainer(folder, *callbacks: Callback) -> L.Trainer:
    last = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    return L.Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[last, *callbacks],
    )  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 4, 6], ids=lambda step: f"killed before step {step}")
def test_a_killed_run_goes_on_with_the_batches_it_had_not_seen(source, tmp_path, step):
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path / "whole").fit(whole, FaceData(source, batch_size=4))
    with pytest.raises(Killed):
        trainer(tmp_path / "killed", Kill(step)).fit(first, FaceData(source, batch_size=4))
    trainer(tmp_path / "killed").fit(
        second, FaceData(source, batch_size=4), ckpt_path=tmp_path / "killed" / f"step={step}.ckpt"
    )
    assert len(whole.trained) == 9 and first.trained + second.trained == whole.trained


def test_validation_is_the_same_every_epoch_and_leaves_nobody_out(source, tmp_path):
    recorder = Recorder()
    val = PhotoFaces(
        {f"unseen {name}": paths for name, paths in zip("abcdefghij", source.pictures, strict=True)}, resolution=8
    )
    trainer(tmp_path).fit(recorder, FaceData(source, val, batch_size=4))
    epochs = recorder.validated[-9:]
    assert epochs[:3] == epochs[3:6] == epochs[6:]
    assert [level // 10 for batch in epochs[:3] for level in batch] == list(range(10))


def test_order_is_a_function_of_seed_and_epoch(source):
    def keys(seed: int, epoch: int) -> list[list[tuple[int, int]]]:
        return FaceLoader(source, batch_size=4, shuffle=True, seed=seed).batches(epoch)

    assert keys(0, 5) == keys(0, 5)
    orders = [keys(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    people = [[index for batch in order for _, index in batch] for order in orders]
    assert people[0] != people[1] and people[0] != people[2]
    assert all(sorted(order[:10]) == list(range(10)) for order in people)  # 12 with the wrap: every batch is full


def test_pictures_change_from_round_to_round(source):
    loader = FaceLoader(source, batch_size=10, shuffle=True, num_samples=60)
    rounds = [sorted(picture.mean().item() for picture in batch.reference) for batch in loader]
    assert len(loader) == len(rounds) == 6 and len({tuple(values) for values in rounds}) > 1


def test_ranks_share_an_epoch_evenly_and_without_overlap(source):
    def batches(*, shuffle: bool) -> list[list[tuple[int, int]]]:
        loaders = [FaceLoader(source, batch_size=2, shuffle=shuffle, rank=rank, world_size=2) for rank in range(2)]
        return [batch for loader in loaders for batch in loader.batches(0)]

    assert [len(batch) for batch in batches(shuffle=True)] == [2] * 6
    assert sorted(index for batch in batches(shuffle=False) for _, index in batch) == list(range(10))


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [2, 2, 2, 2, 2]), (3, [3, 3, 4]), (4, [4, 4, 2]), (9, [10])])
def test_nobody_is_validated_alone_as_people_are_compared_with_others_of_their_batch(source, batch_size, sizes):
    loader = FaceLoader(source, batch_size=batch_size, shuffle=False)
    assert [len(batch) for batch in loader.batches(0)] == sizes and len(loader) == len(sizes)
    assert [index for batch in loader.batches(0) for _, index in batch] == list(range(10))


def test_processes_that_would_have_nobody_to_compare_are_refused(source):
    with pytest.raises(ValueError, match="10 people in batches of 2 are 5 batches, expected at least 6, one for each"):
        FaceLoader(source, batch_size=1, shuffle=False, world_size=6)


def test_workers_change_nothing_and_the_global_generator_is_left_alone(source):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    alone, together = (
        [batch.reference for batch in FaceLoader(source, batch_size=4, shuffle=True, num_workers=n)] for n in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


class Readers(FaceSource):
    """Two people whose number is that of the process that reads them."""

    def __init__(self):
        super().__init__(["a", "b"], seed=0)

    def sample(self, index, rng):
        return FaceSample(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), "a [V] face", os.getpid())


def test_processes_that_read_live_on_from_epoch_to_epoch():
    loader, readers = FaceLoader(Readers(), batch_size=1, shuffle=True, num_workers=1), []
    for epoch in range(2):
        loader.set_epoch(epoch)
        readers.append({number for batch in loader for number in batch.identities.tolist()})
    assert readers[0] == readers[1] != {os.getpid()}


def test_a_person_in_both_splits_is_refused(source):
    with pytest.raises(ValueError, match="10 identities are in both train and val"):
        FaceData(source, source)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards of five people; person n has the gray level n."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        write_shard(folder / f"{shard}.tar", {f"{n:02d}.png": png(n) for n in range(5 * shard, 5 * shard + 5)})
    return folder


def test_an_epoch_of_a_stream_has_the_length_it_says_with_any_number_of_workers(shards):
    for num_workers in (0, 2, 3):
        stream = ShardFaces(shards, resolution=8, num_samples=50, shuffle_size=4)
        loader = FaceLoader(stream, batch_size=24, shuffle=True, num_workers=num_workers)
        batches = [[level(picture) for picture in batch.reference] for batch in loader]
        assert [len(batch) for batch in batches] == [24, 24] and len(loader) == 2
        assert set(batches[0] + batches[1]) == set(range(20))


def test_a_stream_read_by_a_process_that_lives_on_has_the_order_of_each_epoch(shards):
    def levels(loader: FaceLoader, epoch: int) -> list[int]:
        loader.set_epoch(epoch)
        return [level(picture) for batch in loader for picture in batch.reference]

    def loader() -> FaceLoader:
        stream = ShardFaces(shards, resolution=8, num_samples=12, shuffle_size=4)
        return FaceLoader(stream, batch_size=4, shuffle=True, num_workers=1)

    living = loader()
    assert levels(living, 0) == levels(loader(), 0) != levels(living, 1) == levels(loader(), 1)


def test_a_stream_too_short_for_one_batch_is_refused(shards):
    stream = ShardFaces(shards, resolution=8, num_samples=7)
    with pytest.raises(ValueError, match="an epoch has 7 samples, expected at least 8, one batch for each process"):
        FaceLoader(stream, batch_size=4, shuffle=True, world_size=2)


def test_nodes_and_workers_share_a_stream_without_overlap(shards):
    shares = []
    for rank in range(2):
        loader = FaceLoader(
            ShardFaces(shards, resolution=8), batch_size=1, shuffle=True, num_workers=2, rank=rank, world_size=2
        )
        shares.append([level(batch.reference) for batch in loader])
    assert sorted(shares[0] + shares[1]) == list(range(20)) and len(shares[0]) == len(shares[1]) == 10
    with pytest.raises(ValueError, match="4 shards cannot be split between 2 nodes with 3 workers .* at least 6"):
        next(
            iter(FaceLoader(ShardFaces(shards, resolution=8), batch_size=1, shuffle=True, num_workers=3, world_size=2))
        )


def test_a_resumed_stream_goes_on_with_the_batches_it_had_not_given(shards):
    def loader() -> FaceLoader:
        return FaceLoader(ShardFaces(shards, resolution=8, num_samples=40), batch_size=4, shuffle=True, seed=3)

    whole = [batch.identities.tolist() for batch in loader()]
    first, batches = loader(), []
    for batch in first:
        batches.append(batch.identities.tolist())
        if len(batches) == 4:
            break
    second = loader()
    second.load_state_dict(first.state_dict())
    assert batches + [batch.identities.tolist() for batch in second] == whole


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_without_a_usable_picture_ends_in_one_sentence(tmp_path, num_workers):
    (tmp_path / "a.png").write_bytes(b"broken")
    write_shard(tmp_path / "a.tar", {"a.png": b"broken"})
    photos = PhotoFaces(flat_folder(tmp_path), resolution=8)
    stream = ShardFaces([str(tmp_path / "a.tar")], resolution=8, num_samples=4)
    for source, sentence in (
        (photos, "none of the 1 pictures can be used: "),
        (stream, "no usable sample in 1 shards"),
    ):
        loader = FaceLoader(source, batch_size=1, shuffle=True, num_workers=num_workers)
        warning = pytest.warns(UserWarning, match="skipped .unreadable.: ")
        with warning if num_workers == 0 else contextlib.nullcontext():
            with pytest.raises(FaceError, match=f"^{sentence}") as refusal:
                list(loader)
        assert "\n" not in str(refusal.value) and "'unreadable': " in str(refusal.value)


def levels_of(loader: FaceLoader | list[FaceLoader]) -> list[int]:
    return sorted(level(picture) for batch in loader for picture in batch.reference)


def test_a_folder_of_photos_is_trained_on_in_two_lines(tmp_path):
    for number in range(6):
        save_gray(tmp_path / "flat" / f"{number}.png", 10 * number)
        save_gray(tmp_path / "folders" / f"person {number}" / "0.png", 10 * number)
    for root, num_val, train, val in (
        (tmp_path / "flat", 2, [0, 10, 20, 30], [40, 50]),
        (str(tmp_path / "folders"), 2, [0, 10, 20, 30], [40, 50]),
        (tmp_path / "flat", 0, [0, 10, 20, 30, 40, 50], []),
    ):
        data = FaceData.from_folder(root, resolution=8, batch_size=2, num_val=num_val, crop=False)
        assert levels_of(data.train_dataloader()) == train and levels_of(data.val_dataloader()) == val
    data = FaceData.from_folder(tmp_path / "flat", resolution=8, batch_size=2, num_val=2, crop=False)
    recorder = Recorder()
    trainer(tmp_path / "run").fit(recorder, datamodule=data)
    assert len(recorder.trained) == 3 * 2 and recorder.validated[-1] == [40, 50]


def test_photos_of_a_folder_are_cropped_by_default_and_those_without_a_face_passed_over(tmp_path, astronaut):
    astronaut.save(tmp_path / "ada.png")
    Image.new("RGB", (300, 300), "gray").save(tmp_path / "wall.png")
    data = FaceData.from_folder(tmp_path, resolution=64, batch_size=2)
    with pytest.warns(UserWarning, match="no face found in .*wall.png"):
        (batch,) = data.train_dataloader()
    crop = FaceCropper().crop(astronaut, resolution=64)
    assert torch.equal(batch.reference, crop.expand(2, -1, -1, -1)) and batch.prompts == ["a [V] face"] * 2


def test_shards_in_a_folder_are_streamed_and_not_cropped(tmp_path):
    for shard in range(2):
        people = range(3 * shard, 3 * shard + 3)
        write_shard(tmp_path / f"train-{shard}.tar", {f"{number}.png": png(10 * number) for number in people})
    data = FaceData.from_folder(tmp_path, resolution=8, batch_size=2, num_val=2)
    assert levels_of(data.val_dataloader()) == [0, 10]
    assert set(levels_of(data.train_dataloader())) <= {20, 30, 40, 50}


@pytest.mark.parametrize(
    ("root", "num_val", "match"),
    [
        ("nowhere", 0, "nowhere is no folder; expected a folder of pictures"),
        ("empty", 0, "empty holds neither .* pictures, nor folders"),
        ("few", 3, "num_val_identities is 3 .* expected at most 2 together, as there are 3 identities"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, root, num_val, match):
    (tmp_path / "empty").mkdir()
    for number in range(3):
        save_gray(tmp_path / "few" / f"{number}.png", number)
    with pytest.raises(ValueError, match=match):
        FaceData.from_folder(tmp_path / root, resolution=8, num_val=num_val)
