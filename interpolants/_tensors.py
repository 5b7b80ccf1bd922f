"""What every layer needs to know of tensors: times, their broadcasting and time derivatives."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

Time = float | Tensor
"""A time in [0, 1]: a float, a tensor of shape ``()`` or one time per example, shape ``(B,)``."""


def as_time(t: Time, x: Tensor) -> Tensor:
    """Return ``t`` as a tensor beside ``x``: shape ``()`` or ``(B,)``, at least single precision.

    Times of half-precision data stay in single precision, because bfloat16 cannot tell 0.998 from 1.

    Raises:
        ValueError: When a float lies outside [0, 1], or a tensor is neither ``()`` nor ``(B,)``.
    """
    if isinstance(t, Tensor):
        if t.ndim > 0 and (t.ndim > 1 or x.ndim == 0 or t.shape[0] != x.shape[0]):
            raise ValueError(
                f"t must be a float, a () tensor or one time per example, shape ({_batch(x)},); "
                f"got shape {tuple(t.shape)}"
            )
        if t.dtype == x.dtype == torch.float32 and t.device == x.device:
            return t  # What the next line would return, without its cost: this is every training step.
        return t.to(x.device, torch.promote_types(t.dtype, _time_dtype(x.dtype)))
    if not isinstance(t, numbers.Real):
        raise TypeError(f"t must be a float or a tensor; got {kind(t)}")
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t must lie in [0, 1]; got {t}")
    return torch.full((), t, dtype=_time_dtype(x.dtype), device=x.device)


def per_example(t: Time, x: Tensor) -> Tensor:
    """Return ``t`` with shape ``(B,)``, as networks receive it."""
    time = as_time(t, x)
    return time.expand(x.shape[0]) if time.ndim == 0 else time


def expand(coefficient: Time, x: Tensor) -> Tensor:
    """Return a coefficient of shape ``()`` or ``(B,)`` so that it multiplies ``x`` of shape ``(B, *D)``."""
    if not isinstance(coefficient, Tensor):
        return torch.full((), coefficient, dtype=x.dtype, device=x.device)
    coefficient = coefficient.to(x.dtype)
    return coefficient if coefficient.ndim == 0 else coefficient.reshape(-1, *(1,) * (x.ndim - 1))


def time_derivative(function: Callable[[Tensor], Time | Tensor], t: Tensor) -> Tensor:
    """Return the derivative of ``function`` at each time, by forward-mode differentiation."""
    return value_and_time_derivative(function, t)[1]


def value_and_time_derivative(
    function: Callable[[Tensor], Time | Tensor], t: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``function(t)`` and its derivative with respect to each time.

    Every output may depend only on the time of its own example.
    """

    def tensor_valued(time: Tensor) -> Tensor:
        value = function(time)
        return value if isinstance(value, Tensor) else torch.full_like(time, value)

    # A copy: an expanded time cannot carry a tangent through operations that write in place.
    t = t.contiguous()
    value, tangent = cast("tuple[Tensor, Tensor]", torch.func.jvp(tensor_valued, (t,), (torch.ones_like(t),)))
    # torch widens the tangent of a () tensor that was multiplied by a number to double precision.
    return value, tangent.to(value.dtype)


def check_alike(x0: Tensor, x1: Tensor, names: tuple[str, str] = ("x0", "x1")) -> None:
    """Raise unless two batches have the same floating dtype, device and shape ``(B, *D)``.

    Raises:
        TypeError: When one of them is no floating-point tensor or the dtypes differ.
        ValueError: When shapes or devices differ.
    """
    for name, x in ((names[0], x0), (names[1], x1)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else kind(x)
            raise TypeError(f"{name} must be a floating-point tensor; got {came}")
    if x0.dtype != x1.dtype:
        raise TypeError(f"{names[0]} and {names[1]} must share a dtype; got {x0.dtype} and {x1.dtype}")
    if x0.shape != x1.shape or x0.ndim == 0:
        raise ValueError(
            f"{names[0]} and {names[1]} must share a shape (B, *D); "
            f"got {tuple(x0.shape)} and {tuple(x1.shape)}"
        )
    if x0.device != x1.device:
        raise ValueError(f"{names[0]} and {names[1]} must be on one device; got {x0.device} and {x1.device}")


def randn(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return standard normal draws with the dtype and device of ``like``.

    A generator on another device draws there and the result is moved, so a CPU generator gives
    the same numbers whatever the device of the data.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def uniform(n: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return ``n`` uniform draws from the open interval (0, 1), at least in single precision.

    Never 0 and never 1: a time derivative may be infinite there, and ``torch.rand`` returns an
    exact 0 once in 16 million draws, which is once per long training run.
    """
    device = like.device if generator is None else generator.device
    dtype = _time_dtype(like.dtype)
    margin = torch.finfo(dtype).eps
    draws = torch.empty(n, dtype=dtype, device=device)
    return draws.uniform_(margin / 2, 1 - margin, generator=generator).to(like.device)


def kind(value: object) -> str:
    """Return what a value is, in words for an error message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_instance(name: str, value: object, wanted: type, example: str) -> None:
    """Raise TypeError unless ``value`` is a ``wanted``; a class in place of an instance is no instance."""
    if not isinstance(value, wanted):
        article = "an" if wanted.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {wanted.__name__}, such as {example}; got {kind(value)}")


def _time_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


def _batch(x: Tensor) -> str:
    return str(x.shape[0]) if x.ndim else "B"
