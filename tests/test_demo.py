"""The page in a real browser: upload, run, pictures, files; and two visitors who do not mix."""

import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.config import Demo, load
from experiments.demo import load_portraits
from hdb.demo.visits import Visits
from hdb.diffusion.sheet import save_image, to_pil
from hdb.faceworld.world import FaceWorld
from hdb.lidb.file import Subject

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 600_000  # ms; a busy machine takes minutes
TINY = {"base.path": "base", "encoder": "encoder", "hypernet": "hypernet"}  # of the tiny weights


def test_nothing_of_a_visitor_stays_when_they_leave_and_nothing_of_anybody_at_the_end(tmp_path):
    with Visits.opened() as visits:
        ann, bob = visits.get("ann"), visits.get("bob")
        assert visits.get("ann") is ann
        upload = visits.folder / "upload" / "me.jpg"
        copies = [visits.file(ann, "person.safetensors"), visits.folder / "copy" / visits.file(ann, "crop.png").name]
        kept = visits.file(bob, "crop.png")
        for path in (upload, *copies, kept):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        ann.uploads.append(upload)
        visits.leave("ann")
        assert not any(path.exists() for path in (upload, *copies)) and kept.exists()
        visits.leave("ann")
    assert not visits.folder.exists()


def test_the_end_waits_for_the_turn_that_is_on_and_gives_no_other(tiny_weights):
    words = [f"{part}={tiny_weights}/{where}" for part, where in TINY.items()]
    ours = load_portraits(load(Demo, [*words, "accelerator=cpu"]))
    ours.lock.acquire()
    ending = threading.Thread(target=ours.close)
    ending.start()
    ending.join(0.2)
    assert ending.is_alive()
    ours.lock.release()
    ending.join(10)
    assert not ending.is_alive() and not ours.lock.acquire(blocking=False)
    ours.close(timeout=0.01)  # nor does it wait for ever


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two people, and a wall."""
    folder, world = tmp_path_factory.mktemp("photos"), FaceWorld(resolution=64)
    for person, name in enumerate(("ann", "bob")):
        save_image(
            to_pil(world.render([(world.identity(person), world.view(person, 0))])[0], size=256),
            folder / f"{name}.png",
        )
    Image.new("RGB", (256, 256), "gray").save(folder / "wall.png")
    return folder


@pytest.fixture(scope="module")
def address(tiny_weights, tmp_path_factory):
    """Where the page is, served by the command on tiny weights."""
    if BROWSER is None or find_spec("playwright") is None or find_spec("gradio") is None:
        pytest.skip("no chromium, playwright or gradio on this machine: the page is not looked at")
    words = [f"{part}={tiny_weights}/{where}" for part, where in TINY.items()]
    words += ["accelerator=cpu", "finetuning.num_steps=2", "sampling.num_inference_steps=2", "min_face=16"]
    words += ["prompts=[a [V] face,a photo of a [V] face]"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.demo", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"open (http://127\.0\.0\.1:\d+/) in a browser", line):
            yield found.group(1)
            break
    else:
        pytest.fail("".join(said))
    process.terminate()
    assert process.wait(600) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visitor(browser, address: str):
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    return page


def upload(page, photo: Path, says: str = "This can be used") -> None:
    page.locator("input[type=file]").first.set_input_files(photo)
    page.get_by_text(says).wait_for()


def take(page, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


def finished(page) -> None:
    page.locator("#fit").get_by_text("fit: ").wait_for()


def test_photo_to_pictures_and_files(browser, address, photos, tmp_path):
    page = visitor(browser, address)
    upload(page, photos / "wall.png", "no face found in the photo (256x256 px); expected an upright face")
    page.get_by_role("button", name="Make pictures").click()
    page.get_by_text("There is no photo with a face yet").wait_for()
    page.reload()
    upload(page, photos / "ann.png")
    page.get_by_role("button", name="Make pictures").click()
    finished(page)
    page.locator("#pictures img").wait_for()
    subject = Subject.load(take(page, "Person", tmp_path))
    assert subject.layout.rank == 4 and subject.metadata["source"] == ""
    sheet = Image.open(take(page, "Pictures", tmp_path))
    assert sheet.width == 160 * 3 and sheet.height > 160 * 3  # photo and two prompts; ours, before, unpersonalized
    assert take(page, "LoRA for other programs", tmp_path).stat().st_size > 10_000
    page.close()


def test_somebody_who_does_not_exist_is_shown_beside_the_truth(browser, address, tmp_path):
    page = visitor(browser, address)
    page.get_by_text("Somebody who does not exist").click()
    page.get_by_text("of a world that is drawn").wait_for()
    page.get_by_role("button", name="Make pictures").click()
    finished(page)
    assert Image.open(take(page, "Pictures", tmp_path)).height > 160 * 4
    page.close()


def test_two_visitors_at_once_get_their_own_person(browser, address, photos, tmp_path):
    alone, together = {}, {}
    for name in ("ann", "bob"):
        page = visitor(browser, address)
        upload(page, photos / f"{name}.png")
        page.get_by_role("button", name="Make pictures").click()
        finished(page)
        alone[name] = Subject.load(take(page, "Person", tmp_path)).theta
        page.close()
    pages = {name: visitor(browser, address) for name in alone}
    for name, page in pages.items():
        upload(page, photos / f"{name}.png")
    for page in pages.values():
        page.get_by_role("button", name="Make pictures").click()
    for name, page in pages.items():
        finished(page)
        together[name] = Subject.load(take(page, "Person", tmp_path)).theta
    for name, theta in alone.items():
        torch.testing.assert_close(together[name], theta, rtol=0, atol=0)
    assert not torch.equal(alone["ann"], alone["bob"])
