"""Explicit Runge-Kutta steps of given lengths, for flows and, with noise added, for diffusions.

The formula of a step is written once, for whoever runs it: one step after the other, or several in one graph.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast, final

import torch
from torch import Tensor

State = TypeVar("State", Tensor, tuple[Tensor, ...])
Clock = TypeVar("Clock")


@final
@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta formula.

    Attributes:
        nodes: When the stages are evaluated, as parts of the step.
        rows: For each of them, the weights of the derivatives so far in the point that follows it: that of
            the next stage, and after the last one the answer.
    """

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


EULER = Tableau((0.0,), ((1.0,),))
HEUN = Tableau((0.0, 1.0), ((1.0,), (1 / 2, 1 / 2)))

TABLEAUS = {
    "euler": EULER,
    "midpoint": Tableau((0.0, 1 / 2), ((1 / 2,), (0.0, 1.0))),
    "heun2": HEUN,
    "heun3": Tableau((0.0, 1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4))),
    # The 3/8 rule, as in torchdiffeq: its error is smaller than that of the classical formula.
    "rk4": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    ),
}
"""The formulas, by torchdiffeq's names for them."""


def step(
    tableau: Tableau,
    derivative: Callable[[Clock, State], State],
    clock: Iterator[Clock],
    start: State,
    length: float | Tensor,
    noise: Tensor | None = None,
    amplitudes: Sequence[float | Tensor] = (),
) -> State:
    """Return the state after one step.

    Args:
        tableau: The formula.
        derivative: From what the clock says and the state to its derivative, in the same shape.
        clock: Says when it is, once for each stage.
        start: The state before.
        length: How long the step is, negative backwards: a number, or a tensor of shape ``()``.
        noise: What is added to the state, in its shape; None for a flow.
        amplitudes: What it is multiplied by in the point that follows each stage.

    Example:
        >>> step(HEUN, lambda t, x: 2 * x, iter([0.0, 0.1]), torch.ones(1), 0.1)  # 1 + 0.2 + 0.2**2 / 2
        tensor([1.2200])
    """
    slopes: list[State] = []
    point = start
    # The clock comes second, so that its next time is left for the next step.
    for row, time in zip(tableau.rows, clock, strict=False):
        slopes.append(derivative(time, point))
        point = _moved(start, slopes, row, length)
        if noise is not None:
            point = added(point, noise, amplitudes[len(slopes) - 1])  # type: ignore[arg-type, assignment]
    return point


def states(
    tableau: Tableau,
    derivative: Callable[[Clock, State], State],
    clock: Iterable[Clock],
    start: State,
    times: Sequence[float],
) -> Iterator[State]:
    """Yield the states at all times but the first.

    Args:
        tableau: The formula of the steps.
        derivative: From what the clock says and the state to its derivative, in the same shape.
        clock: Says when it is, once for each stage of all steps.
        start: The state at the first time.
        times: Increasing or decreasing times.
    """
    state, clock = start, iter(clock)
    lengths = (then - now for now, then in itertools.pairwise(times))
    if tableau is EULER and isinstance(state, Tensor):
        # With small networks the general step costs 2 % more, and most of the steps taken are these.
        for time, length in zip(clock, lengths, strict=True):
            state = torch.add(state, derivative(time, state), alpha=length)
            yield state
        return
    for length in lengths:
        state = step(tableau, derivative, clock, state, length)
        yield state


def stage_times(tableau: Tableau, times: Sequence[float]) -> list[float]:
    """Return when the stages of all steps are evaluated, in their order.

    Example:
        >>> stage_times(HEUN, [0.0, 0.25, 1.0])
        [0.0, 0.25, 0.25, 1.0]
    """
    # A step ends exactly where the next one begins.
    return [
        then if node == 1 else now + node * (then - now)
        for now, then in itertools.pairwise(times)
        for node in tableau.nodes
    ]


def collected(start: State, later: Iterable[State], count: int, *, end_only: bool) -> State:
    """Return the states in one tensor, with the times in front: all of them, or the first and the last.

    Args:
        start: The first state.
        later: The others, ``count`` in number.
        count: At least 1.
        end_only: Whether to keep only the ends.
    """
    if end_only:
        kept = [start, *collections.deque(later, maxlen=1)]
    elif isinstance(start, Tensor) and not torch.is_grad_enabled():
        # Each state is let go when it is written down: at once they would take twice the memory.
        path = start.new_empty(count + 1, *start.shape)
        for place, state in zip(path.unbind(), itertools.chain([start], later), strict=True):
            place.copy_(state)
        return path
    else:
        kept = [start, *later]
    if isinstance(start, Tensor):
        return torch.stack(cast("list[Tensor]", kept))
    return cast("State", tuple(torch.stack(parts) for parts in zip(*kept, strict=True)))


def added(total: Tensor, term: Tensor, factor: float | Tensor) -> Tensor:
    """Return ``total + factor * term``."""
    if isinstance(factor, Tensor):
        return total + factor * term
    return torch.add(total, term, alpha=factor)


def _moved(start: State, slopes: list[State], row: Sequence[float], length: float | Tensor) -> State:
    if not isinstance(start, Tensor):
        parts = zip(start, *slopes, strict=True)
        return cast("State", tuple(_moved(part, of_part, row, length) for part, *of_part in parts))
    point = start
    for slope, weight in zip(slopes, row, strict=True):
        if weight:
            point = added(point, slope, weight * length)
    return point
