"""The sheet of many pictures."""

import numpy as np
import torch

from hdb.diffusion.sheet import LABEL_HEIGHT, picture_grid


def test_words_stand_in_the_place_of_a_picture_and_above_the_columns():
    gray = torch.full((3, 8, 8), 0.5)
    sheet = picture_grid([[gray, gray], ["before finetuning", ""]], columns=["the photo", "a [V] face"], tile=64)
    assert sheet.size == (128, LABEL_HEIGHT + 128)
    pixels = np.asarray(sheet)
    above, below = pixels[:LABEL_HEIGHT], pixels[LABEL_HEIGHT + 64 :]
    assert above.min() < 100 and (abs(pixels[LABEL_HEIGHT : LABEL_HEIGHT + 64] - 127.5) < 1).all()
    assert below[:, :64].min() < 100 and (below[:, 64:] == 255).all()
