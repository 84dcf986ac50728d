"""The page in a real browser: runs, visitors, reloads, phones, refusals, and that nothing of a visitor stays."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import personalize
from experiments.config import Demo, load
from experiments.demo import load_portraits
from hdb.demo.photos import PhotoReader
from hdb.demo.portraits import DrawingOptions
from hdb.demo.visits import Visits
from hdb.demo.worker import Job, JobCancelled, Worker
from hdb.diffusion.sheet import save_image, to_pil
from hdb.evaluation.gate import Gate, GateObservations
from hdb.faces.picture import FaceError, StoredPicture, open_picture
from hdb.faceworld.world import FaceWorld
from hdb.hypernet.trained import compute_hypernet_digest
from hdb.lidb.file import Subject
from hdb.pipeline import SETTINGS_FILE

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 240_000  # ms; a busy machine takes minutes
KEEP_SECONDS = 10
DEMO_YAML = str(ROOT / "configs" / "faceworld" / "demo.yaml")
PROMPTS = ["a photo of a [V] face", "a [V] face, oil painting"]
SMALL = ["finetuning.num_steps=2", "sampling.num_inference_steps=2", "min_face=16", "accelerator=cpu"]


# Visits, worker and photos without a browser.


def test_nothing_of_a_visit_stays_when_its_visitor_has_left_and_nothing_of_anybody_at_the_end():
    with Visits.opened(keep_seconds=0.1) as visits:
        ann, bob = visits.enter("session of ann", "ann"), visits.enter("session of bob", "bob")
        files = [ann.save("face.png", Path.touch), ann.save("person.safetensors", Path.touch)]
        kept = bob.save("face.png", Path.touch)
        visits.leave("session of ann")
        wait_until(lambda: not ann.folder.exists())
        assert not any(path.exists() for path in files) and kept.exists()
        with pytest.raises(JobCancelled):  # a run that ends after its visitor has left
            ann.save("picture.png", Path.touch)
        assert visits.enter("another session", "ann") is not ann
    assert not visits.folder.exists()
    with pytest.raises(JobCancelled):
        bob.save("picture.png", Path.touch)


def test_a_page_that_is_loaded_again_finds_its_visit_and_one_of_another_key_does_not():
    with Visits.opened(keep_seconds=60.0) as visits:
        visit = visits.get("first session")  # an action may come before the page has said its key
        assert visits.enter("first session", "key") is visit
        visits.leave("first session")
        visits.clean_up()
        assert visits.enter("second session", "key") is visit and visits.get("second session") is visit
        assert visits.get("third session") is not visit


def test_a_late_action_of_a_closed_page_does_not_keep_its_visit():
    with Visits.opened(keep_seconds=0.1) as visits:
        visits.leave("closed before it was opened")
        late = [visits.enter("closed before it was opened", "key")]
        visits.enter("session", "another key")
        visits.leave("session")
        late.append(visits.get("session"))
        files = [visit.save("face.png", Path.touch) for visit in late]
        wait_until(lambda: not any(path.exists() for path in files))
        assert all(visit.has_ended for visit in late)


def test_uploads_that_nobody_reads_are_removed_and_files_of_others_are_not_read():
    with Visits.opened(keep_seconds=0.1) as visits:
        upload = visits.folder / "digest" / "me.jpg"
        upload.parent.mkdir()
        upload.write_bytes(b"photo")
        assert visits.take_upload(str(upload)) == b"photo" and not upload.parent.exists()
        private = visits.enter("session", "key").save("face.png", Path.touch)
        for path in (upload, private, Path(__file__), visits.folder / ".." / Path(__file__)):
            with pytest.raises(ValueError, match="is not there any more: expected it to be uploaded again"):
                visits.take_upload(str(path))
        visits.leave("session")
        left = visits.folder / "tmp0123"  # as Gradio calls what is still being uploaded
        left.touch()
        wait_until(lambda: not list(visits.folder.iterdir()))


def test_files_are_removed_while_others_remove_and_write_theirs():
    stopped = threading.Event()
    with Visits.opened(keep_seconds=0.01) as visits:

        def come_and_go(number: int) -> None:
            while not stopped.is_set():
                for name in (f"visit-{number}", f"upload{number}"):
                    (visits.folder / name / "0" / "1").mkdir(parents=True)
                    shutil.rmtree(visits.folder / name)

        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(1000):
                visits.clean_up()
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
        (visits.folder / "tmp0123").touch()
        wait_until(lambda: not (visits.folder / "tmp0123").exists())  # the thread that cleans up has survived
        assert not list(visits.folder.glob("*"))


def test_the_worker_runs_jobs_in_their_order_and_its_end_waits_for_the_one_that_runs():
    worker, order, goes_on = Worker(), [], threading.Event()
    first = worker.submit(Job(lambda job: (order.append("first"), goes_on.wait(60))))
    cancelled = worker.submit(Job(lambda job: order.append("cancelled")))
    last = worker.submit(Job(lambda job: order.append("last")))
    assert worker.num_before(last) == 2
    cancelled.cancel()
    assert worker.num_before(last) == 1
    goes_on.set()
    wait_until(lambda: last.is_finished)
    assert order == ["first", "last"] and first.error is None

    goes_on.clear()
    running = worker.submit(Job(lambda job: goes_on.wait(60)))
    waiting = worker.submit(Job(lambda job: order.append("waiting")))
    wait_until(lambda: running.stage == "starting")
    worker.close(timeout=0.01)  # nor does it wait for ever
    assert not running.is_finished
    goes_on.set()
    worker.close()
    assert running.is_finished and waiting.is_finished
    assert worker.submit(Job(lambda job: order.append("too late"))).is_cancelled
    assert order == ["first", "last"]


def test_a_cancelled_job_ends_at_its_next_report_and_an_error_is_kept():
    worker, reported = Worker(), threading.Event()

    def work(job: Job) -> None:
        for step in range(10_000):
            job.report(step / 10_000, "drawing")
            reported.set()
            time.sleep(0.001)

    job = worker.submit(Job(work))
    reported.wait(60)
    job.cancel()
    failing = worker.submit(Job(lambda job: 1 / 0))
    wait_until(lambda: failing.is_finished)
    assert job.is_finished and job.error is None and job.share < 0.99
    assert isinstance(failing.error, ZeroDivisionError)
    worker.close()


def test_photos_are_read_as_the_command_reads_them_and_any_of_several_faces_can_be_chosen(photos):
    reader = PhotoReader(resolution=64, min_face=16)
    photo = reader.read(stored(photos / "group.jpg"))
    assert photo.num_faces == 2 and "shows 2 faces" in photo.remarks[0]
    expected = reader.cropper.read(photos / "group.jpg", resolution=64, face=2)
    torch.testing.assert_close(reader.read(photo.source, face=2).crop, expected, rtol=0, atol=0)
    assert not torch.equal(photo.crop, expected)
    colors = {tuple(pixel) for pixel in np.asarray(photo.marked).reshape(-1, 3).tolist()}
    assert (0, 255, 0) in colors and (255, 255, 255) in colors  # the chosen one, and the other
    faceless = Image.linear_gradient("L").convert("RGB")
    kept = reader.read(StoredPicture("mask.png", encoded(faceless, "PNG")))
    assert kept.num_faces == 0 and "no face found in mask.png" in kept.remarks[0] and "is kept" in kept.remarks[0]
    assert torch.equal(kept.crop, reader.cropper.read(faceless, resolution=64, crop=False, remarks=[]))
    with pytest.raises(FaceError, match="no face found in wall.png"):
        reader.read(StoredPicture("wall.png", encoded(Image.new("RGB", (64, 64), "gray"), "PNG")))
    reader.close(timeout=10.0)
    with pytest.raises(FaceError, match="face in group.jpg is .* px large; expected at least 1000 px"):
        PhotoReader(resolution=64, min_face=1000).read(stored(photos / "ann.png", name="group.jpg"))


def test_without_a_hypernetwork_people_are_finetuned_alone(tiny_weights, photos):
    words = [f"base.path={tiny_weights}/base", "method=no_hyper", *SMALL]
    portraits = load_portraits(load(Demo, words))
    photo = portraits.read_photo(stored(photos / "ann.png"))
    shares = []
    subject, prediction = portraits.personalize([photo.crop], on_step=shares.append)
    assert prediction is None and shares == [0.5, 1.0]
    options = DrawingOptions(PROMPTS, num_images=3, sampling=portraits.sampling)
    drawing = portraits.draw(subject, options, on_step=shares.append)
    assert drawing.pictures.shape[:2] == (2, 3) and list(drawing.comparison) == ["without the person"]
    assert shares[2:] == sorted(shares[2:]) and shares[-1] == 1
    assert portraits.judge(subject, photo.crop, on_step=shares.append).startswith("fit: not known")
    with pytest.raises(ValueError, match="num_images is 9, expected 1 to 8"):
        portraits.draw(subject, replace(options, num_images=9), on_step=shares.append)


# The page.


@dataclass
class Server:
    """The page, served by the command on tiny weights with a gate."""

    process: subprocess.Popen
    address: str
    folder: Path
    words: list[str]

    def files(self) -> list[Path]:
        """What lies in the folders of uploads and results."""
        return [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two people, another view of the first, both in one photo, and a wall."""
    folder, world = tmp_path_factory.mktemp("photos"), FaceWorld(resolution=64)
    views = {"ann": (0, 0), "ann2": (0, 12), "bob": (1, 0)}
    for name, (person, view) in views.items():
        picture = world.render([(world.identity(person), world.view(person, view))])[0]
        save_image(to_pil(picture, size=256), folder / f"{name}.png")
    group = Image.new("RGB", (560, 300), "gray")
    group.paste(Image.open(folder / "ann.png"), (20, 20))
    group.paste(Image.open(folder / "bob.png").resize((200, 200)), (320, 50))
    group.save(folder / "group.jpg", quality=95)
    Image.new("RGB", (256, 256), "gray").save(folder / "wall.png")
    return folder


@pytest.fixture(scope="module")
def server(tiny_weights, tmp_path_factory) -> Iterator[Server]:
    if BROWSER is None or find_spec("playwright") is None or find_spec("gradio") is None:
        pytest.skip("no chromium, playwright or gradio on this machine: the page is not looked at")
    weights = tmp_path_factory.mktemp("gated")
    base, hypernet = (shutil.copytree(tiny_weights / name, weights / name) for name in ("base", "hypernet"))
    (base / SETTINGS_FILE).write_text(json.dumps({"sampling": {"num_inference_steps": 2}}))  # how people are judged
    generator = torch.Generator().manual_seed(0)
    likeness = 2 * torch.rand(50, len(PROMPTS), generator=generator) - 1
    observations = GateObservations(likeness, torch.rand(50, len(PROMPTS)) > 2, torch.zeros(50))
    Gate(PROMPTS, observations, compute_hypernet_digest(hypernet)).save(hypernet)
    folder = tmp_path_factory.mktemp("served")
    words = [f"base.path={base}", f"encoder={tiny_weights}/encoder", f"hypernet={hypernet}", *SMALL]
    own_words = [f"prompts=[{PROMPTS[0]},'{PROMPTS[1]}']", f"keep_seconds={KEEP_SECONDS}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.demo", DEMO_YAML, *words, *own_words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"open (http://127\.0\.0\.1:\d+/) in a browser", line):
            yield Server(process, found.group(1), folder, words)
            break
    else:
        pytest.fail("".join(lines))
    process.terminate()
    assert process.wait(600) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def browser(server):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def window(browser):
    """Its tabs are visitors of their own, and share what the browser has loaded."""
    with browser.new_context() as context:
        yield context


@pytest.fixture
def visitor(window, browser, server):
    """Opens the page as another visitor each time; all have left after the test."""
    pages, contexts = [], []

    def open_page(query: str = "", **options):
        if options:
            contexts.append(browser.new_context(**options))
        pages.append((contexts[-1] if options else window).new_page())
        pages[-1].set_default_timeout(TIMEOUT)
        pages[-1].goto(server.address + query)
        return pages[-1]

    yield open_page
    for page in (*pages, *contexts):
        page.close()


def wait_until(condition: Callable[[], object], *, timeout: float = TIMEOUT / 1000) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def stored(path: Path, name: str | None = None) -> StoredPicture:
    return StoredPicture(name or path.name, path.read_bytes())


def upload(page, *files, says: str = "This can be used") -> None:
    page.locator("#upload input[type=file]").set_input_files(list(files))
    page.locator("#remark").get_by_text(says).wait_for()


def crops(page) -> list[str]:
    """Where the pictures of the crop come from, which is another place after each photo."""
    return page.locator("#crops img").evaluate_all("images => images.map(image => image.src)")


def start(page) -> None:
    page.get_by_role("button", name="Make pictures").click()


def addresses(page) -> list[str]:
    """Where the pictures that are shown come from."""
    return page.locator("#pictures .thumbnail-item img").evaluate_all("images => images.map(image => image.src)")


def make(page) -> list[str]:
    """Makes pictures; returns their addresses, which differ from those before."""
    before = addresses(page)
    start(page)
    wait_until(lambda: addresses(page) and not set(addresses(page)) & set(before))
    page.locator("#fit").get_by_text("fit: ").wait_for()
    return addresses(page)


def take(page, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


def take_theta(page, folder: Path) -> torch.Tensor:
    return Subject.load(
        take(page, "Person", folder)
    ).theta.clone()  # loaded, it is the file, which the next one replaces


def test_each_run_shows_new_pictures_and_a_new_photo_clears_the_old_ones(visitor, photos, tmp_path):
    page = visitor()
    downloads = [page.get_by_role("button", name=name) for name in ("Person", "LoRA", "All pictures")]
    assert all(button.is_disabled() for button in downloads)
    start(page)
    page.get_by_text("There is no photo with a face yet").wait_for()
    upload(page, photos / "ann.png")
    first = make(page)
    assert len(first) == 4  # two of each prompt
    subject = Subject.load(take(page, "Person", tmp_path))
    assert subject.layout.rank == 4 and subject.metadata["source"] == ""
    theta = subject.theta.clone()
    sheet = Image.open(take(page, "All pictures on a sheet", tmp_path))
    assert sheet.width == 160 * 3 and sheet.height > 160 * 4  # ours twice, before finetuning, without the person
    assert take(page, "LoRA for other programs", tmp_path).stat().st_size > 10_000
    assert page.locator("#trigger textarea, #trigger input").input_value() == "a [V] face"

    page.get_by_role("button", name="Random seed").click()
    wait_until(lambda: page.get_by_label("Seed", exact=True).input_value() != "0")
    second = make(page)
    contents = [page.request.get(address).body() for address in second]
    third = make(page)
    assert len({*first, *second, *third}) == 12 and len(set(contents)) == 4
    assert [page.request.get(address).body() for address in third] == contents  # the same seed draws the same
    assert page.request.get(first[0]).status != 200  # pictures that nobody sees are gone
    page.locator("#pictures .thumbnail-item").nth(1).click()
    with page.expect_download() as download:
        page.locator("#pictures").get_by_label("Download").click()
    assert Path(download.value.path()).read_bytes() == contents[1]

    upload(page, photos / "bob.png")
    wait_until(lambda: not addresses(page))
    assert page.locator("#fit").inner_text() == "" and all(button.is_disabled() for button in downloads)
    make(page)
    assert not torch.equal(take_theta(page, tmp_path), theta)


def test_the_same_photo_gives_the_same_person_and_verdict_on_the_page_and_in_the_command(
    visitor, server, photos, tmp_path, call, capsys
):
    page = visitor()
    upload(page, photos / "ann.png")
    page.get_by_label("Steps").first.fill("3")  # of the visitor's own pictures, not of those that are judged
    page.get_by_label(PROMPTS[1]).uncheck()
    make(page)
    words = [*server.words, f"reference={photos}/ann.png", "output=ann.safetensors"]
    assert call(personalize, *words, "prompts=[a [V] face]", "sampling.num_inference_steps=3") == 0
    verdict = re.search("fit: .*", capsys.readouterr().out).group()
    verdict_of_page, *remarks = page.locator("#fit").inner_text().split("\n\n")
    assert "% of 50 measured people" in verdict and verdict_of_page == verdict
    assert ["has words that the base does not know" in remark for remark in remarks] == [True]  # the tiny base's
    of_command = Subject.load(tmp_path / "ann.safetensors").theta
    torch.testing.assert_close(take_theta(page, tmp_path), of_command, rtol=0, atol=1e-3)


def test_several_photos_a_chosen_face_and_an_opened_file_are_that_person(visitor, photos, tmp_path):
    page = visitor()
    upload(page, photos / "ann.png", photos / "ann2.png")
    assert page.locator("#crops img").count() == 2 and not page.locator("#face").is_visible()
    upload(page, photos / "group.jpg", says="shows 2 faces")
    before = page.locator("#crops img").get_attribute("src")
    page.locator("#face").get_by_label("2").check()
    wait_until(lambda: page.locator("#crops img").get_attribute("src") != before)
    page.get_by_label("Seed", exact=True).fill("")  # an empty field takes the default
    page.get_by_label("Identity guidance").first.fill("0")
    pictures = [page.request.get(address).body() for address in make(page)]
    person = take(page, "Person", tmp_path)

    other = visitor()
    upload(other, person)
    other.get_by_label("Identity guidance").first.fill("0")
    assert not other.get_by_role("button", name="Person", exact=True).is_disabled()
    assert [other.request.get(address).body() for address in make(other)] == pictures
    assert "no photo" in other.locator("#fit").inner_text()


def test_two_visitors_at_once_get_their_own_person(visitor, server, photos, tmp_path):
    portraits = load_portraits(load(Demo, [DEMO_YAML, *server.words]))
    pages = {name: visitor() for name in ("ann", "bob")}
    for name, page in pages.items():
        upload(page, photos / f"{name}.png")
    for page in pages.values():
        start(page)
    thetas = {}
    for name, page in pages.items():
        page.locator("#fit").get_by_text("fit: ").wait_for()
        thetas[name] = take_theta(page, tmp_path)
        photo = portraits.read_photo(stored(photos / f"{name}.png"))
        alone, _ = portraits.personalize([photo.crop], on_step=lambda share: None)
        torch.testing.assert_close(thetas[name], alone.theta, rtol=0, atol=1e-3)
    assert not torch.equal(thetas["ann"], thetas["bob"])


def test_a_reload_keeps_what_there_is_also_in_the_middle_of_a_run(visitor, photos):
    page = visitor()
    upload(page, photos / "ann.png")
    page.get_by_label("A prompt of your own").fill("a [V] face in the snow")
    pictures = make(page)
    assert len(pictures) == 6
    page.reload()
    wait_until(lambda: addresses(page) == pictures)
    assert page.get_by_label("A prompt of your own").input_value() == "a [V] face in the snow"
    assert "fit: " in page.locator("#fit").inner_text() and page.locator("#crops img").count() == 1
    page.get_by_label("Steps").first.fill("50")
    start(page)
    page.locator("#pictures").get_by_text("drawing").wait_for()
    page.reload()
    wait_until(lambda: addresses(page) and not set(addresses(page)) & set(pictures))


def test_somebody_who_does_not_exist_is_shown_beside_the_truth_in_captions_that_a_phone_can_show(visitor):
    page = visitor(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.get_by_text("Somebody who does not exist").click()
    page.locator("#remark").get_by_text("of a world that is drawn").wait_for()
    make(page)
    compared = page.locator("#comparison .caption-label").all_inner_texts()
    rows = ("before finetuning", "without the person", "the truth")
    assert compared == [f"{row}: {prompt}" for row in rows for prompt in PROMPTS]
    captions = page.locator("#pictures .caption-label, #comparison .caption-label")
    assert captions.count() == 10
    for caption in captions.all():
        cut_off, font_size = caption.evaluate(
            "node => [node.scrollWidth - node.clientWidth, parseFloat(getComputedStyle(node).fontSize)]"
        )
        assert cut_off <= 0 and font_size >= 12, caption.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_mode_has_no_white_blocks_and_focus_can_be_seen(visitor, photos):
    page = visitor(query="?__theme=dark", color_scheme="dark")
    upload(page, photos / "ann.png")
    make(page)
    screenshot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    assert (np.asarray(screenshot) > 240).mean() < 0.02
    checkbox = page.get_by_label(PROMPTS[0])
    page.get_by_role("button", name="Somebody who does not exist").focus()
    for _ in range(10):
        page.keyboard.press("Tab")
        if checkbox.evaluate("node => node === document.activeElement"):
            break
    assert checkbox.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    assert checkbox.evaluate("node => parseFloat(getComputedStyle(node).outlineWidth)") >= 2


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of a size that nobody has pixels for."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\2\0\0\0"


def test_refusals_are_the_sentences_of_the_command(visitor, photos, tmp_path):
    files = {
        "text_of_me.jpg": b"I look like this.",
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "huge.png": png_header(30_000, 30_000),
        "notes.docx": b"PK\x03\x04",
        "cut.jpg": encoded(Image.open(photos / "ann.png"), "JPEG")[:900],
        "wall.png": (photos / "wall.png").read_bytes(),
        "person.safetensors": b"no such file",
    }
    page = visitor()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        if name.endswith(".safetensors"):
            with pytest.raises(ValueError) as error:
                Subject.load(tmp_path / name)
            expected = f"{error.value}.".replace(str(tmp_path / name), name)
        elif name == "wall.png":
            expected = "no face found in wall.png (256x256 px); expected an upright face of at least 16 px."
        else:
            with pytest.raises(FaceError) as error:
                open_picture(StoredPicture(name, content))
            expected = f"{error.value}."
        upload(page, tmp_path / name, says=expected)
        assert str(tmp_path) not in page.content() and "/tmp" not in page.locator("#remark").inner_text()
    upload(page, photos / "ann.png", tmp_path / "wall.png", says="no face found in wall.png")
    page.locator("#remark").get_by_text("This can be used").wait_for()
    page.get_by_label("Seed", exact=True).fill("-5")
    start(page)
    page.get_by_text("seed is -5, expected 0 to 2**63 - 1.").wait_for()
    page.get_by_label("Seed", exact=True).fill("0")
    for prompt in PROMPTS:
        page.get_by_label(prompt, exact=True).uncheck()
    start(page)
    page.get_by_text("there is no prompt: choose one, or write one.").wait_for()


def encoded(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind)
    return content.getvalue()


def test_no_file_is_left_of_visitors_who_have_left_in_the_middle_of_runs_too(visitor, server, photos, tmp_path):
    ann = Image.open(photos / "ann.png").convert("RGB")
    deep = Image.fromarray(np.asarray(ann.convert("L"), dtype=np.uint16) * 257)
    kinds = {
        "gray.png": encoded(ann.convert("L"), "PNG"),
        "transparent.png": encoded(ann.convert("RGBA"), "PNG"),
        "printed.jpg": encoded(ann.convert("CMYK"), "JPEG"),
        "deep.png": encoded(deep, "PNG"),
        "wall.png": (photos / "wall.png").read_bytes(),
        "text.jpg": b"I look like this.",
    }
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    running, waiting, reading = visitor(), visitor(), visitor()
    for page, name in ((running, "transparent.png"), (waiting, "printed.jpg")):
        upload(page, tmp_path / name)
        page.get_by_label("Steps").first.fill("50")
        page.get_by_label("Pictures of each prompt").first.fill("8")
        for prompt in page.get_by_role("checkbox").all():  # so that the run is not over when the second one begins
            prompt.check()
        start(page)
    running.locator("#pictures").get_by_text("drawing").wait_for()
    waiting.locator("#pictures").get_by_text("waiting for 1 before you").wait_for()
    for name in ("gray.png", "deep.png"):  # read while others' pictures are made
        before = crops(reading)
        upload(reading, tmp_path / name)
        wait_until(lambda: len(crops(reading)) == 1 and crops(reading) != before)  # noqa: B023 - called in this turn
    for name in ("wall.png", "text.jpg"):
        upload(reading, tmp_path / name, says=f"{name}")
    assert not addresses(running) and server.files()
    for page in (running, waiting, reading):
        page.close()
    wait_until(lambda: not server.files())
    time.sleep(1)
    assert not server.files()
    page = visitor()
    upload(page, photos / "ann.png")
    make(page)


def test_a_signal_in_the_middle_of_a_run_ends_it_and_leaves_nothing(visitor, server, photos):
    page = visitor()
    upload(page, photos / "ann.png")
    page.get_by_label("Steps").first.fill("50")
    start(page)
    page.locator("#pictures").get_by_text("drawing").wait_for()
    server.process.terminate()
    assert server.process.wait(600) == 128 + signal.SIGTERM
    assert not list(server.folder.glob("hdb-*"))
