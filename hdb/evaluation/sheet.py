"""The sheet that an evaluation ends with: people beside what was drawn of them."""

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdb.diffusion.sheet import picture_grid, to_pil
from hdb.evaluation.pictures import Pictures
from hdb.faces.picture import to_tensor

PROMPTS_ABREAST = 6  # on the sheet of an evaluation
PEOPLE_SHOWN = 12
TILE = 128  # px
OVERVIEW_PEOPLE = 6
OVERVIEW_PROMPTS = 4


def comparison(pictures: Pictures, *, methods: Sequence[str]) -> Image.Image:
    """One row per person: the reference, then for every prompt the first picture of each method, ours first.

    Six prompts stand side by side, further ones below: a page shrinks a wider sheet until no prompt can be read. Of
    more than a dozen people the first are shown.
    """
    people, blocks = range(min(PEOPLE_SHOWN, len(pictures.people.names))), []
    for start in range(0, len(pictures.prompts), PROMPTS_ABREAST):
        some = range(start, min(start + PROMPTS_ABREAST, len(pictures.prompts)))
        rows = [
            [pictures.people.references[person, 0], *(small(pictures, m, person, p) for p in some for m in methods)]
            for person in people
        ]
        columns = ["reference", *(name for p in some for name in (pictures.prompts[p], *methods[1:]))]
        blocks.append(picture_grid(rows, columns=columns, tile=TILE))
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    for number, block in enumerate(blocks):
        sheet.paste(block, (0, sum(above.height for above in blocks[:number])))
    return sheet


def overview(pictures: Pictures, *, method: str) -> Image.Image:
    """Six people, each a column: the reference, then four prompts, at the pictures' own size. README shows it."""
    people = range(min(OVERVIEW_PEOPLE, len(pictures.people.names)))
    prompts = [pictures.prompts.index(prompt) for prompt in overview_prompts(pictures.prompts)]
    references = [pictures.people.references[person, 0] for person in people]
    rows = [references, *([small(pictures, method, person, prompt) for person in people] for prompt in prompts)]
    return picture_grid(rows, tile=min(TILE, references[0].shape[-1]))


def overview_prompts(prompts: Sequence[str]) -> list[str]:
    """Four prompts of an evaluation, spread over the list.

    >>> overview_prompts(["snow", "beach", "forest", "sketch", "oil", "statue"])
    ['snow', 'forest', 'sketch', 'statue']
    """
    last = len(prompts) - 1
    positions = {round(last * place / (OVERVIEW_PROMPTS - 1)) for place in range(OVERVIEW_PROMPTS)}
    return [prompts[position] for position in sorted(positions)]


def small(pictures: Pictures, method: str, person: int, prompt: int) -> Float[Tensor, "3 h w"]:
    """A picture no larger than its place, so that a sheet of many does not hold them in full."""
    picture = pictures.read(method, person, prompt)
    return to_tensor(to_pil(picture, size=TILE)) if picture.shape[-1] > TILE else picture
