r"""The diffusions with the interpolant's marginals; the only file that knows torchsde.

Forward from the source, :math:`dX = (b + \epsilon s)\,dt + \sqrt{2\epsilon}\,dW`; backward from the target,
:math:`dX = (b - \epsilon s)\,dt + \sqrt{2\epsilon}\,dW_B` (Albergo, Boffi and Vanden-Eijnden 2023,
arXiv 2303.08797, Section 2.3).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from interpolants.fields import Field
from interpolants.samplers.brownian import Fresh, Seeded, Steps
from interpolants.samplers.captured import Drift, captured_states, recipe_of
from interpolants.samplers.diffusions import Epsilon, as_epsilon
from interpolants.samplers.grid import (
    check_answer,
    check_compiled,
    check_start,
    check_steps,
    checked_seeds,
    checked_times,
    grid_of,
    nearest_of,
    state_dtype,
)
from interpolants.samplers.steps import EULER, HEUN, Tableau, collected, stage_times, step
from interpolants.samplers.trajectory import Trajectory

# torchsde's methods that fit noise whose strength depends on time alone, where Ito and Stratonovich agree; of
# these the first two are simple enough to be taken without its loop: in it euler took 1.2 times as long at 64
# points in the plane.
_METHODS = {"euler": "ito", "heun": "stratonovich", "srk": "ito"}
_TABLEAUS = {"euler": EULER, "heun": HEUN}
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
        compile: Whether to compile several steps into one graph, for euler and heun without gradients. That
            takes seconds when a field is first sampled from with a method, and again for points or conditions
            of another shape or precision; other times, steps, directions and weights of the networks use the
            graph that is there. It is dropped with the field. The noise is drawn outside of it and is the
            same; what a network draws, as in dropout, is not. On a GPU the graph is compiled likewise,
            without capturing its launches.

    Raises:
        TypeError: When ``epsilon`` is no diffusion, number or function.
        ValueError: When ``epsilon`` is negative, the method is unknown or does not suit noise of this kind,
            ``steps`` is less than 1, ``times`` is not an increasing grid of at least two times in [0, 1], or
            the steps of the method, or with gradients, cannot be compiled.

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
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", as_epsilon(self.epsilon))
        if self.method not in _METHODS:
            known = ", ".join(_METHODS)
            if self.method in _UNSUITED:
                raise ValueError(f"{self.method} is not offered: {_UNSUITED[self.method]} (known: {known})")
            raise ValueError(f"unknown SDE method {self.method!r}; known: {known}")
        check_steps(self.steps)
        object.__setattr__(self, "times", checked_times(self.times))
        if self.compile and self.method not in _TABLEAUS:
            raise ValueError(f"compile=True needs {' or '.join(_TABLEAUS)}; got {self.method}")
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
            RuntimeError: When the field cannot be compiled.
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
            motion = _Motion(field, self.epsilon, times, x, reverse, conditions)
            if listed is not None:
                noise: Steps = Seeded(start, listed, len(times) - 1) if motion.noisy else Steps(start)
            else:
                noise = Fresh(start, generator) if motion.noisy else Steps(start)
            path = self._path(motion, noise).to(x.dtype)
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        shown = torch.tensor(times if len(path) == len(times) else [times[0], times[-1]], dtype=dtype)
        return Trajectory(shown.to(x.device), path, motion.evaluations)

    def _path(self, motion: _Motion, noise: Steps) -> Tensor:
        if self.method not in _TABLEAUS:
            return _ByTorchsde(motion, noise, self.end_only).integrated(self.method)
        tableau = _TABLEAUS[self.method]
        later = motion.captured(tableau, noise) if self.compile else motion.states(tableau, noise)
        return collected(motion.start, later, len(motion.times) - 1, end_only=self.end_only)


class _Motion:
    """The SDE along a grid: its drift, and how strong its noise is."""

    def __init__(
        self,
        field: Field,
        epsilon: Epsilon,
        times: list[float],
        x: Tensor,
        reverse: bool,
        conditions: dict[str, Any],
    ) -> None:
        self.field = field
        self.epsilon = epsilon
        self.times = times
        self.x = x
        self.start = x.to(state_dtype(x))
        self.reverse = reverse
        self.conditions = conditions
        self.evaluations = 0
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
        self.lengths = [then - now for now, then in itertools.pairwise(times)]
        self.noisy = bool((levels > 0).any())
        self.nearest = nearest_of(times)

    def drift(self, time: float, y: Tensor) -> Tensor:
        """Return the drift at a state, in its precision."""
        self.evaluations += 1
        x = y if y.dtype == self.x.dtype else y.to(self.x.dtype)
        drift = self.field.drift(
            time,
            x,
            self.epsilon,
            reverse=self.reverse,
            nearest=self.nearest,
            **self.conditions,
        )
        check_answer(drift, x)
        return drift if drift.dtype == y.dtype else drift.to(y.dtype)

    def amplitude(self, time: int, step: int) -> float | Tensor:
        """Return what the noise of a step is multiplied by, for the diffusion at a time of the grid."""
        variance = 2 * self.levels[time] * abs(self.lengths[step])
        return variance.sqrt().to(self.start) if isinstance(variance, Tensor) else math.sqrt(variance)

    def prepared(self, asked: list[float]) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the drift is asked for at these times."""
        return self.field.prepared(
            asked, self.x, epsilon=self.epsilon, reverse=self.reverse, nearest=self.nearest
        )

    def states(self, tableau: Tableau, noise: Steps) -> Iterator[Tensor]:
        """Yield the states after all steps."""
        asked = stage_times(tableau, self.times)
        clock, y = iter(asked), self.start
        with self.prepared(asked):
            for k, length in enumerate(self.lengths):
                # Drawn before the drift, which may draw from the same generator.
                drawn = noise.draw(k, False)[0].view(y.shape) if self.noisy else None
                y = step(tableau, self.drift, clock, y, length, drawn, self._amplitudes(tableau, k))
                yield y

    def captured(self, tableau: Tableau, noise: Steps) -> Iterator[Tensor]:
        """Yield the same states from compiled graphs."""
        asked = stage_times(tableau, self.times)
        self.evaluations = len(asked)
        drift = Drift(self.epsilon if self.noisy else None, self.reverse, self.nearest)
        recipe, rows = recipe_of(self.field, asked, self.x, drift)
        return captured_states(
            self.field,
            recipe,
            rows,
            tableau,
            self.x,
            self.start.dtype,
            self.lengths,
            self.conditions,
            (lambda k: noise.draw(k, False)[0]) if self.noisy else None,
            [tuple(map(float, self._amplitudes(tableau, k))) for k in range(len(self.lengths))],
        )

    def _amplitudes(self, tableau: Tableau, step: int) -> list[float | Tensor]:
        """Return what the noise of a step is multiplied by in the points after its stages."""
        first = self.amplitude(step, step)
        # The noise at the end of a step has half a part in the answer of heun.
        return [first] if tableau is EULER else [first, (first + self.amplitude(step + 1, step)) / 2]


class _ByTorchsde:
    """The SDE as torchsde sees it: flat states, and time counted in steps.

    At u steps the time is t(u), linear within each step: the drift is multiplied by the length h of the step,
    negative in reverse, the noise by the root of its size. Which step it is, the Brownian path says, which
    every method asks once at the beginning of a step: at a grid point two steps meet.
    """

    noise_type = "additive"

    def __init__(self, motion: _Motion, noise: Steps, end_only: bool) -> None:
        self.motion = motion
        self.noise = noise
        self.end_only = end_only
        self.path: list[Tensor] = []
        self.sde_type = "ito"
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None
        self._aside = contextlib.ExitStack()

    def integrated(self, method: str) -> Tensor:
        """Return the states at the times of the grid, or at its ends, shape ``(T, B, *D)``."""
        from torchsde import sdeint

        self.sde_type = _METHODS[method]
        motion = self.motion
        start = motion.start.reshape(self.noise.shape)
        ends = torch.tensor([0.0, len(motion.lengths)], dtype=torch.float64)
        # To see shapes, torchsde draws from the global generator before the first step: it leaves no trace.
        self._aside.enter_context(torch.random.fork_rng([start.device] if start.is_cuda else []))
        with self._aside, motion.prepared([*motion.times, *_inner_stages(motion.times)]):
            final = sdeint(self, start, ends, bm=self.noise, method=method, dt=1.0)[-1]
        states = torch.stack([start, final] if self.end_only else [*self.path, final])
        return states.reshape(len(states), *motion.x.shape)

    def f_and_g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._asked_for_shapes:
            self._aside.close()  # The last that is tried.
        return self.f(u, y), self.g_prod(u, y, v)

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        if self._asked_for_shapes:
            return y
        if not self.end_only and len(self.path) == self.noise.step:
            self.path.append(y)  # The first stage of a step is at its start.
        if self._kept is not None and self._kept[0] is y and self._kept[1] == u:
            return self._kept[2]  # srk asks for its first stage again.
        drift = self.motion.drift(self._time(u), y.reshape(self.motion.x.shape))
        scaled = drift.reshape(y.shape) * self.motion.lengths[self.noise.step]
        self._kept = (y, u, scaled)
        return scaled

    def g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> Tensor:
        if self._asked_for_shapes or not self.motion.noisy:
            return v
        # Every method asks for the noise at the ends of a step only.
        return v * self.motion.amplitude(int(u), self.noise.step)

    @property
    def _asked_for_shapes(self) -> bool:
        # torchsde tries every function once before the first step.
        return self.noise.step < 0

    def _time(self, u: Tensor) -> float:
        times, step = self.motion.times, self.noise.step
        offset = float(u) - step
        if offset in (0.0, 1.0):
            return times[step + int(offset)]
        return times[step] + offset * self.motion.lengths[step]


def _inner_stages(times: list[float]) -> list[float]:
    """Return where srk asks for the drift inside its steps."""
    return [early + 0.75 * (late - early) for early, late in itertools.pairwise(times)]
