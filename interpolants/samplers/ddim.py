r"""Deterministic DDIM: the sampler of diffusion models, beside the Euler steps that IADB takes.

DDIM (Song et al. 2020, arXiv 2010.02502) writes a point as
:math:`\tilde x = \sqrt{\bar\alpha}\,x_1 + \sqrt{1 - \bar\alpha}\,\epsilon`: with :math:`x_0 = \epsilon` and
:math:`n = \sqrt{\alpha^2 + \beta^2}` that is :math:`x_t / n`, where :math:`\sqrt{\bar\alpha} = \beta / n` and
:math:`\sqrt{1 - \bar\alpha} = \alpha / n`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from interpolants.fields import Field
from interpolants.fields.conversions import device_of
from interpolants.interpolant import SpatiallyLinear
from interpolants.samplers.grid import (
    check_answer,
    check_start,
    check_steps,
    checked_seeds,
    checked_times,
    grid_of,
    state_dtype,
)
from interpolants.samplers.trajectory import Trajectory


@final
@dataclass(frozen=True)
class DDIMSampler:
    r"""Carries points by deterministic DDIM, for comparison: :class:`ODESampler` is the one to use.

    Every step estimates the noise, :math:`\hat\epsilon = E[x_0 | x_t]`, takes it off and divides, then adds
    it again at the next time (arXiv 2010.02502, equation 12 with :math:`\sigma = 0`):

    .. math:: \hat x = \frac{\tilde x - \sqrt{1 - \bar\alpha}\,\hat\epsilon}{\sqrt{\bar\alpha}}, \qquad
        \tilde x' = \sqrt{\bar\alpha'}\,\hat x + \sqrt{1 - \bar\alpha'}\,\hat\epsilon.

    In exact arithmetic these are the Euler steps of :class:`Linear` between the same ratios
    :math:`\alpha / \beta`, whatever the field's path (Heitz, Belcour and Chambon 2023, arXiv 2305.03486). The
    division multiplies errors of :math:`\hat\epsilon` by :math:`\alpha / \beta`, which is infinite at pure
    noise. There :math:`\hat\epsilon` is the point itself and :math:`\hat x` is taken from the field's x1,
    unless ``first`` avoids it as diffusion libraries do.

    Args:
        steps: The number of equal steps over [0, 1].
        times: An increasing grid in [0, 1] in place of the equal steps; reversed when sampling in reverse.
        first: The time from which on x0 is asked for: at an earlier first time of the grid the normalised
            point :math:`\tilde x` is taken for one of this time, as diffusion libraries take noise for a
            point whose :math:`\bar\alpha` is small but not 0. That moves the answer by O(first).
        end_only: Whether to return only the first and the last point of each trajectory, which saves memory.
        differentiable: Whether to record gradients, through every step.

    Raises:
        ValueError: When ``steps`` is less than 1, ``times`` is not an increasing grid of at least two times
            in [0, 1], or ``first`` is negative or not before the second time.

    Example:
        >>> from interpolants import LearnedField, Linear, ODESampler
        >>> field = LearnedField(Linear(), velocity=lambda t, x: 3 - x, gaussian_source=True)
        >>> x = torch.tensor([[1.0]])
        >>> DDIMSampler(steps=4).sample(field, x).final, ODESampler("euler", steps=4).sample(field, x).final
        (tensor([[2.3672]]), tensor([[2.3672]]))
    """

    steps: int = 128
    times: Sequence[float] | None = None
    first: float = 0.0
    end_only: bool = False
    differentiable: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        object.__setattr__(self, "times", checked_times(self.times))
        second = grid_of(self.times, self.steps)[1]
        if not 0 <= self.first < second:
            raise ValueError(f"first must lie in [0, {second:.6g}), before the second time; got {self.first}")

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
        """Return the trajectories that start in ``x``, in the coordinates of the field's path.

        Args:
            field: What carries the points; its x0 is used, and its x1 at pure noise. Its source must be
                N(0, Id) and its path spatially linear without latent noise.
            x: Starting points, shape ``(B, *D)``: of the source, or of the target in reverse.
            reverse: Whether to run from t = 1 to t = 0, which is known as DDIM inversion.
            generator: Not used: the steps are deterministic. Accepted so that samplers can be exchanged.
            seeds: Not used, likewise, but checked as a sampler with noise checks them.
            **conditions: Passed to the field.

        Returns:
            The trajectory, in the dtype of ``x``; the state of half-precision points is kept in single.

        Raises:
            TypeError: When ``field`` is no Field or ``x`` no floating-point tensor.
            ValueError: When the field's source or path is of another kind, it answers in another shape, or
                there is not one seed for each example.
            FieldUnavailable: When the field has no x0, or no x1 where that is needed.
        """
        check_start(field, x)
        path = _checked_path(field)
        checked_seeds(seeds, generator, len(x))
        order = -1 if reverse else 1
        times = grid_of(self.times, self.steps)
        asked = [max(times[0], self.first), *times[1:]][::order]
        times = times[::order]
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            sizes = [place.size for place in _places(path, times)]
            with field.prepared(asked[:-1], x, ("x0",)):
                points = torch.stack(self._points(field, x, _places(path, asked), sizes, conditions))
        shown = [times[0], times[-1]] if self.end_only else times
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        t = torch.tensor(shown, dtype=dtype, device=x.device)
        return Trajectory(t, points, len(times) - 1)

    def _points(
        self,
        field: Field,
        x: Tensor,
        places: list[_Place],
        sizes: list[Tensor],
        conditions: dict[str, Any],
    ) -> list[Tensor]:
        state = x.to(state_dtype(x)) / sizes[0]
        points = [x]
        for k, (here, there) in enumerate(itertools.pairwise(places), start=1):
            x1, x0 = _ends(field, here, state, x.dtype, conditions)
            state = there.signal * x1 + there.noise * x0
            if k == len(places) - 1 or not self.end_only:
                points.append((sizes[k] * state).to(x.dtype))
        return points


class _Place(NamedTuple):
    time: float
    signal: Tensor  # sqrt(abar) = beta / n, in double precision, as the next two
    noise: Tensor  # sqrt(1 - abar) = alpha / n
    size: Tensor  # n
    share: float  # sqrt(abar) as a number, read for all times at once


def _places(path: SpatiallyLinear, times: list[float]) -> list[_Place]:
    t = torch.tensor(times, dtype=torch.float64, device=device_of(path))
    noise, signal = path.alpha(t), path.beta(t)
    size = torch.hypot(noise, signal)
    if not (size > 0).all():
        raise ValueError(f"DDIM needs noise or data at every time; {path} passes through a point")
    signal, noise = signal / size, noise / size
    return [_Place(*place) for place in zip(times, signal, noise, size, signal.tolist(), strict=True)]


def _ends(
    field: Field, place: _Place, state: Tensor, dtype: torch.dtype, conditions: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the estimates of the clean point and of the noise."""
    point = (place.size * state).to(dtype)
    # With less signal than a rounding of the state the division would return roundings alone.
    if place.share <= torch.finfo(state.dtype).eps:
        x1 = field.x1(place.time, point, **conditions).to(state.dtype)
        check_answer(x1, state)
        return x1, state
    x0 = field.x0(place.time, point, **conditions).to(state.dtype)
    check_answer(x0, state)
    return (state - place.noise * x0) / place.signal, x0


def _checked_path(field: Field) -> SpatiallyLinear:
    path = field.interpolant
    if not isinstance(path, SpatiallyLinear) or not path.gamma.vanishes:
        raise ValueError(
            "DDIM needs a field on a spatially linear path without latent noise, such as Linear(); "
            f"this one's is {path}"
        )
    if not field.gaussian_source:
        raise ValueError(
            "DDIM needs a source that is N(0, Id): if it is, say LearnedField(..., gaussian_source=True); "
            "for any other source use ODESampler"
        )
    return path
