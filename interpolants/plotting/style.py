"""One look for all pictures: colours, sizes, and how a figure is made and saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CYCLE",
    "FONT_SIZE",
    "INK",
    "PALE",
    "array",
    "check_bounds",
    "even_hues",
    "figure",
    "frame",
    "need",
    "replacing",
    "save",
]

INK = "#24303c"
"""Text and lines that carry the message."""

PALE = "#d3dae1"
"""Frames, grids and what stays in the background."""

CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c8c8c")
"""Colours that stay apart for colour-blind eyes, mostly those of Okabe and Ito."""

FONT_SIZE = 9
"""Of labels, in points; the numbers at the ticks are one smaller."""

_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}


def need(package: str) -> None:
    """Raise ImportError, naming the extra to install, unless a drawing package is there.

    Args:
        package: The name it is imported by.

    Raises:
        ImportError: If it cannot be imported.

    Example:
        >>> need("matplotlib")
    """
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(f'drawing needs {package}: pip install "interpolants[plot]"') from error


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (1.9, 1.9),
    layout: Literal["compressed", "constrained"] = "compressed",
) -> tuple[Figure, list[list[Axes]]]:
    """Return an empty figure on a canvas of its own, which no global state knows of, and its panels.

    Args:
        rows: Rows of panels, at least 1.
        columns: Columns of panels, at least 1.
        size: Width and height of a panel, in inches.
        layout: How matplotlib arranges the panels: ``"compressed"`` suits panels of a fixed shape,
            ``"constrained"`` all others.

    Returns:
        The figure and its panels, row by row.

    Raises:
        ImportError: If matplotlib is missing.

    Example:
        >>> drawing, ((left, right),) = figure(columns=2)
        >>> _ = left.plot([0, 1], [1, 0])
        >>> len(drawing.axes)
        2
    """
    need("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(columns * size[0], rows * size[1]), dpi=160, facecolor="white", layout=layout)
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(rows, columns, squeeze=False).tolist()
    for axes in drawing.axes:
        axes.tick_params(which="both", labelsize=FONT_SIZE - 1, color=PALE, labelcolor=INK)
        axes.spines[:].set_color(PALE)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set(fontsize=FONT_SIZE, color=INK)
    return drawing, panels


def frame(axes: Axes, bounds: tuple[float, float]) -> None:
    """Make a panel show ``|x| <= bounds[0]``, ``|y| <= bounds[1]`` in true proportions, without ticks.

    Args:
        axes: The panel.
        bounds: Half the width and half the height of what is seen.

    Example:
        >>> _, ((axes,),) = figure()
        >>> frame(axes, (1.0, 0.5))
        >>> [float(y) for y in axes.get_ylim()]
        [-0.5, 0.5]
    """
    axes.set(xlim=(-bounds[0], bounds[0]), ylim=(-bounds[1], bounds[1]), aspect="equal", xticks=[], yticks=[])


def save(drawing: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in one go, so that nobody ever sees half a file, and without the date.

    The same figure gives the same bytes as ``.png`` and ``.pdf``. In an ``.svg`` matplotlib chooses names at
    random.

    Args:
        drawing: The figure.
        path: Where to, in an existing folder, ending in ``.png``, ``.pdf`` or ``.svg``.

    Returns:
        The path.

    Raises:
        ValueError: If the ending is another one.
        FileNotFoundError: If the folder does not exist.

    Example:
        >>> import tempfile
        >>> drawing, _ = figure()
        >>> save(drawing, Path(tempfile.mkdtemp()) / "empty.png").name
        'empty.png'
    """
    path = Path(path)
    if path.suffix not in _METADATA:
        raise ValueError(f"a figure is saved as {', '.join(_METADATA)}, not as {path.suffix!r} ({path})")
    with replacing(path) as temporary:
        drawing.savefig(temporary, metadata=_METADATA[path.suffix])
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``, and move it there when all went well.

    Args:
        path: The file to write or replace.

    Yields:
        The path to write to; it has the same ending.

    Raises:
        FileNotFoundError: If the folder does not exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("done")
        >>> path.read_text(), temporary.exists()
        ('done', False)
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def array(values: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a tensor of any type and device as a NumPy array of doubles.

    Args:
        values: Any tensor.

    Example:
        >>> import torch
        >>> array(torch.ones(2, dtype=torch.bfloat16))
        array([1., 1.])
    """
    return values.detach().double().cpu().numpy()


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raise unless the bounds are two positive, finite numbers.

    Args:
        bounds: Half the width and half the height of what is seen.

    Raises:
        ValueError: If they are not.

    Example:
        >>> check_bounds((1.0, 0.5))
    """
    if len(bounds) != 2 or not all(0 < half < float("inf") for half in bounds):
        raise ValueError(f"bounds must be half the width and half the height, both positive, not {bounds}")


def even_hues(angle: Tensor) -> Tensor:
    """Return colours that differ in hue only, equally light on a white ground.

    Args:
        angle: The hues, in radians, shape ``(...)``.

    Returns:
        Red, green and blue in [0, 1], shape ``(..., 3)``, in double precision.

    Source:
        The colour space OKLab: Ottosson, A perceptual color space for image processing (2020).

    Example:
        >>> import torch
        >>> even_hues(torch.zeros(5)).shape
        torch.Size([5, 3])
    """
    angle = angle.double()
    lightness, a, b = 0.65 * torch.ones_like(angle), 0.17 * angle.cos(), 0.17 * angle.sin()
    lms = torch.stack(
        (
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ),
        dim=-1,
    )
    to_linear = torch.tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ],
        dtype=torch.float64,
    )
    linear = (lms**3 @ to_linear.T).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clamp(0, 1)
