r"""The probability flow :math:`\dot X = b(t, X)`, integrated by torchdiffeq; the only file that knows it."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from interpolants._tensors import kind
from interpolants.fields import Field
from interpolants.samplers.trajectory import Trajectory

_FIXED = {"euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"}
_ADAPTIVE = {"dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"}
_SCIPY = "scipy_solver"
_ALIASES = {"heun": "heun2"}


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
        options: Further options of the torchdiffeq method.

    Raises:
        ValueError: When the method is unknown, ``steps`` is less than 1, a tolerance is not positive, or
            ``times`` is not an increasing grid of at least two times in [0, 1].

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

    def __post_init__(self) -> None:
        if self._method not in _FIXED | _ADAPTIVE | {_SCIPY}:
            known = ", ".join(sorted(_FIXED | _ADAPTIVE | {_SCIPY} | set(_ALIASES)))
            raise ValueError(f"unknown ODE method {self.method!r}; known: {known}")
        if self.steps < 1 or int(self.steps) != self.steps:
            raise ValueError(f"steps must be a whole number, at least 1; got {self.steps}")
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < tolerance < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {tolerance}")
        if self.times is not None:
            times = tuple(float(time) for time in self.times)
            increasing = all(early < late for early, late in itertools.pairwise(times))
            if len(times) < 2 or not increasing or times[0] < 0 or times[-1] > 1:
                raise ValueError(
                    f"times must be an increasing grid of two or more times in [0, 1]; got {times}"
                )
            object.__setattr__(self, "times", times)

    def sample(
        self,
        field: Field,
        x: Tensor,
        *,
        reverse: bool = False,
        generator: torch.Generator | None = None,
        seeds: Tensor | None = None,
        **conditions: Any,
    ) -> Trajectory:
        """Return the trajectories that start in ``x``.

        Args:
            field: What carries the points; only its velocity is used.
            x: Starting points, shape ``(B, *D)``: of the source, or of the target in reverse.
            reverse: Whether to run from t = 1 to t = 0.
            generator: Not used: the flow is deterministic. Accepted so that samplers can be exchanged.
            seeds: Not used, likewise.
            **conditions: Passed to the field.

        Returns:
            The trajectory, in the dtype of ``x``; the state of half-precision points is kept in single.

        Raises:
            TypeError: When ``field`` is no Field or ``x`` no floating-point tensor.
            ValueError: When gradients are asked of a solver of scipy.
            RuntimeError: When an adaptive method cannot reach its tolerance, as where the field is not
                finite.
        """
        if not isinstance(field, Field):
            raise TypeError(
                "field must be a Field; make one from a network with "
                f"LearnedField(interpolant, velocity=network); got {kind(field)}"
            )
        if self.differentiable and self._method == _SCIPY:
            raise ValueError("the solvers of scipy record no gradients; choose another method")
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError("x must be a floating-point tensor of shape (B, *D)")
        velocity = _Counted(field, conditions, x.dtype, must_be_finite=self._method == _SCIPY)
        times = self._times(x, reverse)
        # Steps in half precision would be lost in the state: it is kept in single precision.
        start = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            path = self._integrate(velocity, start, times, field.kinks).to(x.dtype)
        shown = times[[0, -1]] if len(path) < len(times) else times
        return Trajectory(shown, path, velocity.evaluations)

    @property
    def _method(self) -> str:
        return _ALIASES.get(self.method, self.method)

    def _times(self, x: Tensor, reverse: bool) -> Tensor:
        # Double precision: the steps of a long grid are then equal to rounding of the state.
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        if self.times is None:
            # k / steps is the nearest number to the true time; linspace accumulates.
            times = torch.arange(self.steps + 1, dtype=dtype, device=x.device) / self.steps
        else:
            times = torch.tensor(self.times, dtype=dtype, device=x.device)
        return times.flip(0) if reverse else times

    def _integrate(
        self, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor, kinks: tuple[float, ...]
    ) -> Tensor:
        from torchdiffeq import odeint

        options = dict(self.options)
        wanted = times[[0, -1]] if self.end_only and len(times) > 2 else times
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
                path: Tensor = odeint(
                    velocity, x, wanted, method=self._method, rtol=self.rtol, atol=self.atol, options=options
                )
            if len(path) < len(wanted):  # Solvers of scipy return what they have when they give up.
                raise FloatingPointError(f"the solver gave up after {len(path)} of {len(wanted)} times")
        except (AssertionError, FloatingPointError) as error:
            raise RuntimeError(
                f"{self.method} could not reach its tolerance (rtol {self.rtol:g}, atol {self.atol:g}): "
                f"{error}. The field may be infinite or nan, or jump, near some time; try fixed steps, "
                "looser tolerances, or times that stop short of the ends"
            ) from error
        return path


class _Counted:
    def __init__(
        self, field: Field, conditions: dict[str, Any], dtype: torch.dtype, *, must_be_finite: bool
    ) -> None:
        self.field = field
        self.conditions = conditions
        self.dtype = dtype
        self.must_be_finite = must_be_finite
        self.evaluations = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.evaluations += 1
        # The guess of a first step and the rounding of a last one may leave [0, 1].
        time = t.clamp(0, 1)
        velocity = self.field.velocity(time, x.to(self.dtype), **self.conditions).to(x.dtype)
        # Solvers of scipy may go on for ever with nan; they wait for every value anyway.
        if self.must_be_finite and not torch.isfinite(velocity).all():
            raise FloatingPointError(f"the field is not finite at t = {float(time):.6g}")
        return velocity
