"""A measured number together with what is needed to judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["Estimate", "disjoint_parts", "jackknife_error", "mean_of"]


@final
@dataclass(frozen=True)
class Estimate:
    """A number measured on samples.

    Args:
        value: The number, the mean of the repeats where there are several.
        standard_error: Its standard error; None where it is not known.
        n: How many samples each repeat saw.
        repeats: How many repeats were averaged.

    Example:
        >>> print(Estimate(1.25, 0.5, n=100, repeats=4))
        1.25 ± 0.5
        >>> print(Estimate(1.25, None, n=100))
        1.25
    """

    value: float
    standard_error: float | None
    n: int
    repeats: int = 1

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{self.value:.4g}{error}"


def mean_of(values: Sequence[float], n: int) -> Estimate:
    """Return the mean of values from sets of ``n`` samples, with the standard error that their spread gives.

    Example:
        >>> mean_of([1.0, 3.0], n=10)
        Estimate(value=2.0, standard_error=1.0, n=10, repeats=2)
        >>> mean_of([1.0], n=10).standard_error is None
        True
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count), n, count)


def disjoint_parts(
    count: int, size: int, *, at_most: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Return random index sets of ``size`` entries below ``count`` that share no entry.

    Raises:
        ValueError: If ``size`` is not between 1 and ``count``, or ``at_most`` is below 1.

    Example:
        >>> parts = disjoint_parts(10, 3, at_most=5, generator=torch.Generator().manual_seed(0))
        >>> [len(part) for part in parts], len(set(torch.cat(parts).tolist()))
        ([3, 3, 3], 9)
    """
    if not 1 <= size <= count:
        raise ValueError(f"size must be between 1 and the number of samples, {count}, not {size}")
    if at_most < 1:
        raise ValueError(f"at_most must be at least 1, not {at_most}")
    home = "cpu" if generator is None else generator.device
    order = torch.randperm(count, generator=generator, device=home)
    return list(torch.split(order, size))[: min(at_most, count // size)]


def jackknife_error(
    function: Callable[[Tensor], float],
    samples: Tensor,
    *,
    groups: int = 10,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return the standard error of a smooth function of a set of samples, by leaving out a group at a time.

    .. math::
        \Big(\frac{g - 1}{g} \sum_i (f_{-i} - \bar f)^2\Big)^{1/2}

    A bias that depends on the number of samples is the same in every term and cancels.

    Args:
        function: From samples, shape ``(n, *D)``, to a number; the order of the samples must not matter.
        samples: Independent samples, shape ``(n, *D)``.
        groups: The number of groups, at least 2; no more than samples are made.
        generator: Source of the groups.

    Returns:
        The standard error.

    Raises:
        ValueError: If there are less than 2 samples or groups.

    Source:
        Efron, The jackknife, the bootstrap and other resampling plans, chapter 3 (1982).

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
        >>> error = jackknife_error(lambda some: some.mean().item(), x)
        >>> round(error, 6), round((x.var() / 4).sqrt().item(), 6)
        (1.080123, 1.080123)
    """
    groups = min(groups, len(samples))
    if groups < 2:
        raise ValueError(f"leaving out groups needs at least 2 samples and 2 groups, not {groups}")
    home = "cpu" if generator is None else generator.device
    order = torch.randperm(len(samples), generator=generator, device=home).to(samples.device)
    pieces = order.tensor_split(groups)
    values = [function(samples[torch.cat(pieces[:i] + pieces[i + 1 :])]) for i in range(groups)]
    mean = math.fsum(values) / groups
    return math.sqrt((groups - 1) / groups * math.fsum((value - mean) ** 2 for value in values))
