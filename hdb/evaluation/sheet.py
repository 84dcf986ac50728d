"""Sheets of an evaluation: people beside what was drawn of them."""

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdb.diffusion.sheet import picture_grid, to_pil
from hdb.evaluation.pictures import Pictures
from hdb.faces.picture import to_tensor

PROMPTS_PER_BLOCK = 6
MAX_PEOPLE = 12
TILE = 128  # px
OVERVIEW_PEOPLE = 6
OVERVIEW_PROMPTS = 4


def comparison_sheet(pictures: Pictures, *, methods: Sequence[str]) -> Image.Image:
    """One row per person: the reference, then for every prompt the first picture of each method.

    Six prompts stand side by side, further ones in blocks below: a wider sheet would be shrunk by the page until no
    prompt can be read. Only the first dozen people are shown.

    Args:
        methods: the first one's columns are named by the prompts, the others' by the method.
    """
    people = range(min(MAX_PEOPLE, len(pictures.people.names)))
    blocks = []
    for start in range(0, len(pictures.prompts), PROMPTS_PER_BLOCK):
        prompts = range(start, min(start + PROMPTS_PER_BLOCK, len(pictures.prompts)))
        columns = ["reference"]
        for prompt in prompts:
            columns += [pictures.prompts[prompt], *methods[1:]]
        rows = []
        for person in people:
            tiles = [read_tile(pictures, method, person, prompt) for prompt in prompts for method in methods]
            rows.append([pictures.people.references[person, 0], *tiles])
        blocks.append(picture_grid(rows, columns=columns, tile=TILE))
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def overview_sheet(pictures: Pictures, *, method: str) -> Image.Image:
    """Six people, each a column: the reference, then a picture for each of four prompts, at most 128 px.

    README shows it.

    Args:
        method: whose pictures are shown.
    """
    people = range(min(OVERVIEW_PEOPLE, len(pictures.people.names)))
    rows = [[pictures.people.references[person, 0] for person in people]]
    for text in overview_prompts(pictures.prompts):
        prompt = pictures.prompts.index(text)
        rows.append([read_tile(pictures, method, person, prompt) for person in people])
    return picture_grid(rows, tile=min(TILE, rows[0][0].shape[-1]))


def overview_prompts(prompts: Sequence[str]) -> list[str]:
    """Four prompts of an evaluation, spread over the list.

    >>> overview_prompts(["snow", "beach", "forest", "sketch", "oil", "statue"])
    ['snow', 'forest', 'sketch', 'statue']
    """
    last = len(prompts) - 1
    positions = {round(last * place / (OVERVIEW_PROMPTS - 1)) for place in range(OVERVIEW_PROMPTS)}
    return [prompts[position] for position in sorted(positions)]


def read_tile(pictures: Pictures, method: str, person: int, prompt: int) -> Float[Tensor, "3 h w"]:
    """A picture no larger than its tile, so that the sheet of many does not hold them in full size."""
    picture = pictures.read(method, person, prompt)
    return to_tensor(to_pil(picture, size=TILE)) if picture.shape[-1] > TILE else picture
