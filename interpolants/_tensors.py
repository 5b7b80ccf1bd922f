"""What every layer needs to know of tensors: times, their broadcasting, derivatives and divergences."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

Time = float | Tensor
"""A time in [0, 1]: a float, a tensor of shape ``()`` or one time per example, shape ``(B,)``."""

# How divergences are taken, by measurement: one thread, MLPs of 4 x 64, D = 2 to 64, batches of 256 and 2048.
# Backward passes, because forward ones (torch.func.jvp under vmap) took 1.7 to 3.7 times as long and the
# batch repeated for every direction up to 7 times; torch.func.vjp under vmap was no quicker than autograd's
# own batches, and those let the field look at values. At D = 64, B = 256 batches of directions take 40 % less
# time than one direction after the other, but beyond some 2**18 elements they leave the cache and take up to
# three times as long. Fewer than _FEW directions gain nothing from a batch.
_FEW = 4


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
    if type(t) is float and 0 <= t <= 1:  # A sampler's every step.
        return torch.full(x.shape[:1], t, dtype=_time_dtype(x.dtype), device=x.device)
    time = as_time(t, x)
    return time.expand(x.shape[0]) if time.ndim == 0 else time


def expand(coefficient: Time, x: Tensor) -> Tensor:
    """Return a coefficient of shape ``()`` or ``(B,)`` so that it multiplies ``x`` of shape ``(B, *D)``."""
    if not isinstance(coefficient, Tensor):
        return torch.full((), coefficient, dtype=x.dtype, device=x.device)
    coefficient = coefficient.to(x.dtype)
    return coefficient if coefficient.ndim == 0 else coefficient.reshape(-1, *(1,) * (x.ndim - 1))


def as_rows(x: Tensor) -> Tensor:
    """Return ``x`` of shape ``(B, *D)`` as ``(B, D)``; B may be 0."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


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


def exact_divergence(
    function: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Return ``function(x)`` and its divergence :math:`\sum_i \partial f_i / \partial x_i`.

    Takes one evaluation and as many backward passes as an example has elements, ``chunk`` at once.

    Args:
        function: From ``(B, *D)`` to the same shape; each example may depend only on itself.
        x: Points, shape ``(B, *D)``.
        chunk: How many backward passes to batch; by default as many as are fast and fit in memory.
        create_graph: Whether both answers can be differentiated; otherwise they carry no graph.

    Returns:
        The value, shape ``(B, *D)``, and the divergence, shape ``(B,)``.

    Raises:
        ValueError: When the answer has another shape, or follows ``x`` without recording gradients.

    Example:
        >>> exact_divergence(lambda x: x**3, torch.tensor([[1.0, 2.0]]))  # 3 + 12
        (tensor([[1., 8.]]), tensor([15.]))
    """
    value, pullback = _value_and_pullback(function, x, create_graph)
    size = math.prod(x.shape[1:])
    chunk = _directions_at_once(x) if chunk is None else chunk
    divergence = x.new_zeros(len(x))
    for start in range(0, size, chunk):
        stop = min(start + chunk, size)
        directions = torch.eye(stop - start, size, dtype=x.dtype, device=x.device).roll(start, 1)
        products = pullback(directions.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape))
        diagonal = products.reshape(stop - start, len(x), size)[:, :, start:stop].diagonal(dim1=0, dim2=2)
        divergence = divergence + diagonal.sum(-1)
    return value, divergence


def hutchinson_divergence(
    function: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Return ``function(x)`` and an estimate :math:`v \cdot \nabla f\, v` of its divergence for each probe.

    Unbiased when :math:`E[v v^T] = \mathrm{Id}` (Hutchinson 1989; for flows, Grathwohl et al. 2018,
    arXiv 1810.01367). Takes one evaluation and a backward pass for each probe.

    Args:
        function: As for :func:`exact_divergence`.
        x: Points, shape ``(B, *D)``.
        probes: The vectors v, shape ``(P, B, *D)``.
        create_graph: Whether both answers can be differentiated; otherwise they carry no graph.

    Returns:
        The value, shape ``(B, *D)``, and the estimates, shape ``(P, B)``.

    Raises:
        ValueError: When the answer has another shape, or follows ``x`` without recording gradients.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> hutchinson_divergence(lambda x: x**3, x, torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]]]))
        (tensor([[1., 8.]]), tensor([[15.],
                [15.]]))
    """
    value, pullback = _value_and_pullback(function, x, create_graph)
    chunk = _directions_at_once(x)
    estimates = []
    for start in range(0, len(probes), chunk):
        some = probes[start : start + chunk]
        estimates.append((pullback(some) * some).reshape(len(some), len(x), -1).sum(-1))
    return value, torch.cat(estimates)


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


def _value_and_pullback(
    function: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the value, and what takes vectors v, (K, B, *D), to v times the Jacobian of each example."""
    with torch.enable_grad():
        # A view, so that the derivative stops at it whatever else x is made of.
        point = x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_()
        value = function(point)
    if value.shape != x.shape:
        raise ValueError(
            f"the function must return the shape of x, {tuple(x.shape)}; got {tuple(value.shape)}"
        )

    def gradient(vectors: Tensor, *, batched: bool = False) -> Tensor:
        product = None
        if value.requires_grad:
            (product,) = torch.autograd.grad(
                value,
                point,
                vectors,
                retain_graph=True,  # Until the value goes out of scope.
                create_graph=create_graph,
                is_grads_batched=batched,
                allow_unused=True,
            )
        if product is None:
            _check_constant(function, x, value)
            return torch.zeros_like(vectors)
        return product

    def pullback(vectors: Tensor) -> Tensor:
        if len(vectors) >= _FEW:
            try:
                return gradient(vectors, batched=True)
            except RuntimeError:
                # Compiled networks, and derivatives written by hand that look at values, know no batches of
                # vectors. What fails for another reason fails again.
                pass
        return torch.stack([gradient(vector) for vector in vectors])

    return value if create_graph else value.detach(), pullback


def _check_constant(function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> None:
    """Raise if a value without a gradient follows x nevertheless: it would pass for free of divergence."""
    with torch.no_grad():
        moved = function(x + 0.01 * (1 + x.abs()))
    same = torch.isclose(moved, value, rtol=0, atol=0, equal_nan=True).reshape(len(x), -1).all(1)
    # More than half: what is constant in pieces, as a nearest neighbour, may jump for a few.
    if 2 * same.sum() < len(x):
        raise ValueError(
            "the function depends on x but records no gradient, so its divergence is not known: it may "
            "detach x or switch gradients off"
        )


def _directions_at_once(x: Tensor) -> int:
    # See _FEW. Elsewhere memory is the limit.
    budget = 2**18 if x.device.type == "cpu" else 2**25
    return max(1, budget // max(1, x.numel()))


def _time_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float32


def _batch(x: Tensor) -> str:
    return str(x.shape[0]) if x.ndim else "B"
