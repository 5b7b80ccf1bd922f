"""What samplers share: the grid of times, and the checks at the door."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Iterable, Sequence
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
    if not isinstance(times, Iterable):
        raise TypeError(f"times must be an increasing grid of times, or None; got {kind(times)}")
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


def nearest_of(times: Sequence[float]) -> float:
    r"""Return how near to an end a learned field is asked for what is not determined there.

    A quarter of the shorter of the first and the last step: where :math:`1/\gamma` grows like
    :math:`t^{-1/2}` its mean over the first step h is its value at h/4. At t = 0 itself it would be
    infinite, and errors of the denoiser with it. In one step alone this moves the drift by O(h), the answer
    by O(h^2).
    """
    return min(abs(times[1] - times[0]), abs(times[-1] - times[-2])) / 4


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


def check_answer(answer: Tensor, x: Tensor) -> None:
    """Raise ValueError unless an answer has the shape of ``x``: one that broadcasts to it would pass."""
    if answer.shape != x.shape:
        raise ValueError(
            f"the field must answer in the shape of x, {tuple(x.shape)}; got {tuple(answer.shape)}"
        )


def check_compiled(compile: bool, differentiable: bool) -> None:  # noqa: A002 - torch's own word
    """Raise ValueError when gradients are asked of a compiled graph."""
    if compile and differentiable:
        raise ValueError("compile=True records no gradients; use compile=False with differentiable=True")


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of the state: steps in half precision would be lost in it."""
    return torch.promote_types(x.dtype, torch.float32)


def checked_seeds(
    seeds: Tensor | Sequence[int] | None, generator: torch.Generator | None, count: int
) -> list[int] | None:
    """Return the seed of each example as a list; None when there are none.

    Raises:
        TypeError: When they are no whole numbers.
        ValueError: When one is negative, there is not one for each of ``count`` examples, or a generator is
            given beside them.
    """
    if seeds is None:
        return None
    if generator is not None:
        raise ValueError("seeds take the place of the generator: give one of the two")
    if isinstance(seeds, Tensor) and (seeds.is_floating_point() or seeds.dtype == torch.bool):
        raise TypeError(f"seeds must be whole numbers; got {seeds.dtype}")
    listed = seeds.tolist() if isinstance(seeds, Tensor) else seeds
    if isinstance(listed, numbers.Number) or getattr(listed, "ndim", 1) == 0:
        raise ValueError(f"there must be one seed for each of the {count} examples; got one number")
    if isinstance(listed, set | torch.Generator) or not isinstance(listed, Iterable):
        raise TypeError(f"seeds must be whole numbers in a row, one for each example; got {kind(seeds)}")
    listed = list(listed)
    if len(listed) != count:
        raise ValueError(f"there must be one seed for each of the {count} examples; got {len(listed)}")
    for seed in listed:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise TypeError(f"seeds must be whole numbers; got {kind(seed)}")
        if seed < 0:
            raise ValueError(f"seeds must not be negative; got {seed}")
    return [int(seed) for seed in listed]
