"""The page: a photo in, pictures out, and files to take along."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from hdb.demo.portraits import Portraits, Rows
from hdb.demo.visits import Visit, Visits
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.faces.picture import FaceError
from hdb.lidb.export import export_lora

TITLE = "One photo, one person"
INTRODUCTION = "Drop a photo, choose prompts, make pictures. In a prompt, **[V]** is the person."
READY = "This can be used. Next: make pictures."
IMAGE_BUTTONS = ["download", "fullscreen"]  # Gradio's other button uploads the picture elsewhere
FRAME_SIZE = 256  # px of a picture in the small frames, at least


class Page:
    """What happens on a click. Every method is called by Gradio for one visitor."""

    def __init__(self, portraits: Portraits, visits: Visits) -> None:
        self.portraits = portraits
        self.visits = visits

    def find_face(self, upload: str | None, request: gr.Request) -> tuple[str | None, str | None, str]:
        """The photo with the face marked, the crop, and the remarks."""
        visit = self.visits.get(request.session_hash)
        visit.photo = visit.example = visit.portrait = None
        if upload is None:
            return None, None, ""
        visit.uploads.append(Path(upload))
        try:
            found = self.portraits.find_face(upload)
        except FaceError as error:
            return None, None, str(error).replace(upload, "the photo")
        visit.photo = found.crop
        marked = self.visits.file(visit, "marked.png")
        save_image(found.marked, marked)
        remarks = [remark.replace(upload, "the photo") for remark in found.remarks]
        return str(marked), self._save_crop(visit), "\n\n".join([*remarks, READY])

    def draw_example(self, request: gr.Request) -> tuple[None, str, str]:
        """Somebody who does not exist, another one each time."""
        visit = self.visits.get(request.session_hash)
        visit.portrait = None
        visit.example, visit.photo = self.portraits.draw_example()
        return None, self._save_crop(visit), f"Number {visit.example} of a world that is drawn. {READY}"

    def make_pictures(
        self,
        chosen_prompts: list[str],
        own_prompt: str,
        scale: float,
        num_steps: float,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio knows that it is wanted
    ) -> tuple[str, str, str, str, str]:
        """The sheet, the gate's sentence, and the three files."""
        visit = self.visits.get(request.session_hash)
        prompts = [*chosen_prompts, own_prompt.strip()] if own_prompt.strip() else chosen_prompts
        if visit.photo is None:
            raise gr.Error("There is no photo with a face yet: drop one, or take somebody who does not exist.")
        if not prompts:
            raise gr.Error("There is no prompt: choose one, or write one.")
        if visit.portrait is None:
            visit.portrait = self.portraits.personalize(
                visit.photo,
                example=visit.example,
                on_progress=lambda share: progress(share, desc="learning the person"),
            )
        progress(1.0, desc="drawing")
        rows = self.portraits.draw(visit.portrait, prompts, scale=scale, num_steps=int(num_steps), seed=int(seed))
        verdict = self.portraits.judge(visit.portrait, prompts, rows)
        return self._save_sheet(visit, prompts, rows), verdict, *self._save_downloads(visit)

    def leave(self, request: gr.Request) -> None:
        """Removes everything of the visitor."""
        self.visits.leave(request.session_hash)

    def _save_crop(self, visit: Visit) -> str:
        path = self.visits.file(visit, "crop.png")
        save_image(to_pil(visit.photo, size=max(FRAME_SIZE, visit.photo.shape[-1])), path)
        return str(path)

    def _save_sheet(self, visit: Visit, prompts: Sequence[str], rows: Rows) -> str:
        first, *others = rows
        row_starts = [visit.photo, *others]
        cells = [
            [start, *("" if picture is None else picture for picture in pictures)]
            for start, pictures in zip(row_starts, rows.values(), strict=True)
        ]
        path = self.visits.file(visit, "pictures.png")
        save_image(picture_grid(cells, columns=[f"the photo; beside it {first}", *prompts], tile=160), path)
        return str(path)

    def _save_downloads(self, visit: Visit) -> tuple[str, str, str]:
        person = self.visits.file(visit, "person.safetensors")
        lora = self.visits.file(visit, "lora.safetensors")
        visit.portrait.subject.save(person)
        export_lora(visit.portrait.subject, lora)
        return str(person), str(lora), str(self.visits.file(visit, "pictures.png"))


def build_page(portraits: Portraits, visits: Visits, *, prompts: Sequence[str]) -> gr.Blocks:
    """The page. What uses the pipeline waits in one queue, and a visitor's files go when the visitor does.

    Args:
        prompts: to choose from; the first two are chosen.
    """
    page = Page(portraits, visits)
    num_steps = portraits.pipeline.settings.sampling.num_inference_steps
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column():
                upload = gr.Image(type="filepath", sources=["upload"], label="Photo", height=FRAME_SIZE)
                example = gr.Button("Somebody who does not exist", visible=portraits.example_face is not None)
                with gr.Row():
                    marked = gr.Image(
                        label="What was found", interactive=False, buttons=IMAGE_BUTTONS, height=FRAME_SIZE
                    )
                    crop = gr.Image(
                        label="What is learned from", interactive=False, buttons=IMAGE_BUTTONS, height=FRAME_SIZE
                    )
                remark = gr.Markdown(elem_id="remark")
            with gr.Column():
                chosen = gr.CheckboxGroup(list(prompts), value=list(prompts[:2]), label="Prompts")
                own_prompt = gr.Textbox(label="A prompt of your own", placeholder=prompts[0])
                scale = gr.Slider(0.0, 1.5, value=1.0, step=0.05, label="Strength")
                steps = gr.Slider(2, 50, value=num_steps, step=1, label="Steps")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                start = gr.Button("Make pictures", variant="primary")
        sheet = gr.Image(label="Pictures", interactive=False, buttons=IMAGE_BUTTONS, elem_id="pictures")
        verdict = gr.Markdown(elem_id="fit")
        gr.Markdown("To download:")
        with gr.Row():
            downloads = [gr.DownloadButton(name) for name in ("Person", "LoRA for other programs", "Pictures")]
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "base"}
        upload.change(page.find_face, upload, [marked, crop, remark], **one_at_a_time)
        example.click(page.draw_example, None, [marked, crop, remark], **one_at_a_time)
        start.click(
            page.make_pictures,
            [chosen, own_prompt, scale, steps, seed],
            [sheet, verdict, *downloads],
            **one_at_a_time,
        )
        blocks.unload(page.leave)
    return blocks.queue()
