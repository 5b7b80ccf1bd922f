"""Fixed steps, several in one compiled graph.

A graph takes times, lengths and noise as tensors, so that one serves every grid. What depends on time alone,
such as the weights by which a velocity follows from a denoiser, is worked out beforehand, in double precision
as elsewhere, and reaches the graph as a row of numbers for each stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from interpolants._tensors import kind
from interpolants.fields import Diffusion, Field, Guided
from interpolants.fields.derived import DerivedField
from interpolants.samplers.graphs import graph_of, not_compiled, signature_of
from interpolants.samplers.grid import check_answer
from interpolants.samplers.steps import Tableau, step

# Steps in a graph. Twice as many take twice as long to compile and save 5 % at 64 points in the plane.
_STEPS = 8


class Drift(NamedTuple):
    """The drift of a diffusion, as :meth:`Field.drift` is asked for it.

    Attributes:
        epsilon: The diffusion; None where it is 0 throughout, and the score is not asked for.
        reverse: Whether time runs from 1 to 0.
        nearest: How near to an end networks are asked.
    """

    epsilon: Diffusion | None
    reverse: bool
    nearest: float


class Recipe(Protocol):
    """What of a field is evaluated at a stage, given a row of numbers that depend on its time alone."""

    def answer(self, field: Field, row: Tensor, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return the velocity or the drift, in the shape of ``x``."""
        ...


Row = tuple[float, ...]


@final
@dataclass(frozen=True)
class Asked:
    """The field's own answers: a row is the time and, with a diffusion, what multiplies the score."""

    noisy: bool

    def answer(self, field: Field, row: Tensor, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return the velocity or the drift."""
        if not self.noisy:
            return field.velocity(row[0], x, **conditions)
        answers = field.together(("velocity", "score"), row[0], x, **conditions)
        # Where there is no diffusion even a score that is infinite does nothing.
        return answers["velocity"] + torch.where(row[1] == 0, 0, row[1] * answers["score"])


@final
@dataclass(frozen=True)
class Expanded:
    """A sum of what a derived field knows: a row is when that is asked for, and the weights."""

    names: tuple[str, ...]

    def answer(self, field: Field, row: Tensor, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return the velocity or the drift."""
        assert isinstance(field, DerivedField)
        return field.expanded(self.names, row, x, conditions)


@final
@dataclass(frozen=True)
class Mixed:
    """Guidance: a row is its scale, the conditional field's row, of that width, and the other's.

    The unconditional field is None where the scale is 1 throughout.
    """

    conditional: Recipe
    width: int
    unconditional: Recipe | None

    def answer(self, field: Field, row: Tensor, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return the velocity or the drift."""
        assert isinstance(field, Guided)
        scale, mine, other = row[0], row[1 : 1 + self.width], row[1 + self.width :]
        towards = self.conditional.answer(field.conditional, mine, x, conditions)
        if self.unconditional is None:
            return towards
        away = self.unconditional.answer(field.unconditional, other, x, {**conditions, **field.null})
        return torch.where(scale == 1, towards, torch.lerp(away, towards, scale.to(away.dtype)))


def recipe_of(
    field: Field, times: Sequence[float], x: Tensor, drift: Drift | None
) -> tuple[Recipe, list[Row]]:
    """Return what of a field is evaluated in a graph, and the row of numbers for each time.

    Args:
        field: The field.
        times: When it is asked.
        x: Points like those to come.
        drift: The drift that is asked for; None for the velocity.

    Raises:
        FieldUnavailable: When the field does not know it.
        RuntimeError: When it is no one formula for all times.
    """
    if isinstance(field, Guided):
        return _mixed(field, times, x, drift)
    if isinstance(field, DerivedField):
        asked = {} if drift is None else drift._asdict()
        names, rows = field.expansion(times, x, **asked)
        if not all(math.isfinite(number) for row in rows for number in row):
            raise _uncaptured(field, "its answer is not one weighted sum at all times")
        return Expanded(names), rows
    if drift is not None and type(field).drift is not Field.drift:
        raise _uncaptured(field, "it has a drift of its own")
    if drift is None or drift.epsilon is None:
        return Asked(noisy=False), [(time,) for time in times]
    levels = drift.epsilon(torch.tensor(times, dtype=torch.float64), field.interpolant).tolist()
    sign = -1 if drift.reverse else 1
    return Asked(noisy=True), [(time, sign * level) for time, level in zip(times, levels, strict=True)]


def captured_states(
    field: Field,
    recipe: Recipe,
    rows: Sequence[Row],
    tableau: Tableau,
    x: Tensor,
    dtype: torch.dtype,
    lengths: Sequence[float],
    conditions: Mapping[str, Any],
    noise: Callable[[int], Tensor] | None = None,
    amplitudes: Sequence[Row] = (),
) -> Iterator[Tensor]:
    """Yield the states after all steps.

    Args:
        field: What carries the points.
        recipe: What of it is evaluated.
        rows: What the recipe needs, for each stage of all steps.
        tableau: The formula of a step.
        x: Starting points, shape ``(B, *D)``.
        dtype: The precision of the state.
        lengths: Those of the steps, negative backwards.
        conditions: Passed to the field.
        noise: From the number of a step to its noise, with as many elements as the points, in their order.
        amplitudes: What that is multiplied by, for each step the row of its stages.

    Raises:
        RuntimeError: When the field cannot be compiled into one graph.
    """
    # A copy of one layout without history: to a graph other kinds of tensors would be other inputs.
    state = x.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    steps, stages = len(lengths), len(tableau.nodes)
    several = _several(recipe, tableau, x.dtype)
    table = state.new_tensor(rows).view(steps, stages, -1)
    sizes, strengths = state.new_tensor(lengths), state.new_tensor(amplitudes)
    count = min(_STEPS, steps)
    signature = (recipe, tableau, count, x.shape, x.dtype, x.device, noise is None, signature_of(conditions))
    graph = graph_of(field, signature, several, x.device)
    given = dict(conditions)
    for first in range(0, steps, count):
        some = slice(first, first + count)
        drawn = None
        if noise is not None:
            drawn = torch.stack([noise(k).view(x.shape) for k in range(steps)[some]])
        arguments = (field, state, table[some], sizes[some], drawn, strengths[some], given)
        # Those that are left over, fewer than a graph has, are not worth another one.
        whole = first + count <= steps
        found = _run(graph, several, arguments) if whole else several(*arguments)
        yield from found
        state = found[-1].contiguous()


def _several(recipe: Recipe, tableau: Tableau, dtype: torch.dtype) -> Callable[..., list[Tensor]]:
    """Return what takes several steps; a field is asked in ``dtype``."""

    def several(
        field: Field,
        state: Tensor,
        table: Tensor,
        lengths: Tensor,
        noise: Tensor | None,
        amplitudes: Tensor,
        conditions: dict[str, Any],
    ) -> list[Tensor]:
        def derivative(row: Tensor, point: Tensor) -> Tensor:
            answer = recipe.answer(field, row, point.to(dtype), conditions).to(point.dtype)
            check_answer(answer, point)
            return answer

        found = []
        for k, length in enumerate(lengths.unbind()):
            added = () if noise is None else (noise[k], amplitudes[k].unbind())
            state = step(tableau, derivative, iter(table[k].unbind()), state, length, *added)
            found.append(state)
        return found

    return several


def _run(
    graph: Callable[..., list[Tensor]], plain: Callable[..., list[Tensor]], arguments: tuple[Any, ...]
) -> list[Tensor]:
    try:
        return graph(*arguments)
    except not_compiled() as error:
        plain(*arguments)  # A mistake of the field's own says so by itself.
        raise _uncaptured(arguments[0], str(error).strip().splitlines()[0]) from error


def _mixed(field: Guided, times: Sequence[float], x: Tensor, drift: Drift | None) -> tuple[Recipe, list[Row]]:
    scale = field.scale
    scales = [float(scale(time) if callable(scale) else scale) for time in times]
    mine, rows = recipe_of(field.conditional, times, x, drift)
    if all(number == 1 for number in scales):
        return Mixed(mine, len(rows[0]), None), [(1.0, *row) for row in rows]
    other, others = recipe_of(field.unconditional, times, x, drift)
    joined = [(number, *row, *more) for number, row, more in zip(scales, rows, others, strict=True)]
    return Mixed(mine, len(rows[0]), other), joined


def _uncaptured(field: Field, reason: str) -> RuntimeError:
    return RuntimeError(
        f"the steps of this {kind(field)} cannot be compiled into one graph ({reason}); use compile=False"
    )
