"""Points on their way from the source to the target: a row of panels, and an animation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interpolants.plotting.style import (
    INK,
    PALE,
    array,
    check_bounds,
    even_hues,
    figure,
    frame,
    need,
    replacing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["animate", "colours_by_start", "panel"]

_MILLISECONDS = 40
_SUPERSAMPLING = 4
_HUES = 36
_BAR = 4  # height of the progress bar, in pixels

Array = np.ndarray[Any, Any]


def colours_by_start(x0: Tensor) -> Tensor:
    """Return a colour for each point: the hue is its direction from the middle of all points.

    The hues are equally light, so that none stands out on a white ground.

    Args:
        x0: Points, shape ``(B, 2)``.

    Returns:
        Red, green and blue in [0, 1], shape ``(B, 3)``.

    Raises:
        ValueError: If ``x0`` is not of shape ``(B, 2)``.

    Example:
        >>> import torch
        >>> colours_by_start(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).shape
        torch.Size([2, 3])
    """
    if x0.ndim != 2 or x0.shape[1] != 2:
        raise ValueError(f"x0 must have shape (B, 2), not {tuple(x0.shape)}")
    return even_hues(_directions(x0))


def panel(
    snapshots: Tensor,
    times: Sequence[float],
    *,
    p0: Tensor | None = None,
    p1: Tensor | None = None,
    bounds: tuple[float, float],
) -> Figure:
    """Return a row of scatter plots, one for each time, with the time written below.

    A point keeps the colour that :func:`colours_by_start` gives it in the first snapshot.

    Args:
        snapshots: The points at each time, shape ``(K, B, 2)``.
        times: The K times.
        p0: Picture of the source density, shape ``(H, W)``, in [0, 1], row 0 at the top, its longer side
            spanning [-1, 1]; shown in a panel before the first.
        p1: Picture of the target density, likewise, after the last.
        bounds: Half the width and half the height of what is seen.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape does not fit, or the bounds are not positive.

    Example:
        >>> import torch
        >>> drawing = panel(torch.rand(3, 50, 2), [0.0, 0.5, 1.0], p0=torch.ones(8, 8), bounds=(1.0, 1.0))
        >>> [axes.get_xlabel() for axes in drawing.axes]
        ['$p_0$', 't = 0', 't = 0.5', 't = 1']
    """
    _check_path(snapshots, times, "snapshots")
    check_bounds(bounds)
    pictures = [(label, picture) for label, picture in (("$p_0$", p0), ("$p_1$", p1)) if picture is not None]
    for _, picture in pictures:
        if picture.ndim != 2:
            raise ValueError(f"p0 and p1 must have shape (H, W), not {tuple(picture.shape)}")
    height = 1.9 * bounds[1] / bounds[0] + 0.3
    drawing, (row,) = figure(columns=len(times) + len(pictures), size=(1.9, height))
    for axes in row:
        frame(axes, bounds)
    if p0 is not None:
        _show_density(row.pop(0), p0, "$p_0$")
    if p1 is not None:
        _show_density(row.pop(), p1, "$p_1$")
    colours = array(colours_by_start(snapshots[0]))
    size = float(np.clip(3000 / snapshots.shape[1], 0.6, 12))
    for axes, points, time in zip(row, array(snapshots), times, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=size, c=colours, linewidths=0, rasterized=True)
        axes.set_xlabel(f"t = {float(time):.3g}")
    return drawing


def animate(
    trajectory: Tensor,
    times: Sequence[float] | Tensor,
    path: str | os.PathLike[str],
    *,
    bounds: tuple[float, float],
    frames: int = 72,
    size: int = 360,
    hold: int = 12,
) -> Path:
    """Write a GIF of the moving points, with a bar along the bottom for the time.

    Frames are equally spaced in time, whatever the times of the trajectory; between these the points move
    straight. Colours are those of :func:`colours_by_start`. Points that are out of bounds or not finite are
    left out. The animation pauses at both ends and starts again.

    Args:
        trajectory: The points at each time, shape ``(T, B, 2)``.
        times: The T times, strictly rising or falling.
        path: The GIF to write or replace, in an existing folder.
        bounds: Half the width and half the height of what is seen.
        frames: How many frames, at least 2, each shown for 40 ms.
        size: The longer side of the picture, in pixels, at least 16.
        hold: For how many frames' time the first and the last stay in addition.

    Returns:
        The path.

    Raises:
        ImportError: If pillow is missing.
        FileNotFoundError: If the folder does not exist.
        ValueError: If a shape does not fit, the times do not rise or fall strictly, or a number is too small.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "points.gif"
        >>> trajectory = torch.rand(5, 20, 2)
        >>> animate(trajectory, torch.linspace(0, 1, 5), path, bounds=(1.0, 1.0), frames=4, size=64).name
        'points.gif'
    """
    need("PIL")
    from PIL import Image

    path, clock = Path(path), np.asarray([float(time) for time in times])
    _check_path(trajectory, clock.tolist(), "trajectory")
    check_bounds(bounds)
    _check_numbers(clock, frames, size, hold)

    shape = tuple(max(1, round(size * half / max(bounds))) for half in reversed(bounds))
    hues = even_hues(torch.arange(_HUES) * (2 * torch.pi / _HUES))
    inks = np.concatenate((np.full((1, 3), 255), np.round(255 * array(hues)))).astype(np.uint8)
    ink = 1 + np.round(array(_directions(trajectory[0])) * (_HUES / (2 * np.pi))).astype(np.int64) % _HUES
    radius = size / 360 * float(np.clip(75 / len(ink) ** 0.5, 1.6, 5))
    palette = _palette(inks)
    images = []
    for progress, points in _in_between(array(trajectory), clock, frames):
        picture = _discs(points / bounds, ink, inks, shape, radius)
        images.append(_with_bar(picture, progress).quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [_MILLISECONDS] * frames
    durations[0] = durations[-1] = _MILLISECONDS * (1 + hold)
    options = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    with replacing(path) as temporary:
        images[0].save(temporary, "GIF", optimize=False, **options)
    return path


def _directions(x0: Tensor) -> Tensor:
    """Return the angle of each point, shape (B, 2), about the middle of those that are finite."""
    x0 = x0.detach().double().cpu()
    finite = x0.isfinite().all(dim=1)
    offset = torch.where(finite[:, None], x0 - x0[finite].mean(dim=0), 0.0)
    return torch.atan2(offset[:, 1], offset[:, 0])


def _show_density(axes: Axes, picture: Tensor, label: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    height, width = picture.shape
    x, y = width / max(height, width), height / max(height, width)
    shades = LinearSegmentedColormap.from_list("ink on white", ["white", "#5b6f84"])
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim(), "xlabel": label}  # imshow would reset them
    axes.imshow(array(picture), extent=(-x, x, -y, y), origin="upper", cmap=shades, vmin=0, vmax=1)
    axes.set(**limits)


def _check_path(points: Tensor, times: Sequence[float], name: str) -> None:
    if points.ndim != 3 or points.shape[2] != 2 or points.numel() == 0:
        raise ValueError(f"{name} must have shape (T, B, 2), not {tuple(points.shape)}")
    if len(times) != len(points):
        raise ValueError(f"there must be as many times as {name}, {len(points)}, not {len(times)}")


def _check_numbers(clock: Array, frames: int, size: int, hold: int) -> None:
    for name, value, least in (("frames", frames, 2), ("size", size, 16), ("hold", hold, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    steps = np.diff(clock)
    if not ((steps > 0).all() or (steps < 0).all()) or len(steps) == 0:
        raise ValueError("times must be at least two, and rise strictly or fall strictly")


def _in_between(trajectory: Array, clock: Array, frames: int) -> Iterator[tuple[float, Array]]:
    """Yield the progress of time, in [0, 1] and counted from the smallest, and the points of each frame."""
    passed = (clock - clock[0]) / (clock[-1] - clock[0])
    trajectory = np.where(np.isfinite(trajectory), trajectory, np.nan)  # 0 times infinity would warn
    for progress in np.linspace(0, 1, frames).tolist():
        after = int(np.searchsorted(passed, progress).clip(1, len(clock) - 1))
        part = (progress - passed[after - 1]) / (passed[after] - passed[after - 1])
        points = (1 - part) * trajectory[after - 1] + part * trajectory[after]
        yield (progress if clock[-1] > clock[0] else 1 - progress), points


def _discs(points: Array, ink: Array, inks: Array, shape: tuple[int, ...], radius: float) -> Image.Image:
    """Draw a disc at each point of [-1, 1] x [-1, 1], later points over earlier ones, with smooth edges."""
    from PIL import Image

    scaled = _SUPERSAMPLING * radius
    margin = int(np.ceil(scaled))
    rows, columns = (_SUPERSAMPLING * side for side in shape)
    seen = (np.abs(points) <= 1).all(axis=1)  # false for NaN
    column = ((points[seen, 0] + 1) * (columns / 2)).astype(np.int64) + margin
    row = ((1 - points[seen, 1]) * (rows / 2)).astype(np.int64) + margin
    across = columns + 2 * margin + 1
    dy, dx = np.mgrid[-margin : margin + 1, -margin : margin + 1]
    disc = (dy * across + dx)[dy**2 + dx**2 <= scaled**2]

    canvas = np.zeros((rows + 2 * margin + 1) * across, dtype=np.uint8)
    canvas[((row * across + column)[:, None] + disc).ravel()] = np.repeat(ink[seen], len(disc))
    inner = canvas.reshape(-1, across)[margin : margin + rows, margin : margin + columns]
    return Image.fromarray(inks[inner]).reduce(_SUPERSAMPLING)


def _with_bar(picture: Image.Image, progress: float) -> Image.Image:
    from PIL import ImageDraw

    width, height = picture.size
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, height - _BAR, width, height), fill=PALE)
    if progress > 0:
        pen.rectangle((0, height - _BAR, round(progress * width) - 1, height), fill=INK)
    return picture


def _palette(inks: Array) -> Image.Image:
    """Return a palette for all frames, so that no colour flickers: each ink in four strengths, and grays."""
    from PIL import Image, ImageColor

    strengths = np.linspace(0.25, 1, 4)[:, None, None]
    shades = (255 + strengths * (inks[1:].astype(np.float64) - 255)).round().reshape(-1, 3)
    plain = [ImageColor.getrgb(colour) for colour in ("white", INK, PALE)]
    entries = np.concatenate((np.array(plain), shades)).astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries.tobytes())
    return palette
