"""The sheet that an evaluation ends with."""

import numpy as np
import torch

from hdb.diffusion.sheet import save_image, to_pil
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.sheet import comparison_sheet


def test_prompts_of_an_evaluation_stand_six_abreast_and_the_others_below(tmp_path):
    levels = 10 * torch.arange(1, 17).reshape(2, 8)  # of person and prompt
    people = UnseenPeople(["7", "8"], torch.ones(2, 1, 3, 8, 8), torch.ones(0, 3, 8, 8))
    prompts = [f"a [V] face number {number}" for number in range(8)]
    pictures = Pictures(people, prompts, tmp_path, num_pictures=1)
    for method, sign in (("hyperdreambooth", 1), ("oracle", 0)):
        for person in range(2):
            for prompt in range(8):
                shade = levels[person, prompt] / 255 * sign
                save_image(to_pil(shade.expand(3, 8, 8)), tmp_path / pictures.path(method, person, prompt, 0))
    sheet = comparison_sheet(pictures, methods=["hyperdreambooth", "oracle"])
    assert sheet.width == 128 * (1 + 2 * 6)
    gray, block = np.array(sheet)[..., 0], sheet.height // 2
    for prompt in range(8):
        down, across = divmod(prompt, 6)
        for person in range(2):
            bottom = block * (down + 1) - 128 * (1 - person)
            ours, oracle = (gray[bottom - 64, 128 * (1 + 2 * across + which) + 64] for which in range(2))
            assert ours == levels[person, prompt] and oracle == 0
