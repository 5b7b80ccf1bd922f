"""Densities in the plane given by pictures: bright pixels are likely, black ones impossible."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_PIXELS", "Density", "load_density", "shipped_density"]

MAX_PIXELS = 64_000_000
"""The largest picture, in pixels, that :func:`load_density` reads."""

_PROPOSALS_AT_ONCE = 1 << 20
_PLAIN_MODES = ("1", "L", "LA")


@final
@dataclass(frozen=True, eq=False)
class Density:
    """A density in the plane, constant on each pixel of a picture.

    The longer side of the picture spans [-1, 1], pixels are square and the picture is centred at the origin.
    The first axis points right and the second **up**: row 0 of ``values`` is the top of the picture.

    Args:
        values: Brightness of the pixels, shape ``(H, W)``, non-negative and finite, not zero everywhere. Kept
            in float32 and divided by its largest entry.
        name: What the density is called in pictures and messages.

    Raises:
        TypeError: If ``values`` is not a tensor.
        ValueError: If ``values`` is not a matrix, has a negative or non-finite entry, or is zero everywhere.

    Example:
        >>> import torch
        >>> from interpolants.data import Density
        >>> left_half = Density(torch.tensor([[1.0, 0.0]]), name="left half")
        >>> left_half.bounds
        (1.0, 0.5)
        >>> x = left_half.sample(1000, generator=torch.Generator().manual_seed(0))
        >>> x.shape, bool((x[:, 0] < 0).all())
        (torch.Size([1000, 2]), True)
    """

    values: Tensor = field(repr=False)
    name: str = "density"

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor):
            raise TypeError(f"values must be a tensor, not {type(self.values).__name__}")
        if self.values.ndim != 2 or self.values.numel() == 0:
            raise ValueError(f"values must have shape (H, W), not {tuple(self.values.shape)}")
        low, high = (bound.item() for bound in torch.aminmax(self.values.detach()))
        if not (low >= 0 and high < float("inf")):  # written so that NaN fails too
            raise ValueError(f"values must be finite and non-negative; they span [{low}, {high}]")
        if high == 0:
            raise ValueError("values must be positive somewhere; they are zero everywhere")
        object.__setattr__(self, "values", (self.values.detach() / high).to(torch.float32))

    @property
    def bounds(self) -> tuple[float, float]:
        """Half the width and half the height of the picture; the larger is 1.

        Example:
            >>> import torch
            >>> Density(torch.ones(4, 2)).bounds
            (0.5, 1.0)
        """
        height, width = self.values.shape
        return width / max(height, width), height / max(height, width)

    @cached_property
    def _lit(self) -> tuple[Tensor, Tensor]:
        """The pixels that are not black, as flat indices, and their values; large pictures take a while."""
        lit = self.values.flatten().nonzero().squeeze(1)
        return lit, self.values.flatten()[lit]

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return independent points of the density, by rejection.

        Points are proposed uniformly on the pixels that are not black and kept with probability
        :meth:`acceptance`, so that a small shape in a large picture costs no more than a large one.

        Args:
            n: How many points, at least 0.
            generator: Source of randomness; its device is where the numbers are drawn.
            dtype: Type of the points.
            device: Where the points are wanted; None leaves them where ``values`` is.

        Returns:
            Points, shape ``(n, 2)``.

        Raises:
            ValueError: If ``n`` is negative.

        Example:
            >>> import torch
            >>> Density(torch.ones(3, 3)).sample(5).shape
            torch.Size([5, 2])
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, not {n}")
        home = self.values.device if generator is None else generator.device
        lit, chance = (part.to(home) for part in self._lit)
        pixels = _rejected_to(n, lit, chance, generator)
        # Rounding to float32 must not carry a point across the edge of its pixel into a black one.
        inside = torch.rand(n, 2, generator=generator, device=home, dtype=torch.float64)
        inside = 2**-12 + (1 - 2**-11) * inside
        height, width = self.values.shape
        row_column = torch.stack((pixels % width, height - 1 - pixels // width), dim=1)
        corner = torch.tensor(self.bounds, dtype=torch.float64, device=home)
        points = (row_column + inside) * (2 / max(height, width)) - corner
        return points.to(device=self.values.device if device is None else device, dtype=dtype)

    def acceptance(self, x: Tensor) -> Tensor:
        """Return the density at ``x`` divided by its maximum, and 0 outside the picture.

        Args:
            x: Points, shape ``(..., 2)``.

        Returns:
            Numbers in [0, 1], shape ``(...)``, of the type and on the device of ``x``
            (float32 for whole numbers).

        Raises:
            ValueError: If the last axis of ``x`` is not of length 2.

        Example:
            >>> import torch
            >>> corner = Density(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
            >>> corner.acceptance(torch.tensor([[-0.5, 0.5], [-0.5, -0.5], [0.5, 0.5], [-3.0, 0.0]]))
            tensor([1.0000, 0.5000, 0.0000, 0.0000])
        """
        if x.ndim == 0 or x.shape[-1] != 2:
            raise ValueError(f"x must have shape (..., 2), not {tuple(x.shape)}")
        height, width = self.values.shape
        half = torch.tensor(self.bounds, dtype=torch.float64, device=x.device)
        inside = (x.abs() <= half).all(dim=-1)
        position = torch.where(inside[..., None], x.double(), 0.0) * torch.tensor(
            [1.0, -1.0], device=x.device
        )
        column, row = ((position + half) * (max(height, width) / 2)).long().unbind(-1)
        # The right and the bottom edge belong to the last pixels.
        found = self.values.to(x.device)[row.clamp(max=height - 1), column.clamp(max=width - 1)]
        return (found * inside).to(x.dtype if x.is_floating_point() else torch.float32)


def load_density(path: str | os.PathLike[str]) -> Density:
    """Read a density from a picture, usually a grayscale PNG.

    Plain 8-bit and 1-bit grayscale is taken as it is. Anything else is converted, with one warning that says
    how: colour becomes luminance, 16-bit gray keeps its precision, and transparency counts as zero density. A
    black shape on a transparent ground is read from its opacity.

    Args:
        path: The picture, in any format that pillow reads.

    Returns:
        The density, named after the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If pillow is missing.
        ValueError: If the file is not a picture that can be read in full, has more than 64 megapixels or is
            black everywhere.

    Example:
        >>> from interpolants.data import load_density, shipped_density
        >>> load_density(shipped_density("p0"))
        Density(name='p0')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {path}")
    values, remarks = _brightness(_read(path))
    if not values.any():
        raise ValueError(f"{path} is black everywhere: a density needs at least one brighter pixel")
    try:
        density = Density(torch.from_numpy(values), name=path.stem)
    except ValueError as error:  # pictures of floating-point numbers may hold anything
        raise ValueError(f"{path} is not a density: {error}") from error
    if remarks:
        warnings.warn(f"{path} is not plain 8-bit grayscale: {'; '.join(remarks)}", UserWarning, stacklevel=2)
    return density


def shipped_density(name: str) -> Path:
    """Return the path of a picture that comes with the library: ``"p0"``, a heart, or ``"p1"``, a star.

    Args:
        name: ``"p0"`` or ``"p1"``.

    Raises:
        ValueError: If there is no shipped density of that name.

    Example:
        >>> from interpolants.data import shipped_density
        >>> shipped_density("p1").name
        'p1.png'
    """
    if name not in ("p0", "p1"):
        raise ValueError(f'the shipped densities are "p0" and "p1", not {name!r}')
    return Path(str(files("interpolants.data") / "densities" / f"{name}.png"))


def _rejected_to(n: int, lit: Tensor, chance: Tensor, generator: torch.Generator | None) -> Tensor:
    """Propose entries of ``lit`` uniformly, keep each with its ``chance``, until ``n`` are kept."""
    kept: list[Tensor] = []
    missing, mean = n, chance.mean(dtype=torch.float64).item()
    while missing > 0:
        bulk = min(_PROPOSALS_AT_ONCE, int(1.1 * missing / mean) + 16)
        proposal = torch.randint(len(lit), (bulk,), generator=generator, device=lit.device)
        uniform = torch.rand(bulk, generator=generator, device=lit.device)
        kept.append(proposal[uniform < chance[proposal]])
        missing -= len(kept[-1])
    return lit[torch.cat(kept)[:n]] if kept else lit[:0]


def _read(path: Path) -> Image.Image:
    """Open and decode a picture; every way to fail becomes one ValueError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading a picture needs pillow: pip install "interpolants[data]"') from error

    too_large = f"{path} is too large: a density may have at most {MAX_PIXELS:,} pixels"
    try:
        with warnings.catch_warnings():
            # Our own limit, below, is tighter than the one pillow warns about.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            pixels = image.width * image.height
            if pixels <= MAX_PIXELS:
                image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except Exception as error:  # broken files make pillow raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"{path} is not an image that can be read: {error}") from error
    if pixels > MAX_PIXELS:
        raise ValueError(f"{too_large}, not {pixels:,}")
    return image


def _brightness(image: Image.Image) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]:
    """Return the density that a picture stands for, up to a factor, and what had to be done to get it."""
    remarks = []
    if image.mode.startswith("I") or image.mode == "F":
        gray = np.asarray(image).astype(np.float64)
        opacity = np.where(gray == image.info.get("transparency"), 0.0, 1.0)
        if image.mode == "F":
            remarks.append("floating-point values are kept as they are")
        else:
            remarks.append("16-bit values keep their full precision, scaled by 65535")
            gray /= 65535
    else:
        if image.mode not in _PLAIN_MODES:
            remarks.append("colour is replaced by its luminance")
        coloured = image.convert("RGBA" if image.has_transparency_data else "RGB")
        gray = np.asarray(coloured.convert("L")) / 255
        opacity = np.asarray(coloured.getchannel("A")) / 255 if coloured.mode == "RGBA" else np.ones(())
    if opacity.min() == 1:
        return gray, remarks
    if not (gray * opacity).any() and opacity.min() < opacity.max():
        return opacity, [*remarks, "all that is visible is black, so its opacity is taken as the density"]
    return gray * opacity, [
        *remarks,
        "brightness is multiplied by opacity, so transparent means density zero",
    ]
