"""Curves: the loss while training, and the paths of random chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interpolants.plotting.style import CYCLE, INK, PALE, array, check_bounds, figure, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chain_figure", "loss_curve"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def loss_curve(
    steps: Sequence[float] | Tensor,
    losses: Sequence[float] | Tensor,
    *,
    smoothing: int | None = None,
    log_steps: bool = False,
) -> Figure:
    """Return the losses of a training, faint, under their running mean.

    Args:
        steps: At which step each loss was seen, N numbers.
        losses: The N losses. Those that are not finite leave a gap and are left out of the mean.
        smoothing: How many neighbouring losses the running mean takes, at least 1; None takes a fiftieth of
            them.
        log_steps: Whether the axis of the steps is logarithmic, which shows how the first steps went.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there are no losses, not as many as steps, or ``smoothing`` is below 1.

    Example:
        >>> drawing = loss_curve(range(1, 101), [1 / k for k in range(1, 101)], log_steps=True)
        >>> drawing.axes[0].get_xlabel(), drawing.axes[0].get_ylabel()
        ('step', 'loss')
    """
    x, y = (np.asarray([float(number) for number in numbers]) for numbers in (steps, losses))
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"there must be as many steps as losses and at least one, not {len(x)} and {len(y)}")
    window = max(1, len(y) // 50) if smoothing is None else smoothing
    if window < 1:
        raise ValueError(f"smoothing must be at least 1, not {smoothing}")
    y = np.where(np.isfinite(y), y, np.nan)
    drawing, ((axes,),) = figure(size=(5.2, 3.0), layout="constrained")
    if window > 1:
        axes.plot(x, y, color=CYCLE[0], alpha=0.25, linewidth=0.8, label="single steps")
    axes.plot(x, _running_mean(y, window), color=CYCLE[0], linewidth=1.6, label=f"mean of {window}")
    axes.set(xlabel="step", ylabel="loss", xscale="log" if log_steps else "linear")
    axes.margins(x=0)
    axes.grid(color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if window > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return drawing


def chain_figure(
    chains: Sequence[Tensor],
    ends: Tensor | None,
    labels: Sequence[str],
    *,
    bounds: tuple[float, float],
) -> Figure:
    """Return one panel for each number of steps, with the paths of a random chain from a few starts.

    All repetitions from one start have one colour. The more steps, the closer they stay together.

    Args:
        chains: For each panel the positions after every step, shape ``(steps + 1, starts, repeats, 2)``.
        ends: Where the deterministic path from each start ends, shape ``(starts, 2)``, drawn as crosses; None
            draws none.
        labels: What is written under each panel.
        bounds: Half the width and half the height of what is seen.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a shape or the number of labels does not fit, or the bounds are not positive.

    Example:
        >>> import torch
        >>> chains = [torch.rand(steps + 1, 3, 10, 2) for steps in (4, 16)]
        >>> drawing = chain_figure(chains, torch.rand(3, 2), ["4 steps", "16 steps"], bounds=(1.0, 1.0))
        >>> [axes.get_xlabel() for axes in drawing.axes]
        ['4 steps', '16 steps']
    """
    check_bounds(bounds)
    if len(chains) == 0 or len(labels) != len(chains):
        raise ValueError(f"there must be a label for each chain, not {len(labels)} for {len(chains)}")
    starts = chains[0].shape[1] if chains[0].ndim == 4 else 0
    for chain in chains:
        if chain.ndim != 4 or chain.shape[1] != starts or chain.shape[3] != 2 or chain.numel() == 0:
            raise ValueError(
                f"chains must have shape (steps + 1, starts, repeats, 2), all with the same starts, "
                f"not {tuple(chain.shape)}"
            )
    if ends is not None and ends.shape != (starts, 2):
        raise ValueError(f"ends must have shape ({starts}, 2), not {tuple(ends.shape)}")
    height = 2.4 * bounds[1] / bounds[0] + 0.5
    drawing, (row,) = figure(columns=len(chains), size=(2.4, height))
    for axes, chain, label in zip(row, chains, labels, strict=True):
        frame(axes, bounds)
        axes.set_xlabel(label)
        for k, paths in enumerate(array(chain).transpose(1, 0, 2, 3)):
            colour = CYCLE[k % len(CYCLE)]
            axes.plot(paths[..., 0], paths[..., 1], color=colour, linewidth=0.5, alpha=0.45)
            axes.scatter(paths[-1, :, 0], paths[-1, :, 1], s=9, color=colour, linewidths=0, zorder=3)
            axes.scatter(
                paths[0, :, 0],
                paths[0, :, 1],
                s=34,
                color="white",
                edgecolors=colour,
                linewidths=1.4,
                zorder=4,
            )
        if ends is not None:
            crosses = array(ends)
            axes.scatter(crosses[:, 0], crosses[:, 1], s=40, marker="x", color=INK, linewidths=1.3, zorder=5)
    _explain_chains(drawing, with_ends=ends is not None)
    return drawing


def _explain_chains(drawing: Figure, *, with_ends: bool) -> None:
    """Say under the panels what ring, dot and cross are."""
    from matplotlib.lines import Line2D

    ring = Line2D([], [], marker="o", linestyle="", markerfacecolor="white", markeredgecolor=CYCLE[0])
    dot = Line2D([], [], marker="o", linestyle="", markersize=3, color=CYCLE[0])
    cross = Line2D([], [], marker="x", linestyle="", color=INK)
    marks = [(ring, "start"), (dot, "end of a random chain"), (cross, "end of the deterministic path")]
    shown = marks if with_ends else marks[:2]
    drawing.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=len(shown), frameon=False)


def _running_mean(values: Array, window: int) -> Array:
    """Return the mean of the finite values in a centred window.

    At the end it is cut short. At the start it grows from one value, on either side alike: on an axis of
    log steps the first values would otherwise show the mean of much later ones.
    """
    known = np.isfinite(values)
    sums, counts = (np.concatenate(([0.0], np.cumsum(part))) for part in (np.where(known, values, 0), known))
    index = np.arange(len(values))
    first = index - np.minimum(index, window // 2)
    last = np.minimum(index + np.minimum(index + 1, window - window // 2), len(values))
    number = counts[last] - counts[first]
    return np.where(number > 0, (sums[last] - sums[first]) / np.maximum(number, 1), np.nan)
