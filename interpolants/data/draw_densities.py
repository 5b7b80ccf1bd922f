"""Draw the two shipped densities: ``python -m interpolants.data.draw_densities [FOLDER]``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["draw_densities", "heart", "star"]

_SIZE = 256
_SUPERSAMPLING = 8
_REACH = 0.8  # the shapes fill [-0.8, 0.8], which leaves a margin to the frame


def heart() -> Image.Image:
    """Return a filled heart, white on black, 256 x 256 pixels of 8 bits.

    Raises:
        ImportError: If pillow is missing.

    Example:
        >>> heart().size
        (256, 256)
    """
    angles = [2 * math.pi * k / 1000 for k in range(1000)]
    return _filled([(16 * math.sin(a) ** 3, _heart_height(a)) for a in angles])


def star() -> Image.Image:
    """Return a filled five-pointed star with fat, rounded points, white on black, 256 x 256 pixels of 8 bits.

    Raises:
        ImportError: If pillow is missing.

    Example:
        >>> star().getpixel((128, 128))
        255
    """
    radii = [1.0, 0.5] * 5
    corners = [(r * math.sin(math.pi * k / 5), r * math.cos(math.pi * k / 5)) for k, r in enumerate(radii)]
    return _filled(corners, rounding=0.06)


def draw_densities(folder: Path) -> list[Path]:
    """Write ``p0.png``, the heart, and ``p1.png``, the star, into a folder.

    Args:
        folder: Where to; made if it does not exist.

    Returns:
        The two files.

    Raises:
        ImportError: If pillow is missing.

    Example:
        >>> import tempfile
        >>> [path.name for path in draw_densities(Path(tempfile.mkdtemp()))]
        ['p0.png', 'p1.png']
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "p0.png", folder / "p1.png"]
    for path, picture in zip(paths, (heart(), star()), strict=True):
        picture.save(path, optimize=True)
    return paths


def _heart_height(angle: float) -> float:
    return 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)


def _filled(corners: Sequence[tuple[float, float]], *, rounding: float = 0.0) -> Image.Image:
    """Fill a polygon (y up) grown by a disc of radius ``rounding``, scaled and centred to fill the reach."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError('drawing a density needs pillow: pip install "interpolants[data]"') from error

    x, y = zip(*corners, strict=True)
    side = _SIZE * _SUPERSAMPLING
    scale = _REACH * side / (max(max(x) - min(x), max(y) - min(y)) + 2 * rounding)
    centre_x, centre_y = (max(x) + min(x)) / 2, (max(y) + min(y)) / 2
    points = [(side / 2 + scale * (a - centre_x), side / 2 - scale * (b - centre_y)) for a, b in corners]

    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    pen.polygon(points, fill=255)
    if rounding > 0:
        radius = scale * rounding
        pen.line([*points, points[0]], fill=255, width=round(2 * radius))
        for a, b in points:
            pen.ellipse((a - radius, b - radius, a + radius, b + radius), fill=255)
    return image.reduce(_SUPERSAMPLING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the shipped densities into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(__file__).parent / "densities"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="default: the package's own")
    for path in draw_densities(parser.parse_args(arguments).folder):
        print(path)


if __name__ == "__main__":
    main()
