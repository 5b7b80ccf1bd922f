r"""The same transport along another path.

With the same ends and coupling, a point of the other path,

.. math:: \tilde x = \tilde\alpha x_0 + \tilde\beta x_1 + \tilde\gamma z,

is c times a point of the known path at the time t where
:math:`(\tilde\alpha, \tilde\beta, \tilde\gamma) = c\,(\alpha, \beta, \gamma)(t)`: so it has the same
posterior means of x0, x1 and z, and its score is s(t, x)/c. When the source is N(0, Id), independent of the
target, all noise is one Gaussian, :math:`\alpha x_0 + \gamma z = \sigma n` with
:math:`\sigma^2 = \alpha^2 + \gamma^2`, and it is enough that
:math:`(\tilde\sigma, \tilde\beta) = c\,(\sigma, \beta)(t)`; then
:math:`E[x_0] = (\alpha / \sigma) E[n]` and :math:`E[z] = (\gamma / \sigma) E[n]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, expand
from interpolants.fields.derived import DerivedField
from interpolants.fields.field import Diffusion, Field, FieldUnavailable, double
from interpolants.interpolant import Interpolant, SpatiallyLinear

# Where noise and target are both absent from a weight, its share is read off this near to the end.
_NEAR = 2.0**-30


@final
class ChangedPath(DerivedField):
    """The transport of a field along another path; made by :meth:`Field.along`, which says more.

    Args:
        field: What is known, with its path.
        interpolant: The other path.

    Raises:
        FieldUnavailable: When the two paths do not match.
    """

    def __init__(self, field: Field, interpolant: Interpolant) -> None:
        base = field.interpolant
        for name, path in (("the field's path", base), ("the other path", interpolant)):
            if not isinstance(path, SpatiallyLinear):
                raise FieldUnavailable(
                    f"a change of path needs spatially linear interpolants, and {name} is {path}"
                )
        assert isinstance(base, SpatiallyLinear)
        assert isinstance(interpolant, SpatiallyLinear)
        self.field = field
        self.base, self.other = base, interpolant
        self._matches: dict[float, tuple[float, float]] = {}
        _check_match(base, interpolant, field.gaussian_source)
        # The posterior of the noise is known from x0 or z of the known path, whichever carries it.
        self._asked = ["x0", "x1"] + (["denoiser"] if not base.gamma.vanishes else [])
        field.require(*self._asked)
        known = ["x0", "x1"] + (["denoiser"] if not interpolant.gamma.vanishes else [])
        try:
            field.require("score")
            known.append("score")
        except FieldUnavailable:  # What needs it will say so.
            pass
        super().__init__(interpolant, dict.fromkeys(known, 0), gaussian_source=field.gaussian_source)

    @override
    def outputs(
        self, names: Iterable[str], t: Time, x: Tensor, conditions: dict[str, Any]
    ) -> dict[str, Tensor]:
        time, factor = self.matched(t)
        factor = expand(factor.to(x.device), x)
        names = list(names)
        ends = any(name != "score" for name in names)
        asked = [*(self._asked if ends else []), *(["score"] if "score" in names else [])]
        known = self.field.together(asked, time, x / factor, **conditions)
        if "score" in names:
            known["score"] = known["score"] / factor
        if not (self.gaussian_source and ends):
            return {name: known[name] for name in names}
        here, there = _shares(self.base, double(time)), _shares(self.other, double(t))
        noise = expand(here[0].to(x.device), x) * known["x0"]
        if "denoiser" in known:
            noise = noise + expand(here[1].to(x.device), x) * known["denoiser"]
        for name, share in zip(("x0", "denoiser"), there, strict=True):
            known[name] = expand(share.to(x.device), x) * noise
        return {name: known[name] for name in names}

    @override
    @contextmanager
    def prepared(
        self,
        times: Sequence[float],
        x: Tensor,
        names: Sequence[str] = ("velocity",),
        *,
        epsilon: Diffusion | None = None,
        reverse: bool = False,
        nearest: float = 0.0,
    ) -> Iterator[None]:
        every = torch.tensor(times, dtype=torch.float64)
        matched = _matched(self.base, self.other, every, self.gaussian_source)
        pairs = zip(matched[0].tolist(), matched[1].tolist(), strict=True)
        self._matches = dict(zip(times, pairs, strict=True))
        asked = [*self._asked, *(["score"] if "score" in self._conversions.known else [])]
        own = super().prepared(times, x, names, epsilon=epsilon, reverse=reverse, nearest=nearest)
        try:
            with own, self.field.prepared(matched[0].tolist(), x, asked):
                yield
        finally:
            self._matches = {}

    def matched(self, t: Time) -> tuple[Time, Tensor]:
        """Return the time of the known path and the factor c, in double precision, shaped like ``t``."""
        if isinstance(t, float) and t in self._matches:
            time, factor = self._matches[t]
            return time, torch.tensor(factor, dtype=torch.float64)
        return _matched(self.base, self.other, double(t), self.gaussian_source)


def _weights(path: SpatiallyLinear, t: Tensor, gaussian: bool) -> tuple[Tensor, Tensor]:
    alpha, beta, gamma = path.alpha(t), path.beta(t), path.gamma(t)
    return (torch.hypot(alpha, gamma) if gaussian else alpha), beta


def _rates(path: SpatiallyLinear, t: Tensor, gaussian: bool) -> tuple[Tensor, Tensor]:
    alpha = path.alpha_derivative(t)
    if gaussian:
        half_squared = path.half_alpha_squared_derivative(t) + path.gamma.half_squared_derivative(t)
        alpha = half_squared / _weights(path, t, gaussian)[0]
    return alpha, path.beta_derivative(t)


def _shares(path: SpatiallyLinear, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\alpha / \sigma` and :math:`\gamma / \sigma`, with their limits where both vanish."""
    t = torch.where(torch.hypot(path.alpha(t), path.gamma(t)) == 0, t.clamp(_NEAR, 1 - _NEAR), t)
    alpha, gamma = path.alpha(t), path.gamma(t)
    sigma = torch.hypot(alpha, gamma)
    return alpha / sigma, gamma / sigma


def _matched(
    base: SpatiallyLinear, other: SpatiallyLinear, t: Tensor, gaussian: bool
) -> tuple[Tensor, Tensor]:
    source, target = _weights(other, t, gaussian)
    with torch.no_grad():
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(54):  # To the last digit of a double: 1 - t matters as much as t.
            middle = (low + high) / 2
            here, there = _weights(base, middle, gaussian)
            early = there * source < here * target
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        time = torch.where(
            target == 0, torch.zeros_like(t), torch.where(source == 0, torch.ones_like(t), high)
        )
    # A step of Newton's method that moves nothing, but through which derivatives follow.
    here, there = _weights(base, time, gaussian)
    here_rate, there_rate = _rates(base, time, gaussian)
    missed = there * source - here * target
    slope = (there_rate * source - here_rate * target).detach()
    steep = slope.isfinite() & (slope != 0)
    time = time - torch.where(steep, missed - missed.detach(), 0) / torch.where(steep, slope, 1)
    here, there = _weights(base, time, gaussian)
    return time, (source + target) / (here + there)


def _check_match(base: SpatiallyLinear, other: SpatiallyLinear, gaussian: bool) -> None:
    grid = torch.linspace(0, 1, 257, dtype=torch.float64)
    with torch.no_grad():
        for name, path in (("the field's path", base), ("the other path", other)):
            source, target = _weights(path, grid, gaussian)
            if not (source + target > 0).all():
                raise FieldUnavailable(
                    f"a change of path needs noise or data at every time: {name}, {path}, passes through "
                    "a point, where all that tells one point from another is lost"
                )
        source, target = _weights(base, grid, gaussian)
        share = target / (source + target)
        if not (share.diff() >= 0).all():
            raise FieldUnavailable(
                "a change of path needs a field's path whose share of the target grows with time; on "
                f"{base} it falls at some times, so that one point of the other path matches several times"
            )
        if gaussian:
            return
        inside = grid[1:-1]
        time, factor = _matched(base, other, inside, gaussian)
        mine, theirs = factor * base.gamma(time), other.gamma(inside)
        if not torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9):
            worst = int((mine - theirs).abs().argmax())
            raise FieldUnavailable(
                "a change of path needs latent noise in the same proportion to the ends, unless the "
                f"source is N(0, Id): at t = {float(inside[worst]):.3g} {other} has gamma "
                f"{float(theirs[worst]):.3g} where the field, trained on {base}, knows "
                f"{float(mine[worst]):.3g}. A point with less noise or more has another posterior, which "
                "the field does not know"
            )
