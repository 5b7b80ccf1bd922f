"""What every metric asks of its two point sets."""

from __future__ import annotations

from torch import Tensor

__all__ = ["two_sets"]


def two_sets(x: Tensor, y: Tensor, *, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Return the two sets as float64 matrices with the mean of ``x`` moved to the origin.

    Distances do not see the shift, and close points far from the origin keep their digits.

    Args:
        x: Points, shape ``(n, *D)``.
        y: Points, shape ``(m, *D)``.
        at_least: The smallest number of points allowed.

    Returns:
        Shapes ``(n, d)`` and ``(m, d)``, where ``d`` is the product of ``D``.

    Raises:
        ValueError: If a set is too small or not finite, or if the points or the devices of the two differ.

    Example:
        >>> import torch
        >>> x, y = two_sets(torch.zeros(3, 2, 2), torch.ones(5, 2, 2))
        >>> x.shape, y.shape
        (torch.Size([3, 4]), torch.Size([5, 4]))
    """
    for name, points in (("x", x), ("y", y)):
        if points.ndim == 0 or len(points) < at_least or points.numel() == 0:
            raise ValueError(
                f"{name} must have shape (n, *D) with n at least {at_least}, not {tuple(points.shape)}"
            )
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must hold points of one shape, not {tuple(x.shape[1:])} and {tuple(y.shape[1:])}"
        )
    if x.device != y.device:
        raise ValueError(f"x and y must share one device, not {x.device} and {y.device}")
    for name, points in (("x", x), ("y", y)):
        if not points.isfinite().all():
            raise ValueError(f"{name} must be finite; it holds a NaN or an infinity")
    x, y = (points.detach().double().reshape(len(points), -1) for points in (x, y))
    centre = x.mean(dim=0)
    return x - centre, y - centre
