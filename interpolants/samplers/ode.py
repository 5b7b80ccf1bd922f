r"""The probability flow :math:`\dot X = b(t, X)`; the only file that knows torchdiffeq."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from interpolants._tensors import Time
from interpolants.fields import Field, Guided, LearnedField
from interpolants.samplers.adaptive import PAIRS, integrate_adaptively
from interpolants.samplers.captured import captured_states, recipe_of
from interpolants.samplers.grid import (
    check_answer,
    check_compiled,
    check_start,
    check_steps,
    checked_seeds,
    checked_times,
    grid_of,
    state_dtype,
)
from interpolants.samplers.steps import TABLEAUS, Tableau, collected, stage_times, states
from interpolants.samplers.trajectory import Trajectory

_FIXED = {"euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"}
_ADAPTIVE = {"dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"}
_SCIPY = "scipy_solver"
_ALIASES = {"heun": "heun2"}

Velocity = Callable[[Time, Tensor], Tensor]
"""Of a time in [0, 1], a number or of shape (), and points (B, *D)."""

State = TypeVar("State", Tensor, tuple[Tensor, ...])
Derivative = Callable[[Any, State], State]
"""Of a time in [0, 1], a number or of shape (), and the state; returns its shape."""


@final
@dataclass(frozen=True)
class ODESampler:
    r"""Carries points along the ODE :math:`\dot X = b(t, X)`, in either direction.

    The field is asked only at times in [0, 1]: adaptive methods step exactly to the last time, and to
    the field's kinks, where they begin afresh.

    Args:
        method: A torchdiffeq method. Fixed steps: euler, midpoint, heun (its heun2), heun3, rk4,
            explicit_adams, implicit_adams. Adaptive: dopri5, dopri8, bosh3, fehlberg2, adaptive_heun, and
            scipy_solver with ``options={"solver": "RK45"}`` (or DOP853, LSODA, BDF, Radau).
        steps: The number of equal steps over [0, 1] for fixed-step methods; for adaptive methods the
            number of intervals whose ends are returned.
        rtol: Relative tolerance of adaptive methods.
        atol: Absolute tolerance of adaptive methods.
        times: An increasing grid in [0, 1] in place of the equal steps; the integration runs between
            its ends. Reversed when sampling in reverse.
        end_only: Whether to return only the first and the last point of each trajectory, which saves
            memory; the steps are the same.
        differentiable: Whether to record gradients, through every operation of the solver.
        options: Further options of the torchdiffeq method, which then takes every step itself.
        compile: Whether to compile several steps into one graph, for euler, midpoint, heun, heun3 and rk4
            without gradients. That takes seconds when a field is first sampled from, and again for points or
            conditions of another shape or precision; other times, steps, directions and weights of the
            networks use the graph that is there. It is dropped with the field. Random numbers that a
            network draws, as in dropout, are then others. On a GPU the graph is compiled likewise, without
            capturing its launches. Likelihoods do not use it.

    Raises:
        ValueError: When the method is unknown, ``steps`` is less than 1, a tolerance is not positive,
            ``times`` is not an increasing grid of at least two times in [0, 1], or the steps of the method,
            with gradients or options, cannot be compiled.

    Example:
        >>> from interpolants import GaussianMixture, Linear, MixtureOracle
        >>> source = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.eye(1)[None])
        >>> target = GaussianMixture(torch.ones(1), torch.full((1, 1), 3.0), 4 * torch.eye(1)[None])
        >>> oracle = MixtureOracle(Linear(), source, target)
        >>> trajectory = ODESampler("dopri5", steps=1).sample(oracle, torch.tensor([[1.0]]))
        >>> trajectory.final.round(decimals=3)  # the map is x -> 3 + 2 x
        tensor([[5.]])
    """

    method: str = "euler"
    steps: int = 128
    rtol: float = 1e-5
    atol: float = 1e-5
    times: Sequence[float] | None = None
    end_only: bool = False
    differentiable: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    compile: bool = False

    def __post_init__(self) -> None:
        if self._method not in _FIXED | _ADAPTIVE | {_SCIPY}:
            known = ", ".join(sorted(_FIXED | _ADAPTIVE | {_SCIPY} | set(_ALIASES)))
            raise ValueError(f"unknown ODE method {self.method!r}; known: {known}")
        check_steps(self.steps)
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < tolerance < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {tolerance}")
        object.__setattr__(self, "times", checked_times(self.times))
        if self.compile and self._tableau is None:
            able = ", ".join([*TABLEAUS, *_ALIASES])
            raise ValueError(f"compile=True needs {able}, without options; got {self.method}")
        check_compiled(self.compile, self.differentiable)

    def sample(
        self,
        field: Field,
        x: Tensor,
        *,
        reverse: bool = False,
        generator: torch.Generator | None = None,
        seeds: Tensor | Sequence[int] | None = None,
        **conditions: Any,
    ) -> Trajectory:
        """Return the trajectories that start in ``x``.

        Args:
            field: What carries the points; only its velocity is used.
            x: Starting points, shape ``(B, *D)``: of the source, or of the target in reverse.
            reverse: Whether to run from t = 1 to t = 0.
            generator: Not used: the flow is deterministic. Accepted so that samplers can be exchanged.
            seeds: Not used, likewise, but checked as a sampler with noise checks them.
            **conditions: Passed to the field.

        Returns:
            The trajectory, in the dtype of ``x``; the state of half-precision points is kept in single.

        Raises:
            TypeError: When ``field`` is no Field or ``x`` no floating-point tensor.
            ValueError: When gradients are asked of a solver of scipy, the field answers in another shape, or
                there is not one seed for each example.
            RuntimeError: When an adaptive method cannot reach its tolerance, as where the field is not
                finite, or the field cannot be compiled.
        """
        check_start(field, x)
        checked_seeds(seeds, generator, len(x))
        if self.compile:
            return self._captured(field, x, reverse, conditions)
        times, path, evaluations = integrate(
            self, field, x, conditions, lambda velocity, start: (velocity, start), reverse=reverse
        )
        shown = times[[0, -1]] if len(path) < len(times) else times
        return Trajectory(shown, path.to(x.dtype), evaluations)

    @torch.no_grad()
    def _captured(self, field: Field, x: Tensor, reverse: bool, conditions: dict[str, Any]) -> Trajectory:
        assert self._tableau is not None
        t = self._times(x, reverse)
        times = t.tolist()
        lengths = [then - now for now, then in itertools.pairwise(times)]
        dtype = state_dtype(x)
        recipe, rows = recipe_of(field, stage_times(self._tableau, times), x, None)
        later = captured_states(field, recipe, rows, self._tableau, x, dtype, lengths, conditions)
        path = collected(x.to(dtype), later, len(lengths), end_only=self.end_only)
        shown = t[[0, -1]] if len(path) < len(t) else t
        return Trajectory(shown, path.to(x.dtype), len(rows))

    @property
    def _method(self) -> str:
        return _ALIASES.get(self.method, self.method)

    @property
    def _tableau(self) -> Tableau | None:
        # With options of torchdiffeq's the steps are left to it.
        return None if self.options else TABLEAUS.get(self._method)

    def _times(self, x: Tensor, reverse: bool) -> Tensor:
        # Double precision: the steps of a long grid are then equal to rounding of the state.
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        times = torch.tensor(grid_of(self.times, self.steps), dtype=dtype, device=x.device)
        return times.flip(0) if reverse else times

    def _integrate(
        self,
        derivative: Derivative[State],
        start: State,
        times: Tensor,
        kinks: tuple[float, ...],
    ) -> State:
        wanted = times[[0, -1]] if self.end_only and len(times) > 2 else times
        if self._method in PAIRS and not self.options:
            pair, at = PAIRS[self._method], wanted.tolist()
            try:
                return integrate_adaptively(
                    pair, derivative, start, at, rtol=self.rtol, atol=self.atol, kinks=kinks
                )
            except FloatingPointError as error:
                raise self._out_of_reach(error) from error
        from torchdiffeq import odeint

        options = dict(self.options)
        if self._method.endswith("adams"):
            options.setdefault("max_order", 4)  # torchdiffeq's own choice, up to 12, is unstable.
        if self._method in _FIXED:
            options["grid_constructor"] = lambda function, start, ends: times
        elif self._method in _ADAPTIVE:
            ends = sorted((float(times[0]), float(times[-1])))
            options.setdefault("dtype", times.dtype)
            # To the last time exactly; left alone these methods step past it and interpolate back.
            options.setdefault("step_t", times[-1:])
            inside = [kink for kink in kinks if ends[0] < kink < ends[1]]
            if inside:
                options.setdefault("jump_t", times.new_tensor(inside))
        try:
            with warnings.catch_warnings():
                # torchdiffeq hands every solver of scipy an option that only one of them has.
                warnings.filterwarnings("ignore", ".*have no effect for a chosen solver.*min_step")
                path: State = odeint(
                    derivative,
                    start,
                    wanted,
                    method=self._method,
                    rtol=self.rtol,
                    atol=self.atol,
                    options=options,
                )
            # Solvers of scipy return what they have when they give up.
            if isinstance(path, Tensor) and len(path) < len(wanted):
                raise FloatingPointError(f"the solver gave up after {len(path)} of {len(wanted)} times")
        except (AssertionError, FloatingPointError) as error:
            raise self._out_of_reach(error) from error
        return path

    def _out_of_reach(self, error: Exception) -> RuntimeError:
        return RuntimeError(
            f"{self.method} could not reach its tolerance (rtol {self.rtol:g}, atol {self.atol:g}): "
            f"{error}. The field may be infinite or nan, or jump, near some time; try fixed steps, "
            "looser tolerances, or times that stop short of the ends"
        )


def integrate(
    sampler: ODESampler,
    field: Field,
    x: Tensor,
    conditions: Mapping[str, Any],
    system: Callable[[Velocity, Tensor], tuple[Derivative[State], State]],
    *,
    reverse: bool,
) -> tuple[Tensor, State, int]:
    """Integrate a system built on a field with the settings, times and care of a sampler.

    Args:
        sampler: The settings; gradients are recorded when it is differentiable and they are enabled.
        field: What carries the points; only its velocity is used.
        x: Starting points, shape ``(B, *D)``.
        conditions: Passed to the field.
        system: From the velocity, which may be asked at any time and counts how often it is, and the
            starting points in single precision at least, to the derivative and the start of the state.
            Each tensor of a tuple is held to the tolerance by itself.
        reverse: Whether to run from the last time to the first.

    Returns:
        All times of the sampler, ``(T,)``; the state at them, or at the first and the last when
        ``end_only``, with the times in front of its own shape; the number of evaluations of the field.

    Raises:
        TypeError: When ``field`` is no Field or ``x`` no floating-point tensor.
        ValueError: When a solver of scipy is asked for gradients or given a tuple.
        RuntimeError: When an adaptive method cannot reach its tolerance.
    """
    check_start(field, x)
    scipy = sampler._method == _SCIPY
    if sampler.differentiable and scipy:
        raise ValueError("the solvers of scipy record no gradients; choose another method")
    # The guess of a first step and the rounding of a last one may leave [0, 1]; steps of a grid do not.
    may_leave = sampler._tableau is None
    velocity = _Counted(field, conditions, x.dtype, may_leave=may_leave, must_be_finite=scipy)
    times = sampler._times(x, reverse)
    with torch.set_grad_enabled(sampler.differentiable and torch.is_grad_enabled()):
        derivative, start = system(velocity, x.to(state_dtype(x)))
        if scipy and not isinstance(start, Tensor):
            # torchdiffeq cannot tell that they gave up on a tuple.
            raise ValueError(
                "the solvers of scipy carry points and nothing beside them; choose another method"
            )
        if sampler._tableau is not None:
            path = _stepped(sampler._tableau, field, derivative, x, start, times.tolist(), sampler.end_only)
        else:
            # Adaptive methods choose their times as they go.
            with field.prepared(times.tolist() if sampler._method in _FIXED else [], x):
                path = sampler._integrate(derivative, start, times, field.kinks)
    return times, path, velocity.evaluations


def _stepped(
    tableau: Tableau,
    field: Field,
    derivative: Derivative[State],
    x: Tensor,
    start: State,
    times: list[float],
    end_only: bool,
) -> State:
    asked = stage_times(tableau, times)
    clock: Sequence[Time] = asked
    # Networks of a learned field get a time for each example in any case, and the scale of a guided one is to
    # be asked at the times themselves: rounded ones may miss the end of an interval.
    if not isinstance(field, LearnedField | Guided):
        told = torch.tensor(asked, dtype=state_dtype(x), device=x.device)
        asked, clock = told.tolist(), told.unbind()
    with field.prepared(asked, x):
        later = states(tableau, derivative, clock, start, times)
        return collected(start, later, len(times) - 1, end_only=end_only)


class _Counted:
    def __init__(
        self,
        field: Field,
        conditions: Mapping[str, Any],
        dtype: torch.dtype,
        *,
        may_leave: bool,
        must_be_finite: bool,
    ) -> None:
        self.field = field
        self.conditions = conditions
        self.dtype = dtype
        self.may_leave = may_leave
        self.must_be_finite = must_be_finite
        self.evaluations = 0

    def __call__(self, t: Time, x: Tensor) -> Tensor:
        self.evaluations += 1
        time = t.clamp(0, 1) if self.may_leave and isinstance(t, Tensor) else t
        point = x if x.dtype == self.dtype else x.to(self.dtype)
        velocity = self.field.velocity(time, point, **self.conditions)
        velocity = velocity if velocity.dtype == x.dtype else velocity.to(x.dtype)
        check_answer(velocity, x)
        # Solvers of scipy may go on for ever with nan; they wait for every value anyway.
        if self.must_be_finite and not torch.isfinite(velocity).all():
            raise FloatingPointError(f"the field is not finite at t = {float(time):.6g}")
        return velocity
