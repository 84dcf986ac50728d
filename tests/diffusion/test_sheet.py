"""Labelled grids of pictures."""

import numpy as np
import torch

from hdb.diffusion.sheet import LABEL_HEIGHT, picture_grid


def test_a_grid_has_labels_above_columns_and_texts_in_place_of_pictures():
    gray = torch.full((3, 8, 8), 0.5)
    grid = picture_grid([[gray, gray], ["before finetuning", ""]], columns=["the photo", "a [V] face"], tile=64)
    assert grid.size == (128, LABEL_HEIGHT + 128)
    pixels = np.asarray(grid)
    labels = pixels[:LABEL_HEIGHT]
    first_row = pixels[LABEL_HEIGHT : LABEL_HEIGHT + 64]
    second_row = pixels[LABEL_HEIGHT + 64 :]
    assert labels.min() < 100
    assert (abs(first_row - 127.5) < 1).all()
    assert second_row[:, :64].min() < 100 and (second_row[:, 64:] == 255).all()
