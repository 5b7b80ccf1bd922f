"""Many images in one picture."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from interpolants.plotting.style import need, replacing

__all__ = ["image_grid"]


def image_grid(
    images: Tensor, path: str | os.PathLike[str], *, columns: int = 8, side: int = 64, gap: int = 4
) -> Path:
    """Write images side by side, row after row, on white; small ones are enlarged by whole pixels.

    Args:
        images: Values in [-1, 1], others are cut off there; shape ``(N, C, H, W)`` with C = 1 or 3.
        path: Where to, in an existing folder, ending in ``.png``.
        columns: Images in a row, at least 1.
        side: Each pixel becomes a square of as many as keep an image within this width and height, at
            least one.
        gap: White pixels around every image.

    Returns:
        The path.

    Raises:
        ImportError: If pillow is missing.
        ValueError: If there are no images, they have other channels, or a number is out of range.
        FileNotFoundError: If the folder does not exist.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = image_grid(torch.zeros(3, 1, 8, 8), Path(tempfile.mkdtemp()) / "grid.png", columns=2)
        >>> with Image.open(path) as grid:  # 2 x 64 pixels and 3 gaps of 4
        ...     grid.size
        (140, 140)
    """
    if images.ndim != 4 or images.numel() == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have shape (N, 1 or 3, H, W), none of them 0; got {tuple(images.shape)}"
        )
    if columns < 1 or gap < 0:
        raise ValueError(f"columns must be at least 1 and gap not negative; got {columns} and {gap}")
    need("PIL")
    from PIL import Image

    levels = (
        images.detach().float().cpu().nan_to_num(1.0).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    )
    scale = max(1, side // max(levels.shape[2:]))
    large = levels.expand(-1, 3, -1, -1).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    with replacing(Path(path)) as temporary:
        Image.fromarray(_tiled(large, min(columns, len(large)), gap).permute(1, 2, 0).numpy()).save(
            temporary, format="PNG"
        )
    return Path(path)


def _tiled(images: Tensor, columns: int, gap: int) -> Tensor:
    _, channels, height, width = images.shape
    rows = -(-len(images) // columns)
    sheet = images.new_full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255)
    for k, image in enumerate(images):
        top, left = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
