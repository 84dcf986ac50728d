"""Faces from tar shards."""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
from gray import level, png, write_shard
from PIL import Image

from hdb.faces.shards import IdentityFilter, ShardFaces, list_shards, read_shard_photos
from hdb.faces.sources import FaceBatch, PhotoFaces, identity_number


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four shards of five people; person n has the gray level n."""
    for shard in range(4):
        people = range(5 * shard, 5 * shard + 5)
        write_shard(tmp_path / f"faces-{shard:03d}.tar", {f"person{n:02d}.png": png(n) for n in people})
    return tmp_path


def test_every_person_of_the_shards_comes_once_in_an_order_of_the_epoch(shards):
    def order(seed: int, epoch: int) -> list[int]:
        source = ShardFaces(shards, resolution=8, seed=seed, shuffle_size=8)
        source.set_epoch(epoch)
        return [level(sample.reference) for sample in source]

    assert sorted(order(0, 0)) == list(range(20)) != order(0, 0)
    assert order(0, 0) == order(0, 0) != order(0, 1) != order(1, 1)
    plain = [level(sample.reference) for sample in ShardFaces(shards, resolution=8, shuffle_size=0)]
    assert plain == list(range(20))


def test_a_person_may_have_several_pictures_and_a_name(tmp_path):
    about = json.dumps({"identity": "ada", "sides": {"0.png": 312, "1.png": 312}}).encode()
    files = {"x.0.png": png(1), "x.1.png": png(2), "x.json": about, "y.png": png(3)}
    samples = list(ShardFaces([str(write_shard(tmp_path / "a.tar", files))], resolution=8, shuffle_size=0))
    assert {level(samples[0].reference), level(samples[0].target)} == {1, 2}
    assert [sample.identity for sample in samples] == [identity_number("ada"), identity_number("y")]
    size = Image.open(BytesIO(png(3))).width
    assert [sample.target_side for sample in samples] == [312, size]  # a shard that does not say it holds crops
    assert FaceBatch.from_samples(samples).target_sides.tolist() == [312, size]


def test_what_a_shard_cannot_give_is_counted_with_its_reason(shards):
    files = {"a.png": b"broken", "b.txt": b"no picture", "c.png": png(30), "d.png": png(31), "d.json": b"{"}
    files |= {"e.png": png(32), "e.json": b"[]"}
    write_shard(shards / "faces-004.tar", files)
    cut = shards / "faces-001.tar"
    cut.write_bytes(cut.read_bytes()[:2500])  # two pictures are whole, the header of the third breaks off
    source = ShardFaces(shards, resolution=8, shuffle_size=0)
    with pytest.warns(UserWarning, match="skipped"):
        levels = [level(sample.reference) for sample in source]
    assert set(range(5)) | set(range(10, 20)) | {30} <= set(levels) and 9 not in levels
    assert source.skipped.counts == {"unreadable": 3, "no picture": 1, "cut shard": 1}


def test_shards_that_cannot_be_read_are_refused_before_training(tmp_path, shards):
    first = str(shards / "faces-000.tar")
    for shards_argument, match in (
        (tmp_path / "absent.tar", "neither a file nor an http"),
        ("pipe:cat /etc/passwd", "neither a file nor an http"),
        ([first, first], "listed twice"),
    ):
        with pytest.raises(ValueError, match=match):
            ShardFaces(shards_argument, resolution=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        ShardFaces(tmp_path / "empty", resolution=8)
    assert len(ShardFaces(str(shards / "faces-{000..003}.tar"), resolution=8).shards) == 4


def test_only_people_who_are_listed_and_not_held_out_are_given(shards):
    def levels(**people: list[str]) -> list[int]:
        return [
            level(sample.reference)
            for sample in ShardFaces(shards, resolution=8, shuffle_size=0, identities=IdentityFilter(**people))
        ]

    assert levels(held_out=["person00", "person19"]) == list(range(1, 19))
    assert levels(names=["person07", "person03"]) == [3, 7]
    assert levels(names=["person07", "person03"], held_out=["person03"]) == [7]


def test_a_share_of_nothing_but_held_out_people_does_not_end_an_endless_stream(shards):
    held_out = [f"person{n:02d}" for n in range(10)]
    stream = ShardFaces(shards, resolution=8, num_samples=100, identities=IdentityFilter(held_out=held_out), seed=1)
    stream.set_epoch(0, rank=0, world_size=2)
    passes = [{level(sample.reference) for sample in stream.one_pass(number, 0, 2)} for number in range(20)]
    assert set() in passes  # two of four shards hold nobody else: now and then both are this node's
    assert {level(sample.reference) for sample in islice(stream, 100)} == set(range(10, 20))


def test_people_of_shards_are_read_into_memory_until_all_are_found(shards):
    photos = read_shard_photos(list_shards(shards), num=3)
    assert list(photos) == ["person00", "person01", "person02"]
    assert [level(sample.reference) for sample in PhotoFaces(photos, resolution=8)] == [0, 1, 2]
    (shards / "faces-003.tar").write_bytes(b"never read")
    names = ["person12", "person04"]
    assert list(read_shard_photos(list_shards(shards), names=names, num=2)) == ["person04", "person12"]
    assert list(read_shard_photos(list_shards(shards), held_out=["person00"], num=1)) == ["person01"]
    assert read_shard_photos(list_shards(shards), num=0) == {}


def test_shards_named_by_split_are_told_apart(tmp_path):
    for name in ("test-0.tar", "train-0.tar", "train-1.tar"):
        write_shard(tmp_path / name, {"a.png": png(0)})
    assert [Path(name).name for name in list_shards(tmp_path, split="train")] == ["train-0.tar", "train-1.tar"]
    assert len(list_shards(tmp_path, split="val")) == len(list_shards(tmp_path)) == 3


@pytest.fixture
def server(shards):
    """The shards by URL, from this machine."""
    handler = partial(QuietHandler, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs with curl")
def test_shards_by_url_are_streamed_and_those_that_break_off_counted(shards, server):
    cut = shards / "faces-001.tar"
    cut.write_bytes(cut.read_bytes()[:2500])
    source = ShardFaces(f"{server}/faces-{{000..004}}.tar", resolution=8, shuffle_size=0)
    with pytest.warns(UserWarning, match="faces-00[14].tar breaks off or cannot be opened"):
        levels = [level(sample.reference) for sample in source]
    assert set(range(5)) | set(range(10, 20)) <= set(levels) and 9 not in levels
    assert source.skipped.counts == {"cut shard": 2}  # the fifth does not exist
