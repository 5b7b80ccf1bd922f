r"""The diffusions with the interpolant's marginals, integrated by torchsde.

Forward from the source, :math:`dX = (b + \epsilon s)\,dt + \sqrt{2\epsilon}\,dW`; backward from the target,
:math:`dX = (b - \epsilon s)\,dt + \sqrt{2\epsilon}\,dW_B` (Albergo, Boffi and Vanden-Eijnden 2023,
arXiv 2303.08797, Section 2.3).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from interpolants.fields import Field
from interpolants.samplers.brownian import Fresh, Seeded, Steps
from interpolants.samplers.diffusions import Epsilon, as_epsilon
from interpolants.samplers.grid import (
    check_answer,
    check_start,
    check_steps,
    checked_seeds,
    checked_times,
    grid_of,
    nearest_of,
    state_dtype,
)
from interpolants.samplers.trajectory import Trajectory

# torchsde's methods that fit noise whose strength depends on time alone, where Ito and Stratonovich agree.
_METHODS = {"euler": "ito", "heun": "stratonovich", "srk": "ito"}
_UNSUITED = {
    "milstein": "with noise that does not depend on the state it is euler, at a higher price: use euler",
    "euler_heun": "with noise that does not depend on the state it is no better than euler: use euler",
    "midpoint": "its stage has half of a step's noise: weak order 1 at the price of heun, so use heun",
    "log_ode": "what it adds to midpoint vanishes for noise that does not depend on the state: use heun",
    "reversible_heun": "it carries slopes over to steps of another length, which is wrong: use heun",
    "adjoint_reversible_heun": "it is for torchsde's adjoint only: use heun",
}


@final
@dataclass(frozen=True)
class SDESampler:
    r"""Carries points along the SDE with the interpolant's marginals, in either direction.

    All :math:`\epsilon` share the marginals when velocity and score are exact; with :math:`\epsilon = 0`
    this is the ODE and needs no score. The last step is like all others: it adds noise of variance
    :math:`2 \epsilon h`, so that with a constant :math:`\epsilon` sharp edges of the target are blurred by
    that; an :math:`\epsilon` that falls to 0 at t = 1 (:class:`Parabolic`, :class:`ProportionalToGamma`)
    does not.

    Args:
        epsilon: The diffusion: an object such as ``Constant(0.5)`` or ``ProportionalToGamma(1.0)``, a
            number, or a function of time.
        method: euler (Euler-Maruyama: weak and strong order 1), heun (weak order 2, strong 1, two
            evaluations) or srk (Roessler's SRA1: weak order 2, strong 1.5, two evaluations).
        steps: The number of equal steps over [0, 1].
        times: An increasing grid in [0, 1] in place of the equal steps; reversed when sampling in reverse.
        end_only: Whether to return only the first and the last point of each trajectory, which saves memory.
        differentiable: Whether to record gradients, through every operation of the solver.

    Raises:
        TypeError: When ``epsilon`` is no diffusion, number or function.
        ValueError: When ``epsilon`` is negative, the method is unknown or does not suit noise of this kind,
            ``steps`` is less than 1, or ``times`` is not an increasing grid of at least two times in [0, 1].

    Example:
        >>> from interpolants import Constant, GaussianMixture, Linear, MixtureOracle
        >>> source = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.eye(1)[None])
        >>> target = GaussianMixture(torch.ones(1), torch.full((1, 1), 3.0), 4 * torch.eye(1)[None])
        >>> oracle = MixtureOracle(Linear(), source, target)
        >>> generator = torch.Generator().manual_seed(0)
        >>> x0 = source.sample(10_000, generator=generator)
        >>> x1 = SDESampler(Constant(0.5)).sample(oracle, x0, generator=generator).final
        >>> round(float(x1.mean()), 1), round(float(x1.std()), 1)
        (3.0, 2.0)
    """

    epsilon: Epsilon | float | Callable[[Tensor], Tensor | float]
    method: str = "euler"
    steps: int = 128
    times: Sequence[float] | None = None
    end_only: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", as_epsilon(self.epsilon))
        if self.method not in _METHODS:
            known = ", ".join(_METHODS)
            if self.method in _UNSUITED:
                raise ValueError(f"{self.method} is not offered: {_UNSUITED[self.method]} (known: {known})")
            raise ValueError(f"unknown SDE method {self.method!r}; known: {known}")
        check_steps(self.steps)
        object.__setattr__(self, "times", checked_times(self.times))

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
            field: What carries the points; its velocity and score are used.
            x: Starting points, shape ``(B, *D)``: of the source, or of the target in reverse.
            reverse: Whether to run from t = 1 to t = 0.
            generator: Where the noise is drawn from; torch's global generator by default.
            seeds: A seed for each example, shape ``(B,)``, in place of the generator. An example's path then
                depends on its seed and starting point alone, not on the batch, and the same seed with twice
                the steps refines the same Brownian path, whatever the method.
                All increments lie in memory at once, 8 bytes for each step and element in single precision.
            **conditions: Passed to the field.

        Returns:
            The trajectory, in the dtype of ``x``; the state of half-precision points is kept in single.

        Raises:
            TypeError: When ``field`` is no Field, ``x`` no floating-point tensor or the seeds no whole
                numbers.
            ValueError: When there is not one seed for each example, both seeds and generator are given, or
                the diffusion makes no sense on the field's path.
            FieldUnavailable: When the field has no score.
        """
        check_start(field, x)
        assert isinstance(self.epsilon, Epsilon)
        self.epsilon.check(field.interpolant)
        listed = checked_seeds(seeds, generator, len(x))
        times = grid_of(self.times, self.steps)
        if reverse:
            times = times[::-1]
        start = x.to(state_dtype(x)).reshape(len(x), math.prod(x.shape[1:]))
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            motion = _Motion(field, self.epsilon, times, x, reverse, conditions, self.end_only)
            if listed is not None:
                noise: Steps = Seeded(start, listed, len(times) - 1) if motion.noisy else Steps(start)
            else:
                noise = Fresh(start, generator) if motion.noisy else Steps(start)
            stages = _stages(times) if self.method == "srk" else []
            with field.prepared(
                [*times, *stages], x, epsilon=self.epsilon, reverse=reverse, nearest=motion.nearest
            ):
                states = motion.integrated(start, noise, self.method)
            path = states.reshape(len(states), *x.shape).to(x.dtype)
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        shown = torch.tensor(times if len(path) == len(times) else [times[0], times[-1]], dtype=dtype)
        return Trajectory(shown.to(x.device), path, motion.evaluations)


class _Motion:
    """The SDE as torchsde sees it: flat states, and time counted in steps.

    At u steps the time is t(u), linear within each step: the drift is multiplied by the length h of the step,
    negative in reverse, the noise by the root of its size. Which step it is, the Brownian path says, which
    every method asks once at the beginning of a step: at a grid point two steps meet.
    """

    noise_type = "additive"

    def __init__(
        self,
        field: Field,
        epsilon: Epsilon,
        times: list[float],
        x: Tensor,
        reverse: bool,
        conditions: dict[str, Any],
        end_only: bool,
    ) -> None:
        self.field = field
        self.epsilon = epsilon
        self.times = times
        self.like = x
        self.flat = x.ndim == 2 and x.dtype == state_dtype(x)
        self.reverse = reverse
        self.conditions = conditions
        self.end_only = end_only
        self.evaluations = 0
        self.path: list[Tensor] = []
        self.sde_type = "ito"
        self.noise: Steps | None = None
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None
        self._aside = contextlib.ExitStack()
        levels = epsilon(torch.tensor(times, dtype=torch.float64), field.interpolant)
        for time, level in zip(times, levels.tolist(), strict=True):
            if not 0 <= level < math.inf:
                raise ValueError(
                    f"epsilon must be finite and not negative; it is {level:.4g} at t = {time:.4g}"
                )
        # Numbers, unless a learnable diffusion is to be told what the noise has to do with it.
        recording = levels.requires_grad and torch.is_grad_enabled()
        # The root has no derivative at 0.
        self.levels: Sequence[float | Tensor] = (
            [level if level > 0 else 0.0 for level in levels.unbind()] if recording else levels.tolist()
        )
        self.noisy = bool((levels > 0).any())
        self.nearest = nearest_of(times)

    def integrated(self, start: Tensor, noise: Steps, method: str) -> Tensor:
        """Return the states at the times of the grid, or at its ends, shape ``(T, B, D)``."""
        from torchsde import sdeint

        self.sde_type = _METHODS[method]
        self.noise = noise
        ends = torch.tensor([0.0, len(self.times) - 1.0], dtype=torch.float64)
        # To see shapes, torchsde draws from the global generator before the first step: it leaves no trace.
        self._aside.enter_context(torch.random.fork_rng([start.device] if start.is_cuda else []))
        with self._aside:
            final = sdeint(self, start, ends, bm=noise, method=method, dt=1.0)[-1]
        return torch.stack([start, final] if self.end_only else [*self.path, final])

    def f_and_g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._asked_for_shapes:
            self._aside.close()  # The last that is tried.
        return self.f(u, y), self.g_prod(u, y, v)

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        if self._asked_for_shapes:
            return y
        if not self.end_only and len(self.path) == self._step:  # The first stage of a step is at its start.
            self.path.append(y)
        if self._kept is not None and self._kept[0] is y and self._kept[1] == u:
            return self._kept[2]  # srk asks for its first stage again.
        self.evaluations += 1
        x = y if self.flat else y.reshape(self.like.shape).to(self.like.dtype)
        drift = self.field.drift(
            self._time(u),
            x,
            self.epsilon,
            reverse=self.reverse,
            nearest=self.nearest,
            **self.conditions,
        )
        check_answer(drift, x)
        scaled = (drift if self.flat else drift.to(y.dtype).reshape(y.shape)) * self._length
        self._kept = (y, u, scaled)
        return scaled

    def g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> Tensor:
        if self._asked_for_shapes or not self.noisy:
            return v
        # Every method asks for the noise at the ends of a step only.
        variance = 2 * self.levels[int(u)] * abs(self._length)
        if isinstance(variance, Tensor):
            return v * variance.to(v).sqrt()
        return v * math.sqrt(variance)

    @property
    def _asked_for_shapes(self) -> bool:
        # torchsde tries every function once before the first step.
        return self._step < 0

    @property
    def _step(self) -> int:
        assert self.noise is not None
        return self.noise.step

    @property
    def _length(self) -> float:
        return self.times[self._step + 1] - self.times[self._step]

    def _time(self, u: Tensor) -> float:
        offset = float(u) - self._step
        if offset in (0.0, 1.0):
            return self.times[self._step + int(offset)]
        return self.times[self._step] + offset * self._length


def _stages(times: list[float]) -> list[float]:
    """Return where srk asks for the drift inside its steps."""
    return [early + 0.75 * (late - early) for early, late in itertools.pairwise(times)]
