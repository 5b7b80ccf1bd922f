"""What samplers share: the grid of times, and the checks at the door."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interpolants._tensors import kind
from interpolants.fields import Field


def checked_times(times: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return a grid as a tuple of floats.

    Raises:
        ValueError: Unless it is an increasing grid of two or more times in [0, 1].
    """
    if times is None:
        return None
    grid = tuple(float(time) for time in times)
    increasing = all(early < late for early, late in itertools.pairwise(grid))
    if len(grid) < 2 or not increasing or grid[0] < 0 or grid[-1] > 1:
        raise ValueError(f"times must be an increasing grid of two or more times in [0, 1]; got {grid}")
    return grid


def check_steps(steps: int) -> None:
    """Raise ValueError unless ``steps`` is a whole number, at least 1."""
    if isinstance(steps, bool) or steps < 1 or steps % 1 != 0:
        raise ValueError(f"steps must be a whole number, at least 1; got {steps}")


def grid_of(times: Sequence[float] | None, steps: int) -> list[float]:
    """Return the times given, or ``steps`` equal steps over [0, 1]."""
    # k / steps is the nearest number to the true time; linspace accumulates.
    return [k / steps for k in range(int(steps) + 1)] if times is None else list(times)


def check_start(field: Any, x: Any) -> None:
    """Raise unless ``field`` is a Field and ``x`` a batch of floating-point points.

    Raises:
        TypeError: When one of them is of the wrong kind.
        ValueError: When ``x`` is a single number.
    """
    if not isinstance(field, Field):
        raise TypeError(
            "field must be a Field; make one from a network with "
            f"LearnedField(interpolant, velocity=network); got {kind(field)}"
        )
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = x.dtype if isinstance(x, Tensor) else kind(x)
        raise TypeError(f"x must be a floating-point tensor of shape (B, *D); got {came}")
    if x.ndim == 0:
        raise ValueError("x must have shape (B, *D); got a single number")


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of the state: steps in half precision would be lost in it."""
    return torch.promote_types(x.dtype, torch.float32)
