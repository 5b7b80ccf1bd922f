"""Vector fields as colours: the hue is the direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interpolants.plotting.style import FONT_SIZE, INK, array, check_bounds, figure, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["field_figure", "polar"]

_GRAY = 0.8  # of a vector of length zero, to be told from the white of no vector at all


def polar(field: Tensor, *, maximum: float | None = None, constant: bool = False) -> Tensor:
    """Return a picture of a vector field: hue for the direction, strength of colour for the length.

    Red points along the first axis; the hue turns through yellow-green (along the second axis), cyan and
    violet. Vectors of the largest length have pure colours, those of length zero are light gray, and NaN or
    infinite ones are white.

    Args:
        field: The vectors, shape ``(H, W, 2)``.
        maximum: The length that gets a pure colour, above 0; longer vectors get it too. None takes the
            largest length in the field.
        constant: Whether all vectors get pure colours, whatever their length.

    Returns:
        Red, green and blue in [0, 1], shape ``(H, W, 3)``, rows in the order of ``field``.

    Raises:
        ValueError: If ``field`` is not of shape ``(H, W, 2)`` or ``maximum`` is not above 0.

    Example:
        >>> import torch
        >>> polar(torch.tensor([[[1.0, 0.0], [0.0, 0.0], [float("nan"), 0.0]]]))
        tensor([[[1.0000, 0.0000, 0.0000],
                 [0.8000, 0.8000, 0.8000],
                 [1.0000, 1.0000, 1.0000]]])
    """
    if field.ndim != 3 or field.shape[2] != 2:
        raise ValueError(f"field must have shape (H, W, 2), not {tuple(field.shape)}")
    if maximum is not None and not maximum > 0:
        raise ValueError(f"maximum must be above 0, not {maximum}")
    finite = field.isfinite().all(dim=2, keepdim=True)
    known = torch.where(finite, field, 0.0)
    strength = torch.ones_like(finite, dtype=known.dtype)
    if not constant:
        length = known.norm(dim=2, keepdim=True)
        largest = _largest(field) if maximum is None else maximum
        strength = (length / largest).clamp(max=1)
    hue = torch.atan2(known[..., 1:], known[..., :1]) * (3 / torch.pi)  # in sixths of a turn
    # Red is full within one sixth of 0, green of 2 and blue of 4; each fades over the next.
    distance = (hue - torch.tensor([0.0, 2.0, 4.0]).to(hue) + 3).remainder(6) - 3
    pure = (2 - distance.abs()).clamp(0, 1)
    return torch.where(finite, _GRAY + strength * (pure - _GRAY), 1.0)


def field_figure(
    learned: Tensor,
    exact: Tensor,
    times: Sequence[float],
    *,
    bounds: tuple[float, float],
    density: Tensor | None = None,
) -> Figure:
    """Return two rows of pictures by :func:`polar`, a learned field above the exact one, and a colour wheel.

    At each time the two share one scale, the largest length in the exact field.

    Args:
        learned: The learned vectors at each time, shape ``(T, H, W, 2)``. **Row 0 is the lowest y**, column 0
            the lowest x, and the grid fills the bounds.
        exact: The exact vectors, likewise.
        times: The T times.
        bounds: Half the width and half the height of the grid.
        density: Non-negative numbers, shape ``(T, H, W)``, in the order of the fields: the colours fade to
            white where they are below a fifth of their largest at that time.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape does not fit or the bounds are not positive.

    Example:
        >>> import torch
        >>> field = torch.randn(2, 8, 8, 2)
        >>> drawing = field_figure(field, field, [0.0, 0.5], bounds=(1.0, 1.0))
        >>> [axes.get_title() for axes in drawing.axes[:2]]
        ['t = 0', 't = 0.5']
    """
    if learned.ndim != 4 or learned.shape[3] != 2 or learned.numel() == 0:
        raise ValueError(f"learned must have shape (T, H, W, 2), not {tuple(learned.shape)}")
    if exact.shape != learned.shape:
        raise ValueError(f"exact must have the shape of learned, not {tuple(exact.shape)}")
    if len(times) != len(learned):
        raise ValueError(f"there must be {len(learned)} times, not {len(times)}")
    if density is not None and density.shape != learned.shape[:3]:
        raise ValueError(f"density must have shape {tuple(learned.shape[:3])}, not {tuple(density.shape)}")
    check_bounds(bounds)
    width, height = 1.9 + 0.9 / len(times), 1.9 * bounds[1] / bounds[0] + 0.15
    drawing, rows = figure(2, len(times), size=(width, height))
    for name, fields, row in zip(("learned", "exact, from samples"), (learned, exact), rows, strict=True):
        row[0].set_ylabel(name)
        for k, axes in enumerate(row):
            colours = polar(fields[k], maximum=_largest(exact[k]))
            _show(axes, colours if density is None else _faded(colours, density[k]), bounds)
    for axes, time in zip(rows[0], times, strict=True):
        axes.set_title(f"t = {float(time):.3g}", fontsize=FONT_SIZE)
    _show_wheel(rows[1][-1].inset_axes((1.1, 0.25, 0.45, 0.45)))
    return drawing


def _largest(field: Tensor) -> float:
    """Return the largest length among the finite vectors, or 1 if there is none but zero."""
    lengths = field.norm(dim=-1)
    return float(torch.where(lengths.isfinite(), lengths, 0.0).max()) or 1.0


def _faded(colours: Tensor, density: Tensor) -> Tensor:
    opacity = (5 * density / density.max().clamp(min=1e-30)).clamp(0, 1)[..., None]
    return 1 + opacity.to(colours) * (colours - 1)


def _show(axes: Axes, colours: Tensor, bounds: tuple[float, float]) -> None:
    extent = (-bounds[0], bounds[0], -bounds[1], bounds[1])
    axes.imshow(array(colours), extent=extent, origin="lower", interpolation="nearest")
    frame(axes, bounds)


def _show_wheel(axes: Axes) -> None:
    """Show which colour stands for which vector: the disc of all vectors up to the largest length."""
    line = torch.linspace(-1, 1, 201)
    y, x = torch.meshgrid(line, line, indexing="ij")
    disc = torch.where(x**2 + y**2 <= 1, 1.0, float("nan"))
    _show(axes, polar(torch.stack((x, y), dim=2) * disc[..., None], maximum=1.0), (1.0, 1.0))
    axes.axis("off")
    axes.text(0, -1.15, "direction\nand length", ha="center", va="top", fontsize=FONT_SIZE - 2, color=INK)
