"""Digits drawn from fonts, as many as wanted, each a little different."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from typing_extensions import override

from interpolants.data.images import ImageSet, check_index, part_size
from interpolants.data.seeds import mixed

__all__ = ["Glyphs"]

_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)

# A glyph is kept as its signed distance field on a square whose side is _FRAME heights of a digit.
_FRAME = 2.0
_CELLS = 64
_OVERSAMPLING = 4

# What a glyph is changed by: each uniform between minus and plus its bound, the height around its middle.
_TURN = 0.13  # Tangent of half the angle: 15 degrees.
_SHEAR = 0.2
_SHIFT = 0.06  # Sides of the image
_HEIGHT, _HEIGHT_RANGE = 0.62, 0.12  # Sides of the image
# Heights of a digit, added to either side of a stroke; the finest hairlines are 0.05 wide.
_WEIGHT, _WEIGHT_RANGE = 0.014, 0.022

_NUMBERS = 8  # Random numbers for each image


@final
@dataclass(frozen=True)
class Glyphs(ImageSet):
    """Digits drawn from the DejaVu fonts that matplotlib carries, white on black, smooth at their edges.

    Image i is a pure function of the seed and of i: the digit i mod 10 in a random font, turned by up to
    15 degrees, sheared, scaled, shifted and made bolder or finer. They cost nothing to keep: there are as
    many as ``items`` says, by default more than anyone can draw.

    Args:
        seed: Which series of images.
        size: Height and width in pixels, at least 8.
        items: Which images of the series this set has.

    Raises:
        ImportError: If matplotlib or pillow is missing.
        TypeError: If ``items`` is no range.
        ValueError: If ``size`` is below 8, or ``items`` is empty or holds a negative number.

    Example:
        >>> glyphs = Glyphs(seed=1, size=16)
        >>> glyphs.shape, glyphs.unlimited
        ((1, 16, 16), True)
        >>> glyphs.batch(torch.tensor([3, 1_000_000_000_007]))[1]
        tensor([3, 7])
        >>> train, held_out = Glyphs(items=range(60_000)).split(50_000)
        >>> len(held_out.of_class(4))
        1000
    """

    seed: int = 0
    size: int = 32
    items: range = field(default=range(2**60), repr=False)

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"size must be at least 8; got {self.size}")
        if not isinstance(self.items, range):
            raise TypeError(f"items must be a range, such as range(60_000); got {self.items!r}")
        if len(self.items) == 0 or min(self.items[0], self.items[-1]) < 0:
            raise ValueError(f"items must be numbers from 0, at least one; got {self.items}")
        _distance_fields()

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    @property
    @override
    def classes(self) -> int:
        return 10

    @property
    @override
    def labels(self) -> Tensor | None:
        """The digits, int64, shape ``(N,)``; None for an unlimited set, which knows its classes."""
        if self.unlimited:
            return None
        return (self.items.start + self.items.step * torch.arange(len(self))) % 10

    @override
    def __len__(self) -> int:
        return len(self.items)

    @override
    def split(self, part: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Return the first images and those that follow; all are drawn alike, so ``seed`` changes nothing."""
        count = part_size(part, len(self))
        return replace(self, items=self.items[:count]), replace(self, items=self.items[count:])

    @override
    def of_class(self, k: int) -> ImageSet:
        period = 10 // math.gcd(self.items.step, 10)
        for first, number in enumerate(self.items[:period]):
            if number % 10 == k:
                return replace(self, items=self.items[first::period])
        raise ValueError(f"no image has the label {k!r}")

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        check_index(index, len(self))
        number = self.items.start + self.items.step * index.cpu()
        label = number % 10
        return _drawn(label, _uniform(self.seed, number), self.size), label


def _uniform(seed: int, number: Tensor) -> Tensor:
    """Return random numbers in [0, 1) for each image, float32, shape ``(B, 8)``, by the hash splitmix64."""
    places = np.arange(_NUMBERS, dtype=np.uint64) + np.uint64(mixed(seed, "glyphs") >> 1)
    counter: NDArray[np.uint64] = number.numpy().astype(np.uint64)[:, None] * np.uint64(_NUMBERS)
    bits = _splitmix64(counter + places)
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / 2**24)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _drawn(label: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Return the images of these digits; only exact operations, so that an image is the same in any batch."""
    fields = _distance_fields()
    font = (uniform[:, 0] * len(_FONTS)).long()
    turn, shear, right, down, stretch, weight = (2 * uniform[:, 1:7] - 1).unbind(1)
    height = _HEIGHT + _HEIGHT_RANGE * stretch  # Sides of the image
    # Cosine and sine from the tangent of half the angle.
    tangent = _TURN * turn
    cosine = (1 - tangent * tangent) / (1 + tangent * tangent)
    sine = 2 * tangent / (1 + tangent * tangent)

    # From pixels, in sides of the image from its middle, back to the glyph, in heights of a digit.
    pixel = (torch.arange(size) + 0.5) / size - 0.5
    x = (pixel - _column(_SHIFT * right)) / _column(height)
    y = (pixel - _column(_SHIFT * down)) / _column(height)
    turned_x = (x * _column(cosine)).unsqueeze(1) + (y * _column(sine)).unsqueeze(2)
    turned_y = (y * _column(cosine)).unsqueeze(2) - (x * _column(sine)).unsqueeze(1)
    sheared_x = turned_x + turned_y * (_SHEAR * shear).reshape(-1, 1, 1)
    grid = torch.stack((sheared_x, turned_y), dim=-1) * (2 / _FRAME)

    glyph = fields[font * 10 + label].unsqueeze(1)
    distance = grid_sample(glyph, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (_WEIGHT + _WEIGHT_RANGE * weight).reshape(-1, 1, 1) - distance.squeeze(1)
    # How much of the pixel is covered, as if the edge were straight across it.
    covered = (inside * (size * height).reshape(-1, 1, 1) + 0.5).clamp(0, 1)
    return (2 * covered - 1).unsqueeze(1)


def _column(x: Tensor) -> Tensor:
    return x.unsqueeze(1)


@cache
def _distance_fields() -> Tensor:
    """Return the signed distance to every digit of every font, negative inside, in heights of a digit."""
    return torch.stack([_distance_field(*glyph) for glyph in _glyphs()])


def _glyphs() -> Sequence[tuple[Any, str]]:
    try:
        import matplotlib as mpl
        from PIL import ImageFont
    except ImportError as error:
        raise ImportError(
            'Glyphs needs matplotlib, for its fonts, and pillow: pip install "interpolants[plot]"'
        ) from error
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    # Digits of DejaVu are 0.73 of the font's size high.
    size = round(_CELLS * _OVERSAMPLING / _FRAME / 0.73)
    fonts = [ImageFont.truetype(folder / f"{name}.ttf", size) for name in _FONTS]
    return [(font, str(digit)) for font in fonts for digit in range(10)]


def _distance_field(font: Any, digit: str) -> Tensor:
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    side = _CELLS * _OVERSAMPLING
    picture = Image.new("L", (side, side))
    left, top, right, bottom = font.getbbox(digit)
    corner = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(picture).text(corner, digit, fill=255, font=font)
    ink = np.asarray(picture) > 127
    distance = cast("NDArray[np.float64]", distance_transform_edt(~ink) - distance_transform_edt(ink))
    # Distances go from pixel to pixel: half a pixel further than the edge, on either side.
    distance -= 0.5 * np.sign(distance)
    cells = distance.reshape(_CELLS, _OVERSAMPLING, _CELLS, _OVERSAMPLING).mean((1, 3))
    return torch.from_numpy(cells * (_FRAME / side)).to(torch.float32)
