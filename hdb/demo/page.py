"""The page: photos or a person's file in, pictures and files out."""

import asyncio
import logging
import random
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdb.demo.photos import Photo
from hdb.demo.portraits import MAX_IMAGES, Drawing, DrawingOptions, Portraits, part_of
from hdb.demo.visits import Person, Results, Visit, VisitPhoto, Visits
from hdb.demo.worker import Job, Worker
from hdb.diffusion.sampling import prompt_warnings
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.faces.picture import FaceError, StoredPicture
from hdb.lidb.file import Subject
from hdb.limits import check_limits
from hdb.methods.protocol import Photos
from hdb.prompts import IDENTIFIER, escape_brackets

TITLE = "One photo, one person"
INTRODUCTION = f"Drop a photo, choose prompts, make pictures. In a prompt, **{IDENTIFIER}** is the person."
READY = "This can be used. Next: make pictures."
UPLOAD_LABEL = "Photo, several photos of one person, or a person's file"
PICTURE_SIZE = 512  # px; smaller pictures are enlarged to it
SHEET_TILE = 160  # px
MAX_PHOTOS = 8
NUM_IMAGES = 2  # of each prompt, unless the visitor says otherwise
MAX_SEED = 2**31 - 1  # of the random button
POLL_SECONDS = 0.2

PERSONALIZED_AT = 0.5  # share of a run that is done when the person is made
DRAWN_AT = 0.9

# The key of the visit lasts as long as the browser's tab, and a page that is loaded again finds it there.
VISIT_KEY_JS = """() => {
    let key = sessionStorage.getItem('hdb-visit');
    if (!key) {
        const bytes = Array.from(crypto.getRandomValues(new Uint8Array(16)));
        key = bytes.map(byte => byte.toString(16).padStart(2, '0')).join('');
        sessionStorage.setItem('hdb-visit', key);
    }
    return key;
}"""

CSS = """
.pictures .thumbnail-item { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; }
.pictures .thumbnail-item > img { height: auto; aspect-ratio: 1; }
.pictures .caption-label { position: static; max-width: none; width: 100%; border: 0; border-radius: 0;
    white-space: normal; overflow-wrap: anywhere; font-size: var(--text-sm); }
.pictures .caption { white-space: normal; }
.pictures .grid-wrap { min-height: 0; max-height: none; overflow-y: auto; }
.pictures .grid-container { grid-template-rows: auto; grid-auto-rows: auto; align-items: start; }
.photos .thumbnail-item > img { height: 200px; aspect-ratio: auto; }
@media (max-width: 480px) {
    .pictures .grid-container { grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)) !important; }
}
#seed { align-items: end; }
.dark input[type=range] { --neutral-200: var(--neutral-600); }
input:is([type=checkbox], [type=radio], [type=range]):focus-visible, button:focus-visible {
    outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }
"""


class Page:
    """The components of the page, and what happens on a click.

    A visitor's actions change their visit. What is seen is always made from the whole visit, so that a page that is
    loaded again shows the same.

    Args:
        prompts: to choose from; the first two are chosen.
    """

    def __init__(self, portraits: Portraits, visits: Visits, worker: Worker, *, prompts: Sequence[str]) -> None:
        self.portraits = portraits
        self.visits = visits
        self.worker = worker
        self.prompts = list(prompts)

    def build(self) -> gr.Blocks:
        """Creates the components and connects the actions."""
        with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
            gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
            with gr.Row():
                with gr.Column():
                    self._build_photos()
                with gr.Column():
                    self._build_settings()
            self._build_results()
            self._connect(blocks)
        return blocks.queue(default_concurrency_limit=None)

    def _build_photos(self) -> None:
        self.upload = gr.File(file_count="multiple", label=UPLOAD_LABEL, height=140, elem_id="upload")
        self.example = gr.Button("Somebody who does not exist", visible=self.portraits.example_face is not None)
        self.remarks = gr.Markdown(elem_id="remark", latex_delimiters=[])
        self.face = gr.Radio([], label="Face", visible=False, elem_id="face")
        with gr.Row():
            self.found = _gallery("What was found", elem_id="found", classes=["pictures", "photos"], columns=2)
            self.crops = _gallery("What is learned from", elem_id="crops", classes=["pictures", "photos"], columns=2)

    def _build_settings(self) -> None:
        sampling = self.portraits.sampling
        guidance = sampling.identity_guidance_scale or 0.0
        self.chosen = gr.CheckboxGroup(self.prompts, value=self.prompts[:2], label="Prompts", elem_id="prompts")
        self.own_prompt = gr.Textbox(label="A prompt of your own", placeholder=self.prompts[0])
        self.num_images = gr.Slider(1, MAX_IMAGES, value=NUM_IMAGES, step=1, label="Pictures of each prompt")
        with gr.Row(elem_id="seed"):
            self.seed = gr.Number(self.portraits.seed, label="Seed", precision=0)
            self.random_seed = gr.Button("Random seed")
        self.scale = gr.Slider(0.0, 1.5, value=1.0, step=0.05, label="Strength of the person")
        self.identity_guidance = gr.Slider(
            0.0,
            max(4.0, guidance),
            value=guidance,
            step=0.1,
            label="Identity guidance",
            info="Higher: more like the photo. 0: off.",
        )
        num_steps = sampling.num_inference_steps
        self.num_steps = gr.Slider(2, max(50, num_steps), value=num_steps, step=1, label="Steps")
        self.start = gr.Button("Make pictures", variant="primary")
        self.settings = {
            "prompts": self.chosen,
            "own_prompt": self.own_prompt,
            "num_images": self.num_images,
            "seed": self.seed,
            "scale": self.scale,
            "identity_guidance": self.identity_guidance,
            "num_steps": self.num_steps,
        }

    def _build_results(self) -> None:
        self.pictures = _gallery("Pictures", elem_id="pictures", classes=["pictures"], columns=4)
        self.verdict = gr.Markdown(elem_id="fit", latex_delimiters=[])
        self.comparison = _gallery(
            "For comparison", elem_id="comparison", classes=["pictures"], columns=4, visible=False
        )
        with gr.Row():
            self.person_file = gr.DownloadButton("Person", interactive=False)
            self.lora_file = gr.DownloadButton("LoRA for other programs", interactive=False)
            self.sheet_file = gr.DownloadButton("All pictures on a sheet", interactive=False)
        self.trigger = gr.Textbox(
            label="Trigger in other programs", buttons=["copy"], interactive=False, visible=False, elem_id="trigger"
        )

    def _connect(self, blocks: gr.Blocks) -> None:
        self.key = gr.Textbox(visible=False)
        settings = list(self.settings.values())
        view = [
            *(self.upload, self.found, self.crops, self.remarks, self.face, self.pictures, self.verdict),
            *(self.comparison, self.person_file, self.lora_file, self.sheet_file, self.trigger),
        ]
        entered = _listen(blocks.load, self.enter, self.key, [*view, *settings], js=VISIT_KEY_JS)
        _listen(entered.then, self.follow_run, None, view, queue=True, progress_on=self.pictures)
        blocks.unload(self.leave)
        _listen(
            self.upload.upload,
            self.open_files,
            self.upload,
            [*view, self.scale],
            progress_on=self.found,
            trigger_mode="multiple",
        )
        _listen(self.example.click, self.draw_example, None, view, progress_on=self.found)
        _listen(self.found.select, self.select_photo, None, [self.face])
        _listen(self.face.input, self.choose_face, self.face, view, progress_on=self.found)
        _listen(self.random_seed.click, self.draw_seed, None, [self.seed])
        for changed in (
            *(self.chosen.input, self.own_prompt.blur, self.seed.blur, self.num_images.release),
            *(self.scale.release, self.identity_guidance.release, self.num_steps.release),
        ):
            _listen(changed, self.remember, set(settings), [], trigger_mode="always_last")
        started = _listen(self.start.click, self.start_run, set(settings), view, queue=True)
        _listen(started.success, self.follow_run, None, view, queue=True, progress_on=self.pictures)

    # What visitors do.

    def enter(self, key: str, request: gr.Request) -> dict[Any, Any]:
        """A page was opened or loaded again."""
        visit = self.visits.enter(request.session_hash, str(key or secrets.token_hex(16)))
        settings = {self.settings[name]: gr.update(value=value) for name, value in visit.settings.items()}
        return self._render(visit) | settings

    def leave(self, request: gr.Request) -> None:
        """A page was closed."""
        self.visits.leave(request.session_hash)

    def open_files(self, files: list[dict[str, Any]] | None, request: gr.Request) -> dict[Any, Any]:
        """Photos of one person were dropped, or a person's file. They take the place of what was there."""
        visit = self.visits.get(request.session_hash)
        generation = visit.clear()
        remarks: list[str] = []
        photos: list[VisitPhoto] = []
        person = None
        try:
            uploads = [self._take_upload(file) for file in files or []]
            subjects = [upload for upload in uploads if upload.name.lower().endswith(".safetensors")]
            if subjects and len(uploads) > 1:
                raise ValueError(f"{len(uploads)} files were dropped: expected photos, or one person's file")
            if len(uploads) > MAX_PHOTOS:
                raise ValueError(f"{len(uploads)} photos were dropped: expected at most {MAX_PHOTOS}")
            if subjects:
                person, remark = self._open_subject(visit, subjects[0])
                remarks.append(remark)
            else:
                photos = self._read_photos(visit, uploads, remarks)
        except ValueError as error:
            remarks.append(f"{error}.")
        with visit.lock:
            if visit.generation == generation:  # else other files were dropped meanwhile
                visit.photos = photos
                visit.remarks = remarks
                visit.person = person
                several = [index for index, entry in enumerate(photos) if entry.photo.num_faces > 1]
                visit.selected = several[0] if several else 0
        scale = gr.skip() if person is None else person.subject.scale
        return self._render(visit) | {self.scale: scale}

    def draw_example(self, request: gr.Request) -> dict[Any, Any]:
        """Somebody who does not exist, another one each time."""
        visit = self.visits.get(request.session_hash)
        generation = visit.clear()
        name, crop = self.portraits.draw_example()
        photo = self._save_photo(visit, Photo(f"Number {name}", crop))
        with visit.lock:
            if visit.generation == generation:
                visit.example = name
                visit.photos = [photo]
                visit.remarks = [f"Number {name} of a world that is drawn."]
        return self._render(visit)

    def select_photo(self, selection: gr.SelectData, request: gr.Request) -> dict[Any, Any]:
        """A photo was clicked, in which a face can be chosen now."""
        visit = self.visits.get(request.session_hash)
        with visit.lock:
            if int(selection.index) < len(visit.photos):
                visit.selected = int(selection.index)
        return {self.face: self._render_face(visit)}

    def choose_face(self, face: int, request: gr.Request) -> dict[Any, Any]:
        """Another face of the selected photo was chosen."""
        visit = self.visits.get(request.session_hash)
        with visit.lock:
            generation, selected = visit.generation, visit.selected
            source = visit.photos[selected].photo.source if selected < len(visit.photos) else None
        if source is None:
            return self._render(visit)
        photo = self._save_photo(visit, self.portraits.read_photo(source, face=int(face)))
        with visit.lock:
            if visit.generation == generation:
                visit.clear_person()
                visit.photos[selected] = photo
        return self._render(visit)

    def draw_seed(self, request: gr.Request) -> int:
        """A random seed."""
        seed = random.randint(0, MAX_SEED)
        self.visits.get(request.session_hash).settings["seed"] = seed
        return seed

    def remember(self, values: dict[Any, Any], request: gr.Request) -> None:
        """Settings were changed. They are kept for a page that is loaded again."""
        visit = self.visits.get(request.session_hash)
        visit.settings = {name: values[component] for name, component in self.settings.items()}

    def start_run(self, values: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """The button was pressed. Of a new person the person is made first, then the pictures."""
        self.remember(values, request)
        visit = self.visits.get(request.session_hash)
        if visit.person is None and not visit.usable_photos:
            message = "There is no photo with a face yet: drop one, or take somebody who does not exist."
            raise gr.Error(message, print_exception=False)
        try:
            options = self._drawing_options(visit.settings)
        except ValueError as error:
            raise gr.Error(f"{error}.", print_exception=False) from None
        with visit.lock:
            if visit.job is not None:
                visit.job.cancel()
            visit.job = self.worker.submit(Job(lambda job: self._run(visit, options, job)))
        return self._render(visit)

    async def follow_run(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for it
    ) -> dict[Any, Any]:
        """Shows how far the visit's run is, and its pictures when it has ended."""
        visit = self.visits.get(request.session_hash)
        job = visit.job
        if job is None:
            return {self.pictures: gr.skip()}
        while not job.is_finished and not job.is_cancelled:
            num_before = self.worker.num_before(job)
            progress(job.share, desc=f"waiting for {num_before} before you" if num_before else job.stage)
            await asyncio.sleep(POLL_SECONDS)
        if job.is_cancelled:
            return {self.pictures: gr.skip()}
        if job.error is not None:
            visit.job = None
            if isinstance(job.error, ValueError):
                raise gr.Error(f"{job.error}.", print_exception=False)
            logging.getLogger(__name__).error("a run has failed", exc_info=job.error)
            raise gr.Error(f"The pictures could not be made ({type(job.error).__name__}).", print_exception=False)
        return self._render(visit)

    # What becomes of it.

    def _take_upload(self, file: dict[str, Any]) -> StoredPicture:
        name = file.get("orig_name") or Path(file["path"]).name
        return StoredPicture(name, self.visits.take_upload(file["path"]))

    def _read_photos(self, visit: Visit, uploads: Sequence[StoredPicture], remarks: list[str]) -> list[VisitPhoto]:
        """Reads photos; the sentences about those that cannot be used are added to the remarks."""
        photos = []
        for upload in uploads:
            try:
                photos.append(self._save_photo(visit, self.portraits.read_photo(upload)))
            except FaceError as error:
                remarks.append(f"{error}.")
        return photos

    def _save_photo(self, visit: Visit, photo: Photo) -> VisitPhoto:
        marked_file = crop_file = None
        if photo.marked is not None:
            marked_file = visit.save("photo.png", partial(save_image, photo.marked))
        if photo.crop is not None:
            crop_file = visit.save("face.png", partial(save_image, _enlarged(photo.crop)))
        return VisitPhoto(photo, marked_file, crop_file)

    def _open_subject(self, visit: Visit, upload: StoredPicture) -> tuple[Person, str]:
        """The person of a file, and a sentence about it.

        Raises:
            ValueError: it is no such file, or of another base.
        """
        path = visit.save("person.safetensors", lambda path: path.write_bytes(upload.data))
        try:
            subject = self.portraits.open_subject(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), upload.name)) from None
        finally:
            path.unlink(missing_ok=True)
        verdict = "fit: not known, as there is no photo beside the person's file"
        created = subject.metadata["created"].partition("T")[0]
        return self._save_person(visit, subject, None, verdict), f"{upload.name} is a person made on {created}."

    def _save_person(self, visit: Visit, subject: Subject, prediction: Subject | None, verdict: str) -> Person:
        return Person(
            subject=subject,
            prediction=prediction,
            verdict=verdict,
            subject_file=visit.save("person.safetensors", subject.save),
            lora_file=visit.save("lora.safetensors", subject.export),
        )

    def _drawing_options(self, settings: dict[str, Any]) -> DrawingOptions:
        """What to draw by a visitor's settings; a field that is empty takes its default.

        Raises:
            ValueError: there is no prompt, or a setting is out of range.
        """
        own_prompt = (settings["own_prompt"] or "").strip()
        prompts = [*(settings["prompts"] or []), *([own_prompt] if own_prompt else [])]
        if not prompts:
            raise ValueError("there is no prompt: choose one, or write one")
        numbers = {name: value for name, value in settings.items() if isinstance(value, (int, float))}
        sampling = self.portraits.sampling
        guidance = numbers.get("identity_guidance", sampling.identity_guidance_scale)
        sampling = replace(
            sampling,
            num_inference_steps=int(numbers.get("num_steps", sampling.num_inference_steps)),
            identity_guidance_scale=guidance or None,
        )
        options = DrawingOptions(
            prompts=prompts,
            num_images=int(numbers.get("num_images", NUM_IMAGES)),
            scale=float(numbers.get("scale", 1.0)),
            seed=int(numbers.get("seed", self.portraits.seed)),
            sampling=sampling,
        )
        check_limits(options)
        return options

    def _run(self, visit: Visit, options: DrawingOptions, job: Job) -> None:
        """Makes the person, unless there is one, then the pictures and the verdict."""
        with visit.lock:
            person = visit.person
            photos = visit.usable_photos
            example = None if visit.example is None else Photos([visit.example], photos[0].crop[None])
        subject = None if person is None else person.subject
        prediction = None if person is None else person.prediction
        drawing_starts = 0.0
        if subject is None:
            crops = [photo.crop for photo in photos]
            on_step = part_of(partial(job.report, stage="learning the person"), 0.0, PERSONALIZED_AT)
            subject, prediction = self.portraits.personalize(crops, on_step=on_step)
            drawing_starts = PERSONALIZED_AT
        drawing = self.portraits.draw(
            subject,
            options,
            prediction=prediction,
            example=example,
            on_step=part_of(partial(job.report, stage="drawing"), drawing_starts, DRAWN_AT),
        )
        if person is None:
            on_step = part_of(partial(job.report, stage="comparing with the photo"), DRAWN_AT, 1.0)
            verdict = self.portraits.judge(subject, photos[0].crop, on_step=on_step)
            person = self._save_person(visit, subject, prediction, verdict)
        results = self._save_results(visit, options, drawing, photos[0].crop if photos else None)
        visit.show_results(job, person, results)

    def _save_results(
        self, visit: Visit, options: DrawingOptions, drawing: Drawing, photo: Float[Tensor, "3 r r"] | None
    ) -> Results:
        pictures = [
            (self._save_picture(visit, picture), f"{prompt}, seed {options.seed + number}")
            for prompt, row in zip(drawing.prompts, drawing.pictures, strict=True)
            for number, picture in enumerate(row)
        ]
        comparison = [
            (self._save_picture(visit, picture), f"{name}: {prompt}")
            for name, row in drawing.comparison.items()
            for prompt, picture in zip(drawing.prompts, row, strict=True)
            if picture is not None
        ]
        rows = [["", *column] for column in drawing.pictures.unbind(1)]
        rows[0][0] = "" if photo is None else photo
        rows += [
            [name, *("" if picture is None else picture for picture in row)] for name, row in drawing.comparison.items()
        ]
        sheet = picture_grid(rows, columns=["" if photo is None else "the photo", *drawing.prompts], tile=SHEET_TILE)
        return Results(
            pictures=pictures,
            comparison=comparison,
            sheet=visit.save("pictures.png", partial(save_image, sheet)),
            remarks=prompt_warnings(self.portraits.pipeline.diffusion, drawing.prompts),
        )

    def _save_picture(self, visit: Visit, picture: Float[Tensor, "3 h w"]) -> Path:
        return visit.save("picture.png", partial(save_image, _enlarged(picture)))

    # What is seen.

    def _render(self, visit: Visit) -> dict[Any, Any]:
        """The values of all components but the settings."""
        with visit.lock:
            photos, person, results = visit.photos, visit.person, visit.results
            captioned = len(photos) > 1
            found = [(entry.marked_file, entry.photo.name if captioned else None) for entry in photos]
            crops = [(entry.crop_file, entry.photo.name if captioned else None) for entry in photos]
            remarks = [*visit.remarks, *(remark for entry in photos for remark in entry.photo.remarks)]
            if person is not None or visit.usable_photos:
                remarks.append(READY)
            return {
                self.upload: None,
                self.found: gr.update(
                    value=[item for item in found if item[0] is not None], visible=visit.example is None
                ),
                self.crops: [item for item in crops if item[0] is not None],
                self.remarks: to_markdown(remarks),
                self.face: self._render_face(visit),
                self.pictures: results.pictures if results else [],
                self.verdict: to_markdown([person.verdict, *results.remarks] if results else []),
                self.comparison: gr.update(value=results.comparison if results else [], visible=results is not None),
                self.person_file: _download(person and person.subject_file),
                self.lora_file: _download(person and person.lora_file),
                self.sheet_file: _download(results and results.sheet),
                self.trigger: self._render_trigger(person),
            }

    def _render_face(self, visit: Visit) -> dict[str, Any]:
        if visit.selected >= len(visit.photos) or visit.photos[visit.selected].photo.num_faces < 2:
            return gr.update(choices=[], value=None, visible=False)
        photo = visit.photos[visit.selected].photo
        choices = [(f"{number}", number) for number in range(1, photo.num_faces + 1)]
        return gr.update(choices=choices, value=photo.face, label=f"Face in {photo.name}", visible=True)

    def _render_trigger(self, person: Person | None) -> dict[str, Any]:
        if person is None:
            return gr.update(value="", visible=False)
        trigger = person.subject.metadata["instance_prompt"]
        escaped = escape_brackets(trigger)
        info = "Write it in prompts." if escaped == trigger else f"Write it in prompts; in A1111 {escaped}"
        return gr.update(value=trigger, info=info, visible=True)


def to_markdown(sentences: Sequence[str]) -> str:
    r"""Sentences as paragraphs in which nothing is markup.

    >>> to_markdown(["a_b.jpg", "2 of 3"])
    'a\\_b\\.jpg\n\n2 of 3'
    """
    escapes = {ord(character): f"\\{character}" for character in string.punctuation}
    return "\n\n".join(sentence.translate(escapes) for sentence in sentences)


def _listen(
    trigger: Callable[..., Any],
    action: Callable[..., Any],
    inputs: Any,
    outputs: Sequence[Any],
    *,
    queue: bool = False,
    progress_on: Any = None,
    trigger_mode: str | None = None,
    js: str | None = None,
) -> Any:
    """Connects an action. It gets payloads as they are: Gradio's checks speak of its files and leave copies of them.

    Args:
        trigger: a component's event.
        queue: True for actions that report their progress or an error.
        progress_on: the component that shows that the action is under way; None shows nothing.
    """
    return trigger(
        action,
        inputs,
        list(outputs),
        queue=queue,
        preprocess=False,
        show_progress="hidden" if progress_on is None else "full",
        show_progress_on=progress_on,
        trigger_mode=trigger_mode,
        js=js,
        api_visibility="private",
    )


def _gallery(label: str, *, elem_id: str, classes: Sequence[str], columns: int, visible: bool = True) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        elem_id=elem_id,
        elem_classes=list(classes),
        columns=columns,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"],  # Gradio's other button uploads the picture elsewhere
        interactive=False,
        visible=visible,
    )


def _enlarged(picture: Float[Tensor, "3 h w"]) -> Image.Image:
    return to_pil(picture, size=max(PICTURE_SIZE, picture.shape[-1]))


def _download(path: Path | None) -> dict[str, Any]:
    return gr.update(value=path, interactive=path is not None)
