"""The velocity of a field and its divergence in one compiled graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from interpolants._tensors import Time, hutchinson_divergence
from interpolants.fields import Field
from interpolants.samplers.graphs import graph_of, not_compiled, signature_of
from interpolants.samplers.grid import check_answer

# How many elements the products of a call have on a CPU, by measurement (see _tensors.py): one thread, an MLP
# of 4 x 64, D = 64, batch 256; twice what is best without a graph. Elsewhere memory is the limit.
_ELEMENTS, _ELEMENTS_ELSEWHERE = 2**19, 2**25


class CompiledRates:
    """From a time and points to the velocity there and its divergence, as :class:`Exact` asks for them.

    Args:
        field: What carries the points.
        conditions: Passed to the field.
        dtype: The precision in which the field is asked.
        chunk: How many directions to differentiate in at once; None for as many as are fast.

    Attributes:
        evaluations: How often the field was evaluated on the whole batch.
    """

    def __init__(
        self, field: Field, conditions: Mapping[str, Any], dtype: torch.dtype, chunk: int | None
    ) -> None:
        self.field, self.conditions, self.dtype = field, dict(conditions), dtype
        self.chunk = chunk
        self.evaluations = 0
        self._chunks: list[Tensor] = []

    def __call__(self, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity, ``(B, *D)``, and the divergence, ``(1, B)``."""
        self.evaluations += 1
        # A number would be part of the graph: another graph for every time.
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).clamp(0, 1)
        graph = self._graph(time, x)
        total, value = x.new_zeros(len(x)), x
        for directions in self._chunks:
            try:
                value, part = graph(self.field, time, x, directions, self.conditions, self.dtype)
            except not_compiled() as error:
                self._check(time, x)  # A mistake of the field's own says so by itself.
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"the divergence of this field cannot be compiled into one graph ({reason}); "
                    "use compile=False"
                ) from error
            total = total + part
        return value, total.unsqueeze(0)

    def _graph(self, time: Tensor, x: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
        if not self._chunks:
            self._chunks = self._directions(x)
            self._check(time, x)  # Once an integration: networks and conditions may have changed.
        shapes = signature_of({"x": x, "directions": self._chunks[0]})
        given = signature_of(self.conditions)
        signature = ("divergence", shapes, self.dtype, torch.is_grad_enabled(), given)
        return graph_of(self.field, signature, _rates, x.device)

    def _check(self, time: Tensor, x: Tensor) -> None:
        """Raise what is raised without a graph: inside one, a field that records no gradient shows none."""

        def velocity(x: Tensor) -> Tensor:
            answer = self.field.velocity(time, x.to(self.dtype), **self.conditions).to(x.dtype)
            check_answer(answer, x)
            return answer

        hutchinson_divergence(velocity, x, torch.ones_like(x).unsqueeze(0))

    def _directions(self, x: Tensor) -> list[Tensor]:
        """Return all unit vectors, some at once; the last of them filled up with 0 to the same number."""
        size = math.prod(x.shape[1:])
        budget = _ELEMENTS if x.device.type == "cpu" else _ELEMENTS_ELSEWHERE
        chunk = self.chunk or max(1, budget // max(1, x.numel()))
        count = min(chunk, size)
        rows = -(-size // count) * count
        directions = torch.eye(rows, size, dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
        return [directions[start : start + count] for start in range(0, rows, count)]


def _rates(
    field: Field,
    time: Tensor,
    x: Tensor,
    directions: Tensor,
    conditions: dict[str, Any],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    def velocity(x: Tensor) -> Tensor:
        return field.velocity(time, x.to(dtype), **conditions).to(x.dtype)

    value, pullback = cast("tuple[Tensor, Callable[..., Any]]", torch.func.vjp(velocity, x))
    products = torch.vmap(lambda direction: pullback(direction.expand_as(x))[0])(directions)
    diagonal = products * directions.unsqueeze(1)
    return value, diagonal.reshape(len(directions), len(x), -1).sum((0, 2))
