"""The page: a photo in, pictures out, and files to take along."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from hdb.demo.portraits import Portraits, Rows
from hdb.demo.visits import Visit, Visits
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.faces.picture import FaceError
from hdb.lidb.export import export_lora
from hdb.lidb.file import Subject

TITLE = "One photo, one person"
HOW = "Drop a photo, choose prompts, make pictures. In a prompt, **[V]** is the person."
READY = "This can be used. Next: make pictures."
KEPT = ["download", "fullscreen"]  # of Gradio's buttons: another one uploads a picture elsewhere
SHOWN = 256  # px of a picture in the small frames, at least


class Page:
    """What happens on a click; every method is Gradio's for one visitor."""

    def __init__(self, portraits: Portraits, visits: Visits) -> None:
        self.portraits, self.visits = portraits, visits

    def look(self, upload: str | None, request: gr.Request) -> tuple[str | None, str | None, str]:
        """The photo with what was found on it, the crop, and the remarks."""
        visit = self.visits.of(request.session_hash)
        visit.photo = visit.example = visit.made = None
        if upload is None:
            return None, None, ""
        visit.uploads.append(Path(upload))
        try:
            looked = self.portraits.look(upload)
        except FaceError as error:
            return None, None, str(error).replace(upload, "the photo")
        visit.photo = looked.photo
        save_image(looked.marked, marked := self.visits.file(visit, "marked.png"))
        remarks = [remark.replace(upload, "the photo") for remark in looked.remarks]
        return str(marked), self._crop(visit), "\n\n".join([*remarks, READY])

    def example(self, request: gr.Request) -> tuple[None, str, str]:
        """Somebody who does not exist, another one each time."""
        visit = self.visits.of(request.session_hash)
        visit.made = None
        visit.example, visit.photo = self.portraits.draw_example()
        return None, self._crop(visit), f"Number {visit.example} of a world that is drawn. {READY}"

    def make(
        self,
        chosen: list[str],
        free: str,
        scale: float,
        num_steps: float,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio knows that it is wanted
    ) -> tuple[str, str, str, str, str]:
        """The sheet, the gate's sentence, and the three files."""
        visit, prompts = self.visits.of(request.session_hash), [*chosen, *([free.strip()] if free.strip() else [])]
        if visit.photo is None:
            raise gr.Error("There is no photo with a face yet: drop one, or take somebody who does not exist.")
        if not prompts:
            raise gr.Error("There is no prompt: choose one, or write one.")
        if visit.made is None:
            visit.made = self.portraits.personalize(
                visit.photo, example=visit.example, told=lambda share: progress(share, desc="learning the person")
            )
        progress(1.0, desc="drawing")
        rows = self.portraits.draw(visit.made, prompts, scale=scale, num_steps=int(num_steps), seed=int(seed))
        words = self.portraits.fit(visit.made, prompts, rows)
        return self._sheet(visit, prompts, rows), words, *self._files(visit)

    def leave(self, request: gr.Request) -> None:
        """Nothing of the visitor stays."""
        self.visits.leave(request.session_hash)

    def _crop(self, visit: Visit) -> str:
        save_image(
            to_pil(visit.photo, size=max(SHOWN, visit.photo.shape[-1])), path := self.visits.file(visit, "crop.png")
        )
        return str(path)

    def _sheet(self, visit: Visit, prompts: Sequence[str], rows: Rows) -> str:
        first, *others = rows
        beside = [visit.photo, *others]
        cells = [
            [start, *("" if of is None else of for of in row)] for start, row in zip(beside, rows.values(), strict=True)
        ]
        grid = picture_grid(cells, columns=[f"the photo; beside it {first}", *prompts], tile=160)
        save_image(grid, path := self.visits.file(visit, "pictures.png"))
        return str(path)

    def _files(self, visit: Visit) -> tuple[str, str, str]:
        subject, lora = (self.visits.file(visit, f"{name}.safetensors") for name in ("person", "lora"))
        visit.made.after.save([subject], about=[{}])
        export_lora(Subject.load(subject), lora)
        return str(subject), str(lora), str(self.visits.file(visit, "pictures.png"))


def build(portraits: Portraits, visits: Visits, *, prompts: Sequence[str]) -> gr.Blocks:
    """The page. What uses the base waits in one queue; a visitor's files go when they do.

    Args:
        prompts: to choose from; the first two are chosen.
    """
    page, sampling = Page(portraits, visits), portraits.sampling
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {TITLE}\n{HOW}")
        with gr.Row():
            with gr.Column():
                upload = gr.Image(type="filepath", sources=["upload"], label="Photo", height=SHOWN)
                example = gr.Button("Somebody who does not exist", visible=portraits.example_face is not None)
                with gr.Row():
                    marked = gr.Image(label="What was found", interactive=False, buttons=KEPT, height=SHOWN)
                    crop = gr.Image(label="What is learned from", interactive=False, buttons=KEPT, height=SHOWN)
                remark = gr.Markdown(elem_id="remark")
            with gr.Column():
                chosen = gr.CheckboxGroup(list(prompts), value=list(prompts[:2]), label="Prompts")
                free = gr.Textbox(label="A prompt of your own", placeholder=prompts[0])
                scale = gr.Slider(0.0, 1.5, value=1.0, step=0.05, label="Strength")
                steps = gr.Slider(2, 50, value=sampling.num_inference_steps, step=1, label="Steps")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                start = gr.Button("Make pictures", variant="primary")
        sheet = gr.Image(label="Pictures", interactive=False, buttons=KEPT, elem_id="pictures")
        fit = gr.Markdown(elem_id="fit")
        gr.Markdown("To download:")
        with gr.Row():
            files = [gr.DownloadButton(name) for name in ("Person", "LoRA for other programs", "Pictures")]
        alone = {"concurrency_limit": 1, "concurrency_id": "base"}
        upload.change(page.look, upload, [marked, crop, remark], **alone)
        example.click(page.example, None, [marked, crop, remark], **alone)
        start.click(page.make, [chosen, free, scale, steps, seed], [sheet, fit, *files], **alone)
        blocks.unload(page.leave)
    return blocks.queue()
