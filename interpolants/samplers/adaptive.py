r"""Embedded Runge-Kutta pairs, whose steps are as long as an estimate of their error allows.

The steps are those of torchdiffeq, one by one: its first step, its control, its stops, its interpolation
(https://github.com/rtqichen/torchdiffeq, ``rk_common.py``), after Hairer, Norsett and Wanner, Solving
Ordinary Differential Equations I, 2nd edition, section II.4. What is saved lies between the evaluations:
times, steps and errors are plain numbers, a stage is one product of a matrix and a vector, and the device is
waited for once a step.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor

State = TypeVar("State", Tensor, tuple[Tensor, ...])

# Of the control: how far below the longest step that the error allows, and the bounds of its change.
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
# What counts as nothing when the first step is guessed, and that step then.
_NOTHING, _SHORT = 1e-5, 1e-6


@final
@dataclass(frozen=True)
class Pair:
    """Two explicit Runge-Kutta formulas on the same stages.

    The derivative at the last stage serves as the first of the next step, as in torchdiffeq, even where that
    stage is not the answer itself.

    Attributes:
        order: The error of a step shrinks with this power of its length.
        nodes: When the stages after the first are evaluated, as parts of the step.
        stages: For each of them, the weights of the derivatives before it.
        answer: The weights of all derivatives in the answer.
        error: Those minus the weights of the other formula.
        middle: The weights in the answer half way, for interpolation.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    answer: tuple[float, ...]
    error: tuple[float, ...]
    middle: tuple[float, ...]


_DOPRI5 = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_DOPRI5_OTHER = (1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60)
_BOSH3 = (2 / 9, 1 / 3, 4 / 9)

PAIRS = {
    "dopri5": Pair(
        order=5,
        nodes=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        stages=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _DOPRI5,
        ),
        answer=(*_DOPRI5, 0.0),
        error=tuple(mine - other for mine, other in zip((*_DOPRI5, 0.0), _DOPRI5_OTHER, strict=True)),
        middle=(
            6025192743 / 30085553152 / 2,
            0.0,
            51252292925 / 65400821598 / 2,
            -2691868925 / 45128329728 / 2,
            187940372067 / 1594534317056 / 2,
            -1776094331 / 19743644256 / 2,
            11237099 / 235043384 / 2,
        ),
    ),
    "bosh3": Pair(
        order=3,
        nodes=(1 / 2, 3 / 4, 1.0),
        stages=((1 / 2,), (0.0, 3 / 4), _BOSH3),
        answer=(*_BOSH3, 0.0),
        error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        middle=(0.0, 1 / 2, 0.0, 0.0),
    ),
    "adaptive_heun": Pair(
        order=2,
        nodes=(1.0,),
        stages=((1.0,),),
        answer=(1 / 2, 1 / 2),
        error=(1 / 2, -1 / 2),
        middle=(1 / 2, 0.0),
    ),
    "fehlberg2": Pair(
        order=2,
        nodes=(1 / 2, 1.0),
        stages=((1 / 2,), (1 / 256, 255 / 256)),
        answer=(1 / 512, 255 / 256, 1 / 512),
        error=(-1 / 512, 0.0, 1 / 512),
        middle=(0.0, 1 / 2, 0.0),
    ),
}
"""The pairs, by torchdiffeq's names for them."""


def integrate_adaptively(
    pair: Pair,
    derivative: Callable[[Tensor, State], State],
    start: State,
    times: Sequence[float],
    *,
    rtol: float,
    atol: float,
    kinks: Sequence[float] = (),
) -> State:
    """Integrate an ordinary differential equation, with steps that end exactly at its kinks and last time.

    Args:
        pair: The method.
        derivative: From a time () and the state to its derivative, in the same shape. The guess of the first
            step may be asked for beyond the last time.
        start: The state at the first time; each tensor of a tuple is held to the tolerance by itself.
        times: Increasing or decreasing times, two at least.
        rtol: Relative tolerance, of the root mean square over all elements.
        atol: Absolute tolerance, likewise.
        kinks: Times where a higher derivative jumps; those between the ends are stepped to.

    Returns:
        The state at the times, which come in front of its own shape. Gradients are recorded when they are
        enabled, through every stage; the lengths of the steps are constants to them.

    Raises:
        FloatingPointError: When steps become too short to move the time, or a value is not finite.

    Example:
        >>> integrate_adaptively(
        ...     PAIRS["dopri5"], lambda t, x: x, torch.ones(1), [0.0, 1.0], rtol=1e-6, atol=1e-6
        ... )
        tensor([[1.0000],
                [2.7183]])
    """
    system = _System(derivative, start)
    first = system.flat(start)
    path = first.new_empty(len(times), len(first))
    path[0] = first
    steps = _Steps(pair, system, first, times, kinks, rtol=rtol, atol=atol)
    # Time as it runs: it grows in either direction.
    wanted = [steps.direction * time for time in times]
    done = 1
    while done < len(times):
        before, length = steps.point, steps.advance()
        if length > 0:
            reached = bisect.bisect(wanted, steps.time)
            parts = [1 - (steps.time - time) / length for time in wanted[done:reached] if time < steps.time]
            if parts:
                path[done : done + len(parts)] = steps.between(before, length, parts)
            if done + len(parts) < reached:
                path[reached - 1] = steps.point
            done = reached
            if done < len(times):
                steps.begin_next()
    if not torch.isfinite(path[-1]).all():
        raise FloatingPointError("non-finite values in the state")
    return cast("State", system.shaped(path, len(times)))


class _System:
    """An equation of flat states, from one of tensors or tuples of them."""

    def __init__(self, derivative: Callable[[Tensor, Any], Any], start: Any) -> None:
        self.derivative = derivative
        self.alone = isinstance(start, Tensor)
        self.shapes = [part.shape for part in self._parts(start)]
        self.sizes = [shape.numel() for shape in self.shapes]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.flat(self.derivative(t, self.shaped(y)))

    def flat(self, state: Any) -> Tensor:
        parts = [part.reshape(-1) for part in self._parts(state)]
        return parts[0] if self.alone else torch.cat(parts)

    def shaped(self, y: Tensor, *front: int) -> Any:
        if self.alone:
            return y.view((*front, *self.shapes[0]))
        parts = zip(y.split_with_sizes(self.sizes, -1), self.shapes, strict=True)
        return tuple(part.view((*front, *shape)) for part, shape in parts)

    def norm(self, y: Tensor) -> float:
        """Return the root mean square of the tensor where it is greatest; nan when there is one."""
        parts = y.split_with_sizes(self.sizes)
        found = [torch.linalg.vector_norm(part) / math.sqrt(max(1, len(part))) for part in parts]
        return float(found[0] if self.alone else torch.stack(found).max())

    def _parts(self, state: Any) -> tuple[Tensor, ...]:
        return (state,) if self.alone else state


class _Slopes:
    """The derivatives at the stages of a step: rows of one matrix, unless gradients are recorded."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.recorded: list[Tensor] | None = [like] * count if torch.is_grad_enabled() else None
        self.rows = like.new_empty(0 if self.recorded else count, len(like))

    def put(self, index: int, slope: Tensor) -> None:
        if self.recorded is None:
            self.rows[index].copy_(slope)
        else:
            self.recorded[index] = slope

    def last_first(self) -> None:
        self.put(0, self.rows[-1] if self.recorded is None else self.recorded[-1])

    def first(self, count: int) -> Tensor:
        return self.rows[:count] if self.recorded is None else torch.stack(self.recorded[:count])


class _Steps:
    """One integration on its way.

    Attributes:
        direction: 1 when time grows, -1 when it falls.
        time: How far it has come; ``direction`` times the time.
        point: The state there.
    """

    def __init__(
        self,
        pair: Pair,
        system: _System,
        start: Tensor,
        times: Sequence[float],
        kinks: Sequence[float],
        *,
        rtol: float,
        atol: float,
    ) -> None:
        self.pair, self.system = pair, system
        self.rtol, self.atol = rtol, atol
        self.direction = 1.0 if times[-1] > times[0] else -1.0
        self.time, self.point = self.direction * times[0], start
        last = self.direction * times[-1]
        inside = {self.direction * kink for kink in kinks}
        self.stops = [*sorted(kink for kink in inside if self.time < kink < last), last]
        self.past_kink = False

        weights = [*pair.stages, pair.answer, pair.error]
        self.sizes = [len(row) for row in weights]
        self.weights = start.new_tensor([weight for row in weights for weight in row])
        # Times just before and just after a jump differ by one rounding.
        self.infinity = start.new_tensor(math.inf)
        self.slopes = _Slopes(len(pair.nodes) + 1, start)
        self.slopes.put(0, self.system(self._clock(self.time), start))
        self.length = self._first_length()

    def advance(self) -> float:
        """Try a step, to the next stop at most, and return its length; 0 when its error is too large."""
        length, stop = self.length, self.stops[0]
        if not self.time + length > self.time:
            raise FloatingPointError(f"underflow in dt {length:g}")
        arrives = self.time + length >= stop
        if arrives:
            length = stop - self.time
        arrival = stop if arrives else self.time + length
        point, error = self._stepped(length, arrival)
        ratio = self._ratio(error, point)
        if math.isnan(ratio):
            raise FloatingPointError(f"non-finite values from t = {self.direction * self.time:.6g}")
        self.length = length * self._factor(ratio)
        if ratio > 1:
            return 0.0
        self.time, self.point = arrival, point
        self.past_kink = arrives and len(self.stops) > 1
        if self.past_kink:
            self.stops.pop(0)
        return length

    def begin_next(self) -> None:
        """Make the derivative where the step has ended the first of the next."""
        if self.past_kink:
            after = torch.nextafter(self._clock(self.time), self.direction * self.infinity)
            self.slopes.put(0, self.system(after, self.point))
        else:
            self.slopes.last_first()

    def between(self, before: Tensor, length: float, parts: Sequence[float]) -> Tensor:
        """Return the states at parts of the step that has ended: torchdiffeq's polynomial of order 4."""
        x = torch.tensor(parts, dtype=torch.float64).unsqueeze(1)
        answer, middle = (torch.tensor(row, dtype=x.dtype) for row in (self.pair.answer, self.pair.middle))
        # It meets the values at the start, half way and at the end, and the derivatives at the ends.
        weights = x**2 * (-5 + 14 * x - 8 * x**2) * answer + 16 * x**2 * (1 - x) ** 2 * middle
        weights[:, :1] += x * (1 - x) ** 2 * (1 - 2 * x)
        weights[:, -1:] += x**2 * (1 - x) * (1 - 2 * x)
        weights = (self.direction * length * weights).to(before.device, before.dtype)
        return torch.addmm(before.unsqueeze(0), weights, self.slopes.first(len(answer)))

    def _stepped(self, length: float, arrival: float) -> tuple[Tensor, Tensor]:
        """Return the state after a step, and the estimate of its error."""
        *stages, answer, error = torch.split_with_sizes(self.direction * length * self.weights, self.sizes)
        # At its end a step is asked on its own side of a jump.
        end = torch.nextafter(self._clock(arrival), -self.direction * self.infinity)
        point = self.point
        for index, (node, weights) in enumerate(zip(self.pair.nodes, stages, strict=True)):
            point = self._moved(weights)
            t = end if node == 1 else self._clock(self.time + node * length)
            self.slopes.put(index + 1, self.system(t, point))
        if self.pair.answer[:-1] != self.pair.stages[-1]:
            point = self._moved(answer)
        with torch.no_grad():
            return point, torch.mv(self.slopes.first(len(error)).t(), error)

    def _moved(self, weights: Tensor) -> Tensor:
        return torch.addmv(self.point, self.slopes.first(len(weights)).t(), weights)

    @torch.no_grad()
    def _ratio(self, error: Tensor, point: Tensor) -> float:
        """Return the error as a part of what is tolerated."""
        tolerated = torch.maximum(self.point.abs(), point.abs()).mul_(self.rtol).add_(self.atol)
        return self.system.norm(error / tolerated)

    def _factor(self, ratio: float) -> float:
        """Return by how much the next step is longer than this one."""
        if ratio == 0:
            return _MOST
        return min(_MOST, max(_SAFETY / math.pow(ratio, 1 / self.pair.order), 1.0 if ratio < 1 else _LEAST))

    @torch.no_grad()
    def _first_length(self) -> float:
        """Return a guess of the first step: Hairer, Norsett and Wanner, section II.4."""
        slope = self.slopes.first(1)[0]
        tolerated = self.point.abs().mul_(self.rtol).add_(self.atol)
        size, speed = self.system.norm(self.point / tolerated), self.system.norm(slope / tolerated)
        trial = _SHORT if size < _NOTHING or speed < _NOTHING else 0.01 * size / speed
        if not trial > 0:  # An infinite or undefined speed.
            return trial
        moved = torch.add(self.point, slope, alpha=self.direction * trial)
        change = self.system(self._clock(self.time + trial), moved) - slope
        bend = self.system.norm(change / tolerated) / trial
        if math.isnan(bend):
            return bend
        if speed <= 1e-15 and bend <= 1e-15:
            return min(100 * trial, max(_SHORT, trial * 1e-3))
        return min(100 * trial, math.pow(0.01 / max(speed, bend), 1 / self.pair.order))

    def _clock(self, time: float) -> Tensor:
        return torch.full((), self.direction * time, dtype=self.point.dtype, device=self.point.device)
