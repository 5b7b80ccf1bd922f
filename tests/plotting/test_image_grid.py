import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.plotting import image_grid


def drawn(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_every_image_stands_in_its_place_enlarged_by_whole_pixels(tmp_path):
    values = torch.tensor([[-1.0, 1.0], [0.0, 5.0]])
    images = torch.stack([values, -values, torch.full((2, 2), -1.0)]).unsqueeze(1)
    sheet = drawn(image_grid(images, tmp_path / "grid.png", columns=2, side=7, gap=1))
    # Seven pixels hold two of three each; rows and columns of 6 with white lines between.
    assert sheet.shape == (15, 15, 3)
    assert (sheet[..., 0] == sheet[..., 2]).all()
    sheet = sheet[..., 0]
    assert sheet[1:7, 1:7][::3, ::3].tolist() == [[0, 255], [128, 255]]
    assert (sheet[1:7, 1:7] == np.kron([[0, 255], [128, 255]], np.ones((3, 3)))).all()
    assert sheet[1:7, 8:14][::3, ::3].tolist() == [[255, 0], [128, 0]]
    assert (sheet[8:14, 1:7] == 0).all()
    for line in (sheet[0], sheet[7], sheet[14], sheet[:, 0], sheet[:, 7], sheet[:, 14], sheet[8:14, 8:14]):
        assert (line == 255).all()


def test_colours_are_kept_and_large_images_keep_their_size(tmp_path):
    images = torch.full((1, 3, 10, 20), -1.0)
    images[:, 1] = 1
    sheet = drawn(image_grid(images, tmp_path / "grid.png", side=8, gap=0))
    assert sheet.shape == (10, 20, 3)
    assert (sheet == [0, 255, 0]).all()


def test_what_is_no_grid_is_refused(tmp_path):
    for shape in ((0, 1, 2, 2), (1, 2, 2, 2), (1, 2, 2)):
        with pytest.raises(ValueError, match="images must have shape"):
            image_grid(torch.zeros(shape), tmp_path / "grid.png")
    with pytest.raises(ValueError, match="columns must be at least 1"):
        image_grid(torch.zeros(1, 1, 2, 2), tmp_path / "grid.png", columns=0)
    with pytest.raises(FileNotFoundError):
        image_grid(torch.zeros(1, 1, 2, 2), tmp_path / "nowhere" / "grid.png")
    assert list(tmp_path.iterdir()) == []
