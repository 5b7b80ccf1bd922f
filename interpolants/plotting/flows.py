"""Densities and the points that fill them: flow lines over time, clouds, and log densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interpolants.plotting.style import CYCLE, FONT_SIZE, INK, PALE, array, check_bounds, figure, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["cloud_figure", "density_figure", "flow_figure"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Paths = tuple[Tensor, Tensor]

# White for nothing, then darker by even steps of lightness.
_SHADES = ("#ffffff", "#b6cbde", "#7398bc", "#37668f", "#16344f")
_FAINT = 0.45  # how much of a shade is left under the lines
_QUANTILE = 0.9  # of the largest values at each time, where the scale of the heat maps ends
_STARTS = (0.0, 0.82)  # the part of plasma that is dark enough for thin lines on white
_LINE = FONT_SIZE + 3.5  # from one line of text under a panel to the next, in points
_ROUNDING = 1e-4  # by which a time that was summed up in single precision may leave [0, 1]


def flow_figure(
    density: Sequence[Tensor],
    times: Tensor,
    positions: Tensor,
    paths: Sequence[Sequence[Paths]],
    *,
    labels: Sequence[str],
    rows: Sequence[str] | None = None,
) -> Figure:
    """Return densities on a line over time, and beside each the paths of points under several dynamics.

    A row shows one density as a heat map, then one panel for each of the dynamics, with thin lines coloured
    by where they start, over the same heat map, faint. All panels share both axes, and all heat maps one
    linear scale from 0. It ends at the height that the peak of the density keeps to at nine tenths of the
    times, in the row where that is highest: a peak at the other times is cut off, and gets the darkest
    colour. Values that are NaN leave the ground hatched; infinite ones get the darkest colour.

    Args:
        density: For each row the density at each time and position, shape ``(T, N)``, not negative.
        times: The T times, at least 2, rising strictly in [0, 1].
        positions: The N positions, at least 2, rising strictly; the first and the last bound what is seen.
        paths: For each row and each of the dynamics the times, shape ``(S + 1,)``, rising or falling
            strictly in [0, 1], and the positions then, shape ``(S + 1, K)``. Those that are not finite leave
            a gap.
        labels: The name of each of the dynamics.
        rows: The name of each row; None writes none.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape or a number of names does not fit, times or positions are out of order or
            range, or a density is negative.

    Example:
        >>> import torch
        >>> t, x = torch.linspace(0, 1, 20), torch.linspace(-3, 3, 30)
        >>> density = torch.exp(-(x**2) / 2).expand(20, 30)
        >>> still = (torch.tensor([0.0, 1.0]), torch.randn(5).expand(2, 5))
        >>> drawing = flow_figure([density], t, x, [[still, still]], labels=["ODE", "also"])
        >>> [axes.get_title() for axes in drawing.axes[:3]]
        ['density', 'ODE', 'also']
    """
    clock, places = _grid(times, positions)
    heights = [_heights(values, (len(clock), len(places))) for values in density]
    _check_rows(len(heights), paths, labels, rows)
    flows = [[_flow(*path) for path in dynamics] for dynamics in paths]

    drawing, panels = figure(len(heights), 1 + len(labels), size=(2.15, 1.85), layout="constrained")
    top = _top(heights)
    starts = np.concatenate([x[0] for dynamics in flows for _, x in dynamics])
    known = starts[np.isfinite(starts)]
    span = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    for row, values, dynamics in zip(panels, heights, flows, strict=True):
        for axes, strength in zip(row, [1.0] + [_FAINT] * len(dynamics), strict=True):
            _heat(axes, clock, places, values, _shades(_SHADES, strength), top)
        for axes, (t, x) in zip(row[1:], dynamics, strict=True):
            _lines(axes, t, x, span)
    _name_axes(panels, ["density", *labels], rows)
    bar = drawing.colorbar(
        panels[0][0].images[0],
        ax=[row[0] for row in panels],
        extend="max" if any((values > top).any() for values in heights) else "neither",
        aspect=15 * len(panels),
    )
    _style_bar(bar, "")
    _settle(drawing)
    return drawing


def cloud_figure(
    clouds: Sequence[Tensor],
    labels: Sequence[str],
    *,
    bounds: tuple[float, float],
    density: Tensor | None = None,
    columns: int | None = None,
) -> Figure:
    """Return clouds of points side by side, each in a panel of the same size.

    Under its label a panel says how many of its points are out of bounds, and how many are not finite, if
    there are any.

    Args:
        clouds: The points of each panel, shape ``(N, 2)``.
        labels: What is written under each panel.
        bounds: Half the width and half the height of what is seen.
        density: A density to show under every cloud in pale gray, shape ``(H, W)``, not negative. **Row 0 is
            the lowest y**, column 0 the lowest x, and the grid fills the bounds. NaN stays white.
        columns: How many panels there are in a row, at least 1; None puts all in one.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape or the number of labels does not fit, the bounds are not positive, the density
            is negative, or ``columns`` is below 1.

    Example:
        >>> import torch
        >>> clouds = [torch.tensor([[0.0, 0.5], [2.0, 0.0]]), torch.zeros(7, 2)]
        >>> drawing = cloud_figure(clouds, ["target", "ODE"], bounds=(1.0, 1.0))
        >>> [axes.get_xlabel() for axes in drawing.axes]
        ['target', 'ODE']
        >>> [text.get_text() for text in drawing.axes[0].texts]
        ['1 outside']
    """
    check_bounds(bounds)
    _check_labels(labels, len(clouds), "cloud")
    for cloud in clouds:
        if cloud.ndim != 2 or cloud.shape[1] != 2 or len(cloud) == 0:
            raise ValueError(f"clouds must have shape (N, 2), not {tuple(cloud.shape)}")
    ground = None if density is None else _picture(density, "density")
    if ground is not None:
        _check_not_negative(ground)
    across = len(clouds) if columns is None else min(columns, len(clouds))
    if across < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    points = [array(cloud) for cloud in clouds]
    inside = [(np.abs(each) <= bounds).all(axis=1) for each in points]  # false for NaN
    missing = [_missing(*each) for each in zip(points, inside, strict=True)]

    drawing, panels = figure(-(-len(clouds) // across), across, size=_panel_size(bounds, missing))
    places = [axes for row in panels for axes in row]
    for axes in places[len(clouds) :]:
        axes.remove()
    for axes, each, seen, label, note in zip(places, points, inside, labels, missing, strict=False):
        if ground is not None:
            _show(axes, ground, bounds, _shades(("#ffffff", PALE)), (0.0, _largest(ground)))
        size = float(np.clip(9000 / len(each), 0.9, 6))
        axes.scatter(
            each[seen, 0], each[seen, 1], s=size, color=CYCLE[0], alpha=0.5, linewidths=0, rasterized=True
        )
        frame(axes, bounds)
        _name_below(axes, label, note)
    _settle(drawing)
    return drawing


def density_figure(
    log_densities: Sequence[Tensor],
    labels: Sequence[str],
    *,
    bounds: tuple[float, float],
    lowest: float = -8.0,
) -> Figure:
    """Return pictures of log densities side by side, with one scale of colours for all.

    The scale goes from ``lowest`` to the largest finite value in any picture. Pixels that are NaN leave the
    ground hatched, and their number is written under the label.

    Args:
        log_densities: Logarithms of densities, in nats, each of shape ``(H, W)``. **Row 0 is the lowest y**,
            column 0 the lowest x, and the grid fills the bounds.
        labels: What is written under each picture.
        bounds: Half the width and half the height of the grids.
        lowest: The value of the lowest colour, which those below get too.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape or the number of labels does not fit, the bounds are not positive, or
            ``lowest`` is not finite.

    Example:
        >>> import torch
        >>> drawing = density_figure([torch.zeros(8, 8)] * 2, ["exact", "learned"], bounds=(1.0, 1.0))
        >>> [axes.get_xlabel() for axes in drawing.axes]
        ['exact', 'learned']
    """
    check_bounds(bounds)
    _check_labels(labels, len(log_densities), "log density")
    if not np.isfinite(lowest):
        raise ValueError(f"lowest must be finite, not {lowest}")
    pictures = [_picture(values, "log densities") for values in log_densities]
    highest = max(_largest(values, lowest) for values in pictures)
    scale = (lowest, highest if highest > lowest else lowest + 1)
    unknown = [_counted({"NaN (hatched)": int(np.isnan(values).sum())}) for values in pictures]

    width, height = _panel_size(bounds, unknown)
    drawing, (row,) = figure(columns=len(pictures), size=(width + 0.8 / len(pictures), height))
    for axes, values, label, note in zip(row, pictures, labels, unknown, strict=True):
        _show(axes, values, bounds, "viridis", scale)
        if note:
            _hatch(axes)
        frame(axes, bounds)
        _name_below(axes, label, note)
    below = any((values < lowest).any() for values in pictures)
    side = row[-1].inset_axes((1.06, 0, 0.06, 1))
    bar = drawing.colorbar(row[0].images[0], cax=side, extend="min" if below else "neither")
    _style_bar(bar, "log density (nats)")
    _settle(drawing)
    return drawing


def _grid(times: Tensor, positions: Tensor) -> tuple[Array, Array]:
    clock, places = array(times), array(positions)
    for name, line in (("times", clock), ("positions", places)):
        if line.ndim != 1 or len(line) < 2:
            raise ValueError(f"{name} must have one dimension and at least 2 entries, not shape {line.shape}")
        if not (np.isfinite(line).all() and (np.diff(line) > 0).all()):
            raise ValueError(f"{name} must be finite and rise strictly")
    _check_unit(clock, "times")
    return clock, places


def _heights(values: Tensor, shape: tuple[int, int]) -> Array:
    if values.shape != shape:
        raise ValueError(f"density must have shape (times, positions) = {shape}, not {tuple(values.shape)}")
    heights = array(values)
    _check_not_negative(heights)
    return heights


def _flow(t: Tensor, x: Tensor) -> tuple[Array, Array]:
    if t.ndim != 1 or x.ndim != 2 or len(t) != len(x) or len(t) < 2 or x.shape[1] == 0:
        raise ValueError(
            f"a path must be times of shape (S + 1,) and positions of shape (S + 1, K), "
            f"not {tuple(t.shape)} and {tuple(x.shape)}"
        )
    clock = array(t)
    steps = np.diff(clock)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("the times of a path must rise strictly or fall strictly")
    _check_unit(clock, "the times of a path")
    return clock, array(x)


def _check_rows(
    count: int, paths: Sequence[Sequence[Paths]], labels: Sequence[str], rows: Sequence[str] | None
) -> None:
    if count == 0 or len(paths) != count:
        raise ValueError(f"there must be paths for each density, not {len(paths)} for {count}")
    for dynamics in paths:
        _check_labels(labels, len(dynamics), "path of a row")
    if rows is not None and len(rows) != count:
        raise ValueError(f"there must be a name for each row, not {len(rows)} for {count}")


def _check_labels(labels: Sequence[str], count: int, name: str) -> None:
    if count == 0 or len(labels) != count:
        raise ValueError(f"there must be a label for each {name}, not {len(labels)} for {count}")


def _check_unit(clock: Array, name: str) -> None:
    if clock.min() < -_ROUNDING or clock.max() > 1 + _ROUNDING:
        raise ValueError(f"{name} must be in [0, 1], not from {clock.min():.6g} to {clock.max():.6g}")


def _check_not_negative(values: Array) -> None:
    if (values < 0).any():
        least = np.nanmin(values)
        raise ValueError(f"density must not be negative, but its least is {least:.6g}: is it the logarithm?")


def _picture(values: Tensor, name: str) -> Array:
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} must have shape (H, W), not {tuple(values.shape)}")
    return array(values)


def _largest(values: Array, least: float = 0.0) -> float:
    """Return the largest of the finite values and ``least``."""
    return float(np.max(values, where=np.isfinite(values), initial=least))


def _top(heights: Sequence[Array]) -> float:
    """Return where the scale ends: a quantile of the largest values at each time, in the highest row."""
    peaks = [[_largest(line) for line in values] for values in heights]
    # The lower of two neighbours: of however few times, one that stands out is never the answer.
    return max(float(np.quantile(each, _QUANTILE, method="lower")) for each in peaks) or 1.0


def _shades(colours: Sequence[str], strength: float = 1.0) -> Colormap:
    """Return a map of colours that are mixed with white, of which translucent ones would show seams."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    return LinearSegmentedColormap.from_list(
        "shades", [tuple(1 - strength * (1 - part) for part in to_rgb(colour)) for colour in colours]
    )


def _heat(axes: Axes, t: Array, x: Array, values: Array, colours: Colormap, top: float) -> None:
    from matplotlib.image import NonUniformImage
    from matplotlib.patches import Rectangle

    picture = NonUniformImage(axes, interpolation="bilinear", cmap=colours)
    picture.set_data(t, x, np.minimum(values.T, top))  # infinite ones would be left out
    picture.set_clim(0, top)
    picture.set_extent((t[0], t[-1], x[0], x[-1]))
    axes.add_image(picture)
    axes.set(xlim=(0, 1), ylim=(x[0], x[-1]), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    # It would fill the panel, also at times for which there are no values.
    picture.set_clip_path(Rectangle((t[0], x[0]), t[-1] - t[0], x[-1] - x[0], transform=axes.transData))
    if np.isnan(values).any():
        _hatch(axes)


def _lines(axes: Axes, t: Array, x: Array, span: tuple[float, float]) -> None:
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap

    shades = matplotlib.colormaps["plasma"](np.linspace(*_STARTS, 256))
    colours = ListedColormap(shades).with_extremes(bad=INK)  # ink for a path whose start is unknown
    tracks = [np.column_stack((t, track)) for track in x.T]
    width = float(np.clip(4 / x.shape[1] ** 0.5, 0.35, 0.9))
    lines = LineCollection(tracks, array=x[0], cmap=colours, linewidths=width, alpha=0.85)
    lines.set_clim(*span)
    axes.add_collection(lines, autolim=False)


def _name_axes(panels: Sequence[Sequence[Axes]], titles: Sequence[str], rows: Sequence[str] | None) -> None:
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=FONT_SIZE)
    for k, row in enumerate(panels):
        row[0].set_ylabel("position")
        if rows is not None:
            _name_row(row[0], rows[k])
        for axes in row:
            axes.tick_params(labelleft=axes is row[0], labelbottom=row is panels[-1])
    for axes in panels[-1]:
        axes.set_xlabel("time")


def _style_bar(bar: Colorbar, label: str) -> None:
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, color=PALE, labelcolor=INK)
    bar.outline.set_edgecolor(PALE)
    bar.set_label(label, fontsize=FONT_SIZE, color=INK)


def _settle(drawing: Figure) -> None:
    """Arrange the panels now, once and for all.

    Done anew at each saving, the arrangement beside a colour bar would differ, and with it the bytes.
    """
    engine = drawing.get_layout_engine()
    assert engine is not None
    engine.execute(drawing)
    drawing.set_layout_engine("none")


def _name_row(axes: Axes, name: str) -> None:
    axes.annotate(
        name,
        (0, 0.5),
        xycoords=axes.yaxis.label,
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        fontsize=FONT_SIZE,
        fontweight="bold",
        color=INK,
    )


def _name_below(axes: Axes, label: str, note: str) -> None:
    """Write a label under a panel without ticks, and a note below it if it is not empty."""
    # Placed by the baseline: hung from the top, a label with a taller letter would stand lower than others.
    axes.set_xlabel(label, va="baseline", labelpad=_LINE)
    if note:
        axes.annotate(
            note,
            (0.5, 0),
            xycoords="axes fraction",
            xytext=(0, -2 * _LINE),
            textcoords="offset points",
            ha="center",
            va="baseline",
            fontsize=FONT_SIZE - 1,
            color=INK,
        )


def _panel_size(bounds: tuple[float, float], notes: Sequence[str]) -> tuple[float, float]:
    lines = 2 if any(notes) else 1
    return 2.4, 2.3 * bounds[1] / bounds[0] + 0.1 + lines * _LINE / 72


def _show(
    axes: Axes,
    values: Array,
    bounds: tuple[float, float],
    colours: str | Colormap,
    scale: tuple[float, float],
) -> None:
    extent = (-bounds[0], bounds[0], -bounds[1], bounds[1])
    picture = axes.imshow(
        np.clip(values, *scale), extent=extent, origin="lower", interpolation="nearest", cmap=colours
    )
    picture.set_clim(*scale)


def _hatch(axes: Axes) -> None:
    """Hatch the ground of a panel, which is seen where a picture has nothing to show."""
    axes.patch.set(hatch="/////", edgecolor="#a0a8b0", linewidth=0)


def _missing(points: Array, inside: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    finite = np.isfinite(points).all(axis=1)
    return _counted({"outside": int((finite & ~inside).sum()), "not finite": int((~finite).sum())})


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
