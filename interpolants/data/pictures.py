"""From a picture, whatever its kind, to the pixels of a square image. Only for the sets of this folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_form", "read_picture", "square"]


def check_form(size: int, channels: int) -> None:
    """Raise ValueError unless images can have this size and this number of channels."""
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1, for gray, or 3, for colour; got {channels}")


def read_picture(path: Path, size: int, channels: int) -> Tensor:
    """Return the picture in a file, uint8, shape ``(channels, size, size)``.

    Raises:
        Exception: If it is broken; pillow raises OSError, SyntaxError, struct.error and more.
    """
    from PIL import Image

    with warnings.catch_warnings():
        # What pillow only warns about is still read, but for pictures beyond its limit of pixels.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            # A JPEG is decoded at a fraction of its size, twice as large as wanted or more.
            image.draft(None, (2 * size, 2 * size))
            return square(image, size, channels)


def square(image: Image.Image, size: int, channels: int) -> Tensor:
    """Return the middle square of a picture, resized by Lanczos' filter, uint8, ``(channels, size, size)``.

    The first picture of a moving one, turned as its camera says, 16 bits rounded to 8, and what is
    transparent over white.

    Raises:
        ValueError: If its values are floating-point numbers, which have no agreed range.
    """
    from PIL import Image, ImageOps

    flat = _flat(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    side = min(flat.size)
    left, top = (flat.width - side) // 2, (flat.height - side) // 2
    middle = flat.crop((left, top, left + side, top + side))
    pixels = np.array(middle.resize((size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.reshape(size, size, channels)).permute(2, 0, 1)


def _flat(image: Image.Image) -> Any:
    """Return a picture of 8 bits without transparency."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured)


def _eight_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.rint(values.clip(0, 65535) / 257).astype(np.uint8)
